"""A training from its configuration to its result, for every kind of model: start, resume, announce, loop, finish."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from accelerate import Accelerator

from hrm.files import names
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.runs import Run, checkpoint, lock
from hrm.runs.folder import refuse_in_use
from hrm.settings import Recipe, check, settings
from hrm.training.config import TrainConfig
from hrm.training.devices import choose_threads, make_accelerator
from hrm.training.interrupt import Abandoning
from hrm.training.long_steps import announce
from hrm.training.loop import Evaluator, TrainingLoop
from hrm.training.progress import Reporter
from hrm.training.ranks import restarted, together
from hrm.training.trainer import BaseTrainer

Changes = dict[str, list[object]]
"""Old and new value of each setting that flags changed."""
C = TypeVar("C", bound=Recipe)
T = TypeVar("T", bound=BaseTrainer)


class Subject(ABC, Generic[C, T]):
    """What is trained: data, model, trainer and measurements. One per training; methods are called from top to
    bottom."""

    start: Path | str | None = None
    """A run or model from which a new run takes its weights."""
    saves_start = False
    """Whether a new run must write a checkpoint at step 0, because nothing else holds its initial weights."""
    fitting: str | None = None
    """A preset that a CPU can train in reasonable time."""

    def __init__(self, config: C) -> None:
        """UserError for settings that cannot work."""
        check(config)
        self.config, known = config, settings(config)
        self.train: TrainConfig = vars(config)["train"]
        self.sources: list[str] = [known[name] for name in ("data", "validation") if known[name]]

    @abstractmethod
    def create(self, path: Path, overwrite: bool, reporter: Reporter) -> None:
        """Prepare the data and make a new run folder; called in the main process only."""

    @abstractmethod
    def read(self, run: Run[C], changed: Changes, reporter: Reporter) -> None:
        """Read a run's data, unless `create` has just prepared it; `changed` are the settings that flags changed."""

    @abstractmethod
    def trainer(self, run: Run[C], accelerator: Accelerator) -> T:
        """Model and trainer at step 0."""

    def resumed(self, run: Run[C], trainer: T) -> None:
        """Write what a resumed run must say from now on; called in the main process only, before the first step."""

    @abstractmethod
    def amounts(self) -> str:
        """In words, how much data is trained on and held out."""

    def notes(self) -> Iterator[str]:
        """Further notes for a person before the first step."""
        return iter(())

    @abstractmethod
    def measures(self, trainer: T) -> Evaluator | None:
        """How the training is measured; None where nothing is held out."""

    @abstractmethod
    def finish(self, run: Run[C], trainer: T, reporter: Reporter, abandoning: Abandoning) -> Json:
        """Measure the best checkpoint for the result; called in the main process only, after the last step. It measures
        within `abandoning()`, so that a signal ends it there."""


def run_training(subject: Subject[C, T], path: Path, resume: bool = False, overwrite: bool = False) -> Json:
    """Train into the run folder `path`, from the start or from its newest checkpoint; returns the result. Raises
    UserError for data or settings that cannot work, BadBatch when the training diverges, RankLost when another process
    of the training has died."""
    accelerator = make_accelerator(subject.train)
    if not resume:
        again, resume = restarted(path, type(subject.config), accelerator)
        overwrite |= again
        if resume:
            subject.config = Run.open(path, type(subject.config)).config
    # With several processes the main one holds the run for all.
    verb, main = "train --resume" if resume else "train", accelerator.is_main_process
    with together(path, accelerator), lock.own(path, verb, new=not resume) if main else nullcontext():
        return _train(subject, path, resume, overwrite, accelerator)


def _train(subject: Subject[C, T], path: Path, resume: bool, overwrite: bool, accelerator: Accelerator) -> Json:
    config, train = subject.config, subject.train
    reporter = Reporter(train, accelerator)
    if not resume and accelerator.is_main_process:
        parts = [part.strip() for source in subject.sources for part in source.split(",") if part.strip()]
        names.apart(path, [subject.start, *subject.sources, *parts])
        refuse_in_use(path, overwrite)
        subject.create(path, overwrite, reporter)
    accelerator.wait_for_everyone()
    run = Run.open(path, type(config))
    run.check_places()
    changed = changes(run.config, config)
    run.config = config
    subject.read(run, changed, reporter)
    trainer = subject.trainer(run, accelerator)
    if not resume and subject.saves_start:
        trainer.save(run.checkpoints)
        accelerator.wait_for_everyone()
    if resume or subject.saves_start:
        _restore(run, trainer, subject.saves_start, reporter)
    if resume and accelerator.is_main_process:
        run.rewind(trainer.step_number)
        # Written only now, so that refused flags leave the run unchanged.
        if changed:
            said = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
            reporter.say(f"changed by flags: {said}")
            run.log({"event": "resumed", "from_step": trainer.step_number, "changed": changed})
            run.set_config(config)
        subject.resumed(run, trainer)
    device = choose_threads(run, accelerator, trainer.model, train.batch_size * trainer.positions)
    _explain(subject, trainer, device, reporter)
    reporter.start(accelerator, path.name, str(path), settings(config))
    if not trainer.sharded:  # a trial takes as many steps as one process needs to know
        announce(trainer, reporter, subject.fitting)
    loop = TrainingLoop(run, trainer, subject.measures(trainer), reporter)
    result = loop.follow(partial(subject.finish, run, trainer, reporter))
    trainer.close()
    # All processes leave together: one that exits while another still measures could be killed during its exit.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def _restore(run: Run[C], trainer: BaseTrainer, needed: bool, reporter: Reporter) -> None:
    """Restore the newest intact checkpoint, or start at step 0 if there is none and none is needed."""
    newest = checkpoint.newest(run.checkpoints, reporter.say)
    if newest is not None:
        with checkpoint.restoring(newest):
            trainer.restore(newest)
    elif needed:
        raise UserError(f"{run.path} has no intact checkpoint, not even that of its start: begin a new run")
    else:
        reporter.say(f"{run.path} has no checkpoint yet: starting from the beginning")


def _explain(subject: Subject[C, T], trainer: T, device: str, reporter: Reporter) -> None:
    """Print device, precision, data and model before the first step."""
    train = subject.train
    sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    total, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    # Task embeddings are not parameters: where nothing else learns, count them.
    part = f", {learning:,} of them learning," if 0 < learning < total else ""
    reporter.say(
        f"{total:,} parameters{part} on {device} in {train.precision}; {subject.amounts()}; "
        f"step {trainer.step_number:,} of {train.steps:,}"
    )
    for note in subject.notes():
        reporter.say(note)


def changes(before: Recipe, after: Recipe) -> Changes:
    """Old and new value of each setting changed by flags; UserError for one that a resumed run cannot change."""
    old, new = settings(before), settings(after)
    changed = {key: [old[key], new[key]] for key in new if new[key] != old[key]}
    fixed = [key for key in changed if key.startswith(after.fixed)]
    if fixed:
        flag = "--" + fixed[0].replace("_", "-")
        again = "start a new run" + (", with --model RUN to keep these weights" if "model" in new else "")
        raise UserError(f"{flag} cannot change when a run is resumed (it was {old[fixed[0]]}): {again}")
    return changed
