"""The promises of the grid task: data in, data out, nothing claimed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import Puzzle, PuzzleError, build
from hrm.puzzles.tasks.grid import Grid


def test_the_task_describes_itself():
    task = build(TaskConfig(kind="grid", size=(2, 3), vocabulary=12))
    assert task.shape == (2, 3) and task.vocabulary == "0123456789ab" and task.symbols == range(1, 12)
    assert task.uniforms == 0 and not task.verifies
    assert task.groups.tolist() == [[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]


@settings(deadline=None, derandomize=True)
@given(st.sampled_from([2, 12, 62, 300]), st.data())
def test_parse_reads_numbers_and_characters(vocabulary, data):
    task = Grid(3, 4, vocabulary)
    tokens = np.array(data.draw(st.lists(st.integers(0, vocabulary - 1), min_size=12, max_size=12)))
    assert np.array_equal(task.parse(task.format(tokens)), tokens)
    characters = "".join(task.vocabulary[token] for token in tokens)
    assert np.array_equal(task.parse(characters), tokens)
    assert np.array_equal(task.parse("\n".join(characters[i : i + 4] for i in (0, 4, 8))), tokens)


def test_parse_says_what_is_wrong_and_where():
    task = Grid(2, 2, 5)
    with pytest.raises(PuzzleError, match="expected 4 numbers or characters, 2 rows, got 3"):
        task.parse("1 2 3")
    with pytest.raises(PuzzleError, match="'5' at row 2, column 1 is not a token below 5"):
        task.parse("1 2 5 3")


def test_nothing_is_generated_augmented_or_verified():
    task = Grid(1, 3, 5)
    puzzle = Puzzle(np.array([1, 2, 3]), np.array([3, 2, 1]))
    with pytest.raises(UserError, match="--data"):
        task.generate(np.random.default_rng(0))
    questions, answers = task.augment(puzzle.question[None], puzzle.answer[None], np.empty((1, 0)))
    assert np.array_equal(questions[0], puzzle.question) and np.array_equal(answers[0], puzzle.answer)
    assert not task.verify(puzzle.question, puzzle.answer)
    assert task.canonical(puzzle) != task.canonical(Puzzle(puzzle.answer, puzzle.answer))
    task.check(puzzle.question)
    with pytest.raises(PuzzleError):
        task.check(puzzle.question + 2)


@pytest.mark.parametrize("config", [TaskConfig(kind="grid", vocabulary=1), TaskConfig(kind="grid", size=(0, 3))])
def test_impossible_settings_are_refused_naming_the_flag(config):
    with pytest.raises(UserError, match="--task"):
        build(config)


def test_the_drawing_shows_tokens_and_marks_without_colour():
    console = Console(width=40, no_color=True)
    with console.capture() as capture:
        console.print(Grid(2, 2, 5).draw(np.array([1, 2, 0, 4]), marked=[3]))
    assert [line.rstrip() for line in capture.get().splitlines()] == ["1 2", ". 4!"]
