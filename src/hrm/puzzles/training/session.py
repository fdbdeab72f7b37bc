"""A training from its configuration to its result: data, model, run folder, the loop, and resuming."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from hrm.files.reading import UserError
from hrm.puzzles import data, tasks
from hrm.puzzles.arc import files as arc
from hrm.puzzles.arc import sets as arc_sets
from hrm.puzzles.config import Config
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.measuring import evaluate
from hrm.puzzles.model import board_of, build
from hrm.puzzles.solving import Solver, load
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.arc import Arc
from hrm.puzzles.training.batches import Sampler
from hrm.puzzles.training.start import start_from
from hrm.puzzles.training.state import pack, unpack
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint
from hrm.settings import check, settings
from hrm.training.course import Course
from hrm.training.long_steps import announce
from hrm.training.progress import Reporter
from hrm.training.session import changes, choose_threads, make_accelerator, owner, refuse_place

_FITTING = {"sudoku": "sudoku-9x9", "maze": "maze-10x10", "arc": "arc-small", "gym": "gym-mini-sudoku"}
"""For each kind of puzzles a preset that a CPU trains."""


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
    start = None if init is None else Run.open(init, Config)
    if not resume and accelerator.is_main_process:
        refuse_place(path, overwrite, (config.data, config.validation), init)
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
    run = Run.open(path, Config)
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
    place = accelerator.num_processes, accelerator.device
    announce(config.train, trainer, trainer.step_number, *place, reporter, _FITTING.get(config.task.kind))
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
