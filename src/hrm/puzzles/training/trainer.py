"""Deep supervision: one segment, one loss, one update; puzzles stay in their slots until they halt (HRM section 2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hrm.core.halting import continue_target, halted, wants_to_halt
from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.puzzles.config import Config
from hrm.puzzles.model import PuzzleModel, Readout
from hrm.puzzles.training.batches import Batch, Sampler
from hrm.puzzles.training.objective import Losses, objective
from hrm.training.optim import SignSGD
from hrm.training.trainer import BaseTrainer, split
from hrm.training.updates import Updates


class Slots(NamedTuple):
    """The puzzles in flight: carry, segments done [b], halted [b], and the data they work on."""

    carry: Carry
    segments: Tensor
    halted: Tensor
    inputs: Tensor
    labels: Tensor
    task_ids: Tensor

    def part(self, rows: slice) -> Slots:
        """Some of the slots."""
        carry, *rest = self
        return Slots(Carry(carry.z_h[rows], carry.z_l[rows]), *(tensor[rows] for tensor in rest))


class StepInput(NamedTuple):
    """The slots before a step filled those that were free, and its uniforms for exploration [rows, 2]."""

    before: Slots
    explore: Tensor


class Trainer(BaseTrainer[PuzzleModel, StepInput]):
    """Holds everything that changes while a model of puzzles is trained; `step` does one segment of every slot."""

    names = ("loss", "token_loss", "halt_loss", "continue_loss", "halted", "exact", "tokens", "segments", "q_right")
    rate = ("halted", "puzzles_per_second")

    def __init__(self, config: Config, model: PuzzleModel, sampler: Sampler, accelerator: Accelerator) -> None:
        self.config, self.sampler, self.batches = config, sampler, None
        model = model.to(accelerator.device).train()
        model.dtype = getattr(torch, config.train.precision)
        if config.train.checkpoint_activations:
            model.recompute_activations()
        if config.train.compile:
            model.compile_stacks()
        gather: Any = accelerator.gather
        table = model.task_embedding
        sparse = None if table is None else SignSGD("task_embedding.weight", table, gather)
        measured = split(model, config.train, accelerator)
        updates = Updates(model, config.optim, config.train, accelerator, sparse)
        super().__init__(model, updates, config.train, config.seed, accelerator, measured)
        self.mine = slice(self.rows.start, self.rows.stop)
        self.slots = self._empty_slots(len(self.rows))

    @property
    def positions(self) -> int:
        return self.model.positions

    def draw(self) -> StepInput:
        """Give free slots their row of the next batch; a row that is not needed is discarded."""
        if self.batches is None:
            self.batches = self.sampler.stream(self.step_number, self.mine)
        return StepInput(self.slots, self._refill(next(self.batches)))

    def compute(self, drawn: StepInput) -> None:
        """One segment for every slot, and the gradients of its losses."""
        parts = [self._segment(rows, drawn.explore) for rows in self._parts()]
        carries, segments, stops = zip(*parts, strict=True)
        carry = Carry(torch.cat([c.z_h for c in carries]), torch.cat([c.z_l for c in carries]))
        if self.logged:
            self.note_residuals(self.slots.carry, carry, (self.slots.segments > 0) & ~self.slots.halted)
        self.slots = self.slots._replace(carry=carry, segments=torch.cat(segments), halted=torch.cat(stops))

    def undo(self, drawn: StepInput) -> None:
        self.slots = drawn.before
        self.close()  # the batch is drawn again

    def skipped(self) -> None:
        """Free the slots whose state is broken."""
        carry = self.slots.carry
        broken = ~(carry.z_h.isfinite() & carry.z_l.isfinite()).flatten(1).all(1)
        self.slots = self.slots._replace(halted=self.slots.halted | broken)

    def batch_of(self, drawn: StepInput) -> dict[str, Tensor]:
        gather: Any = self.accelerator.gather
        return {name: gather(getattr(self.slots, name)) for name in ("inputs", "labels", "task_ids")}

    def try_out(self, rows: int) -> None:
        self._segment(slice(0, rows), torch.zeros(len(self.slots.halted), 2, device=self.accelerator.device))

    def close(self) -> None:
        """End the thread that prepares batches."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def means(self, sums: dict[str, float], steps: int) -> Json:
        """Accuracies are of the puzzles that halted."""
        finished = max(1.0, sums["halted"])
        return {
            **{name: sums[name] / steps / self.train.batch_size for name in self.names[:4]},
            "exact_accuracy": sums["exact"] / finished, "token_accuracy": sums["tokens"] / finished,
            "mean_segments": sums["segments"] / finished, "q_halt_accuracy": sums["q_right"] / finished,
            "halted": int(sums["halted"]),
        }  # fmt: skip

    def describe(self, metrics: Json) -> str:
        if not metrics["halted"]:  # nothing is known of them yet
            return "exact -  segments -"
        return (
            f"exact {metrics['exact_accuracy']:.1%}  segments {metrics['mean_segments']:.1f}  "
            f"{metrics['puzzles_per_second']:.0f} puzzles/s"
        )

    def in_flight(self) -> dict[str, dict[str, Tensor]]:
        """The slots of all processes."""
        slots = self.slots._asdict()
        named, gather = {**slots.pop("carry")._asdict(), **slots}, self.accelerator.gather
        return {"slots": {name: gather(tensor.contiguous()) for name, tensor in named.items()}}  # type: ignore[misc]

    def restore_in_flight(self, groups: dict[str, dict[str, Tensor]]) -> None:
        saved = groups["slots"]
        size, wanted = len(saved["halted"]), self.train.batch_size
        if size != wanted:
            differ = f"the run has {size} puzzles in flight and --train.batch-size is {wanted}"
            raise UserError(f"{differ}: resume with the batch size it was started with")
        mine = {name: tensor[self.mine].to(self.accelerator.device) for name, tensor in saved.items()}
        carry = Carry(*(mine.pop(name).to(self.model.dtype) for name in Carry._fields))
        self.slots = Slots(carry, **mine)

    def _empty_slots(self, rows: int) -> Slots:
        """All halted, so that the first step fills every slot."""
        board, device = self.model.board, self.accelerator.device
        grid = torch.zeros(rows, board.cells, dtype=torch.long, device=device)
        ids = torch.zeros(rows, dtype=torch.long, device=device)
        with torch.no_grad():
            carry = self.model.initial_carry(grid, ids)
        return Slots(carry, ids.clone(), torch.ones(rows, dtype=torch.bool, device=device), grid, grid.clone(), ids)

    def _refill(self, batch: Batch) -> Tensor:
        """Give halted slots their row of the new batch; a row that is not needed is discarded. Returns the uniforms."""
        inputs, labels, ids, explore = (torch.from_numpy(a).to(self.accelerator.device) for a in batch)
        old = self.slots
        free = old.halted
        self.slots = old._replace(
            segments=torch.where(free, 0, old.segments),
            inputs=torch.where(free[:, None], inputs, old.inputs),
            labels=torch.where(free[:, None], labels, old.labels),
            task_ids=torch.where(free, ids, old.task_ids),
        )
        return explore

    def _parts(self) -> list[slice]:
        rows, parts = len(self.slots.halted), self.config.train.accumulate
        return [slice(i * rows // parts, (i + 1) * rows // parts) for i in range(parts)]

    def _segment(self, rows: slice, explore: Tensor) -> tuple[Carry, Tensor, Tensor]:
        """Forward, loss and backward for some rows; returns their detached carry, segments done and who halts."""
        config, model = self.config, self.model
        start, segments, fresh, inputs, labels, ids = self.slots.part(rows)
        carry = start.where(fresh, model.initial_carry(inputs, ids))
        carry, readout = model.segment(carry, inputs, ids)
        carry = carry.detach()
        with torch.no_grad():
            segments = segments + 1
            stop = halted(readout.q, segments, explore[rows], config.halting)
            if readout.said is not None:
                labels, ended = self._lessons(inputs, segments)
                stop |= ended & (explore[rows, 0] >= config.halting.exploration)
                readout = readout._replace(logits=readout.said)
            target = None
            if config.halting.q_continue:
                next_q = model.segment(carry, inputs, ids)[1].q
                target = continue_target(next_q, segments >= config.halting.max_segments)
        losses = objective(readout, labels, target, config.loss, config.halting)
        (losses.total * (self.updates.loss_scale / config.train.batch_size)).backward()
        self._count(losses, readout, segments, stop)
        return carry, segments, stop

    def _lessons(self, inputs: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """What each row should say by now [b, cells], and whether nothing new comes after it [b]."""
        # The updates of H could carry news as well. If they did so now and then, one way would be faster than another.
        visits = self.model.recurrence.schedule.h_cycles * self.model.recurrence.schedule.l_cycles
        rows = zip(inputs.cpu().numpy(), segments.tolist(), strict=True)
        lessons = [self.sampler.task.lesson(question, n * visits) for question, n in rows]
        labels, ended = zip(*lessons, strict=True)
        return torch.from_numpy(np.stack(labels)).to(inputs), torch.tensor(ended, device=inputs.device)

    @torch.no_grad()
    def _count(self, losses: Losses, readout: Readout, segments: Tensor, stop: Tensor) -> None:
        confident = wants_to_halt(readout.q, q_continue=False)
        sums = (
            losses.total, losses.token, losses.halt, losses.continue_, stop.sum(), (losses.correct & stop).sum(),
            (losses.tokens_right * stop).sum(), (segments * stop).sum(), ((confident == losses.correct) & stop).sum(),
        )  # fmt: skip
        self.window += torch.stack([value.detach().to(self.window.dtype) for value in sums])
