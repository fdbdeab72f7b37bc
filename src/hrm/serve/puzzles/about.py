"""What a run solves, without loading its model: for lists, and for a page that draws its puzzles."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel

from hrm.files.reading import UserError
from hrm.puzzles import solvers, tasks
from hrm.puzzles.config import Config
from hrm.runs.folder import Run


class Board(BaseModel):
    """The puzzles of a run."""

    task: str
    """sudoku, maze, arc, ..."""
    shape: tuple[int, int]
    """Rows and columns."""
    symbols: list[str]
    """What a cell of an answer may hold."""
    blank: str | None
    """How a cell to be filled in is written; null where nothing is filled in, as in mazes."""
    guesses: bool
    """Whether a model may guess: `guesses` of a request."""
    blocks: list[int]
    """The box of each cell of a Sudoku."""
    copies: int | None
    """Of a run on ARC: how many a task has."""
    verified: bool
    """Whether answers are checked by rules; if not, none is ever called solved."""


def board_of(path: Path) -> Board | None:
    """The puzzles of a run folder; None for what is none, or whose task is not in this package."""
    with suppress(UserError, OSError):
        task = tasks.build(Run.open(solvers.find(path), Config).config.task)
        return Board(
            task=task.name, shape=task.shape, symbols=[task.names[token] for token in task.symbols],
            blank=None if task.blank is None else task.names[task.blank], guesses=task.can_guess,
            blocks=list(task.blocks),
            copies=getattr(task, "copies", None), verified=task.verifies,
        )  # fmt: skip
    return None
