"""A dataset of Reasoning Gym as a board: its options, and how an entry is laid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.tasks.board import Board
from hrm.puzzles.tasks.gym.source import Entry, Number, Source
from hrm.puzzles.tasks.puzzle import Puzzle

TRIES = 1000
"""Entries looked at before a dataset is said to have none that fits."""


class Dataset(Board):
    """What the datasets share; a subclass says how an entry is laid out, and has rules only if it `verifies`."""

    dataset: ClassVar[str]
    defaults: ClassVar[Mapping[str, Number]]
    """Reasoning Gym's own."""

    def __init__(self, options: Mapping[str, Number], rows: Number, cols: Number, names: Sequence[str]):
        if not 1 <= min(rows, cols) <= max(rows, cols) <= 64:
            size = f"{rows} x {cols} cells"
            raise UserError(f"{self.dataset} of {size} is not possible (--task.gym-options): use 1 to 64 a side")
        super().__init__(int(rows), int(cols), names)
        self.name = self.dataset
        self.options = options
        self.source = Source(self.dataset, options)

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """Question and answer [rows, cols] of an entry."""
        raise NotImplementedError

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """What Reasoning Gym makes for a random number; the rating counts its blanks. UserError if not installed."""
        for _ in range(TRIES):
            try:
                laid = self.lay(self.source.draw(rng))
            except RuntimeError:  # a dataset's own search for a puzzle gave up
                continue
            question, answer = (grid.ravel().astype(self.dtype) for grid in laid)
            return Puzzle(question, answer, int((question == self.blank).sum()))
        raise UserError(f"Reasoning Gym made no {self.dataset} puzzle in {TRIES} tries: change --task.gym-options")
