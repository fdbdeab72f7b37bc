"""Learning to deduce: every slot holds a state of candidates, which the model's own calls make and advance."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hrm.core.recurrence import Carry
from hrm.files.records import Json
from hrm.puzzles.config import Config, DeductionConfig
from hrm.puzzles.lattice import Lattice
from hrm.puzzles.model import DEAD, PuzzleModel, Readout
from hrm.puzzles.training.batches import Batch, Sampler
from hrm.puzzles.training.trainer import StepInput, Trainer

GROWING = 1 / 3
"""Share of the training over which the calls get longer."""


class State(NamedTuple):
    """Candidates of some puzzles [b, p], and what follows from them and the answers."""

    alive: Tensor
    pinned: Tensor
    truth: Tensor
    open: Tensor
    """Neither dead nor pinned."""
    contradicts: Tensor
    """[b] whether a true candidate is dead."""


class Losses(NamedTuple):
    """Means over the readouts of a call, each a sum over puzzles; `total` is what is minimised."""

    total: Tensor
    keep: Tensor
    symbol: Tensor
    contradiction: Tensor


def state_of(lattice: Lattice, alive: Bool[Tensor, "b p"], labels: Int[Tensor, "b c"]) -> State:
    """The state of these candidates, held against the answers."""
    pinned, truth = lattice.pinned(alive), lattice.only(labels)
    return State(alive, pinned, truth, alive & ~pinned, (truth & ~alive).any(1))


def losses(lattice: Lattice, readouts: list[Readout], state: State, config: DeductionConfig) -> Losses:
    """Weighted BCE of every open candidate, cross-entropy of every open cell's symbol, and BCE of the contradiction
    (arXiv 2605.08605). A state that contradicts its answer teaches the last alone: what follows from it is false."""
    live = (~state.contradicts).float()
    open_ = state.open & ~state.contradicts[:, None]
    true = (state.truth & open_).float()
    weight = torch.where(state.truth, config.true_weight, config.false_weight) * open_
    # Means over all open candidates and cells of the batch, as a sum over its puzzles.
    share = len(open_) / open_.sum().clamp(min=1)
    cells = len(open_) / true.sum().clamp(min=1)
    keep = symbol = contradiction = torch.zeros((), device=live.device)
    for readout in readouts:
        assert readout.keep is not None
        wanted = state.truth.to(readout.keep.dtype)
        keep = keep + (F.binary_cross_entropy_with_logits(readout.keep, wanted, reduction="none") * weight).sum()
        logits = readout.logits[..., lattice.first : lattice.first + lattice.symbols]
        symbol = symbol - (logits.log_softmax(-1).flatten(1) * true).sum()
        contradiction = contradiction + F.binary_cross_entropy_with_logits(readout.q[:, 0], live, reduction="sum")
    keep, symbol, contradiction = (value / len(readouts) for value in (keep * share, symbol * cells, contradiction))
    total = keep + config.symbol_weight * symbol + config.contradiction_weight * contradiction
    return Losses(total, keep.detach(), symbol.detach(), contradiction.detach())


@torch.no_grad()
def decided(
    lattice: Lattice, alive: Bool[Tensor, "b p"], logits: Float[Tensor, "b c v"], uniforms: Float[Tensor, "b 2"],
    temperature: float,
) -> Bool[Tensor, "b p"]:  # fmt: skip
    """The states after a decision in each: an open cell, drawn uniformly, is pinned to a symbol drawn from its
    distribution. One without open cells stays."""
    cells = lattice.by_cell(alive)
    open_cells = (cells.sum(2) > 1).to(uniforms.dtype)
    cell = _drawn(open_cells, uniforms[:, 0])
    rows = torch.arange(len(alive), device=alive.device)
    scores = logits[rows, cell, lattice.first : lattice.first + lattice.symbols].float() / temperature
    here = cells[rows, cell]
    symbol = _drawn(scores.masked_fill(~here, DEAD).softmax(1), uniforms[:, 1])
    chosen = F.one_hot(symbol, lattice.symbols).bool() & here
    new = cells.clone()
    new[rows, cell] = torch.where(open_cells.any(1)[:, None], chosen, here)
    return new.flatten(1)


def _drawn(weights: Float[Tensor, "b n"], uniforms: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """One index per row, with a chance in proportion to its weight."""
    sums = weights.cumsum(1)
    return torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True)[:, 0].clamp(max=weights.shape[1] - 1)


class DeducingTrainer(Trainer):
    """One call of every slot per step; a state leaves when it is finished, refused by the rules, or seen to
    contradict its answer. The slots' inputs are candidates [b, p], their segments the calls made."""

    names = (
        "loss", "keep_loss", "symbol_loss", "contradiction_loss", "halted", "solved", "calls", "open", "wrong_kills",
        "contradicting", "noticed", "false_alarms", "decisions",
    )  # fmt: skip

    def __init__(self, config: Config, model: PuzzleModel, sampler: Sampler, accelerator: Accelerator) -> None:
        assert model.lattice is not None
        self.lattice = model.lattice
        super().__init__(config, model, sampler, accelerator)
        self.slots = self.slots._replace(inputs=torch.zeros(
            len(self.rows), model.board.cells * self.lattice.symbols, dtype=torch.bool, device=accelerator.device
        ))  # fmt: skip

    def compute(self, drawn: StepInput) -> None:
        parts = [self._call(rows, drawn.explore) for rows in self._parts()]
        carries, calls, stops, alive = zip(*parts, strict=True)
        carry = Carry(torch.cat([c.z_h for c in carries]), torch.cat([c.z_l for c in carries]))
        if self.logged:
            self.note_residuals(self.slots.carry, carry, (self.slots.segments > 0) & ~self.slots.halted)
        self.slots = self.slots._replace(
            carry=carry, segments=torch.cat(calls), halted=torch.cat(stops), inputs=torch.cat(alive)
        )

    def try_out(self, rows: int) -> None:
        slots = self.slots
        self.slots = slots._replace(
            inputs=torch.ones_like(slots.inputs), labels=torch.full_like(slots.labels, self.lattice.first)
        )
        self._call(slice(0, rows), torch.zeros(len(slots.halted), 2, device=self.accelerator.device), final=True)
        self.slots = slots

    def means(self, sums: dict[str, float], steps: int) -> Json:
        """`solved` is the share of the states that left, `wrong_kills` that of calls on sound states that kill a true
        candidate, `noticed` that of contradictions that are seen, `false_alarms` that of sound states called so."""
        size = self.train.batch_size
        rows, left = steps * size, max(1.0, sums["halted"])
        unsound = sums["contradicting"]
        sound = max(1.0, rows - unsound)
        return {
            **{name: sums[name] / steps / size for name in self.names[:4]},
            "exact_accuracy": sums["solved"] / left, "mean_calls": sums["calls"] / left,
            "open_candidates": sums["open"] / rows, "wrong_kills": sums["wrong_kills"] / sound,
            "contradicting": unsound / rows, "noticed": sums["noticed"] / max(1.0, unsound),
            "false_alarms": sums["false_alarms"] / sound, "decisions": sums["decisions"] / rows,
            "halted": int(sums["halted"]),
        }  # fmt: skip

    def describe(self, metrics: Json) -> str:
        return (
            f"solved {metrics['exact_accuracy']:.1%}  open {metrics['open_candidates']:.0f}  "
            f"wrong kills {metrics['wrong_kills']:.1%}  {metrics['puzzles_per_second']:.1f} puzzles/s"
        )

    def _refill(self, batch: Batch) -> Tensor:
        shown = self.lattice.start(torch.from_numpy(batch.inputs).to(self.accelerator.device))
        return super()._refill(batch._replace(inputs=shown.cpu().numpy()))

    def _segments(self) -> int:
        """Of a call at this point of the training."""
        last, first = self.config.deduction.segments, self.config.deduction.first_segments
        return min(last, first + round((last - first) * min(1.0, self.progress / GROWING)))

    def _call(self, rows: slice, explore: Tensor, final: bool = False) -> tuple[Carry, Tensor, Tensor, Tensor]:
        """Forward, loss and backward for some rows; their detached carry, calls made, who leaves, and the candidates
        with which the others continue."""
        config, model, lattice = self.config.deduction, self.model, self.lattice
        start, calls, fresh, alive, labels, ids = self.slots.part(rows)
        begins = fresh if config.carry else torch.ones_like(fresh)
        carry = start.where(begins, model.initial_carry(alive, ids))
        state = state_of(lattice, alive, labels)
        carry, readouts = model.deduce(carry, lattice.pack(alive), config.segments if final else self._segments())
        loss = losses(lattice, readouts, state, config)
        (loss.total * (self.updates.loss_scale / self.config.train.batch_size)).backward()
        return carry.detach(), *self._advance(state, readouts[-1], calls + 1, explore[rows], loss, labels)

    @torch.no_grad()
    def _advance(
        self, state: State, readout: Readout, calls: Tensor, uniforms: Tensor, loss: Losses, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Kill, check, decide; calls made, who leaves, and the new candidates."""
        config, lattice = self.config.deduction, self.lattice
        assert readout.keep is not None
        killed = state.open & (readout.keep.sigmoid() < config.kill)
        after = state_of(lattice, state.alive & ~killed, labels)
        refused = lattice.contradicted(after.alive, after.pinned)
        done = lattice.finished(after.pinned) & ~refused
        alarm = readout.q[:, 0] < 0
        deciding = ~(refused | done | alarm | killed.any(1))
        alive = torch.where(
            deciding[:, None], decided(lattice, after.alive, readout.logits, uniforms, config.temperature), after.alive
        )
        # The third number comes from digits of the second that hardly move a decision.
        lingers = (uniforms[:, 1] * 1000).frac() < config.linger
        leaves = done | refused | (after.contradicts & (alarm | ~lingers)) | (calls >= self.config.halting.max_segments)
        if not config.on_policy:
            leaves = torch.ones_like(leaves)
        sound = ~state.contradicts
        sums = (
            loss.total, loss.keep, loss.symbol, loss.contradiction, leaves.sum(), (done & ~after.contradicts).sum(),
            (calls * leaves).sum(), state.open.sum(), (killed & state.truth).any(1)[sound].sum(), (~sound).sum(),
            (alarm & ~sound).sum(), (alarm & sound).sum(), deciding.sum(),
        )  # fmt: skip
        self.window += torch.stack([value.detach().to(self.wide) for value in sums])
        return calls, leaves, alive
