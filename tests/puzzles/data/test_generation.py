"""Made puzzles are different, sound and repeatable, and whole symmetry classes are kept apart."""

import io

import numpy as np
import pytest

from hrm.console import Console
from hrm.files.reading import UserError
from hrm.puzzles.data import PuzzleSet, generate, split
from hrm.puzzles.tasks import Puzzle, Task
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku


def classes(task: Task, puzzles: PuzzleSet) -> set[bytes]:
    return {task.canonical(Puzzle(q, a)) for q, a in zip(puzzles.inputs, puzzles.labels, strict=True)}


@pytest.mark.parametrize("task", [Sudoku(2, 2), Sudoku(2, 3), Maze(7, 7, min_path=6)], ids=lambda task: task.name)
def test_sets_share_no_symmetry_class_and_hold_different_sound_puzzles(task: Task) -> None:
    held_out, training = generate(task, [50, 120], seed=4)
    assert [len(held_out.inputs), len(training.inputs)] == [50, 120]
    assert not classes(task, held_out) & classes(task, training)
    for puzzles in (held_out, training):
        assert len({q.tobytes() for q in puzzles.inputs}) == len(puzzles.inputs)
        assert all(task.verify(q, a) for q, a in zip(puzzles.inputs, puzzles.labels, strict=True))
        assert puzzles.inputs.dtype == np.uint8 and puzzles.groups.tolist() == list(range(len(puzzles.inputs)))


def test_where_there_are_few_classes_every_set_gets_its_share() -> None:
    four = Sudoku(2, 2)  # 36 classes of minimal puzzles
    held_out, training = generate(four, [20, 1000], seed=0)
    assert 5 <= len(classes(four, held_out)) <= 12 and len(classes(four, training)) >= 24


def test_the_seed_decides_and_nothing_else() -> None:
    first, again, other = (generate(Sudoku(2, 3), [5, 5], seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.inputs, b.inputs) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].inputs, other[0].inputs)


def test_an_empty_set_is_allowed() -> None:
    empty, training = generate(Sudoku(2, 2), [0, 5])
    assert empty.inputs.shape == (0, 16) and len(training.inputs) == 5


def test_asking_for_more_puzzles_than_there_are_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrm.puzzles.data.generation.PATIENCE", 300)
    with pytest.raises(UserError, match=r"found only \d+ .* ask for fewer"):
        generate(Maze(2, 2, min_path=1), [10_000])


def test_progress_is_drawn_on_a_terminal_only() -> None:
    for terminal in (True, False):
        screen = io.StringIO()
        generate(Sudoku(2, 2), [5], console=Console(file=screen, force_terminal=terminal, width=100))
        assert ("making puzzles" in screen.getvalue()) == terminal


def test_splitting_keeps_classes_and_groups_whole() -> None:
    six = Sudoku(2, 3)
    puzzles = generate(six, [30], seed=2)[0]
    inputs, labels = six.augment(puzzles.inputs, puzzles.labels, np.random.default_rng(0).random((30, six.uniforms)))
    number = np.arange(60, dtype=np.int32)
    puzzles = PuzzleSet(
        np.concatenate([puzzles.inputs, inputs]),
        np.concatenate([puzzles.labels, labels]),
        number * 0,
        number // 3,  # each of the first ten groups is tied to one of the last ten
        None,
        "made",
    )
    training, held_out = split(puzzles, six, 7, seed=1)
    assert len(held_out.inputs) == 12 and len(training.inputs) == 48
    assert not classes(six, training) & classes(six, held_out)
    assert not set(training.groups) & set(held_out.groups)


def test_splitting_a_large_data_set_takes_just_what_was_asked_for() -> None:
    six = Sudoku(2, 3)
    puzzles = generate(six, [60], seed=2)[0]
    training, held_out = split(puzzles, six, 13, seed=1)
    assert len(held_out.inputs) == 13
    assert held_out.ratings is not None and len(held_out.ratings) == 13
    again = split(puzzles, six, 13, seed=1)
    assert np.array_equal(training.inputs, again[0].inputs)
    assert split(puzzles, six, 0)[0] is puzzles
    with pytest.raises(UserError, match="has only 60 puzzles: hold out fewer than 60"):
        split(puzzles, six, 60)
    with pytest.raises(UserError, match="has only 1 puzzle: too few to hold any out"):
        split(puzzles.take(np.arange(1)), six, 60)
