"""An estimate of the training time on this CPU, from a trial step before the start."""

from __future__ import annotations

import time

from hrm.training.progress import Reporter, in_days
from hrm.training.trainer import BaseTrainer

_ENOUGH = 0.5
"""A trial that takes this many seconds is precise enough."""
_DAY = 24 * 3600


def seconds_of(trainer: BaseTrainer, rows: int, part: int) -> float:
    """Estimated seconds of a step of `rows`, of which `part` are computed at once, from trials on few rows."""

    def trial(count: int) -> float:
        start = time.perf_counter()
        trainer.trial(count)
        return time.perf_counter() - start

    if trainer.train.compile:
        # The first trial compiles, and one on another number of rows might do so once more.
        trial(1)
        return trial(1) * rows
    tried, first = 1, True
    while True:
        took = trial(tried)
        # The first trial includes one-time costs, so a short one is repeated.
        if took >= (4 * _ENOUGH if first else _ENOUGH) or (tried == part and not first):
            return took / tried * rows
        tried, first = tried if first else min(part, 4 * tried), False


def announce(trainer: BaseTrainer, reporter: Reporter, fitting: str | None) -> None:
    """Print the estimated time of a step and of the rest of the training; if that is days, name the `fitting` preset.
    Only for a CPU: an accelerator needs full batches for a fair measurement, and its progress line shows it soon."""
    train, step, rows = trainer.train, trainer.step_number, len(trainer.rows)
    if trainer.accelerator.device.type != "cpu" or step >= train.steps:
        return
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
    """A duration as one number with its unit."""
    if seconds < 100:
        return f"{max(0.001, seconds):.1g} s" if seconds < 1 else f"{seconds:.0f} s"
    if seconds >= 2 * _DAY:
        return in_days(seconds)
    unit, size = ("minutes", 60) if seconds < 6000 else ("hours", 3600)
    return f"{seconds / size:,.0f} {unit}"
