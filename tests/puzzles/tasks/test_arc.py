"""ARC's boards and copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rich.console import Console

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import Puzzle, PuzzleError, build
from hrm.puzzles.tasks.arc import BLACK, END, PAD, Arc, canonical, grid_of, labels_of

sides = st.integers(1, 9)
grids = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 9)))
task_ids = st.integers(1, 500)


@given(grids)
def test_a_grid_comes_back_from_the_board_also_where_it_fills_it(grid: np.ndarray):
    for side in (max(grid.shape), 12):
        assert np.array_equal(Arc(side).decode(Arc(side).encode(grid)), grid)


def test_the_board_has_markers_behind_the_last_row_and_column_and_padding_elsewhere():
    board = Arc(4).encode(np.array([[0, 9], [3, 1]])).reshape(4, 4)
    wanted = [[2, 11, END, PAD], [5, 3, END, PAD], [END, END, PAD, PAD], [PAD, PAD, PAD, PAD]]
    assert board.tolist() == wanted
    moved = Arc(4).encode(np.array([[0, 9], [3, 1]]), 2, 1).reshape(4, 4)
    assert moved.tolist() == [[PAD] * 4, [PAD] * 4, [PAD, 2, 11, END], [PAD, 5, 3, END]]
    assert labels_of(board).tolist() == [[-100 if token == PAD else token for token in row] for row in wanted]


def test_the_grid_of_a_broken_board_is_its_largest_coloured_rectangle():
    board = np.full((4, 4), BLACK)
    board[1, 2:] = END
    board[3, :] = PAD
    assert Arc(4).decode(board.ravel()).shape == (3, 2)
    assert Arc(4).decode(np.zeros(16)).size == 0
    board[0, 0] = END
    assert Arc(4).decode(board.ravel()).size == 0


@given(grids, task_ids)
def test_what_a_copy_shows_is_mapped_back(grid: np.ndarray, task_id: int):
    task = Arc(9, copies=50)
    assert np.array_equal(task.unseen(task.seen(grid, task_id), task_id), grid)


def test_copy_0_is_the_task_itself_and_the_first_eight_are_turned_differently():
    task = Arc(3, copies=8, colours=False)
    grid = np.arange(9, dtype=np.uint8).reshape(3, 3)
    seen = [task.seen(grid, task.row(7, copy)) for copy in range(8)]
    assert np.array_equal(seen[0], grid)
    assert len({image.tobytes() for image in seen}) == 8


def test_a_copy_depends_on_its_number_and_the_tasks_alone_and_keeps_black():
    grid = np.arange(10, dtype=np.uint8)[None]
    few, many = Arc(10, copies=20, dihedral=False), Arc(10, copies=1000, dihedral=False)
    seen = {few.seen(grid, few.row(task, copy)).tobytes() for task in range(5) for copy in range(1, 20)}
    assert len(seen) == 5 * 19
    for task in range(5):
        for copy in range(20):
            image = few.seen(grid, few.row(task, copy))
            assert np.array_equal(image, many.seen(grid, many.row(task, copy)))
            assert image[0, 0] == 0 and sorted(image[0]) == list(range(10))


@given(grids, grids, st.lists(st.floats(0, 0.999), min_size=4, max_size=4))
def test_input_and_output_are_turned_recoloured_and_moved_together(
    question: np.ndarray, answer: np.ndarray, uniforms: list[float]
):
    task = Arc(9, copies=30, translate=0.5)
    first = np.array([task.row(4)])
    shown = task.show(task.encode(question)[None], labels_of(task.encode(answer))[None], first, np.array([uniforms]))
    (task_id,) = shown[2].tolist()
    assert first[0] <= task_id < first[0] + 30
    boards = [tokens.reshape(task.shape) for tokens in (shown[0][0], shown[1][0])]
    corners = [np.argwhere(board >= BLACK).min(0) for board in boards]
    assert np.array_equal(*corners)
    assert uniforms[1] < 0.5 or corners[0].tolist() == [0, 0]
    for board, grid in zip(boards, (question, answer), strict=True):
        corner = np.roll(np.where(board < 0, PAD, board), -corners[0], axis=(0, 1))
        assert np.array_equal(task.unseen(task.decode(corner.ravel()), task_id), grid)


def test_all_copies_and_places_are_shown():
    task = Arc(4, copies=3, translate=0.5)
    pair = task.encode(np.ones((2, 2), np.uint8))[None].repeat(2000, 0)
    uniforms = np.random.default_rng(0).random((2000, 4))
    boards, _, ids = task.show(pair, pair.astype(np.int8), np.full(2000, 1), uniforms)
    assert set(ids.tolist()) == {1, 2, 3}
    corners = [tuple(np.argwhere(board.reshape(4, 4) >= BLACK).min(0).tolist()) for board in boards]
    assert set(corners) == {(r, c) for r in range(3) for c in range(3)}
    assert 0.5 < corners.count((0, 0)) / 2000 < 0.6


@given(grids, grids, task_ids)
def test_the_canonical_form_of_a_pair_is_that_of_its_copies(question: np.ndarray, answer: np.ndarray, task_id: int):
    task = Arc(9, copies=50)
    seen = [task.seen(grid, task_id) for grid in (question, answer)]
    assert canonical(*seen) == canonical(question, answer)
    assert task.canonical(Puzzle(task.encode(seen[0]), task.encode(seen[1]))) == canonical(question, answer)


def test_the_canonical_form_tells_black_shapes_and_patterns_apart():
    assert canonical(np.array([[0, 1]])) != canonical(np.array([[1, 2]]))
    assert canonical(np.array([[1, 2]])) == canonical(np.array([[7], [3]]))
    assert canonical(np.array([[1, 1, 2, 2]])) != canonical(np.array([[1, 1], [2, 2]]))


def test_a_grid_larger_than_the_board_is_refused():
    with pytest.raises(UserError, match=r"a grid of 5x2 is larger than the board \(--task.size 4 4\)"):
        Arc(4).encode(np.zeros((5, 2), np.uint8))


@pytest.mark.parametrize(
    ("value", "reason"),
    [([[0, 1], [2]], "row 2 has 1 cells"), ([[10]], "10"), ([[True]], "True"), ([], "rows"), ([[0] * 31], "larger")],
)
def test_a_grid_of_lists_is_checked(value: object, reason: str):
    with pytest.raises(ValueError, match=reason):
        grid_of(value)


def test_text_is_json_and_a_grid_alone_is_no_question():
    task = Arc(5)
    assert task.format(task.parse("[[0, 1], [2, 3]]")) == "[[0, 1], [2, 3]]"
    with pytest.raises(PuzzleError, match="row 1 holds 11"):
        task.parse("[[11]]")
    with pytest.raises(PuzzleError, match="is written"):
        task.parse("0 1")
    with pytest.raises(PuzzleError, match="hrm arc eval"):
        task.check(task.parse("[[0]]"))


def test_a_configuration_makes_the_task_and_without_augmentation_there_is_one_copy():
    task = build(TaskConfig(kind="arc", size=(12, 12), copies=4))
    assert isinstance(task, Arc)
    assert (task.shape, task.copies, task.verifies) == ((12, 12), 4, False)
    plain = build(TaskConfig(kind="arc", augment=False))
    assert isinstance(plain, Arc) and (plain.copies, plain.translate) == (1, 0.0)


def test_the_drawing_shows_the_colours_and_marks_cells():
    out = io.StringIO()
    task = Arc(3)
    Console(file=out, width=40).print(task.draw(task.parse("[[1, 2], [3, 4]]"), marked=[4]))
    assert out.getvalue().splitlines()[:2] == ["1 2   ", "3 4!  "]
