"""The kinds of puzzles there are: the package's own, those that installed packages provide, and classes in a file."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePath

from hrm.files.reading import nearest, quoted

KINDS = {
    "sudoku": "hrm.puzzles.tasks.sudoku:Sudoku",
    "maze": "hrm.puzzles.tasks.maze:Maze",
    "grid": "hrm.puzzles.tasks.grid:Grid",
    "arc": "hrm.puzzles.tasks.arc:Arc",
    "gym": "hrm.puzzles.tasks.gym",
}
"""The one list of the package's own, each with what has `of(config)`, which makes the task."""
GROUP = "hrm.tasks"
"""The entry points by which installed packages provide tasks: NAME = "module:Class"."""


def is_file(kind: str) -> bool:
    """Whether a kind is a class in a file: FILE.py:CLASS."""
    return kind.rpartition(":")[0].endswith(".py")


def bare(kind: str) -> str:
    """A kind as a run stores it: of a file no more than its name."""
    file, _, name = kind.rpartition(":")
    return f"{PurePath(file).name}:{name}" if is_file(kind) else kind


def installed(kind: str) -> EntryPoint | None:
    """What provides a kind in an installed package."""
    return next(iter(entry_points(group=GROUP, name=kind)), None)


def problem(kind: str) -> str | None:
    """A sentence about a kind that is none."""
    if kind in KINDS or is_file(kind) or installed(kind) is not None:
        return None
    hint = nearest(kind, KINDS) or f": use {', '.join(KINDS)}, FILE.py:CLASS for your own, or install what provides it"
    return f"there is no task named {quoted(kind)} (--task.kind){hint}"
