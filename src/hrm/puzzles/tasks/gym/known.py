"""Datasets that are Sudoku or mazes: their puzzles, this package's own tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.tasks.gym.dataset import TRIES, Number, Source
from hrm.puzzles.tasks.maze import FREE, GOAL, START, WALL, Maze
from hrm.puzzles.tasks.puzzle import Puzzle
from hrm.puzzles.tasks.sudoku import BLANK, Sudoku


class GymSudoku(Sudoku):
    """9x9 Sudoku that Reasoning Gym makes; they have one solution and seldom are minimal."""

    dataset: ClassVar[str] = "sudoku"
    defaults: ClassVar[Mapping[str, Number]] = {"min_empty": 30, "max_empty": 50}
    side: ClassVar[int] = 3

    def __init__(self, options: Mapping[str, Number]):
        super().__init__(self.side, self.side)
        self.source = Source(self.dataset, options)

    def parse(self, text: str) -> np.ndarray:
        """As Sudoku's, with _ for a blank too."""
        return super().parse(text.replace("_", "."))

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """One of Reasoning Gym's; the rating is its number of blanks."""
        facts = self.source.draw(rng)["metadata"]
        question, answer = (np.array(facts[name], np.uint8).ravel() + BLANK for name in ("puzzle", "solution"))
        return Puzzle(question, answer, int((question == BLANK).sum()))


class GymMiniSudoku(GymSudoku):
    """4x4 Sudoku."""

    dataset = "mini_sudoku"
    defaults: ClassVar[Mapping[str, Number]] = {"min_empty": 8, "max_empty": 12}
    side = 2


class GymShortestPath(Maze):
    """Small mazes: the path, which Reasoning Gym wants as a list of directions, is marked on the grid. What lies
    outside of a smaller grid is wall. Of several shortest paths the answer is the one mazes have here; its scorer takes
    any. Questions without a path, to which it wants "infeasible", are left out."""

    dataset: ClassVar[str] = "shortest_path"
    defaults: ClassVar[Mapping[str, Number]] = {
        "min_rows": 5, "max_rows": 8, "min_cols": 5, "max_cols": 8, "p_blocked": 0.4
    }  # fmt: skip

    def __init__(self, options: Mapping[str, Number]):
        super().__init__(int(options["max_rows"]), int(options["max_cols"]), min_path=1)
        self.source = Source(self.dataset, options)

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """One of Reasoning Gym's with a path; the rating is its number of steps."""
        for _ in range(TRIES):
            facts = self.source.draw(rng)["metadata"]
            if not (steps := facts["solution"]):
                continue
            question = np.full(self.shape, WALL, np.uint8)
            for row, cells in enumerate(facts["matrix"]):
                for column, cell in enumerate(cells):
                    question[row, column] = {"X": WALL, "O": FREE, "*": START, "#": GOAL}[cell]
            return Puzzle(question.ravel(), self._answer(question.tobytes()), len(steps))
        raise UserError(f"Reasoning Gym made no {self.dataset} with a path in {TRIES} tries: lower p_blocked")
