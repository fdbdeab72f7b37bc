"""Weights of a run on puzzles without its data, and a run that holds nothing else: enough to solve and measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hrm.files.records import Json
from hrm.puzzles.config import Config
from hrm.puzzles.official.weights import ImportedModel
from hrm.runs import Run, checkpoint


def of_run(run: Run[Config], which: str | int = "best") -> ImportedModel:
    """The model of a checkpoint, with averaged weights if there are any."""
    path = run.checkpoint(which)
    groups, _ = checkpoint.load(path, {"weights", "ema"})
    board = {name: run.board[name] for name in ("cells", "vocabulary", "task_ids")}
    weights = groups["weights"] | groups.get("ema", {})
    return ImportedModel(run.config, checkpoint.step_of(path), **board, weights=weights)


def write_run(path: Path, model: ImportedModel, best: Json | None = None) -> Run[Config]:
    """Write a run folder with one checkpoint that holds only weights; `best` is what was measured of them."""
    # It may be given away: where the puzzles lay is nobody's business, and nothing here is trained on.
    config = replace(model.config, data=None, validation=None)
    board = {"cells": model.cells, "vocabulary": model.vocabulary, "task_ids": model.task_ids}
    run = Run.create(path, config, board)
    checkpoint.save(run.checkpoints, model.step, {"weights": model.weights}, {"step_number": model.step})
    if best and best["step"] == model.step:
        run.set_best(model.step, {key: best[key] for key in ("n", "exact_accuracy", "calibration") if key in best})
    return run
