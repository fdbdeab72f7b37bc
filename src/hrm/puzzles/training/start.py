"""Begin a training with the weights of another run."""

from __future__ import annotations

import sys
from functools import partial

import torch

from hrm.files.reading import UserError
from hrm.puzzles.model import PuzzleModel
from hrm.runs import Run, checkpoint


def start_from(model: PuzzleModel, run: Run) -> None:
    """Put the (averaged) weights of a run's best checkpoint into a model of the same architecture with as many task
    embeddings or more; the new ones begin as the mean of the old. UserError where the two do not fit."""
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
    try:
        with torch.no_grad():
            model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"the weights of {run.path} do not fit the architecture (--arch...): {reason}") from None
