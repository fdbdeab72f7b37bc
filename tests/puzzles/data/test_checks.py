"""`check` finds every kind of fault and names file and row."""

from pathlib import Path

import numpy as np
import pytest

from hrm.puzzles.data import PuzzleSet, check, generate, infer, write_csv, write_folder
from hrm.puzzles.tasks import Puzzle, build
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.data import hrm_data
from tests.puzzles.data.examples import TASKS, puzzles_of

SIX = Sudoku(2, 3)


@pytest.fixture(scope="module")
def sixes() -> list[PuzzleSet]:
    return generate(SIX, [10, 10], seed=3)


def variants(puzzles: PuzzleSet, seed: int = 0) -> PuzzleSet:
    """Every puzzle under a random symmetry."""
    uniforms = np.random.default_rng(seed).random((len(puzzles.inputs), SIX.uniforms))
    inputs, labels = SIX.augment(puzzles.inputs, puzzles.labels, uniforms)
    return puzzles._replace(inputs=inputs, labels=labels)


def changed(puzzles: PuzzleSet, column: str, row: int, values: dict[int, int]) -> PuzzleSet:
    """One row with other tokens at some cells."""
    array = getattr(puzzles, column).copy()
    for cell, token in values.items():
        array[row, cell] = token
    return puzzles._replace(**{column: array})


@pytest.mark.parametrize("index", range(len(TASKS)))
def test_sound_puzzles_have_no_problems(tmp_path: Path, index: int) -> None:
    task, puzzles = TASKS[index], puzzles_of(index)
    write_csv(tmp_path / "a.csv", task, puzzles)
    write_folder(tmp_path / "d", task, puzzles.take(np.arange(6)))
    assert check(tmp_path / "a.csv", task) == [] and check(tmp_path / "d", task) == []


def test_an_answer_that_contradicts_the_question_is_named_with_its_cell(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    puzzles = sixes[0]
    cell = int(np.flatnonzero(puzzles.inputs[4] > 1)[0])
    other = 2 + (int(puzzles.labels[4, cell]) - 1) % 6
    write_csv(tmp_path / "a.csv", SIX, changed(puzzles, "labels", 4, {cell: other}))
    (problem,) = check(tmp_path / "a.csv", SIX)
    place = f"row {cell // 6 + 1}, column {cell % 6 + 1}"
    assert problem.startswith(f"{tmp_path / 'a.csv'} line 6: the answer contradicts the question at {place}")


def test_problems_stand_in_the_order_of_their_rows(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    puzzles, file = sixes[0], tmp_path / "a.csv"
    cell = int(np.flatnonzero(puzzles.inputs[2] > 1)[0])
    write_csv(file, SIX, changed(puzzles, "labels", 2, {cell: 2 + (int(puzzles.labels[2, cell]) - 1) % 6}))
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["garbage" if i in (1, 7) else line for i, line in enumerate(lines)]) + "\n")
    found = check(file, SIX)
    assert [problem.partition(":")[0].rpartition(" ")[2] for problem in found] == ["2", "4", "8"]
    assert all(problem.endswith("the row") for problem in found)


def test_an_answer_that_breaks_the_rules_is_named(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    puzzles = sixes[0]
    first, second = np.flatnonzero(puzzles.inputs[2] == 1)[:2]
    swapped = {int(first): int(puzzles.labels[2, second]), int(second): int(puzzles.labels[2, first])}
    write_folder(tmp_path, SIX, changed(puzzles, "labels", 2, swapped))
    assert check(tmp_path, SIX) == [
        f"{tmp_path / 'train' / 'all__inputs.npy'} row 2: the answer is wrong by the rules; correct or remove the row"
    ]


def test_an_answer_with_blanks_is_named(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    blank = int(np.flatnonzero(sixes[0].inputs[0] == 1)[0])
    write_csv(tmp_path / "a.csv", SIX, changed(sixes[0], "labels", 0, {blank: 1}))
    assert [p.partition(": ")[0] for p in check(tmp_path / "a.csv", SIX)] == [f"{tmp_path / 'a.csv'} line 2"]
    write_folder(tmp_path / "d", SIX, changed(sixes[0], "labels", 7, {blank: 0}))
    (problem,) = check(tmp_path / "d", SIX)
    assert "all__inputs.npy row 7: the answer has cells without a value" in problem


def test_a_question_with_several_solutions_is_named(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    empty = {cell: 1 for cell in range(36)}
    write_csv(tmp_path / "a.csv", SIX, changed(sixes[0], "inputs", 9, empty))
    (problem,) = check(tmp_path / "a.csv", SIX)
    assert "line 11: the question is not well-posed (several solutions)" in problem


def test_padding_inside_a_question_is_named(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    write_folder(tmp_path, SIX, changed(sixes[0], "inputs", 1, {0: 0}))
    (problem,) = check(tmp_path, SIX)
    assert "all__inputs.npy row 1" in problem


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("S   #G  ", "S   #G  ", "wrong by the rules"),
        ("S    G  ", "Soo  G  ", "wrong by the rules"),
        ("S    G  ", "S   o## ", "contradicts the question at row 2, column 2: 'G' became '#'"),
        ("S       ", "S       ", "expected one G, found 0"),
        ("S# #G # ", "S# #G # ", None),
        ("S #  #G ", "S #  #G ", "no way from S to G"),
    ],
)
def test_mazes_are_checked_by_their_rules(tmp_path: Path, question: str, answer: str, reason: str | None) -> None:
    (tmp_path / "m.csv").write_text(f"question,answer\n{question},{answer}\n")
    found = check(tmp_path / "m.csv", Maze(2, 4, min_path=1))
    assert (not found) if reason is None else (len(found) == 1 and "line 2" in found[0] and reason in found[0])


def test_duplicates_are_named_with_the_first_but_augmentations_of_one_original_may_agree(
    tmp_path: Path, sixes: list[PuzzleSet]
) -> None:
    twice = sixes[0].take(np.array([0, 1, 2, 1]))._replace(groups=np.arange(4, dtype=np.int32))
    write_csv(tmp_path / "a.csv", SIX, twice)
    path = tmp_path / "a.csv"
    assert check(path, SIX) == [f"{path} line 5: the same question as {path} line 3; remove one of them"]
    write_folder(tmp_path / "d", SIX, twice._replace(groups=np.array([0, 1, 2, 1], np.int32)))
    assert check(tmp_path / "d", SIX) == []


def test_overlap_up_to_symmetry_is_found_between_files(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    train, test = sixes
    leaked = variants(train.take(np.array([3])))
    mixed = test._replace(
        inputs=np.concatenate([test.inputs[:5], leaked.inputs, test.inputs[5:]]),
        labels=np.concatenate([test.labels[:5], leaked.labels, test.labels[5:]]),
        ratings=None,
    )
    a, b = tmp_path / "train.csv", tmp_path / "test.csv.gz"
    write_csv(a, SIX, train)
    write_csv(b, SIX, mixed)
    assert check(b, SIX) == []
    assert check(b, SIX, against=a) == [f"{b} line 7: a symmetric variant of {a} line 5; remove one of them"]


def test_overlap_between_the_splits_of_a_folder_is_found(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    train, test = sixes
    write_folder(tmp_path / "clean", SIX, train, test)
    assert check(tmp_path / "clean", SIX) == []
    write_folder(tmp_path / "leaky", SIX, train, variants(train))
    found = check(tmp_path / "leaky", SIX)
    assert len(found) == 10 and all("test" in p.split(": ")[0] and "symmetric variant" in p for p in found)
    assert len(check(tmp_path / "clean", SIX, against=tmp_path / "leaky")) == 20


def test_every_bad_line_is_named_and_the_others_are_still_checked(tmp_path: Path, sixes: list[PuzzleSet]) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, SIX, sixes[0])
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace(",", ",x", 1)
    lines[5] = "a,b"
    lines[8] = lines[3]
    path.write_text("\n".join(lines))
    assert [p.removeprefix(f"{path} ").partition(":")[0] for p in check(path, SIX)] == ["line 3", "line 6", "line 9"]


def test_what_cannot_be_read_is_a_problem_too(tmp_path: Path) -> None:
    assert "missing.csv" in check(tmp_path / "missing.csv", SIX)[0]
    assert "neither" in check(tmp_path / ".", SIX)[0] or "split" in check(tmp_path, SIX)[0]


def test_the_task_of_a_file_is_inferred(tmp_path: Path) -> None:
    for index, task in enumerate(TASKS[:2]):
        write_csv(tmp_path / "a.csv", task, puzzles_of(index))
        write_folder(tmp_path / f"d{index}", task, puzzles_of(index))
        for path in (tmp_path / "a.csv", tmp_path / f"d{index}"):
            assert build(infer(path)).shape == task.shape and infer(path).kind == "sudoku"
    maze = Maze(9, 9, min_path=4)
    mazes = generate(maze, [3])[0]
    write_csv(tmp_path / "m.csv", maze, mazes)
    write_folder(tmp_path / "m", maze, mazes)
    assert infer(tmp_path / "m.csv") == infer(tmp_path / "m") and infer(tmp_path / "m").size == (9, 9)
    grid = Grid(6, 6, vocabulary=12)
    question = np.ones((2, 36), np.uint8)
    number = np.arange(2, dtype=np.int32)
    write_folder(tmp_path / "g", grid, PuzzleSet(question, question, number * 0, number, None, "made"))
    assert (infer(tmp_path / "g").kind, infer(tmp_path / "g").vocabulary) == ("grid", 12)


def test_variants_share_a_class_and_originals_do_not(sixes: list[PuzzleSet]) -> None:
    def keys(puzzles: PuzzleSet) -> list[bytes]:
        return [SIX.canonical(Puzzle(q, a)) for q, a in zip(puzzles.inputs, puzzles.labels, strict=True)]

    assert keys(sixes[0]) == keys(variants(sixes[0]))
    assert not set(keys(sixes[0])) & set(keys(sixes[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("sudoku/sudoku_extreme_1k_train.csv", "sudoku/generated_minimal_test.csv.gz"),
        ("maze/maze_30x30_hard_train.csv.gz", "maze/maze_30x30_hard_test_dev700.csv.gz"),
    ],
)
def test_the_published_data_sets_are_sound(train: str, test: str) -> None:
    folder = hrm_data()
    assert check(folder / train, build(infer(folder / train)), against=folder / test) == []
