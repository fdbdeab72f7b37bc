"""Several data sets as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.data.storage import read_both
from hrm.puzzles.tasks import Task


def join(paths: Sequence[Path | str], task: Task, limit: int | None = None) -> tuple[PuzzleSet, PuzzleSet | None, int]:
    """Training puzzles of all, the first `limit` of each; the test puzzles of one alone; how many were left out because
    an earlier one asks the same (never of one alone). UserError for one of several with a test split, which would end
    up among the others, or task ids, which would clash."""
    sets: list[PuzzleSet] = []
    for path in paths:
        puzzles, test = read_both(path, task)
        if limit is not None:
            puzzles = puzzles.take(np.arange(min(len(puzzles.inputs), limit)))
        if len(paths) == 1:
            return puzzles, test, 0
        for problem, what in ((test is not None, "a test split"), (puzzles.num_task_ids > 1, "task ids")):
            if problem:
                raise UserError(f"{path} has {what}, so it cannot be joined with others: --convert it alone")
        sets.append(puzzles)
    starts = np.cumsum([0, *(int(puzzles.groups.max()) + 1 for puzzles in sets)])
    joined = PuzzleSet(
        np.concatenate([puzzles.inputs for puzzles in sets]),
        np.concatenate([puzzles.labels for puzzles in sets]),
        np.concatenate([puzzles.task_ids for puzzles in sets]),
        np.concatenate([puzzles.groups + start for puzzles, start in zip(sets, starts, strict=False)]).astype(np.int32),
        _ratings(sets),
        "+".join(Path(puzzles.source).name for puzzles in sets),
    )
    _, first = np.unique(joined.inputs, axis=0, return_index=True)
    return joined.take(np.sort(first)), None, len(joined.inputs) - len(first)


def _ratings(sets: Sequence[PuzzleSet]) -> np.ndarray | None:
    """Those there are, 0 for the puzzles of a set without; none where no set has any."""
    if all(puzzles.ratings is None for puzzles in sets):
        return None
    parts = [np.zeros(len(p.inputs), np.int32) if p.ratings is None else p.ratings for p in sets]
    return np.concatenate(parts)
