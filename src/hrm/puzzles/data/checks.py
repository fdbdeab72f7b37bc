"""What is wrong with a data set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from hrm.console import Console
from hrm.files.reading import UserError
from hrm.progress import track
from hrm.puzzles.data import csv_file, npy_folder
from hrm.puzzles.data.overlap import shared
from hrm.puzzles.data.puzzle_set import LocatedPuzzles
from hrm.puzzles.data.storage import existing
from hrm.puzzles.tasks import PuzzleError, Task


def check(path: Path | str, task: Task, against: Path | str | None = None) -> list[str]:
    """All problems of a data set as sentences, each with the file, the row and what to do."""
    return list(problems(path, task, against))


def problems(
    path: Path | str, task: Task, against: Path | str | None = None, console: Console | None = None
) -> Iterator[str]:
    """Yield the problems of a data set: rows that do not parse, wrong questions or answers, duplicates, overlap.
    Overlap (symmetric variants count) is looked for between the splits of a folder and with `against`, which is checked
    too."""
    unreadable: list[str] = []
    parts = _load(path, task, unreadable)
    others = _load(against, task, unreadable) if against is not None else []
    found = list(unreadable)
    sound: dict[int, list[int]] = {}
    for part in (*parts, *others):
        wrong = dict(_wrong(part, task, console))
        sound[id(part)] = [row for row in range(len(part.puzzles.inputs)) if row not in wrong]
        found += (f"{part.where(row)}: {reason}" for row, reason in wrong.items())
        found += _duplicates(part)
    yield from sorted(found, key=_place)
    pairs = [*zip(parts[1:], parts, strict=False), *product(parts, others)]
    yield from _overlap(pairs, sound, task, console)


def _place(problem: str) -> list[tuple[int, str]]:
    """Sort key of a problem: its file and row come first, and numbers sort by value."""
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in re.split(r"(\d+)", problem)]


def _load(path: Path | str, task: Task, unreadable: list[str]) -> list[LocatedPuzzles]:
    """The splits that can be read; problems with the others go into `unreadable`."""
    try:
        path = existing(path)
        if not path.is_dir():
            return [csv_file.load(path, task, unreadable.append)]
        # A folder may also be one split; then the name given here does not matter.
        return [npy_folder.load(path, task, split, unreadable.append) for split in npy_folder.splits(path) or ["train"]]
    except UserError as error:
        unreadable.append(str(error))
        return []


def _wrong(part: LocatedPuzzles, task: Task, console: Console | None) -> Iterator[tuple[int, str]]:
    """Rows whose question or answer breaks the task's rules, with the reason."""
    if not task.verifies:
        return
    # The answer fills in a blank, or where a task has none a space (mazes) or a dot; everything else it must repeat.
    spaces = [token for token, character in enumerate(task.vocabulary) if token and character in ". "]
    blank = spaces if task.blank is None else [task.blank]
    for row in track(range(len(part.puzzles.inputs)), f"checking {part.puzzles.source}", console):
        question, answer = part.puzzles.inputs[row], part.puzzles.labels[row]
        if (answer <= 0).any():
            yield row, "the answer has cells without a value; correct or remove the row"
            continue
        changed = np.flatnonzero((question != answer) & ~np.isin(question, blank))
        if len(changed):
            place = task.place(int(changed[0]))
            there = f"'{task.vocabulary[question[changed[0]]]}' became '{task.vocabulary[answer[changed[0]]]}'"
            yield row, f"the answer contradicts the question at {place}: {there}; correct or remove the row"
            continue
        try:
            task.check(question)
        except PuzzleError as error:
            yield row, f"the question is not well-posed ({error}); correct or remove the row"
        else:
            if not task.verify(question, answer):
                yield row, "the answer is wrong by the rules; correct or remove the row"


def _duplicates(part: LocatedPuzzles) -> Iterator[str]:
    """Questions that appear more than once, other than as augmentations of the same original."""
    seen: dict[bytes, int] = {}
    groups = part.puzzles.groups
    for row, question in enumerate(part.puzzles.inputs):
        first = seen.setdefault(question.tobytes(), row)
        if groups[first] != groups[row]:
            yield f"{part.where(row)}: the same question as {part.where(first)}; remove one of them"


def _overlap(
    pairs: list[tuple[LocatedPuzzles, LocatedPuzzles]], sound: dict[int, list[int]], task: Task, console: Console | None
) -> Iterator[str]:
    """Puzzles in the first of each pair that are symmetric variants of a puzzle in the second."""
    for part, other in pairs:
        mine, theirs = (np.array(sound[id(each)], int) for each in (part, other))
        for row, first in shared(part.puzzles.take(mine), other.puzzles.take(theirs), task, console):
            yield f"{part.where(mine[row])}: a symmetric variant of {other.where(theirs[first])}; remove one of them"
