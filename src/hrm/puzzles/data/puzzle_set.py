"""Puzzles as arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class PuzzleSet(NamedTuple):
    """Questions with their answers, one puzzle per row."""

    inputs: np.ndarray
    """[n, cells] question tokens, uint8 or wider; may be mapped from the disk."""
    labels: np.ndarray
    """[n, cells] answer tokens; -100 in a signed array where the data set says to ignore a cell."""
    task_ids: np.ndarray
    """[n] int32; 0 is the blank id."""
    groups: np.ndarray
    """[n] int32; an original and its augmentations share a number."""
    ratings: np.ndarray | None
    """[n] difficulties, where known: int32, or float64 where some are no whole numbers."""
    source: str
    """Where the puzzles come from: a path, or how they were made."""
    num_task_ids: int = 1

    def take(self, rows: np.ndarray) -> PuzzleSet:
        """The puzzles at these row numbers (or where this mask holds)."""
        arrays = [None if a is None else a[rows] for a in self[:5]]
        return PuzzleSet(*arrays, source=self.source, num_task_ids=self.num_task_ids)  # type: ignore[arg-type]


class LocatedPuzzles(NamedTuple):
    """Puzzles and the place (file and row) that each was read from, for messages."""

    puzzles: PuzzleSet
    where: Callable[[int], str]
