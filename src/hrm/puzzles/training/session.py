"""What a training on puzzles is about: its puzzles and the model, how it is measured, and what it is worth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hrm.core.recurrence import silent
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.progress import bar
from hrm.puzzles import data, solvers, tasks
from hrm.puzzles.arc import files as arc
from hrm.puzzles.arc import sets as arc_sets
from hrm.puzzles.config import Config
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.measuring import Measurement
from hrm.puzzles.model import PuzzleModel, board_of, build
from hrm.puzzles.solving import Solver, load
from hrm.puzzles.tasks import Task
from hrm.puzzles.training.batches import Sampler
from hrm.puzzles.training.deducing import DeducingTrainer
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint
from hrm.training.interrupt import Abandoning
from hrm.training.loop import Evaluator
from hrm.training.progress import Reporter
from hrm.training.session import Changes, Subject, run_training

_FITTING = {"sudoku": "sudoku-9x9", "maze": "maze-10x10", "arc": "arc-small", "gym": "gym-mini-sudoku"}
"""For each kind of puzzles a preset that a CPU trains."""


def train(
    config: Config,
    path: Path,
    resume: bool = False,
    overwrite: bool = False,
    task: Task | None = None,
    init: Path | None = None,
) -> Json:
    """Train into the run folder `path`, from the start or from its newest checkpoint; returns the result. `task` is one
    of your own, in the place of the one that the configuration names; `init` a run whose weights and task embeddings a
    new one begins with. Raises UserError for data or settings that cannot work, BadBatch when the training diverges."""
    return run_training(_PuzzleTraining(config, task, init), path, resume, overwrite)


class _PuzzleTraining(Subject[Config, Trainer]):
    """A training on puzzles."""

    def __init__(self, config: Config, task: Task | None, init: Path | None) -> None:
        super().__init__(config)
        self.task = task or tasks.build(config.task)
        self.start, self.fitting = init, _FITTING.get(config.task.kind)
        self.begun_with = None if init is None else Run.open(solvers.find(init), Config)
        self.saves_start = init is not None
        self.created = False
        self.training: PuzzleSet | None = None
        self.held_out: PuzzleSet | None = None
        self.measured: _HeldOutPuzzles | None = None

    def create(self, path: Path, overwrite: bool, reporter: Reporter) -> None:
        config, task = self.config, self.task
        training, held_out, store = _prepare(config, task, reporter, self.begun_with)
        _refuse_overlap(config, task, training, reporter)
        board = {
            "cells": training.inputs.shape[1], "vocabulary": len(task.vocabulary), "task_ids": training.num_task_ids,
            "training_sha256": training.sha256,
        }  # fmt: skip
        if self.begun_with is not None:
            # Refused before anything is written; a resumed run knows by it that its first weights are not random ones.
            _start_from(build(config, board_of(task, training.num_task_ids)), self.begun_with)
            board["begins_with_weights"] = True
        Run.create(path, config, board, overwrite, store)
        self.created = True
        if config.data is not None or task.embedded:
            # Those that were made are read from the run, by every process and whenever it is resumed.
            self.training, self.held_out = training, held_out

    def read(self, run: Run[Config], changed: Changes, reporter: Reporter) -> None:
        self.saves_start = bool(run.board.get("begins_with_weights"))
        if self.training is None:
            self.training, self.held_out = puzzles_of(run, self.task, reporter, check=not self.created)
        if changed.keys() & {"validation", "allow_overlap"}:
            _refuse_overlap(self.config, self.task, self.training, reporter)

    def trainer(self, run: Run[Config], accelerator: Accelerator) -> Trainer:
        config, task, training = self.config, self.task, self._training
        model = build(config, board_of(task, training.num_task_ids))
        if self.begun_with is not None:
            _start_from(model, self.begun_with)
        if config.train.learn == "embedding":
            model.requires_grad_(False)
        size, shown = config.train.batch_size, config.task
        sampler = Sampler(training, task, size, config.seed, shown.augment, shown.reveal)
        kind = DeducingTrainer if config.arch.deduces else Trainer
        return kind(config, model, sampler, accelerator)

    def amounts(self) -> str:
        held_out = len(self.held_out.inputs) if self.held_out else 0
        return f"{len(self._training.inputs):,} training puzzles, {held_out:,} held out"

    def notes(self) -> Iterator[str]:
        if self.held_out is None:
            yield "nothing is held out, so the newest checkpoint counts as the best: see --validation, --task.holdout"

    def measures(self, trainer: Trainer) -> _HeldOutPuzzles | None:
        self.measured = None if self.held_out is None else _HeldOutPuzzles(trainer, self.task, self.held_out)
        return self.measured

    def finish(self, run: Run[Config], trainer: Trainer, reporter: Reporter, abandoning: Abandoning) -> Json:
        if self.held_out is None or self.measured is None:
            return {}
        solver = load(run.path, device=str(trainer.accelerator.device), task=self.task)
        measurement = self.measured.again(solver, self.held_out)
        if measurement is None:
            n = len(self.held_out.inputs)
            reporter.say(f"measuring the best checkpoint on the {n:,} held-out puzzles")
            measurement = Measurement(solver, self.held_out)
            with abandoning(), bar("measuring", n, reporter.console) as advance:
                for _ in measurement:
                    advance()
        final = measurement.result()
        return {"exact": final["exact_accuracy"], **final}

    @property
    def _training(self) -> PuzzleSet:
        assert self.training is not None  # read by now
        return self.training


def puzzles_of(
    run: Run, task: Task, reporter: Reporter | None = None, check: bool = True
) -> tuple[PuzzleSet, PuzzleSet | None]:
    """The training puzzles of a run, and those held out; UserError if the data is no longer what it was. `check` is
    False where this process has just written what lies in the run."""
    if check:
        run.check_data()
    if task.embedded:
        training, held_out = arc_sets.prepare(run.config, task, arc_sets.TaskRecord.load(run.data))[:2]
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
    if training.sha256 != run.board["training_sha256"]:
        raise UserError(
            f"{training.source} has changed since the run {run.path} began: restore it, or say where it is with --data"
        )


def _prepare(
    config: Config, task: Task, reporter: Reporter | None, start: Run | None = None
) -> tuple[PuzzleSet, PuzzleSet | None, Callable[[Path], None]]:
    """Training puzzles, read or generated; those to measure on, a file's or whole symmetry classes set aside; and what
    puts into a new run folder all that it must keep of them."""
    if task.embedded:
        known = None if start is None else arc_sets.TaskRecord.load(start.data)
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
    if config.validation is not None and not config.allow_overlap and not task.embedded:  # ARC has rules of its own
        data.refuse(data.locate(config.validation, task, "test"), training, task, reporter.console)


def _start_from(model: PuzzleModel, run: Run) -> None:
    """Put the (averaged) weights of a run's best checkpoint into a model of the same architecture with as many task
    embeddings and layers or more. New embeddings begin as the mean of the old; a new layer as the last one, but with
    nothing to add, so that the model is the same function. UserError where the two do not fit."""
    where = run.checkpoint("best", partial(print, file=sys.stderr))
    groups, _ = checkpoint.load(where, {"weights", "ema"})
    weights = groups["weights"] | groups.get("ema", {})
    table = "task_embedding.weight"
    if table in weights and model.task_embedding is not None:
        old, rows = weights[table], model.task_embedding.weight.clone()
        if old.shape[1:] != rows.shape[1:] or len(old) > len(rows):
            raise UserError(f"{run.path} has {len(old)} task embeddings of width {old.shape[1]}, more than fit here")
        rows[: len(old)] = old
        rows[len(old) :] = old[min(1, len(old) - 1) :].mean(0)  # without the blank id
        weights[table] = rows
    stacks = {"fast": model.recurrence.fast, "slow": model.recurrence.slow}
    for role, stack in stacks.items():
        layers, depth = f"recurrence.{role}.layers.", 0 if stack is None else len(stack.layers)
        count = len({name.removeprefix(layers).split(".")[0] for name in weights if name.startswith(layers)})
        start = f"{layers}{count - 1}."
        last = {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}
        for number in range(count, depth):
            weights |= {f"{layers}{number}.{name}": weight for name, weight in silent(last).items()}
    found, wanted = _shapes(weights), _shapes(model.state_dict())
    for name in sorted(found.keys() | wanted.keys()):
        there, here = found.get(name, "missing"), wanted.get(name, "missing")
        if there != here:
            reason = f"{name} is {there} there and {here} here"
            fit = f"the weights of {run.path} do not fit the architecture (--arch...): {reason}"
            raise UserError(f"{fit}; give the --arch settings of {run.path}/config.yaml, and a task of its kind")
    with torch.no_grad():
        model.load_state_dict(weights)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: "x".join(map(str, tensor.shape)) for name, tensor in tensors.items()}


class _HeldOutPuzzles(Evaluator):
    """Measures on some held-out puzzles with the averaged weights, if there are any."""

    nothing = 0.0

    def __init__(self, trainer: Trainer, task: Task, held_out: PuzzleSet) -> None:
        self.trainer, self.task = trainer, task
        self.puzzles = held_out.take(np.arange(min(trainer.config.train.eval_puzzles, len(held_out.inputs))))
        self.best: tuple[int, float, Measurement] | None = None
        """Step, score and measurement of the best weights that this process has measured."""

    def __call__(self) -> Json:
        halting, device = self.trainer.config.halting, self.trainer.accelerator.device
        looks: Json = {"max_segments": halting.max_segments, "q_continue": halting.q_continue}
        looks["deduction"] = self.trainer.config.deduction
        with self.trainer.as_measured() as model:
            measurement = Measurement(Solver(model, self.task, device, **looks), self.puzzles)
            for _ in measurement:
                pass
        measured = measurement.result().plain()
        if self.best is None or self.score(measured) >= self.best[1]:
            self.best = self.trainer.step_number, self.score(measured), measurement
        return measured

    def again(self, solver: Solver, held_out: PuzzleSet) -> Measurement | None:
        """What was measured with the weights that `solver` has from a checkpoint; None unless it was all of these."""
        if self.best is None or len(self.puzzles.inputs) < len(held_out.inputs):
            return None
        step, _, measurement = self.best
        return measurement.of(solver, held_out) if checkpoint.step_of(Path(solver.checkpoint)) == step else None

    def score(self, measured: Json) -> float:
        return measured["exact_accuracy"]

    def sentence(self, measured: Json) -> str:
        return (
            f"held out exact {measured['exact_accuracy']:.2%}, wrong {measured['wrong']} of {measured['n']}, "
            f"mean segments {measured['mean_segments']:.1f}"
        )

    def target(self, measured: Json) -> str | None:
        wanted = self.trainer.config.train.target_accuracy
        enough = bool(wanted) and measured["exact_accuracy"] >= wanted
        return f"reached {wanted:.1%} on held-out puzzles" if enough else None
