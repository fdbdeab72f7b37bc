"""Puzzles as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class PuzzleSet(NamedTuple):
    """Questions and answers, one puzzle per row."""

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
        """The puzzles at these row numbers, or where this mask is true."""
        arrays = [None if a is None else a[rows] for a in self[:5]]
        return PuzzleSet(*arrays, source=self.source, num_task_ids=self.num_task_ids)  # type: ignore[arg-type]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the questions and answers."""
        digest = hashlib.sha256(self.inputs.tobytes())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    @staticmethod
    def joined(sets: Sequence[PuzzleSet], source: str) -> PuzzleSet:
        """Concatenate sets; groups stay distinct. If only some sets have ratings, the others get 0."""
        inputs, labels, ids = (np.concatenate(arrays) for arrays in zip(*(each[:3] for each in sets), strict=True))
        firsts = np.cumsum([0, *(int(each.groups.max(initial=-1)) + 1 for each in sets)])
        groups = np.concatenate([each.groups + first for each, first in zip(sets, firsts, strict=False)])
        graded = any(each.ratings is not None for each in sets)
        ratings = [np.zeros(len(each.inputs), np.int32) if each.ratings is None else each.ratings for each in sets]
        count = max(each.num_task_ids for each in sets)
        known = np.concatenate(ratings) if graded else None
        return PuzzleSet(inputs, labels, ids, groups.astype(np.int32), known, source, count)


class LocatedPuzzles(NamedTuple):
    """Puzzles, and for messages the file and row that each was read from."""

    puzzles: PuzzleSet
    where: Callable[[int], str]
