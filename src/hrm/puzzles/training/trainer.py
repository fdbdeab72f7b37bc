"""Deep supervision: one segment, one loss, one update; puzzles stay in their slots until they halt (HRM section 2)."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hrm.core.halting import continue_target, halted, wants_to_halt
from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.puzzles.config import Config
from hrm.puzzles.model import PuzzleModel, Readout
from hrm.puzzles.training.batches import Batch, Sampler
from hrm.puzzles.training.objective import objective
from hrm.puzzles.training.sign_sgd import SignSGD
from hrm.runs.checkpoint import counted
from hrm.training.interrupt import Abandoned
from hrm.training.loop import BadBatch, Paced
from hrm.training.updates import Updates

_WINDOW = ("loss", "token_loss", "halt_loss", "continue_loss", "halted", "exact", "tokens", "segments", "q_right")


_COUNTERS = ("step_number", "seconds", "window_steps")


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


class Trainer(Paced):
    """Holds everything that changes while training; `step` does one update."""

    def __init__(self, config: Config, model: PuzzleModel, sampler: Sampler, accelerator: Accelerator) -> None:
        super().__init__(config.train, accelerator)
        self.config, self.sampler = config, sampler
        self.model = model.to(accelerator.device).train()
        model.dtype = getattr(torch, config.train.precision)
        if config.train.checkpoint_activations:
            model.recompute_activations()
        if config.train.compile:
            model.compile_stacks()
        gather: Any = accelerator.gather
        sparse = None if model.task_embedding is None else SignSGD(model.task_embedding, gather)
        self.updates = Updates(model, config.optim, config.train, accelerator, sparse)
        rows = config.train.batch_size // accelerator.num_processes
        self.rows = slice(accelerator.process_index * rows, (accelerator.process_index + 1) * rows)
        self.slots = self._empty_slots(rows)
        self.window = torch.zeros(
            len(_WINDOW), dtype=torch.float64 if accelerator.device.type == "cpu" else torch.float32
        )
        self.window = self.window.to(accelerator.device)
        self.window_steps, self.window_start = 0, time.perf_counter()
        self.batches = None

    def step(self) -> None:
        """One segment for every slot, its losses, and one update of the weights."""
        started = time.perf_counter()
        if self.batches is None:
            self.batches = self.sampler.stream(self.step_number, self.rows)
        before, window = self.slots, self.window.clone()
        explore = self._refill(next(self.batches))
        try:
            with self.abandoning():
                parts = [self._segment(rows, explore) for rows in self._parts()]
        except Abandoned:
            self.slots = before
            self.window.copy_(window)
            self.updates.forget()
            self.close()  # the batch is drawn again
            raise
        carries, segments, stops = zip(*parts, strict=True)
        carry = Carry(torch.cat([c.z_h for c in carries]), torch.cat([c.z_l for c in carries]))
        self.slots = self.slots._replace(carry=carry, segments=torch.cat(segments), halted=torch.cat(stops))
        self._update()
        self.step_number += 1
        self.seconds = self.agreed(self.seconds + time.perf_counter() - started)

    @property
    def positions(self) -> int:
        """Tokens of a row, as the model sees it."""
        return self.model.positions

    def describe(self, metrics: dict[str, Any]) -> str:
        """What is worth seeing while it runs."""
        if not metrics["halted"]:  # nothing is known of them yet
            return "exact -  segments -"
        return (
            f"exact {metrics['exact_accuracy']:.1%}  segments {metrics['mean_segments']:.1f}  "
            f"{metrics['puzzles_per_second']:.0f} puzzles/s"
        )

    def trial(self, rows: int) -> None:
        """Compute a step for some rows, of which nothing remains."""
        window = self.window.clone()
        self._segment(slice(0, rows), torch.zeros(len(self.slots.halted), 2, device=self.accelerator.device))
        self.window.copy_(window)
        self.updates.forget()

    def close(self) -> None:
        """End the thread that prepares batches."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def metrics(self) -> dict[str, Any]:
        """Means since the last call, over all processes; accuracies are of the puzzles that halted."""
        sums = dict(zip(_WINDOW, self.accelerator.reduce(self.window, "sum").tolist(), strict=True))  # type: ignore[union-attr]
        now = time.perf_counter()
        steps, size = max(1, self.window_steps), self.config.train.batch_size
        finished = max(1.0, sums["halted"])
        rate = steps / max(1e-9, now - self.window_start)
        self.window.zero_()
        self.window_steps, self.window_start = 0, now
        return {
            "step": self.step_number,
            **{name: sums[name] / steps / size for name in ("loss", "token_loss", "halt_loss", "continue_loss")},
            "exact_accuracy": sums["exact"] / finished,
            "token_accuracy": sums["tokens"] / finished,
            "mean_segments": sums["segments"] / finished,
            "q_halt_accuracy": sums["q_right"] / finished,
            "halted": int(sums["halted"]),
            "grad_norm": self.updates.grad_norm,
            "lr": self.updates.lr,
            "skipped_updates": self.updates.bad_steps,
            "steps_per_second": rate,
            "puzzles_per_second": sums["halted"] / steps * rate,
            "seconds": self.seconds,
        }

    def pack(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What a checkpoint holds; a call on every process, because slots are gathered from all."""
        groups, counters = self.updates.pack()
        groups = {"weights": dict(self.model.state_dict()), "slots": self._pack_slots(), **groups}
        # Randomness is a pure function of (seed, step, row): the step is the random state and the data cursor.
        state = {name: getattr(self, name) for name in _COUNTERS} | counters | {"seed": self.config.seed}
        state["window"] = self.accelerator.reduce(self.window, "sum").tolist()  # type: ignore[union-attr]
        return groups, state

    def unpack(self, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same architecture; UserError where it does not fit."""
        for name in _COUNTERS:
            setattr(self, name, counted(state, name))
        if self.accelerator.is_main_process:
            self.window.copy_(torch.from_numpy(np.array(state["window"], np.float64)))
        try:
            self.model.load_state_dict(groups["weights"])
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint does not fit the architecture (--arch...): {str(error).splitlines()[-1].strip()}"
            ) from None
        self.updates.unpack(groups, state)
        self._unpack_slots(groups["slots"])

    def _pack_slots(self) -> dict[str, Tensor]:
        slots = self.slots._asdict()
        carry, gather = slots.pop("carry"), self.accelerator.gather
        return {name: gather(tensor.contiguous()) for name, tensor in {**carry._asdict(), **slots}.items()}  # type: ignore[misc]

    def _unpack_slots(self, saved: dict[str, Tensor]) -> None:
        size, wanted = len(saved["halted"]), self.config.train.batch_size
        if size != wanted:
            raise UserError(
                f"the run has {size} puzzles in flight and --train.batch-size is {wanted}: "
                "resume with the batch size it was started with"
            )
        mine = {name: tensor[self.rows].to(self.accelerator.device) for name, tensor in saved.items()}
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
            target = None
            if config.halting.q_continue:
                next_q = model.segment(carry, inputs, ids)[1].q
                target = continue_target(next_q, segments >= config.halting.max_segments)
        losses = objective(readout, labels, target, config.loss, config.halting)
        (losses.total * (self.updates.loss_scale / config.train.batch_size)).backward()
        self._count(losses, readout, segments, stop)
        return carry, segments, stop

    @torch.no_grad()
    def _count(self, losses: Any, readout: Readout, segments: Tensor, stop: Tensor) -> None:
        confident = wants_to_halt(readout.q, q_continue=False)
        sums = (
            losses.total, losses.token, losses.halt, losses.go_on, stop.sum(), (losses.correct & stop).sum(),
            (losses.tokens_right * stop).sum(), (segments * stop).sum(), ((confident == losses.correct) & stop).sum(),
        )  # fmt: skip
        self.window += torch.stack([value.detach().to(self.window.dtype) for value in sums])

    def _update(self) -> None:
        """Move the weights, unless something is not finite: then start the rows with a broken state afresh."""
        self.window_steps += 1
        if self.updates.step(self.step_number, self.share):
            return
        slots = self.slots
        if self.updates.hopeless:
            gather = self.accelerator.gather
            puzzles: dict[str, Tensor] = {
                name: gather(getattr(slots, name)) for name in ("inputs", "labels", "task_ids")
            }  # type: ignore[misc]
            raise BadBatch(self.updates.complaint(self.step_number), puzzles)
        broken = ~(slots.carry.z_h.isfinite() & slots.carry.z_l.isfinite()).flatten(1).all(1)
        self.slots = slots._replace(halted=slots.halted | broken)
