"""Small puzzle sets for the tests, made once."""

from functools import cache

import numpy as np
from hypothesis import strategies as st

from hrm.puzzles.data import PuzzleSet, generate
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku

TASKS: list[Task] = [Sudoku(2, 2), Sudoku(2, 3), Maze(6, 5, min_path=4), Grid(3, 4, vocabulary=7)]


@cache
def puzzles_of(index: int) -> PuzzleSet:
    """Some puzzles of a task in TASKS; for the grid, random tokens, 0 (padding) in the answers included."""
    task = TASKS[index]
    if task.name != "grid":
        return generate(task, [12], seed=1)[0]
    rng = np.random.default_rng(1)
    questions, answers = rng.integers(1, 7, (2, 12, 12), dtype=np.uint8)
    number = np.arange(12, dtype=np.int32)
    return PuzzleSet(questions, answers, np.zeros_like(number), number, None, "random")


@st.composite
def puzzle_sets(draw: st.DrawFn) -> tuple[Task, PuzzleSet]:
    """A task and some of its puzzles, repeated or not, with or without ratings."""
    index = draw(st.integers(0, len(TASKS) - 1))
    rows = np.array(draw(st.lists(st.integers(0, 11), min_size=1, max_size=8)))
    number = np.arange(len(rows), dtype=np.int32)
    ratings = draw(st.none() | st.lists(st.integers(-(2**31), 2**31 - 1), min_size=len(rows), max_size=len(rows)))
    chosen = puzzles_of(index).take(rows)
    return TASKS[index], chosen._replace(
        groups=number, ratings=None if ratings is None else np.array(ratings, np.int32), source="made"
    )


def same_puzzles(a: PuzzleSet, b: PuzzleSet) -> bool:
    """Equal questions and answers, ids and groups."""
    return all(np.array_equal(x, y) for x, y in zip(a[:4], b[:4], strict=True)) and a.num_task_ids == b.num_task_ids
