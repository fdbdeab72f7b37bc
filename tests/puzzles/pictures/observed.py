"""Puzzles with all that was seen while they were solved, or not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from hrm.core.arch import ArchConfig
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.solving import Answer, Solver
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.puzzles.solving.small import questions, solver


class Solving(NamedTuple):
    """One puzzle with all that was seen while it was solved."""

    solver: Solver
    answer: Answer
    segments: list[Segment]


def watched(by: Solver, text: str, **strategy: Any) -> Solving:
    segments: list[Segment] = []
    return Solving(by, by.solve(text, observe=segments.append, **strategy), segments)


@cache
def solved() -> Solving:
    """A 4x4 Sudoku that took several segments."""
    found = (watched(solver(), text) for text in questions(60))
    return next(item for item in found if item.answer.status == "solved" and len(item.segments) > 2)


@cache
def unsolved() -> Solving:
    """One that was given up twice."""
    found = (watched(solver(), text, restarts=1) for text in questions(60))
    return next(item for item in found if item.answer.status == "unsolved")


@cache
def long(attempts: int, segments: int = 16) -> Solving:
    """A 9x9 Sudoku that was tried as often as that, all in doubt."""
    item = untrained("9x9")
    begun = [(attempt, segment) for attempt in range(1, attempts + 1) for segment in range(1, segments + 1)]
    seen = [
        item.segments[i % 3]._replace(attempt=attempt, segment=segment, residual=1 / segment)
        for i, (attempt, segment) in enumerate(begun)
    ]
    return item._replace(segments=seen, answer=replace(item.answer, attempts=attempts, segments=len(seen)))


@cache
def untrained(kind: str) -> Solving:
    """`guessed` for other tasks than the 4x4 Sudoku."""
    task: Task = {
        "maze": lambda: Maze(30, 30, 110),
        "6x6": lambda: Sudoku(2, 3),
        "9x9": lambda: Sudoku(3, 3),
        "16x16": lambda: Sudoku(4, 4),
        "grid": lambda: Grid(7, 3, 12),
        "numbers": lambda: Grid(2, 12, 2000),
    }[kind]()
    return guessed(task, max_segments=64 if kind == "maze" else 3)


def guessed(task: Task, max_segments: int = 3) -> Solving:
    """A puzzle of a task and a model that knows nothing: everything in doubt, most cells wrong."""
    rng = np.random.default_rng(0)
    cells, makes = task.shape[0] * task.shape[1], type(task).generate is not Task.generate
    question = task.generate(rng).question if makes else rng.integers(1, len(task.vocabulary), cells)
    torch.manual_seed(0)
    arch = ArchConfig(dim=16, heads=2, fast_layers=1, slow_layers=1, h_cycles=1, l_cycles=1, positions="learned")
    model = PuzzleModel(arch, board_of(task)).eval()
    return watched(Solver(model, task), task.format(question), max_segments=max_segments)
