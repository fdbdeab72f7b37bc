"""HRM's dataset folder: written as its loader expects, read whatever wrote it, faults named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.puzzles.data import PuzzleSet, read, read_both, write_csv, write_folder
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.puzzles.data.examples import TASKS, puzzle_sets, puzzles_of, same_puzzles

KEYS = {
    "pad_id",
    "ignore_label_id",
    "blank_identifier_id",
    "vocab_size",
    "seq_len",
    "num_puzzle_identifiers",
    "total_groups",
    "mean_puzzle_examples",
    "sets",
}
ARRAYS = {
    "inputs": np.uint8,
    "labels": np.uint8,
    "puzzle_identifiers": np.int32,
    "puzzle_indices": np.int32,
    "group_indices": np.int32,
}
FOUR = TASKS[0]
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(folder: Path, name: str = "all") -> dict[str, np.ndarray]:
    """The five arrays of a set."""
    return {field: np.load(folder / f"{name}__{field}.npy", allow_pickle=False) for field in ARRAYS}


def change(folder: Path, **values: Any) -> None:
    """Rewrite entries of dataset.json (a value) or whole arrays."""
    facts = json.loads((folder / "dataset.json").read_text())
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            np.save(folder / f"all__{name}.npy", value)
        else:
            facts[name] = value
    (folder / "dataset.json").write_text(json.dumps(facts))


@shared
@given(puzzle_sets(), st.booleans())
def test_puzzles_survive_csv_to_folder_and_back(tmp_path: Path, case: tuple[Task, PuzzleSet], test: bool) -> None:
    task, puzzles = case
    write_folder(tmp_path / "d", task, puzzles, puzzles if test else None)
    train = read(tmp_path / "d", task, "train")
    assert same_puzzles(train, puzzles) and same_puzzles(read(tmp_path / "d" / "train", task), puzzles)
    write_csv(tmp_path / "a.csv", task, train)
    assert same_puzzles(read(tmp_path / "a.csv", task), puzzles)


def test_a_written_folder_has_every_file_key_and_type_of_the_format(tmp_path: Path) -> None:
    puzzles = puzzles_of(0)
    write_folder(tmp_path, FOUR, puzzles, puzzles.take(np.arange(3)))
    assert json.loads((tmp_path / "identifiers.json").read_text()) == ["<blank>"]
    for split, rows in (("train", 12), ("test", 3)):
        facts = json.loads((tmp_path / split / "dataset.json").read_text())
        assert facts == {
            "pad_id": 0,
            "ignore_label_id": 0,
            "blank_identifier_id": 0,
            "vocab_size": 6,
            "seq_len": 16,
            "num_puzzle_identifiers": 1,
            "total_groups": rows,
            "mean_puzzle_examples": 1.0,
            "sets": ["all"],
        }
        assert facts.keys() == KEYS
        found = arrays(tmp_path / split)
        assert {name: array.dtype for name, array in found.items()} == ARRAYS
        assert sorted(p.name for p in (tmp_path / split).iterdir()) == sorted(
            ["dataset.json", *(f"all__{name}.npy" for name in ARRAYS)]
        )
        assert np.array_equal(found["inputs"], puzzles.inputs[:rows])
        assert np.array_equal(found["puzzle_identifiers"], np.zeros(rows))
        assert np.array_equal(found["puzzle_indices"], np.arange(rows + 1))
        assert np.array_equal(found["group_indices"], np.arange(rows + 1))


def test_augmentations_of_one_original_become_one_group_of_puzzles(tmp_path: Path) -> None:
    puzzles = puzzles_of(0)._replace(groups=np.array([7, 7, 7, 2, 2, 9, 9, 9, 9, 9, 9, 1], np.int32))
    write_folder(tmp_path, FOUR, puzzles)
    found = arrays(tmp_path / "train")
    assert found["group_indices"].tolist() == [0, 3, 5, 11, 12]
    assert found["puzzle_indices"].tolist() == list(range(13))
    assert read(tmp_path, FOUR).groups.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2, 3]


def test_examples_that_share_a_task_id_become_one_puzzle(tmp_path: Path) -> None:
    ids = np.array([3, 3, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4], np.int32)
    groups = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], np.int32)
    puzzles = puzzles_of(3)._replace(task_ids=ids, groups=groups, num_task_ids=5)
    write_folder(tmp_path, TASKS[3], puzzles)
    found = arrays(tmp_path / "train")
    assert found["puzzle_identifiers"].tolist() == [1, 3, 2, 4]
    assert found["puzzle_indices"].tolist() == [0, 3, 5, 9, 12]
    assert found["group_indices"].tolist() == [0, 2, 4]
    assert len(json.loads((tmp_path / "identifiers.json").read_text())) == 5
    again = read(tmp_path, TASKS[3])
    order = np.argsort(groups * 10 + ids, kind="stable")
    assert same_puzzles(again, puzzles.take(order))


@shared
@given(st.data())
def test_groups_puzzles_and_ids_come_back_whatever_their_sizes(tmp_path: Path, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=3))
    flat = [size for group in sizes for size in group]
    cells = np.arange(sum(flat) * 12, dtype=np.uint8).reshape(-1, 12) % 6 + 1
    folder = tmp_path / "train"
    folder.mkdir(exist_ok=True)
    facts = {
        "pad_id": 0,
        "ignore_label_id": None,
        "blank_identifier_id": 0,
        "vocab_size": 7,
        "seq_len": 12,
        "num_puzzle_identifiers": len(flat) + 1,
        "total_groups": len(sizes),
        "mean_puzzle_examples": 1.0,
        "sets": ["all"],
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    change(
        folder,
        inputs=cells,
        labels=cells,
        puzzle_identifiers=np.arange(1, len(flat) + 1),
        puzzle_indices=np.cumsum([0, *flat]),
        group_indices=np.cumsum([0, *map(len, sizes)]),
    )
    puzzles = read(tmp_path, TASKS[3])
    assert puzzles.task_ids.tolist() == [i + 1 for i, size in enumerate(flat) for _ in range(size)]
    assert puzzles.groups.tolist() == [g for g, group in enumerate(sizes) for size in group for _ in range(size)]
    write_folder(tmp_path / "again", TASKS[3], puzzles)
    before, after = arrays(folder), arrays(tmp_path / "again" / "train")
    assert all(np.array_equal(before[name], after[name]) for name in ARRAYS)


def test_arrays_are_mapped_from_the_disk(tmp_path: Path) -> None:
    write_folder(tmp_path, FOUR, puzzles_of(0))
    puzzles = read(tmp_path, FOUR)
    assert isinstance(puzzles.inputs, np.memmap) and isinstance(puzzles.labels, np.memmap)


def test_labels_that_do_not_count_are_minus_100(tmp_path: Path) -> None:
    puzzles = puzzles_of(3)
    answers = puzzles.labels.astype(np.int32)
    answers[2, 5:] = -100
    write_folder(tmp_path, TASKS[3], puzzles._replace(labels=answers))
    labels = read(tmp_path, TASKS[3]).labels
    assert np.array_equal(labels, answers) and labels.dtype == np.int8
    change(tmp_path / "train", ignore_label_id=None)
    assert read(tmp_path, TASKS[3]).labels[2, 5] == 0


def test_several_sets_are_joined_and_their_groups_kept_apart(tmp_path: Path) -> None:
    write_folder(tmp_path, FOUR, puzzles_of(0))
    folder = tmp_path / "train"
    for field in ARRAYS:
        (folder / f"more__{field}.npy").write_bytes((folder / f"all__{field}.npy").read_bytes())
    change(folder, sets=["all", "more"])
    puzzles = read(tmp_path, FOUR)
    assert len(puzzles.inputs) == 24 and puzzles.groups.tolist() == list(range(24))
    damaged = np.load(folder / "more__labels.npy")
    damaged[4, 0] = 77
    np.save(folder / "more__labels.npy", damaged)
    with pytest.raises(UserError, match=r"more__labels\.npy row 4: value 77 is not between 0 and 5"):
        read(tmp_path, FOUR)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seq_len": 81}, "81 cells and 6 tokens, but this sudoku has 16 and 6"),
        ({"vocab_size": 11}, "16 cells and 11 tokens"),
        ({"vocab_size": "six"}, "no whole number 'vocab_size'"),
        ({"sets": []}, "no list of 'sets'"),
        ({"sets": ["none"]}, r"none__inputs\.npy cannot be read"),
        ({"pad_id": 3}, "pad_id"),
        ({"inputs": np.ones((12, 15), np.uint8)}, r"all__inputs\.npy has shape \[12, 15\]"),
        ({"labels": np.ones((11, 16), np.uint8)}, r"all__labels\.npy has 11 rows"),
        ({"inputs": np.full((12, 16), 6, np.uint8)}, r"all__inputs\.npy row 0: value 6 is not between 0 and 5"),
        ({"labels": np.full((12, 16), -1, np.int32)}, r"all__labels\.npy row 0: value -1"),
        ({"inputs": np.ones((12, 16), np.float32)}, r"all__inputs\.npy does not hold whole numbers"),
        ({"puzzle_indices": np.arange(1, 13)}, r"puzzle_indices\.npy does not start with 0"),
        ({"puzzle_indices": np.array([0, 5, 3, 12])}, r"puzzle_indices\.npy does not rise to 12"),
        ({"group_indices": np.array([0, 11])}, r"group_indices\.npy does not rise to 12"),
        ({"puzzle_identifiers": np.zeros(11, np.int32)}, r"puzzle_identifiers\.npy has 11 entries for 12"),
        ({"puzzle_identifiers": np.arange(12)}, r"puzzle_identifiers\.npy row 1: id 1 is not below 1"),
    ],
)
def test_a_fault_names_the_file_and_the_row(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    write_folder(tmp_path, FOUR, puzzles_of(0))
    change(tmp_path / "train", **values)
    with pytest.raises(UserError, match=message):
        read(tmp_path, FOUR)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_folder(tmp_path, FOUR, puzzles_of(0))
    np.save(tmp_path / "train" / "all__labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"all__labels\.npy cannot be read"):
        read(tmp_path, FOUR)


def test_missing_splits_and_unfinished_folders_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path, FOUR, puzzles_of(0))
    with pytest.raises(UserError, match="no split 'test': it has train"):
        read(tmp_path, FOUR, "test")
    assert read_both(tmp_path, FOUR)[1] is None
    (tmp_path / "train" / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset\.json is not valid JSON"):
        read(tmp_path, FOUR)
    (tmp_path / "train" / "dataset.json").unlink()
    with pytest.raises(UserError, match="no split 'train'"):
        read(tmp_path, FOUR)


@pytest.mark.parametrize(("task", "size"), [(Sudoku(3, 3), 11), (Maze(30, 30, 110), 6), (Grid(30, 30, 12), 12)])
def test_vocabularies_are_those_of_the_published_data_sets(task: Task, size: int) -> None:
    assert len(task.vocabulary) == size
    if task.name != "grid":
        question = ".12345678" + "9" * 72 if task.name == "sudoku" else "# SGo" + "#" * 895
        assert task.parse(question)[:5].tolist() == [1, 2, 3, 4, 5]
