"""HRM's dataset folder: `identifiers.json` and, per split, `dataset.json` and five arrays per set.

Examples `puzzle_indices[i]:puzzle_indices[i+1]` belong to puzzle i, puzzles `group_indices[g]:group_indices[g+1]` to
group g: an original with its augmentations. A label equal to `ignore_label_id` does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hrm.files.npy import IGNORE, metadata, read_array
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.puzzles.data.puzzle_set import LocatedPuzzles, PuzzleSet
from hrm.puzzles.tasks import Task

_SPLITS = ("train", "test")


def splits(path: Path) -> list[str]:
    """The splits in a dataset folder."""
    return [name for name in _SPLITS if (path / name / "dataset.json").is_file()]


def load(path: Path, task: Task, split: str, report: Callable[[str], None]) -> LocatedPuzzles:
    """Read one split of a dataset folder (or a folder that is one split), memory-mapped where possible. Rows with
    tokens out of range are reported and dropped."""
    folder = path if (path / "dataset.json").is_file() else path / split
    if not (folder / "dataset.json").is_file():
        known = ", ".join(splits(path))
        hint = f"it has {known}" if known else "a dataset folder has train/dataset.json and test/dataset.json"
        raise UserError(f"{path} has no split '{split}': {hint}")
    facts = metadata(folder)
    cells = task.cells
    where = folder / "dataset.json"
    if facts["seq_len"] != cells or facts["vocab_size"] != len(task.vocabulary):
        found = f"{facts['seq_len']} cells and {facts['vocab_size']} tokens"
        raise UserError(f"{where} describes {found}, but this {task.name} has {cells} and {len(task.vocabulary)}")
    if facts["pad_id"] != 0 or facts["blank_identifier_id"] != 0:
        raise UserError(f"{where}: pad_id and blank_identifier_id other than 0 are not supported")
    parts = [_load_set(folder, str(name), facts, report) for name in facts["sets"]]
    starts = np.cumsum([0, *(len(part[0].inputs) for part in parts)])
    if starts[-1] == 0:
        raise UserError(f"{folder} holds no puzzles")

    def place(row: int) -> str:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{folder / (facts['sets'][part] + '__inputs.npy')} row {parts[part][1][row - starts[part]]}"

    sets = [part[0] for part in parts]
    if len(sets) == 1:  # mapped from the disk
        return LocatedPuzzles(sets[0], place)
    return LocatedPuzzles(PuzzleSet.joined(sets, str(folder)), place)


def save(path: Path | str, task: Task, train: PuzzleSet, test: PuzzleSet | None = None) -> None:
    """Write a dataset folder for HRM's loader, rows ordered by group. A row with the blank task id is a puzzle of its
    own; rows of a group with the same other id are one puzzle."""
    for split, puzzles in (("train", train), ("test", test)):
        if puzzles is not None:
            _save_split(Path(path) / split, task, puzzles)
    count = max(puzzles.num_task_ids for puzzles in (train, test) if puzzles is not None)
    names = ["<blank>", *(f"task {i}" for i in range(1, count))]
    (Path(path) / "identifiers.json").write_text(to_json(names), encoding="utf-8")


def _save_split(folder: Path, task: Task, puzzles: PuzzleSet) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").unlink(missing_ok=True)  # written last: without it the folder is no data set
    _, first, group = np.unique(puzzles.groups, return_index=True, return_inverse=True)
    group = np.argsort(np.argsort(first))[group]  # numbered by first appearance
    alone = puzzles.task_ids == 0
    order = np.lexsort((np.where(alone, 0, puzzles.task_ids), group))
    group, task_ids, alone = group[order], puzzles.task_ids[order], alone[order]
    starts = np.flatnonzero(np.r_[True, alone[1:] | (group[1:] != group[:-1]) | (task_ids[1:] != task_ids[:-1])])
    arrays = {
        "inputs": puzzles.inputs[order].astype(task.dtype),
        "labels": np.maximum(puzzles.labels[order], 0).astype(task.dtype),
        "puzzle_identifiers": task_ids[starts].astype(np.int32),
        "puzzle_indices": np.append(starts, len(order)).astype(np.int32),
        "group_indices": np.searchsorted(group[starts], np.arange(len(first) + 1)).astype(np.int32),
    }
    for name, array in arrays.items():
        np.save(folder / f"all__{name}.npy", array)
    facts = {
        "pad_id": 0, "ignore_label_id": 0, "blank_identifier_id": 0, "vocab_size": len(task.vocabulary),
        "seq_len": puzzles.inputs.shape[1], "num_puzzle_identifiers": puzzles.num_task_ids,
        "total_groups": len(first), "mean_puzzle_examples": len(order) / len(starts), "sets": ["all"],
    }  # fmt: skip
    (folder / "dataset.json").write_text(to_json(facts), encoding="utf-8")


def _load_set(folder: Path, name: str, facts: Json, report: Callable[[str], None]) -> tuple[PuzzleSet, np.ndarray]:
    """One set, and for each puzzle its row number in the files."""
    cells, tokens, ignored = facts["seq_len"], facts["vocab_size"], facts.get("ignore_label_id")
    inputs, labels = read_array(folder, name, "inputs", mapped=True), read_array(folder, name, "labels", mapped=True)
    ids, of_puzzle, of_group = (
        read_array(folder, name, field) for field in ("puzzle_identifiers", "puzzle_indices", "group_indices")
    )
    here = folder / f"{name}__"
    for field, array in (("inputs", inputs), ("labels", labels)):
        if array.ndim != 2 or array.shape[1] != cells:
            found = list(array.shape)
            raise UserError(f"{here}{field}.npy has shape {found}, but dataset.json says rows of {cells} cells")
    if len(inputs) != len(labels):
        raise UserError(f"{here}labels.npy has {len(labels)} rows, but {here}inputs.npy has {len(inputs)}")
    examples = _sizes(f"{here}puzzle_indices.npy", of_puzzle, len(inputs))
    puzzles = _sizes(f"{here}group_indices.npy", of_group, len(examples))
    if len(ids) != len(examples):
        raise UserError(f"{here}puzzle_identifiers.npy has {len(ids)} entries for {len(examples)} puzzles")
    most = facts["num_puzzle_identifiers"]
    for wrong in np.flatnonzero((ids < 0) | (ids >= most))[:1]:
        raise UserError(f"{here}puzzle_identifiers.npy row {wrong}: id {ids[wrong]} is not below {most}")
    good = np.ones(len(inputs), bool)
    for field, array in (("inputs", inputs), ("labels", labels)):
        if array.size and (array.min() < 0 or array.max() >= tokens):
            for row in np.flatnonzero(((array < 0) | (array >= tokens)).any(axis=1)).tolist():
                value = next(v for v in array[row].tolist() if not 0 <= v < tokens)
                report(f"{here}{field}.npy row {row}: value {value} is not between 0 and {tokens - 1}; remove the row")
                good[row] = False
    if ignored is not None and bool((labels == ignored).any()):
        signed = labels.astype(np.int8 if tokens <= 128 else np.int32)
        signed[labels == ignored] = IGNORE
        labels = signed
    puzzle = np.repeat(np.arange(len(examples)), examples)
    group = np.repeat(np.arange(len(puzzles)), puzzles)[puzzle]
    task_ids = ids[puzzle].astype(np.int32)
    everything = PuzzleSet(inputs, labels, task_ids, group.astype(np.int32), None, str(folder), most)
    # Indexing copies, so only when something has to go.
    return (everything if good.all() else everything.take(good)), np.flatnonzero(good)


def _sizes(what: str, indices: np.ndarray, total: int) -> np.ndarray:
    """The size of each puzzle or group; UserError unless the indices cut 0..total into pieces."""
    if indices.ndim != 1 or len(indices) == 0 or indices[0] != 0:
        raise UserError(f"{what} does not start with 0: build the data set again")
    sizes = np.diff(indices.astype(np.int64))
    if (sizes < 0).any() or indices[-1] != total:
        raise UserError(f"{what} does not rise to {total}, where it should end: build the data set again")
    return sizes
