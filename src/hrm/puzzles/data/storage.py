"""Read and write puzzles in either form; the path says which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hrm.console import Console
from hrm.files.reading import UserError
from hrm.puzzles.data import csv_file, npy_folder
from hrm.puzzles.data.puzzle_set import LocatedPuzzles, PuzzleSet
from hrm.puzzles.tasks import Task


def is_csv(path: Path | str) -> bool:
    """Whether an output path names a CSV file; otherwise it is a dataset folder."""
    return str(path).endswith((".csv", ".csv.gz"))


def locate(path: Path | str, task: Task, split: str = "train", console: Console | None = None) -> LocatedPuzzles:
    """Read the puzzles in a file or a split of a dataset folder, with the file and row of each."""
    path = existing(path)

    def refuse(problem: str) -> None:
        raise UserError(problem)

    if path.is_dir():
        return npy_folder.load(path, task, split, refuse)
    return csv_file.load(path, task, refuse, console)


def read(path: Path | str, task: Task, split: str = "train") -> PuzzleSet:
    """Like `locate`, without the places."""
    return locate(path, task, split).puzzles


def read_both(path: Path | str, task: Task) -> tuple[PuzzleSet, PuzzleSet | None]:
    """All puzzles of a file, or both splits of a dataset folder; the second is None if it is missing."""
    if not Path(path).is_dir() or "test" not in npy_folder.splits(Path(path)):
        return read(path, task), None
    return read(path, task, "train"), read(path, task, "test")


def join(paths: Sequence[Path | str], task: Task, limit: int | None = None) -> tuple[PuzzleSet, PuzzleSet | None, int]:
    """Join the first `limit` training puzzles of each data set. A single set keeps its test puzzles. Also returns how
    many duplicates were dropped. UserError if one of several sets has a test split or task ids."""
    sets: list[PuzzleSet] = []
    for path in paths:
        puzzles, test = read_both(path, task)
        if limit is not None:
            puzzles = puzzles.take(np.arange(min(len(puzzles.inputs), limit)))
        if len(paths) == 1:
            return puzzles, test, 0
        # A test split would end up among the training puzzles, and task ids of two sets would clash.
        for problem, what in ((test is not None, "a test split"), (puzzles.num_task_ids > 1, "task ids")):
            if problem:
                raise UserError(f"{path} has {what}, so it cannot be joined with others: --convert it alone")
        sets.append(puzzles)
    joined = PuzzleSet.joined(sets, "+".join(Path(puzzles.source).name for puzzles in sets))
    _, first = np.unique(joined.inputs, axis=0, return_index=True)
    return joined.take(np.sort(first)), None, len(joined.inputs) - len(first)


def write(path: Path | str, task: Task, train: PuzzleSet, test: PuzzleSet | None = None) -> list[Path]:
    """Write to the `targets` of a path; returns the files written."""
    if not is_csv(path):
        npy_folder.save(path, task, train, test)
        return targets(path)
    written = []
    for file, puzzles in zip(targets(path), (train, test), strict=True):
        if puzzles is not None:
            csv_file.save(file, task, puzzles)
            written.append(file)
    return written


def targets(path: Path | str) -> list[Path]:
    """The output files: a dataset folder, or a CSV file and one for test puzzles (x.csv.gz and x_test.csv.gz)."""
    path = Path(path)
    if not is_csv(path):
        return [path]
    stem, dot, suffix = path.name.partition(".csv")
    return [path, path.with_name(f"{stem}_test{dot}{suffix}")]


def existing(path: Path | str) -> Path:
    """The path; UserError if it does not exist."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no file or folder {path}")
    return path
