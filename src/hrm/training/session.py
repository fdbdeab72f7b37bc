"""A training from its configuration to its result: data, model, run folder, the loop, and resuming."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs

from hrm import data, names, tasks
from hrm.config import Config, TextConfig, TrainConfig, UserError, check, settings
from hrm.data import PuzzleSet, arc, arc_sets
from hrm.evaluation import evaluate
from hrm.models.puzzle import board_of, build
from hrm.runs import Run, checkpoint, lock, threads
from hrm.runs.folder import refuse_in_use
from hrm.solving import Solver, load
from hrm.tasks import Task
from hrm.tasks.arc import Arc
from hrm.training.batches import Sampler
from hrm.training.course import Course
from hrm.training.long_steps import announce
from hrm.training.loop import Trainer
from hrm.training.progress import Reporter
from hrm.training.start import start_from
from hrm.training.state import pack, unpack

_FIXED = ("arch.", "task.", "seed", "optim.name", "model", "settings", "lora", "text.")
"""Settings that make a run what it is."""


def train(
    config: Config,
    path: Path,
    resume: bool = False,
    overwrite: bool = False,
    task: Task | None = None,
    init: Path | None = None,
) -> dict[str, Any]:
    """Train into the run folder `path`, from the start or from its newest checkpoint; returns the result.

    `task` is one of your own, in the place of the one that the configuration names; `init` a run whose weights and
    task embeddings a new one begins with.
    Raises UserError for data or settings that cannot work, BadBatch when the training diverges.
    """
    check(config)
    accelerator = make_accelerator(config.train)
    with owner(path, resume, accelerator):
        return _train(config, path, resume, overwrite, task, init, accelerator)


def _train(
    config: Config,
    path: Path,
    resume: bool,
    overwrite: bool,
    task: Task | None,
    init: Path | None,
    accelerator: Accelerator,
) -> dict[str, Any]:
    reporter = Reporter(config.train, accelerator)
    task = task or tasks.build(config.task)
    start = None if init is None else Run.open(init)
    if not resume and accelerator.is_main_process:
        refuse_place(path, overwrite, config, init)
        training, held_out, store = _prepare(config, task, reporter, start)
        _refuse_overlap(config, task, training, reporter)
        board = {
            "cells": training.inputs.shape[1],
            "vocabulary": len(task.vocabulary),
            "task_ids": training.num_task_ids,
        }
        board["training_sha256"] = _fingerprint(training)
        Run.create(path, config, board, overwrite, store)
    accelerator.wait_for_everyone()
    run = Run.open(path)
    run.check_places()
    changed = changes(run.config, config)
    run.config = config
    training, held_out = puzzles_of(run, task, reporter)
    if changed.keys() & {"validation", "allow_overlap"}:
        _refuse_overlap(config, task, training, reporter)
    model = build(config, board_of(task, training.num_task_ids))
    if start is not None:
        start_from(model, start)
    if config.train.learn == "embedding":
        model.requires_grad_(False)
    trainer = Trainer(
        config,
        model,
        Sampler(training, task, config.train.batch_size, config.seed, config.task.augment, config.task.reveal),
        accelerator,
    )
    if resume:
        newest = checkpoint.newest(run.checkpoints, reporter.say)
        if newest is None:
            reporter.say(f"{path} has no checkpoint yet: starting from the beginning")
        else:
            with checkpoint.restoring(newest):
                unpack(trainer, *checkpoint.load(newest))
        if accelerator.is_main_process:
            run.rewind(trainer.step_number)
            # Only now, so that flags that are refused leave no trace.
            if changed:
                reporter.say(
                    "changed by flags: " + ", ".join(f"{key} {old} -> {new}" for key, (old, new) in changed.items())
                )
                run.log({"event": "resumed", "from_step": trainer.step_number, "changed": changed})
                run.set_config(config)
    device = choose_threads(run, accelerator, model, config.train.batch_size * model.positions)
    _explain(config, trainer, training, held_out, reporter, device)
    reporter.start(accelerator, path.name, str(path), settings(config))
    announce(config, trainer, trainer.step_number, accelerator.num_processes, accelerator.device, reporter)
    measures = None if held_out is None else _Held(trainer, task, held_out)

    def finish() -> dict[str, Any]:
        if held_out is None:
            return {}
        final = evaluate(load(run.path, device=str(accelerator.device), task=task), held_out)
        return {"exact": final["exact_accuracy"], **final}

    result = Course(run, trainer, partial(pack, trainer), config.train, measures, reporter).follow(finish)
    trainer.close()
    # Together: a process that leaves while another one still measures can be torn down in the middle of its exit.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def owner(path: Path, resume: bool, accelerator: Accelerator) -> AbstractContextManager[object]:
    """Keeps other processes out of a run; of several of one training the main process holds it for all."""
    verb = "train --resume" if resume else "train"
    return lock.own(path, verb, new=not resume) if accelerator.is_main_process else nullcontext()


def refuse_place(path: Path, overwrite: bool, config: Config | TextConfig, start: Path | str | None) -> None:
    """UserError, before anything is made, for a place where no run may be: in use, or within what is read."""
    given = [value for value in (config.data, config.validation) if value]
    names.apart(path, [start, *given, *(part.strip() for value in given for part in value.split(",") if part.strip())])
    refuse_in_use(path, overwrite)


def puzzles_of(run: Run, task: Task, reporter: Reporter | None = None) -> tuple[PuzzleSet, PuzzleSet | None]:
    """The training puzzles of a run, and those held out; UserError if the data is no longer what it was."""
    run.check_data()
    if isinstance(task, Arc):
        training, held_out = arc_sets.prepare(run.config, task, arc_sets.Record.load(run.data))[:2]
        _compare(run, training)
        return training, held_out
    if run.config.data is None and not run.data.is_dir():
        raise UserError(
            f"{run.path} holds weights but no puzzles, so there is no training to resume: give --data to eval it"
        )
    if run.config.data is None:
        held_out = data.read(run.data, task, "test") if (run.data / "test").is_dir() else None
        return data.read(run.data, task), _validation(run.config, task) or held_out
    training, held_out, _ = _prepare(run.config, task, reporter)
    _compare(run, training)
    return training, held_out


def _compare(run: Run, training: PuzzleSet) -> None:
    """UserError unless the training puzzles are those that the run began with."""
    if _fingerprint(training) != run.board["training_sha256"]:
        raise UserError(
            f"{training.source} has changed since the run {run.path} began: restore it, or say where it is with --data"
        )


def _prepare(
    config: Config, task: Task, reporter: Reporter | None, start: Run | None = None
) -> tuple[PuzzleSet, PuzzleSet | None, Callable[[Path], None]]:
    """Training puzzles, read or generated; those to measure on, a file's or whole symmetry classes set aside; and what
    puts into a new run folder all that it must keep of them."""
    if isinstance(task, Arc):
        known = None if start is None else arc_sets.Record.load(start.data)
        if known is not None and config.validation and config.task.leaks != "allow":
            known.check_unseen(arc.read(config.validation), "--task.leaks allow")
        training, held_out, record, notes = arc_sets.prepare(config, task, known)
        for note in notes if reporter else ():
            reporter.say(note)  # type: ignore[union-attr]
        return training, held_out, lambda folder: record.save(folder / "data")
    console = reporter.console if reporter else None
    if config.data is None:
        held_out, training = data.generate(task, [config.task.holdout, config.task.puzzles], config.seed, console)
    else:
        training, held_out = data.split(data.read(config.data, task), task, config.task.holdout, config.seed, console)
    held_out = _validation(config, task) or (held_out if len(held_out.inputs) else None)

    def store(folder: Path) -> None:
        # Generated puzzles stay with the run; a data set of one's own is not copied, but read again and compared.
        if config.data is None:
            data.write_folder(folder / "data", task, training, None if config.validation else held_out)

    return training, held_out, store


def _validation(config: Config, task: Task) -> PuzzleSet | None:
    return None if config.validation is None else data.read(config.validation, task, "test")


def _refuse_overlap(config: Config, task: Task, training: PuzzleSet, reporter: Reporter) -> None:
    """UserError where --validation holds symmetric variants of training puzzles; what is set aside never does."""
    if config.validation is not None and not config.allow_overlap and task.name != "arc":  # ARC has rules of its own
        data.refuse(data.locate(config.validation, task, "test"), training, task, reporter.console)


def _fingerprint(puzzles: PuzzleSet) -> str:
    digest = hashlib.sha256()
    for array in (puzzles.inputs, puzzles.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def make_accelerator(train: TrainConfig, flag: str = "--train.device") -> Accelerator:
    """Devices and processes; one process outside `torchrun` or `accelerate launch`. A training makes it once: what it
    finds is the state of the whole process, and a second one of another kind is refused by accelerate. `flag` is what
    the verb calls the device."""
    device, count = train.device, torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    # accelerate joins processes on CPUs only where it is told so; else each would take itself for the only one.
    cpu = device == "cpu" or (device == "auto" and not count)
    if launched > max(1, count) and not cpu:
        raise UserError(f"{launched} processes and {count} accelerators: start {max(1, count)}, or use {flag} cpu")
    found = PartialState._shared_state
    if found and launched == 1 and found["num_processes"] == 1 and cpu != (found["device"].type == "cpu"):
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training in this process
    # The main process prepares data and measures while the others wait; one that fails is noticed by the launcher.
    patience = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=[patience])
    if device not in ("auto", accelerator.device.type):
        raise UserError(f"{flag} {device} is not available here: use {accelerator.device.type} or auto")
    if launched > accelerator.num_processes:
        raise UserError(f"processes cannot train together on {accelerator.device.type}: use {flag} cpu")
    if train.batch_size % accelerator.num_processes:
        raise UserError(
            f"--train.batch-size {train.batch_size} must be a multiple of the number of processes, "
            f"{accelerator.num_processes}"
        )
    return accelerator


def choose_threads(run: Run[Any], accelerator: Accelerator, model: Any, positions: int) -> str:
    """Settle the threads of a training on a CPU, and keep their number with the run; returns a few words on it."""
    if accelerator.device.type != "cpu":
        return accelerator.device.type
    config = run.config
    share = positions // config.train.accumulate // accelerator.num_processes
    number, said = threads.settle(threads.work_of(model, share), config.train.threads)
    if accelerator.is_main_process and not config.train.threads:
        run.set_config(replace(config, train=replace(config.train, threads=number)))
    return f"cpu with {said}"


def changes(before: Config | TextConfig, after: Config | TextConfig) -> dict[str, list[Any]]:
    """Old and new value of each setting that flags changed; UserError for one that a resumed run cannot change."""
    old, new = settings(before), settings(after)
    changed = {key: [old[key], new[key]] for key in new if new[key] != old[key]}
    fixed = [key for key in changed if key.startswith(_FIXED)]
    if fixed:
        flag = "--" + fixed[0].replace("_", "-")
        if flag == "--settings":
            raise UserError(
                "--settings cannot change the model of a run that is resumed: leave it out, or begin a new run with "
                "other --settings (with --model RUN it goes on with these weights)"
            )
        raise UserError(f"{flag} cannot change when a run is resumed (it was {old[fixed[0]]}): start a new run")
    return changed


def _explain(
    config: Config, trainer: Trainer, training: PuzzleSet, held_out: PuzzleSet | None, reporter: Reporter, device: str
) -> None:
    """Say what was chosen and why."""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    reporter.say(
        f"{parameters:,} parameters on {device} in {config.train.precision}; {len(training.inputs):,} "
        f"training puzzles, {len(held_out.inputs) if held_out else 0:,} held out; "
        f"step {trainer.step_number} of {config.train.steps}"
    )
    if held_out is None:
        reporter.say(
            "nothing is held out, so the newest checkpoint counts as the best: see --validation, --task.holdout"
        )


class _Held:
    """Measures on some held-out puzzles with the averaged weights, if there are any."""

    compared: tuple[str, ...] = ("data_sha256", "n")
    nothing: float = 0.0

    def __init__(self, trainer: Trainer, task: Task, held_out: PuzzleSet) -> None:
        self.trainer, self.task = trainer, task
        self.puzzles = held_out.take(np.arange(min(trainer.config.train.eval_puzzles, len(held_out.inputs))))

    def __call__(self) -> dict[str, Any]:
        trainer = self.trainer
        model, halting, ema = trainer.model.eval(), trainer.config.halting, trainer.updates.ema
        solver = Solver(
            model,
            self.task,
            trainer.accelerator.device,
            max_segments=halting.max_segments,
            q_continue=halting.q_continue,
        )
        try:
            # Batches of many sizes come by, and each would be compiled anew.
            with torch.compiler.set_stance("force_eager"), ema.applied() if ema else nullcontext():
                return evaluate(solver, self.puzzles)
        finally:
            model.train()

    def score(self, measured: dict[str, Any]) -> float:
        return measured["exact_accuracy"]

    def sentence(self, measured: dict[str, Any]) -> str:
        return (
            f"held out exact {measured['exact_accuracy']:.2%}, wrong {measured['wrong']} of {measured['n']}, "
            f"mean segments {measured['mean_segments']:.1f}"
        )

    def target(self, measured: dict[str, Any]) -> str | None:
        wanted = self.trainer.config.train.target_accuracy
        enough = bool(wanted) and measured["exact_accuracy"] >= wanted
        return f"reached {wanted:.1%} on held-out puzzles" if enough else None
