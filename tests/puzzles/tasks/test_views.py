"""A view is a symmetry: it can be undone, it is the one `augment` applies, and it keeps right answers right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import Task, build
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku

NONOGRAM = build(TaskConfig(), named=f"{Path(__file__).parents[3] / 'examples/nonogram.py'}:Nonogram")
TASKS: list[Task] = [Sudoku(2, 2), Sudoku(2, 3), Maze(5, 5, 6), Maze(4, 6, 6), NONOGRAM]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.shape}")
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_view_is_undone_and_agrees_with_augment(task: Task, seed: int):
    rng = np.random.default_rng(seed)
    puzzle = task.generate(rng)
    uniforms = rng.random(task.uniforms)
    view = task.view(uniforms)
    question, answer = task.augment(puzzle.question[None], puzzle.answer[None], uniforms[None])
    seen = view.apply(puzzle.question)
    assert seen.dtype == puzzle.question.dtype and np.array_equal(seen, question[0])
    assert task.verify(question[0], answer[0])
    # A turned maze gets its answer anew, because which shortest path is the label depends on directions.
    if task.name != "maze":
        assert np.array_equal(view.apply(puzzle.answer), answer[0])
    assert task.verify(puzzle.question, view.undo(answer[0]))
    # Scores: the best token of each cell is turned back as the readout is.
    scores = rng.random((len(seen), len(task.vocabulary)))
    assert np.array_equal(view.undo(scores).argmax(1), view.undo(scores.argmax(1)))


def test_a_grid_has_only_its_own_view():
    grid = Grid(2, 3, vocabulary=5)
    assert np.array_equal(grid.view(np.empty(0)).apply(np.arange(6) % 5), np.arange(6) % 5)
