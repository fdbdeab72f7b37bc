"""Make puzzles, and keep whole symmetry classes of them apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hrm.console import Console
from hrm.files.reading import UserError, quoted
from hrm.progress import bar
from hrm.puzzles.data.overlap import classes
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.tasks import Puzzle, Task

PATIENCE = 20_000
"""Draws without a new puzzle after which there are taken to be no more."""
LEAST_SHARE = 0.2
"""A set gets at least this share of the classes: there are only 36 of minimal 4x4 puzzles."""


def generate(task: Task, counts: Sequence[int], seed: int = 0, console: Console | None = None) -> list[PuzzleSet]:
    """Make sets of different puzzles, `counts[i]` in set i; no symmetry class is in two sets. A new class goes to a set
    in proportion to the sets' sizes. UserError if the task has too few puzzles."""
    rng = np.random.default_rng(seed)
    share = np.maximum(np.array(counts) / max(sum(counts), 1), LEAST_SHARE)
    made: list[dict[bytes, Puzzle]] = [{} for _ in counts]
    home: dict[bytes, int] = {}
    classes = np.zeros(len(counts))
    apart = sum(count > 0 for count in counts) > 1
    misses = 0
    with bar("making puzzles", sum(counts), console) as advance:
        while open_ := [i for i, count in enumerate(counts) if len(made[i]) < count]:
            puzzle = _sound(task.generate(rng), task)
            key = task.canonical(puzzle) if apart else b""
            if key not in home:
                home[key] = min(open_, key=lambda i: (classes[i] + 1) / share[i])
                classes[home[key]] += 1
            mine = made[home[key]]
            misses += 1
            if len(mine) < counts[home[key]] and puzzle.question.tobytes() not in mine:
                mine[puzzle.question.tobytes()] = puzzle
                misses = 0
                advance()
            if misses == PATIENCE:
                found, wanted = len(made[open_[0]]), counts[open_[0]]
                raise UserError(
                    f"found only {found} different puzzles of {wanted} wanted for this {task.name}: ask for fewer"
                )
    return [_pack(task, list(puzzles.values()), seed) for puzzles in made]


def _sound(puzzle: object, task: Task) -> Puzzle:
    """Check what a task generated; UserError unless it is a Puzzle with the task's cells and tokens."""
    where = f"{task.origin or type(task).__name__}.generate"
    if not isinstance(puzzle, Puzzle):
        raise UserError(f"{where} gives {quoted(puzzle)}, no hrm.Puzzle: correct it")
    for what, tokens in (("question", puzzle.question), ("answer", puzzle.answer)):
        if not isinstance(tokens, np.ndarray) or tokens.shape != (task.cells,) or tokens.dtype.kind not in "iu":
            found = f"shape {tokens.shape}, {tokens.dtype}" if isinstance(tokens, np.ndarray) else quoted(tokens)
            raise UserError(f"{where} gives a wrong {what} ({found}): make it an array of {task.cells} whole numbers")
        if tokens.min() < 0 or tokens.max() >= len(task.vocabulary):
            token = int(tokens.max() if tokens.max() > 0 and tokens.min() >= 0 else tokens.min())
            raise UserError(f"{where} gives the token {token} in its {what}: use 0 to {len(task.vocabulary) - 1}")
    return puzzle


def split(
    puzzles: PuzzleSet, task: Task, holdout: int, seed: int = 0, console: Console | None = None
) -> tuple[PuzzleSet, PuzzleSet]:
    """Split into training puzzles and at least `holdout` held-out ones, without cutting a symmetry class or a group.
    UserError if nothing is left to train on."""
    if not holdout:
        return puzzles, puzzles.take(np.arange(0))
    by_class = classes(puzzles, task, console)
    _, groups = np.unique(puzzles.groups, return_inverse=True)
    # Rows that share a class or a group, directly or through others, stay together.
    lots = np.arange(len(by_class))
    while True:
        before = lots
        for labels in (by_class, groups):
            least = np.full(len(lots), len(lots))
            np.minimum.at(least, labels, lots)
            lots = least[labels]
        if np.array_equal(before, lots):
            break
    _, lots, sizes = np.unique(lots, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    taken = order[: int(np.searchsorted(np.cumsum(sizes[order]), holdout)) + 1]
    held_out = np.isin(lots, taken)
    if held_out.all():
        n = len(lots)
        fix = f"hold out fewer than {holdout}" if len(sizes) > 1 else "too few to hold any out"
        raise UserError(f"{puzzles.source} has only {n} puzzle{'s' if n > 1 else ''}: {fix}")
    return puzzles.take(np.flatnonzero(~held_out)), puzzles.take(np.flatnonzero(held_out))


def _pack(task: Task, puzzles: list[Puzzle], seed: int) -> PuzzleSet:
    number = np.arange(len(puzzles), dtype=np.int32)
    grids = [[puzzle[i] for puzzle in puzzles] for i in (0, 1)]
    inputs, labels = np.array(grids, np.uint8).reshape(2, len(puzzles), task.cells)
    ratings = np.array([puzzle.rating for puzzle in puzzles], np.int32)
    return PuzzleSet(inputs, labels, np.zeros_like(number), number, ratings, f"generated with seed {seed}")
