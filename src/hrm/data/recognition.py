"""Which task a data set belongs to."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from math import isqrt
from pathlib import Path

from hrm.config import TaskConfig, UserError
from hrm.data import csv_file, npy_folder
from hrm.data.storage import existing, is_csv

_BOXES = {16: (2, 2), 36: (2, 3), 81: (3, 3), 256: (4, 4)}
_MAZE = "# SGo"


def infer(path: Path | str) -> TaskConfig:
    """The kind and size of the puzzles in a CSV file or dataset folder; UserError where they could be anything."""
    path = existing(path)
    if is_csv(path):
        questions = [row.question for row in islice(csv_file.rows(path, lambda _: None), 100)]
        if not questions:
            raise UserError(f"{path} holds no puzzles")
        # What most rows are, so that a broken one does not hide it.
        cells = Counter(map(len, questions)).most_common(1)[0][0]
        maze = sum(set(question) <= set(_MAZE) for question in questions) > len(questions) / 2
        sudoku = cells in _BOXES
        vocabulary = 0
    else:
        folder = next((f for f in (path, path / "train", path / "test") if (f / "dataset.json").is_file()), None)
        if folder is None:
            raise UserError(f"{path} is not a dataset folder: train/dataset.json and test/dataset.json are missing")
        facts = npy_folder.metadata(folder)
        cells, vocabulary = facts["seq_len"], facts["vocab_size"]
        sudoku = cells in _BOXES and vocabulary == isqrt(cells) + 2
        maze = not sudoku and vocabulary == len(_MAZE) + 1
    side = isqrt(cells)
    if maze and side * side == cells:
        return TaskConfig(kind="maze", size=(side, side))
    if sudoku:
        return TaskConfig(kind="sudoku", box=_BOXES[cells])
    if vocabulary and side * side == cells:
        return TaskConfig(kind="grid", size=(side, side), vocabulary=vocabulary)
    raise UserError(
        f"{path}: puzzles of {cells} cells are not a known Sudoku or square maze; "
        "say which with --task and --size, or --gym"
    )
