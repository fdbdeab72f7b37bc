"""A solver whose model has no size takes mazes of any shape, each with its own."""

from __future__ import annotations

import numpy as np
import pytest

from hrm.puzzles.data import puzzle_file
from hrm.puzzles.model import board_of
from hrm.puzzles.solving import Solver
from hrm.puzzles.tasks import written
from hrm.puzzles.tasks.maze import Maze
from tests.core import small

SHAPES = [(3, 4), (8, 8), (5, 9), (8, 8), (12, 6), (3, 4)]


def solver() -> Solver:
    task = Maze(8, 8, 4).of_any_size()
    model = small.model(
        on=board_of(task), dim=16, mixer="neighbours", positions="none", q_from="mean", task_positions=0
    ).eval()
    return Solver(model, task, max_segments=3)


def drawn(rows: int, cols: int, seed: int = 0) -> str:
    task = Maze(rows, cols, min_path=2)
    text = task.format(task.generate(np.random.default_rng(seed)).question)
    return "\n".join(text[at : at + cols] for at in range(0, rows * cols, cols))


def test_mazes_of_different_shapes_in_one_stream_are_answered_as_each_alone_and_in_order() -> None:
    texts = [drawn(*shape, seed=seed) for seed, shape in enumerate(SHAPES)]
    answers = list(solver().solve_many(texts, batch_size=4, views=2, trace=True))
    assert [answer.question for answer in answers] == texts
    for shape, text, answer in zip(SHAPES, texts, answers, strict=True):
        alone = solver().on(shape).solve(text, views=2)
        assert answer.grid is not None and alone.grid is not None and answer.trace is not None
        assert answer.grid.shape == shape and np.array_equal(answer.grid, alone.grid)
        assert (answer.status, answer.segments) == (alone.status, alone.segments)
        assert np.array(answer.trace[-1]["grid"]).shape == shape


def test_the_shape_is_that_of_the_drawing_and_one_line_is_a_square() -> None:
    task = Maze(8, 8, 4).of_any_size()
    assert task.fitting("S #\n G\n").shape == (2, 3)
    assert task.fitting("S" + " " * 23 + "G").shape == (5, 5)
    assert not Maze(8, 8, 4).any_size and Maze(8, 8, 4).fitting("S\nG").shape == (8, 8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("S  #G", "a maze on one line is a square, and 5 is none: draw it in 2 rows or more"),
        ("S\n \nG", "a maze has 2 rows and columns or more and at most 262,144 cells, not 3x1"),
        ("\n".join([" " * 601] * 600), "a maze has 2 rows and columns or more and at most 262,144 cells, not 600x601"),
        ("S ##\n##G#", "no way from S to G"),
        ("S x\n  G", "'x' at row 1, column 3 is none of '# SGo'"),
        ("", "a maze has 2 rows and columns or more and at most 262,144 cells, not 0x0"),
    ],
)  # fmt: skip
def test_what_is_no_maze_is_told_in_one_sentence(text: str, reason: str) -> None:
    answer = solver().solve(text)
    assert (answer.status, answer.reason) == ("invalid", reason)


def test_a_file_holds_mazes_of_any_shape_with_empty_lines_between_or_one_on_each_line() -> None:
    task = Maze(8, 8, 4).of_any_size()
    lines = ["; two drawn ones", "S #", "  G", "", "", "Maze 2", "S  ", "##", "G  ", "", "S #G", "S##G", "", "S  G"]
    found = [(each.line, each.question) for each in written.puzzles(iter(line + "\n" for line in lines), task)]
    assert found == [(2, "S #\n  G"), (7, "S  \n##\nG  "), (11, "S #G"), (12, "S##G"), (14, "S  G")]


def test_a_file_without_an_end_is_cut_where_no_maze_is_so_large() -> None:
    task = Maze(8, 8, 4).of_any_size()
    endless = ("S" + " " * 999 + "\n" for _ in range(10_000))
    first = next(written.puzzles(endless, task))
    assert len(first.question) < 2 * task.longest


def test_rows_as_lists_and_arrays_are_read_in_any_shape() -> None:
    rows = drawn(12, 6, seed=3).split("\n")
    as_text = solver().solve("\n".join(rows)).grid
    assert as_text is not None
    for question in (rows, np.array([list(row) for row in rows])):
        answer = solver().solve(question)
        assert answer.grid is not None and np.array_equal(answer.grid, as_text)


@pytest.mark.parametrize(
    ("text", "mazes"),
    [
        ("     \n ### \nS###G\n ### \n", [(1, "     \n ### \nS###G\n ### ")]),
        ("   \n S \n  G\n", [(1, "   \n S \n  G")]),
        ("   \n   \n S \n  G", [(1, "   \n   \n S \n  G")]),
        ("  \n S \n  G\n", [(2, " S \n  G")]),
        (" S \n  G\n\n   \n S \n  G\n", [(1, " S \n  G"), (4, "   \n S \n  G")]),
        ("\n\n    \n\n S \n  G\n", [(5, " S \n  G")]),
        ("   \n\n   \n", []),
    ],
)
def test_free_rows_above_a_maze_are_its_rows_where_they_are_as_wide(text: str, mazes: list[tuple[int, str]]):
    task = Maze(8, 8, 4).of_any_size()
    found = puzzle_file.rows(text.splitlines(keepends=True), "mazes.txt", task)
    assert [(row.line, row.question) for row in found] == mazes
