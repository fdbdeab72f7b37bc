"""What every trainer does with a step: draw, compute, update, count, and give up what a signal interrupts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.runs.checkpoint import counted
from hrm.training.config import TrainConfig
from hrm.training.interrupt import Abandoned
from hrm.training.updates import Updates

_COUNTERS = ("step_number", "seconds", "window_steps")
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)


class BadBatch(Exception):
    """Too many non-finite updates in a row; carries the last batch."""

    def __init__(self, message: str, batch: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.batch = batch


class BaseTrainer(ABC, Generic[M, D]):
    """Holds everything that changes while a model M is trained; `step` does one update with what was drawn, a D."""

    names: ClassVar[tuple[str, ...]]
    """Sums that `compute` adds to the window, in this order."""
    rate: ClassVar[tuple[str, str] | None] = None
    """Which of them is what is done, and what it is called per second."""

    def __init__(self, model: M, updates: Updates, train: TrainConfig, seed: int, accelerator: Accelerator) -> None:
        self.model, self.updates, self.train, self.seed, self.accelerator = model, updates, train, seed, accelerator
        share = train.batch_size // accelerator.num_processes
        self.rows = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        """Of a batch, those of this process."""
        self.wide = torch.float32 if accelerator.device.type == "mps" else torch.float64  # all that Metal has
        self.window = torch.zeros(len(self.names), dtype=self.wide, device=accelerator.device)
        self.window_steps, self.window_seconds = 0, 0.0
        self.step_number, self.seconds = 0, 0.0
        self.abandoning: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around what of a step may be given up at a signal: all but the drawing and the update."""

    @property
    @abstractmethod
    def positions(self) -> int:
        """Tokens of a row, as the model sees it."""

    @abstractmethod
    def draw(self) -> D:
        """What a step works on."""

    @abstractmethod
    def compute(self, drawn: D) -> None:
        """Forward and backward passes of a step, whose sums go into the window."""

    @abstractmethod
    def batch_of(self, drawn: D) -> dict[str, Tensor]:
        """A batch that cannot be learned from, to be saved."""

    def undo(self, drawn: D) -> None:
        """Take back what a step that is given up has changed, besides window and gradients."""

    def skipped(self) -> None:
        """After an update that was left out, because something is not finite."""

    @abstractmethod
    def try_out(self, rows: int) -> None:
        """Compute a step at full depth for some rows."""

    @abstractmethod
    def means(self, sums: dict[str, float], steps: int) -> Json:
        """Json of a window from its sums by name."""

    @abstractmethod
    def describe(self, metrics: Json) -> str:
        """What of the metrics is worth seeing while it runs."""

    def in_flight(self) -> dict[str, dict[str, Tensor]]:
        """Further groups of tensors of a checkpoint; a call on every process."""
        return {}

    def restore_in_flight(self, groups: dict[str, dict[str, Tensor]]) -> None:
        """Go on with what `in_flight` gave; UserError where it does not fit."""

    def close(self) -> None:
        """Let go of what is open."""

    def step(self) -> None:
        """One update of the weights; Abandoned leaves all as it was, BadBatch comes after too many without effect."""
        started = time.perf_counter()
        drawn, window = self.draw(), self.window.clone()
        try:
            with self.abandoning():
                self.compute(drawn)
        except Abandoned:
            self.window.copy_(window)
            self.updates.forget()
            self.undo(drawn)
            raise
        self.window_steps += 1
        if not self.updates.step(self.step_number, self.share):
            if self.updates.hopeless:
                raise BadBatch(self.updates.complaint(self.step_number), self.batch_of(drawn))
            self.skipped()
        self.step_number += 1
        took = time.perf_counter() - started
        self.window_seconds += took
        self.seconds = self._agreed(self.seconds + took)

    def trial(self, rows: int) -> None:
        """Compute a step for some rows, of which nothing remains."""
        window = self.window.clone()
        with torch.random.fork_rng(devices=[]):  # of dropout
            self.try_out(rows)
        self.window.copy_(window)
        self.updates.forget()

    @property
    def progress(self) -> float:
        """Share of the training that is done, by steps or by minutes, whichever is further; in [0, 1]."""
        return self.share(self.step_number)

    def share(self, steps: int) -> float:
        """The same after this many steps."""
        by_time = self.seconds / (60 * self.train.minutes) if self.train.minutes else 0.0
        return min(1.0, max(steps / self.train.steps, by_time))

    def metrics(self) -> Json:
        """Means since the last call, over all processes."""
        sums, steps = self._sums(), max(1, self.window_steps)
        rate = steps / max(1e-9, self.window_seconds)  # without what lies between the steps
        self.window.zero_()
        self.window_steps, self.window_seconds = 0, 0.0
        return {
            "step": self.step_number,
            **self.means(sums, steps),
            "grad_norm": self.updates.grad_norm,
            "lr": self.updates.lr,
            "skipped_updates": self.updates.bad_steps,
            "steps_per_second": rate,
            **({self.rate[1]: sums[self.rate[0]] / steps * rate} if self.rate else {}),
            "seconds": self.seconds,
        }

    @contextmanager
    def as_measured(self) -> Iterator[M]:
        """The model as it is measured: with the averaged weights, if there are any, and nothing compiled again."""
        ema = self.updates.ema
        try:
            # Batches of many sizes come by, and each would be compiled by itself.
            with torch.compiler.set_stance("force_eager"), ema.applied() if ema else nullcontext():
                yield self.model.eval()
        finally:
            self.model.train()

    def pack(self) -> tuple[dict[str, dict[str, Tensor]], Json]:
        """The tensors and the state of a checkpoint; a call on every process.

        Randomness is a function of (seed, step, row): the step is the random state and the place in the data.
        """
        groups, counters = self.updates.pack()
        state = {name: getattr(self, name) for name in _COUNTERS} | counters | {"seed": self.seed}
        state["window"] = list(self._sums().values())
        return {"weights": dict(self.model.state_dict()), **self.in_flight(), **groups}, state

    def unpack(self, groups: dict[str, dict[str, Tensor]], state: Json) -> None:
        """Go on from what `pack` gave; UserError where it does not fit the model."""
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
        """The main process's clock where time decides, so that all processes use one rate and stop at one step."""
        if self.accelerator.num_processes == 1 or not self.train.minutes:
            return seconds
        clock = torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(clock))  # type: ignore[arg-type]
