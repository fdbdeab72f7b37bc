"""The forms of an answer: text, array, wrong cells, confidence."""

from __future__ import annotations

import numpy as np
import pytest

from hrm.puzzles.solving.answer import as_grid, confidence, in_form_of
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku


@pytest.mark.parametrize("q", [-1e6, -40.0, -5.0, 0.0, 5.0, 40.0, 1e6])
def test_confidence_is_a_probability_that_never_claims_certainty(q: float):
    assert 0 <= confidence(q) < 1
    assert confidence(q) == pytest.approx(1 / (1 + np.exp(-np.clip(q, -700, 700))))


def test_a_maze_keeps_its_rows_even_where_the_question_cut_its_spaces():
    maze = Maze(3, 3, min_path=1)
    answer = maze.parse("Soo##o##G")
    assert in_form_of("S  ## ##G", maze, answer) == "Soo##o##G"
    assert in_form_of("S  \n## \n##G\n", maze, answer) == "Soo\n##o\n##G"
    assert in_form_of("S\n##\n##G\n", maze, answer) == "Soo\n##o\n##G"
    assert as_grid(maze, answer).tolist() == [["S", "o", "o"], ["#", "#", "o"], ["#", "#", "G"]]


def test_a_grid_answers_in_numbers_or_characters_like_its_question():
    grid = Grid(2, 2, vocabulary=12)
    tokens = np.array([10, 1, 2, 11])
    assert in_form_of("1 2\n10 4", grid, tokens) == "10 1\n2 11"
    assert in_form_of("12\na4", grid, tokens) == "a1\n2b"
    assert as_grid(grid, tokens).tolist() == [[10, 1], [2, 11]]


def test_large_sudoku_digits_are_letters_in_text_and_numbers_in_the_array():
    sudoku = Sudoku(4, 4)
    tokens = np.arange(256) % 16 + 2
    assert in_form_of("." * 256, sudoku, tokens)[:16] == "123456789ABCDEFG"
    assert as_grid(sudoku, tokens)[0].tolist() == list(range(1, 17))


def test_wrong_cells_of_a_sudoku_are_clashes_changed_givens_and_blanks():
    sudoku = Sudoku(2, 2)
    question = sudoku.parse("1..." + "." * 12)
    right = sudoku.parse("1234341221434321")
    assert sudoku.wrong(question, right) == []
    assert sudoku.wrong(question, sudoku.parse("2134341221434321")) == [0, 1, 8, 9]
    blank = right.copy()
    blank[15] = 1
    assert sudoku.wrong(question, blank) == [15]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [("Soo##o##G", []), ("So ##o##G", [1, 5]), ("Soo##o#oG", [7, 8]), ("Soo# o##G", [4]), ("S  ## ##G", [0, 8])],
)
def test_wrong_cells_of_a_maze_are_changed_walls_and_loose_ends(answer: str, wrong: list[int]):
    maze = Maze(3, 3, min_path=1)
    assert maze.wrong(maze.parse("S  ## ##G"), maze.parse(answer)) == wrong


def test_a_task_without_rules_marks_nothing():
    grid = Grid(1, 2, vocabulary=3)
    assert grid.wrong(np.array([1, 1]), np.array([2, 0])) == []
