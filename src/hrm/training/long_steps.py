"""Steps that take long: what one takes on this CPU is tried out and said before the start."""

from __future__ import annotations

import time
from typing import Protocol

import torch

from hrm.training.config import TrainConfig
from hrm.training.progress import Reporter, in_days

_ENOUGH = 0.5
"""Seconds of a trial that tell enough."""
_DAY = 24 * 3600


class Tries(Protocol):
    """A trainer that can compute some rows of a step of which nothing remains."""

    def trial(self, rows: int) -> None: ...


def seconds_of(trainer: Tries, rows: int, part: int) -> float:
    """About what a step of so many rows takes, of which a `part` is computed at once; tried on as few as tell it."""
    tried, first = 1, True
    while True:
        start = time.perf_counter()
        trainer.trial(tried)
        took = time.perf_counter() - start
        # What the first use of everything costs, no step pays; a second trial is worth it where it takes no time.
        if took >= (4 * _ENOUGH if first else _ENOUGH) or (tried == part and not first):
            return took / tried * rows
        tried, first = tried if first else min(part, 4 * tried), False


def announce(
    train: TrainConfig,
    trainer: Tries,
    step: int,
    processes: int,
    device: torch.device,
    reporter: Reporter,
    fitting: str | None,
) -> None:
    """Say what a step takes here and what is left of the training; where that is days, which preset is `fitting`.

    Only of a CPU: an accelerator needs full batches to show what it can, and shows it soon.
    """
    if device.type != "cpu" or step >= train.steps:
        return
    rows = train.batch_size // processes
    each = seconds_of(trainer, rows, max(1, rows // train.accumulate))
    whole = each * (train.steps - step)
    if train.minutes:
        whole = min(whole, 60 * train.minutes)
    reporter.say(f"about {about(each)} per step here, {about(whole)} for the rest of the training")
    if whole > _DAY:
        instead = f"; hrm train {fitting} is made for a CPU" if fitting else ""
        reporter.say(f"that is long: this recipe is made for an accelerator{instead} (Ctrl-C saves at any time)")
    reporter.begin(train.steps, step, whole)


def about(seconds: float) -> str:
    """A duration in one number."""
    if seconds < 100:
        return f"{max(0.001, seconds):.1g} s" if seconds < 1 else f"{seconds:.0f} s"
    if seconds >= 2 * _DAY:
        return in_days(seconds)
    unit, size = ("minutes", 60) if seconds < 6000 else ("hours", 3600)
    return f"{seconds / size:,.0f} {unit}"
