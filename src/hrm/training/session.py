"""A training from its configuration to its result: data, model, run folder, the loop, and resuming."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from hrm import data, tasks
from hrm.config import Config, UserError, check, settings
from hrm.data import PuzzleSet, arc, arc_sets
from hrm.evaluation import evaluate
from hrm.models.puzzle import board_of, build
from hrm.runs import Run, checkpoint
from hrm.solving import Solver, load
from hrm.tasks import Task
from hrm.tasks.arc import Arc
from hrm.training.batches import Sampler
from hrm.training.interrupt import Interrupt
from hrm.training.loop import BadBatch, Trainer
from hrm.training.progress import Reporter, duration, memory_gib
from hrm.training.start import start_from
from hrm.training.state import pack, unpack


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
    accelerator = make_accelerator(config)
    reporter = Reporter(config.train, accelerator)
    task = task or tasks.build(config.task)
    start = None if init is None else Run.open(init)
    if not resume and accelerator.is_main_process:
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
    changed = _changes(run.config, config)
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
    _explain(config, trainer, training, held_out, reporter)
    reporter.start(accelerator, path.name, str(path), settings(config))
    was_measured = any(r.get("event") == "eval" and r["step"] == trainer.step_number for r in run.records())
    accelerator.wait_for_everyone()
    result = _loop(run, trainer, task, held_out, reporter, was_measured)
    trainer.close()
    # Together: a process that leaves while another one still measures can be torn down in the middle of its exit.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result


def puzzles_of(run: Run, task: Task, reporter: Reporter | None = None) -> tuple[PuzzleSet, PuzzleSet | None]:
    """The training puzzles of a run, and those held out; UserError if the data is no longer what it was."""
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


def make_accelerator(config: Config) -> Accelerator:
    """Devices and processes; one process outside `torchrun` or `accelerate launch`."""
    device = config.train.device
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    accelerator = Accelerator(cpu=device == "cpu")
    if device not in ("auto", accelerator.device.type):
        raise UserError(f"--train.device {device} is not available here: use {accelerator.device.type} or auto")
    if config.train.batch_size % accelerator.num_processes:
        raise UserError(
            f"--train.batch-size {config.train.batch_size} must be a multiple of the number of processes, "
            f"{accelerator.num_processes}"
        )
    return accelerator


def _changes(before: Config, after: Config) -> dict[str, list[Any]]:
    """Old and new value of each setting that flags changed; UserError for one that a resumed run cannot change."""
    old, new = settings(before), settings(after)
    changed = {key: [old[key], new[key]] for key in new if new[key] != old[key]}
    fixed = [key for key in changed if key.startswith(("arch.", "task.")) or key in ("seed", "optim.name")]
    if fixed:
        flag = "--" + fixed[0].replace("_", "-")
        raise UserError(f"{flag} cannot change when a run is resumed (it was {old[fixed[0]]}): start a new run")
    return changed


def _explain(
    config: Config, trainer: Trainer, training: PuzzleSet, held_out: PuzzleSet | None, reporter: Reporter
) -> None:
    """Say what was chosen and why."""
    parameters = sum(p.numel() for p in trainer.model.parameters())
    device = trainer.accelerator.device.type
    reporter.say(
        f"{parameters:,} parameters on {device} in {config.train.precision}; {len(training.inputs):,} "
        f"training puzzles, {len(held_out.inputs) if held_out else 0:,} held out; "
        f"step {trainer.step_number} of {config.train.steps}"
    )
    if held_out is None:
        reporter.say(
            "nothing is held out, so the newest checkpoint counts as the best: see --validation, --task.holdout"
        )


def _loop(
    run: Run, trainer: Trainer, task: Task, held_out: PuzzleSet | None, reporter: Reporter, was_measured: bool
) -> dict[str, Any]:
    """Train to the end or until asked to stop; a kill may have prevented that the step of the start was measured."""
    config = trainer.config.train
    accelerator = trainer.accelerator
    measured: dict[str, Any] = {}
    measurements = [record for record in run.records() if record.get("event") == "eval"]
    saved, measured_at = trainer.step_number, trainer.step_number if was_measured else -1

    def save() -> None:
        nonlocal saved
        if saved != trainer.step_number:
            groups, state = pack(trainer)
            if accelerator.is_main_process:
                checkpoint.save(run.checkpoints, trainer.step_number, groups, state)
                prune()
            saved = trainer.step_number

    def prune() -> None:
        checkpoint.prune(run.checkpoints, config.keep, [p for p in [run.best_checkpoint] if p])

    def measure() -> None:
        nonlocal measured, measured_at
        if held_out is None or measured_at == trainer.step_number:
            return
        measured_at = trainer.step_number
        save()
        if accelerator.is_main_process:
            started = time.perf_counter()
            measured = _measure(trainer, task, held_out, config.eval_puzzles)
            measured["measuring_seconds"] = time.perf_counter() - started
            measurements.append(measured)
            reporter.say(
                f"step {trainer.step_number}: held out exact {measured['exact_accuracy']:.2%}, "
                f"wrong {measured['wrong']} of {measured['n']}, mean segments {measured['mean_segments']:.1f}"
            )
            best = run.best
            # Accuracies on other puzzles (--validation, --train.eval-puzzles) do not compare.
            comparable = best is not None and all(best[key] == measured[key] for key in ("data_sha256", "n"))
            if best is None or not comparable or measured["exact_accuracy"] >= best["exact_accuracy"]:
                run.set_best(trainer.step_number, measured)
                prune()
            # Last, because a resumed run takes the line as a sign that all of this is done.
            shares = {"seconds": trainer.seconds, "measuring_share": _measuring(measurements, trainer)}
            run.log({**measured, "event": "eval", "step": trainer.step_number, **shares})

    def reached() -> bool:
        """Measure if it is time; whether that is enough, by the word of the main process: no other one measures."""
        if trainer.step_number == 0 or trainer.step_number % config.eval_every:
            return False
        measure()
        enough = bool(config.target_accuracy) and measured.get("exact_accuracy", 0.0) >= config.target_accuracy
        if enough:
            reporter.say(f"reached {config.target_accuracy:.1%} on held-out puzzles")
        elif config.patience and _since_best(measurements) >= config.patience:
            enough = True
            reporter.say(f"no better on held-out puzzles in {config.patience} measurements: stopping")
        return _anyone(enough, trainer)

    with Interrupt() as interrupt, reporter.bar:
        try:
            finished, stopped = reached(), False
            while not finished and not stopped and trainer.progress < 1:
                trainer.step()
                if trainer.step_number % config.log_every == 0 or trainer.progress >= 1:
                    metrics = {**trainer.metrics(), "memory_gib": memory_gib(accelerator.device)}
                    if accelerator.is_main_process:
                        run.log(metrics)
                    reporter.show(metrics, config.steps, trainer.progress)
                finished = reached()
                if trainer.step_number % config.checkpoint_every == 0:
                    save()
                stopped = _anyone(interrupt.asked, trainer)
            finished = finished or trainer.progress >= 1
        except BadBatch as error:
            file = run.path / "bad_batch.safetensors"
            if accelerator.is_main_process:
                save_file({name: tensor.cpu() for name, tensor in error.puzzles.items()}, file)
            raise BadBatch(f"{error}; its puzzles are in {file}", error.puzzles) from None
        save()
        if finished:
            measure()
    result = {
        "state": "finished" if finished else "paused",
        "step": trainer.step_number,
        "training_seconds": trainer.seconds,
        "measuring_share": _measuring(measurements, trainer),
    }
    reporter.say(f"{result['state']} at step {trainer.step_number} after {duration(trainer.seconds)} of training")
    if not finished:
        reporter.say(f"continue with: hrm train --resume {run.path}")
    elif accelerator.is_main_process:
        if held_out is not None:
            final = evaluate(load(run.path, device=str(accelerator.device), task=task), held_out)
            result |= {"exact": final["exact_accuracy"], **final}
        run.set_result(result)
    return result


def _since_best(measurements: list[dict[str, Any]]) -> int:
    """How many measurements came after the best one, once anything was solved; those on other puzzles do not count."""
    same = [m for m in measurements if all(m[key] == measurements[-1][key] for key in ("data_sha256", "n"))]
    accuracies = [m["exact_accuracy"] for m in same]
    best = max(accuracies, default=0.0)
    return len(accuracies) - 1 - accuracies.index(best) if best else 0


def _measuring(measurements: list[dict[str, Any]], trainer: Trainer) -> float:
    """Share of the time so far that measuring on held-out puzzles took."""
    measuring = sum(m.get("measuring_seconds", 0.0) for m in measurements)
    return measuring / max(1e-9, measuring + trainer.seconds)


def _measure(trainer: Trainer, task: Task, held_out: PuzzleSet, limit: int) -> dict[str, Any]:
    """Solve some held-out puzzles with the averaged weights, if there are any."""
    model = trainer.model.eval()
    halting = trainer.config.halting
    solver = Solver(
        model, task, trainer.accelerator.device, max_segments=halting.max_segments, q_continue=halting.q_continue
    )
    try:
        # Batches of many sizes come by, and each would be compiled anew.
        with torch.compiler.set_stance("force_eager"), trainer.ema.applied() if trainer.ema else nullcontext():
            return evaluate(solver, held_out.take(np.arange(min(limit, len(held_out.inputs)))))
    finally:
        model.train()


def _anyone(yes: bool, trainer: Trainer) -> bool:
    """Whether it is so in any process; all must agree before they stop."""
    if trainer.accelerator.num_processes == 1:
        return yes
    flag = torch.tensor([float(yes)], device=trainer.accelerator.device)
    return bool(trainer.accelerator.reduce(flag, "sum") > 0)  # type: ignore[operator]
