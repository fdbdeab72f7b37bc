"""The base of all trainers. A step draws a batch, computes gradients and updates the weights; a signal may undo it."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.runs import checkpoint
from hrm.runs.checkpoint import counted
from hrm.training.config import TrainConfig
from hrm.training.interrupt import Abandoned, Abandoning
from hrm.training.randomness import generator
from hrm.training.updates import Updates

_TORCH = 23
_COUNTERS = ("step_number", "seconds", "window_steps")
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)
Groups = dict[str, dict[str, Tensor]]
"""Tensors of a checkpoint, by group and name."""


class BadBatch(Exception):
    """Too many non-finite updates in a row; carries the last batch."""

    def __init__(self, message: str, batch: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.batch = batch


def split(model: M, train: TrainConfig, accelerator: Accelerator) -> M | None:
    """Leave each process its share of the weights of `model.units()` where asked for; before there are optimizers.
    Returns a whole copy in the main process, because that one measures alone."""
    if accelerator.num_processes == 1 or train.parallel != "fsdp":
        return None
    from hrm.training.sharding import shard

    for tensor in model.state_dict().values():  # the main process alone may have the weights to begin with
        broadcast(tensor)
    whole = copy.deepcopy(model) if accelerator.is_main_process else None
    shard(model.units(), train, accelerator)  # type: ignore[operator]
    return whole


def anyone(yes: bool, accelerator: Accelerator) -> bool:
    """Whether `yes` holds in any process: what one of them does all have to do."""
    if accelerator.num_processes == 1:
        return yes
    flag = torch.tensor([float(yes)], device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum") > 0)  # type: ignore[operator]


class BaseTrainer(ABC, Generic[M, D]):
    """Holds everything that changes while a model M is trained; `step` draws a batch D and does one update."""

    names: ClassVar[tuple[str, ...]]
    """Names of the sums that `compute` adds to `window`, in this order."""
    rate: ClassVar[tuple[str, str] | None] = None
    """The sum that counts the work done, and the name of its rate per second."""

    def __init__(
        self,
        model: M,
        updates: Updates,
        train: TrainConfig,
        seed: int,
        accelerator: Accelerator,
        measured: M | None = None,
    ) -> None:
        """`measured`: what `split` gave."""
        self.measured = measured
        self.sharded = accelerator.num_processes > 1 and train.parallel == "fsdp"
        self.model, self.updates, self.train, self.seed, self.accelerator = model, updates, train, seed, accelerator
        share = train.batch_size // accelerator.num_processes
        self.rows = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        """The rows of a batch that this process computes."""
        self.wide = torch.float32 if accelerator.device.type == "mps" else torch.float64  # Metal has no float64
        self.window = torch.zeros(len(self.names), dtype=self.wide, device=accelerator.device)
        self.window_steps, self.window_seconds = 0, 0.0
        self.step_number, self.seconds = 0, 0.0
        self.moved = torch.zeros(3, dtype=self.wide, device=accelerator.device)
        """Of the last step that is logged: the sums of the residuals of slow and fast states, and how many."""
        self.flops_per_unit = self.peak_flops = 0.0
        """FLOPs for one unit of `rate`, and those that all devices can do in a second; 0: not known."""
        self.abandoning: Abandoning = nullcontext
        """Wraps the part of a step that a signal may interrupt: the computation, but neither drawing nor the update."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Positions of a row, as the model sees it."""

    @abstractmethod
    def draw(self) -> D:
        """The batch of the next step."""

    @abstractmethod
    def compute(self, drawn: D) -> None:
        """Forward and backward passes of a step; adds its sums to `window`."""

    @abstractmethod
    def batch_of(self, drawn: D) -> dict[str, Tensor]:
        """The tensors of a batch with non-finite updates, to be saved for inspection."""

    def undo(self, drawn: D) -> None:
        """Undo what an interrupted step has changed, besides window and gradients."""

    def skipped(self) -> None:
        """Called after an update that was skipped because something is not finite."""

    @abstractmethod
    def try_out(self, rows: int) -> None:
        """Compute a step at full depth for this many rows."""

    @abstractmethod
    def means(self, sums: dict[str, float], steps: int) -> Json:
        """Metrics from the named sums of a window."""

    @abstractmethod
    def describe(self, metrics: Json) -> str:
        """The metrics for the live line, in words."""

    def in_flight(self) -> Groups:
        """Further groups of tensors for a checkpoint; call it in every process."""
        return {}

    def restore_in_flight(self, groups: Groups) -> None:
        """Restore what `in_flight` returned; UserError where it does not fit."""

    def close(self) -> None:
        """Close open files."""

    def step(self) -> None:
        """One update of the weights. Raises Abandoned with everything as before, and BadBatch after too many skipped
        updates."""
        started = time.perf_counter()
        drawn, window, moved = self.draw(), self.window.clone(), self.moved.clone()
        # What torch draws itself, as for dropout, is a function of the step too, also in a resumed run.
        drawn_by_torch = generator(self.seed, _TORCH, self.step_number).integers(1 << 62)
        torch.manual_seed(int(drawn_by_torch) + self.accelerator.process_index)
        try:
            with self.abandoning():
                self.compute(drawn)
        except Abandoned:
            self.window.copy_(window)
            self.moved.copy_(moved)
            self.updates.forget()
            self.undo(drawn)
            raise
        self.window_steps += 1
        if not self.updates.step(self.step_number, self.share(self.step_number + 1), self.logged):
            if self.updates.hopeless:
                raise BadBatch(self.updates.complaint(self.step_number), self.batch_of(drawn))
            self.skipped()
        self.step_number += 1
        took = time.perf_counter() - started
        self.window_seconds += took
        self.seconds = self._agreed(self.seconds + took)

    def trial(self, rows: int) -> None:
        """Compute a step for this many rows and undo all of it."""
        window, moved = self.window.clone(), self.moved.clone()
        with torch.random.fork_rng(devices=[]):  # the random state that dropout uses
            self.try_out(rows)
        self.window.copy_(window)
        self.moved.copy_(moved)
        self.updates.forget()

    def gather(self) -> None:
        """Put all weights, averaged ones if there are any, into the model to be measured; a call on every process."""
        if not self.sharded:
            return
        from hrm.training.sharding import whole

        ema = self.updates.ema
        mine = self.measured.state_dict() if self.measured else {}
        for name, tensor in {**self.model.state_dict(), **(ema.average if ema else {})}.items():
            found = whole(tensor)
            if mine:
                mine[name].copy_(found)

    def save(self, directory: Path) -> None:
        """Write a checkpoint of this step; a call on every process."""
        self.write(directory, self.step_number, *self.pack())

    def write(self, directory: Path, step: int, groups: Groups, state: Json, apart: Any = None) -> None:
        """Write what `pack` returned; a call on every process. In a thread of its own it takes `apart`, a group of all
        processes that nothing else uses."""
        if self.sharded:
            from hrm.training import sharding

            sharding.save(directory, step, groups, state, self.accelerator, apart)
        elif self.accelerator.is_main_process:
            checkpoint.save(directory, step, groups, state)

    def restore(self, path: Path) -> None:
        """Take a checkpoint over; a call on every process. UserError where it does not fit."""
        if not self.sharded:
            self.unpack(*checkpoint.load(path))
            return
        from hrm.training import sharding

        ema = self.updates.ema
        like = {"weights": self.model.state_dict(), **({"ema": ema.average} if ema else {})}
        self.unpack(*sharding.load(path, like))

    @property
    def logged(self) -> bool:
        """Whether the step that is being computed is followed by a line of metrics."""
        return (self.step_number + 1) % self.train.log_every == 0

    @torch.no_grad()
    def note_residuals(self, before: Carry, after: Carry, chosen: Tensor) -> None:
        """How far a segment has moved the chosen states [b] or [b, p]: |z - z'| / |z'|, of every position."""
        for place, (old, new) in enumerate(zip((before.z_h, before.z_l), (after.z_h, after.z_l), strict=True)):
            old, new = old[chosen].float(), new[chosen].float()
            distances = (new - old).norm(dim=-1) / old.norm(dim=-1).clamp(min=1e-12)
            self.moved[place] += distances.sum()
        self.moved[2] += distances.numel()

    @property
    def progress(self) -> float:
        """Share of the training that is done in [0, 1], by steps or minutes, whichever is further."""
        return self.share(self.step_number)

    def share(self, steps: int) -> float:
        """`progress` after this many steps."""
        by_time = self.seconds / (60 * self.train.minutes) if self.train.minutes else 0.0
        return min(1.0, max(steps / self.train.steps, by_time))

    def metrics(self) -> Json:
        """Metrics since the last call, over all processes."""
        sums, steps = self._sums(), max(1, self.window_steps)
        rate = steps / max(1e-9, self.window_seconds)  # the time between steps, such as measuring, does not count
        self.window.zero_()
        self.window_steps, self.window_seconds = 0, 0.0
        *moved, count = self.accelerator.reduce(self.moved, "sum").tolist()  # type: ignore[union-attr]
        self.moved.zero_()
        residuals = {"residual_h": moved[0] / count, "residual_l": moved[1] / count} if count else {}
        updates = self.updates
        return {
            "step": self.step_number, **self.means(sums, steps), "grad_norm": updates.grad_norm, **updates.grad_norms,
            **residuals, "lr": updates.lr, "skipped_updates": updates.bad_steps, "steps_per_second": rate,
            **(self._rates(sums[self.rate[0]] / steps * rate) if self.rate else {}), "seconds": self.seconds,
        }  # fmt: skip

    def _rates(self, rate: float) -> Json:
        """Units a second, and the share of the devices' FLOPs that they take."""
        assert self.rate is not None
        used = {"utilisation": rate * self.flops_per_unit / self.peak_flops} if self.peak_flops else {}
        return {self.rate[1]: rate, **used}

    @contextmanager
    def as_measured(self) -> Iterator[M]:
        """The model for measuring: in evaluation mode, with averaged weights if there are any, and not recompiled."""
        if self.sharded:
            assert self.measured is not None
            yield self.measured.eval()
            return
        ema = self.updates.ema
        try:
            # Batches have many sizes here, and each would be compiled separately.
            with torch.compiler.set_stance("force_eager"), ema.applied() if ema else nullcontext():
                yield self.model.eval()
        finally:
            self.model.train()

    def pack(self) -> tuple[Groups, Json]:
        """The tensors and the state of a checkpoint; a call on every process. Randomness is a function of (seed, step,
        row), so the step number is both the random state and the place in the data."""
        groups, counters = self.updates.pack()
        state = {name: getattr(self, name) for name in _COUNTERS} | counters | {"seed": self.seed}
        state["window"] = list(self._sums().values())
        return {"weights": dict(self.model.state_dict()), **self.in_flight(), **groups}, state

    def unpack(self, groups: Groups, state: Json) -> None:
        """Restore what `pack` returned; UserError where it does not fit the model."""
        for name in _COUNTERS:
            setattr(self, name, counted(state, name))
        if self.accelerator.is_main_process:
            self.window.copy_(torch.from_numpy(np.array(state["window"], np.float64)))
        try:
            self.model.load_state_dict(groups["weights"])
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"the checkpoint does not fit the model of the run: {reason}") from None
        self.updates.unpack(groups, state)
        self.restore_in_flight(groups)

    def _sums(self) -> dict[str, float]:
        total: Any = self.accelerator.reduce(self.window, "sum")
        return dict(zip(self.names, total.tolist(), strict=True))

    def _agreed(self, seconds: float) -> float:
        """The main process's clock, so that all processes use the same learning rate and stop at the same step."""
        if self.accelerator.num_processes == 1 or not self.train.minutes:
            return seconds
        clock = torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(clock))  # type: ignore[arg-type]
