"""Puzzles to begin with, as a run's own task makes them."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from hrm.puzzles import tasks
from hrm.puzzles.config import Config
from hrm.runs.folder import Run

router = APIRouter(prefix="/studio", tags=["studio"])


class Example(BaseModel):
    """A puzzle as text."""

    question: str


@router.get("/example")
def example(
    request: Request, run: Annotated[str, Query(max_length=300)], seed: Annotated[int, Query(ge=0, lt=2**32)] = 0
) -> Example:
    """A puzzle for a run; the same one for the same seed."""
    path = request.app.state.models.about(run)["path"]
    task = tasks.build(Run.open(path, Config).config.task)
    text = task.format(task.generate(np.random.default_rng(seed)).question)
    rows, columns = task.shape
    drawn = len(text) == rows * columns  # one character for each cell
    return Example(question="\n".join(text[i : i + columns] for i in range(0, len(text), columns)) if drawn else text)
