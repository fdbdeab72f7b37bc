"""Which task a data set belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from math import isqrt
from pathlib import Path

import numpy as np

from hrm.files import npy
from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.data import puzzle_file
from hrm.puzzles.data.storage import existing
from hrm.puzzles.tasks import PuzzleError, Task, build
from hrm.puzzles.tasks.maze import Maze

_BOXES = {n * n: (rows, n // rows) for n, rows in ((4, 2), (6, 2), (8, 2), (9, 3), (10, 2), (12, 3), (15, 3), (16, 4))}
"""The boxes of a Sudoku of that many cells."""
_MAZE = "# SGo"
_SAMPLE = 500
"""Lines that are looked at."""


class Unrecognised(UserError):
    """Puzzles that may be of several tasks or shapes; `what` they are, without what to do."""

    def __init__(self, path: Path, what: str) -> None:
        self.what = f"{path}: {what} are not a known Sudoku or square maze"
        super().__init__(f"{self.what}; say which with --task and --size, or --gym")


def infer(path: Path | str) -> TaskConfig:
    """Recognise the task and size of the puzzles in a file or dataset folder; UserError if that is ambiguous."""
    path = existing(path)
    if not path.is_dir():
        with puzzle_file.text_of(path) as lines:
            return _of_lines(list(islice(lines, _SAMPLE)), path)
    folder = next((f for f in (path, path / "train", path / "test") if (f / "dataset.json").is_file()), None)
    if folder is None:
        raise UserError(f"{path} is not a dataset folder: train/dataset.json and test/dataset.json are missing")
    facts = npy.metadata(folder)
    cells, vocabulary = facts["seq_len"], facts["vocab_size"]
    side = isqrt(cells)
    if cells in _BOXES and vocabulary == side + 2:
        return TaskConfig(kind="sudoku", box=_BOXES[cells])
    if side * side == cells and vocabulary == len(_MAZE) + 1:
        return TaskConfig(kind="maze", size=(side, side))
    if side * side == cells:
        return TaskConfig(kind="grid", size=(side, side), vocabulary=vocabulary)
    raise Unrecognised(path, f"puzzles of {cells} cells")


def are_puzzles(path: Path | str) -> bool:
    """Whether a dataset folder, or a file with a column of questions, holds Sudoku or mazes rather than text."""
    path = Path(path)
    try:
        if path.is_file():
            with puzzle_file.text_of(path) as lines:
                if puzzle_file.header(next(lines, "")) is None:
                    return False
        elif not any((folder / "dataset.json").is_file() for folder in (path, path / "train", path / "test")):
            return False
        return infer(path).kind in ("sudoku", "maze")
    except UserError:
        return False


def _of_lines(lines: Sequence[str], path: Path) -> TaskConfig:
    """What most of the first puzzles in a file are, so that a broken one does no harm."""
    if (size := _maze(lines, path)) is not None:
        return TaskConfig(kind="maze", size=size)
    configs = [TaskConfig(kind="sudoku", box=box) for box in _BOXES.values()]
    found = [_read(lines, path, build(config)) for config in configs]
    best = max(range(len(configs)), key=found.__getitem__)
    if any(found[best]):
        return configs[best]
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} holds no puzzles")
    columns = next((puzzle_file.header(line) for line in lines if line.strip()), None)
    if columns:
        puzzle_file.check_columns(columns, path)
    fields = lines[1].split(columns.separator) if columns and len(lines) > 1 else []
    cells = len(fields[columns.question]) if columns and columns.question < len(fields) else 0
    raise Unrecognised(path, f"puzzles of {cells} cells" if cells else "its lines")


def _read(lines: Sequence[str], path: Path, task: Task) -> tuple[int, int]:
    """How many puzzles of a task could have exactly one solution, and how many parse at all."""
    sound = count = 0
    for row in _rows(lines, path, task):
        try:
            tokens = task.parse_bounded(row.question)
        except PuzzleError:
            continue
        count += 1
        # Two digits that are no clue could be exchanged in any solution.
        sound += len(np.unique(tokens)) >= task.shape[0]
    return sound, count


def _rows(lines: Sequence[str], path: Path, task: Task) -> Iterator[puzzle_file.Row]:
    """The puzzles of a sample; the last one may be cut off."""
    with suppress(UserError):
        yield from puzzle_file.rows(lines, path, task)


def _maze(lines: Sequence[str], path: Path) -> tuple[int, int] | None:
    """The size of the mazes: in a CSV column, one per line, or drawn with empty lines between them."""
    if any(puzzle_file.header(line) for line in lines[:10]):
        texts = [row.question for row in _rows(lines, path, Maze(2, 2, 1))]
    else:
        texts = [line.rstrip("\r\n") for line in lines if not re.match(r"\s*(;|//)", line)]
    mazes = [text for text in texts if text and set(text) <= set(_MAZE + "\n")]
    if not mazes or len(mazes) <= sum(bool(text) for text in texts) / 2 or "S" not in "".join(mazes):
        return None
    whole = [text for text in mazes if text.count("S") == text.count("G") == 1 and len(text) > 3]
    if len(whole) > len(mazes) / 2:
        drawn = [text.strip("\n").split("\n") for text in whole]
        if any(len(rows) > 1 for rows in drawn):
            return _most([(len(rows), max(map(len, rows))) for rows in drawn])
        cells = Counter(map(len, whole)).most_common(1)[0][0]
        side = isqrt(cells)
        return (side, side) if side * side == cells else None
    blocks = [list(block) for drawn, block in groupby(texts, lambda t: bool(t) and set(t) <= set(_MAZE)) if drawn]
    return _most([(len(block), max(map(len, block))) for block in blocks])


def _most(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return Counter(sizes).most_common(1)[0][0]
