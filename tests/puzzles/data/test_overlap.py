"""Symmetric variants are found, all of them and nothing else, and fast enough to look every time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.puzzles.data import PuzzleSet, generate, locate, refuse, split, write_csv
from hrm.puzzles.data import overlap as module
from hrm.puzzles.data.overlap import classes, invariants, shared
from hrm.puzzles.tasks import Puzzle, Task
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.data import hrm_data
from tests.puzzles.data.examples import TASKS, puzzles_of

KINDS: list[Task] = [Sudoku(2, 2, extra_clues=0.5), Sudoku(2, 3), Sudoku(3, 3), Maze(5, 5, 4), Maze(3, 5, 3)]
MADE: dict[int, PuzzleSet] = {}


def some(index: int) -> PuzzleSet:
    """Forty puzzles of a kind; 4x4 ones often are variants of one another, 9x9 ones never."""
    if index not in MADE:
        (MADE[index],) = generate(KINDS[index], [40 if index != 2 else 12], seed=5)
    return MADE[index]


def variants(task: Task, puzzles: PuzzleSet, seed: int) -> PuzzleSet:
    """Every puzzle under a random symmetry."""
    uniforms = np.random.default_rng(seed).random((len(puzzles.inputs), task.uniforms))
    inputs, labels = task.augment(puzzles.inputs, puzzles.labels, uniforms)
    return puzzles._replace(inputs=inputs, labels=labels)


def forms(task: Task, puzzles: PuzzleSet) -> list[bytes]:
    return [task.canonical(Puzzle(*row)) for row in zip(puzzles.inputs, puzzles.labels, strict=True)]


@given(st.integers(0, len(KINDS) - 1), st.integers(0, 2**32 - 1), st.data())
def test_what_is_shared_is_what_the_canonical_forms_share(index: int, seed: int, data: st.DataObject) -> None:
    task, puzzles = KINDS[index], some(index)
    rows = st.lists(st.integers(0, len(puzzles.inputs) - 1), min_size=1, max_size=12)
    mine = variants(task, puzzles.take(np.array(data.draw(rows))), seed)
    theirs = puzzles.take(np.array(data.draw(rows)))
    here, there = forms(task, mine), forms(task, theirs)
    expected = [(row, there.index(form)) for row, form in enumerate(here) if form in there]
    assert list(shared(mine, theirs, task)) == expected
    numbers = classes(mine, task)
    assert [[a == b for b in numbers] for a in numbers] == [[a == b for b in here] for a in here]


@given(st.integers(0, len(KINDS) - 1), st.integers(0, 2**32 - 1))
def test_the_fast_number_does_not_change_under_a_symmetry(index: int, seed: int) -> None:
    task, puzzles = KINDS[index], some(index)
    assert np.array_equal(invariants(puzzles, task), invariants(variants(task, puzzles, seed), task))


def test_the_fast_number_alone_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    task, puzzles = KINDS[1], some(1)
    expected = classes(puzzles, task)
    monkeypatch.setattr(module, "invariants", lambda puzzles, task: np.zeros(len(puzzles.inputs), np.uint64))
    assert np.array_equal(np.unique(classes(puzzles, task)), np.unique(expected))
    forms_of = forms(task, puzzles)
    assert [row for row, _ in shared(puzzles.take(np.arange(5)), puzzles.take(np.arange(5, 40)), task)] == [
        row for row in range(5) if forms_of[row] in forms_of[5:]
    ]


@pytest.mark.parametrize("index", range(len(TASKS)))
def test_every_task_can_be_compared_also_one_without_a_fast_number(index: int) -> None:
    task, puzzles = TASKS[index], puzzles_of(index)
    found = dict(shared(puzzles, puzzles.take(np.arange(4)), task))
    assert found[0] == 0 and all(found[row] <= row for row in range(4))


def test_a_puzzle_without_an_answer_equals_only_itself() -> None:
    task, puzzles = KINDS[2], some(2)
    unlabelled = puzzles._replace(labels=np.full(puzzles.labels.shape, -100, np.int8))
    assert [row for row, _ in shared(unlabelled, unlabelled, task)] == list(range(12))
    assert not list(shared(variants(task, unlabelled, 1), unlabelled, task))


def overlapping(folder: Path, leaks: int) -> tuple[Task, PuzzleSet, Path]:
    """Training puzzles, and a file that holds variants of the first of them from its fourth line on."""
    task = KINDS[2]
    puzzles = some(2)
    leaked = variants(task, puzzles, 3).take(np.arange(leaks))
    clean = puzzles.take(np.arange(10, 12))
    inputs, labels, ids, groups = (np.concatenate(pair) for pair in zip(clean[:4], leaked[:4], strict=True))
    file = folder / "test.csv"
    write_csv(file, task, PuzzleSet(inputs, labels, ids, groups, None, "made"))
    return task, puzzles.take(np.arange(10))._replace(source="train.csv"), file


def test_overlap_is_refused_with_file_row_and_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sentence() -> str:
        task, training, file = overlapping(tmp_path, 3)
        with pytest.raises(UserError) as error:
            refuse(locate(file, task), training, task)
        return str(error.value).replace(str(tmp_path), "")

    assert sentence() == (
        "/test.csv line 4 is a training puzzle (train.csv) or a symmetric variant of one, as are 3 of 5: "
        "measure on others, or add --allow-overlap"
    )
    monkeypatch.setattr(module, "COUNTED", 2)
    assert "as are at least 2 of 5" in sentence()


def test_nothing_is_refused_where_nothing_is_shared(tmp_path: Path) -> None:
    task, training, file = overlapping(tmp_path, 0)
    refuse(locate(file, task), training, task)


def test_holding_out_computes_no_canonical_form_where_the_fast_numbers_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    task, puzzles = KINDS[2], some(2)
    training, held_out = split(puzzles, task, 4)

    def never(self: Sudoku, puzzle: Puzzle) -> bytes:
        raise AssertionError

    monkeypatch.setattr(Sudoku, "canonical", never)
    again = split(puzzles, task, 4)
    assert np.array_equal(again[0].inputs, training.inputs) and np.array_equal(again[1].inputs, held_out.inputs)


@pytest.mark.slow
def test_fifty_thousand_puzzles_against_five_thousand_need_few_exact_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    task, folder = Sudoku(3, 3), hrm_data() / "sudoku"
    asked = []
    canonical: Callable[[Sudoku, Puzzle], bytes] = Sudoku.canonical
    monkeypatch.setattr(Sudoku, "canonical", lambda self, puzzle: asked.append(1) or canonical(self, puzzle))
    test = locate(folder / "extreme_like_test_5k.csv.gz", task)
    for train in ("clue17_train.csv.gz", "hard_train.csv.gz", "sudoku_extreme_1k_train.csv"):
        refuse(test, locate(folder / train, task).puzzles, task)
    assert len(asked) < 20
    with pytest.raises(UserError, match=r"as are at least 1,000 of 5,000"):
        refuse(test, locate(folder / "hard_test.csv.gz", task).puzzles, task)
