"""Which puzzles are symmetric variants of one another, found fast: an invariant first, exact forms where it agrees."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from hrm.console import Console
from hrm.files.reading import UserError
from hrm.progress import track
from hrm.puzzles.data.puzzle_set import LocatedPuzzles, PuzzleSet
from hrm.puzzles.tasks import Puzzle, Task

COUNTED = 1000
"""An overlap is counted up to this many puzzles: an exact form takes one to two milliseconds."""


def classes(puzzles: PuzzleSet, task: Task, console: Console | None = None) -> np.ndarray:
    """The number [n] of each row's symmetry class, counted from 0."""
    hashes = invariants(puzzles, task)
    _, number, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    keys: dict[bytes, int] = {}
    for row in track(np.flatnonzero(counts[number] > 1).tolist(), "comparing puzzles", console):
        number[row] = len(counts) + keys.setdefault(_canonical(puzzles, row, task), len(keys))
    return np.unique(number, return_inverse=True)[1]


def shared(
    puzzles: PuzzleSet, others: PuzzleSet, task: Task, console: Console | None = None
) -> Iterator[tuple[int, int]]:
    """Each row that is a symmetric variant of a puzzle in another set, with the first such row there."""
    hashes, their_hashes = invariants(puzzles, task), invariants(others, task)
    suspects = np.flatnonzero(np.isin(their_hashes, hashes))
    bucket: dict[int, list[int]] = {}
    for row in suspects.tolist():
        bucket.setdefault(int(their_hashes[row]), []).append(row)
    known: dict[int, bytes] = {}

    def same(row: int, other: int) -> bool:
        if all(np.array_equal(mine[row], theirs[other]) for mine, theirs in zip(puzzles[:2], others[:2], strict=True)):
            return True
        if other not in known:
            known[other] = _canonical(others, other, task)
        return _canonical(puzzles, row, task) == known[other]

    for row in track(
        np.flatnonzero(np.isin(hashes, their_hashes)).tolist(), "comparing with training puzzles", console
    ):
        for other in bucket[int(hashes[row])]:
            if same(row, other):
                yield row, other
                break


def refuse(measured: LocatedPuzzles, training: PuzzleSet, task: Task, console: Console | None = None) -> None:
    """UserError if test puzzles are symmetric variants of training puzzles."""
    found = list(islice(shared(measured.puzzles, training, task, console), COUNTED))
    if found:
        first, _ = found[0]
        many = f"{'at least ' if len(found) == COUNTED else ''}{len(found):,} of {len(measured.puzzles.inputs):,}"
        raise UserError(
            f"{measured.where(first)} is a training puzzle ({training.source}) or a symmetric variant of one, as are "
            f"{many}: measure on others, or add --allow-overlap"
        )


def invariants(puzzles: PuzzleSet, task: Task) -> np.ndarray:
    """A number [n] uint64 per puzzle: equal for symmetric variants, seldom equal for other puzzles."""
    return task.invariants(puzzles.inputs, puzzles.labels)


def _canonical(puzzles: PuzzleSet, row: int, task: Task) -> bytes:
    return task.canonical(Puzzle(puzzles.inputs[row], puzzles.labels[row]))
