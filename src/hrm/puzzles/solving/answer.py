"""What solving takes and returns: questions as text, lists or arrays; answers laid out like the question, or arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from hrm.files.reading import quoted
from hrm.files.records import Json
from hrm.puzzles.tasks import PuzzleError, Task
from hrm.puzzles.tasks.written import spans


@dataclass(frozen=True)
class Answer:
    """The outcome of one question."""

    status: Literal["solved", "answered", "unsolved", "invalid"]
    """solved: the task's verifier accepts the answer; answered: the task has no verifier; unsolved: nothing acceptable
    was found; invalid: the question is wrong."""
    question: str
    answer: str | None = None
    """In the question's own form; None unless solved or answered."""
    reason: str | None = None
    """Why the question is invalid."""
    segments: int = 0
    """Segments computed, over all attempts."""
    attempts: int = 1
    """How often it was begun: the first time, and again with another model, view, initial state or guess."""
    view: int = 0
    """Through which symmetric view the readout was found; 0 is the puzzle as it was asked."""
    model: int = 0
    """Which of several models found it, counted from 0."""
    guess: int = 0
    """With which guess filled in the readout was found, counted from 1; 0 is without any."""
    decisions: int = 0
    """Symbols that a model which deduces pinned without being sure, also those taken back."""
    confidence: float = 0.0
    """What the model itself thinks of the last readout's chance to be right; always below 1."""
    grid: np.ndarray | None = field(default=None, compare=False)
    """The last readout [rows, columns], also if unsolved: numbers, or characters where the symbols are not digits."""
    trace: list[Json] | None = field(default=None, compare=False)
    """On request, per segment: segment, attempt, grid, confidence, q (halt, continue), residual, wrong (cells). A model
    that deduces tells after each call what was `deduced` as well: candidates and killed (symbols of each cell, as in
    `grid`), decided (cells), depth (decisions that stand), decisions (made so far), refused."""

    @property
    def restarts(self) -> int:
        """How often it began again: `attempts` without the first."""
        return self.attempts - 1

    def to_dict(self) -> Json:
        """Everything as plain Python values, ready for JSON."""
        return _plain(asdict(self))


def confidence(q_halt: float) -> float:
    """sigmoid(q_halt), kept below 1: certainty is the verifier's to claim."""
    odds = math.exp(-abs(q_halt))
    return min((1 if q_halt >= 0 else odds) / (1 + odds), 1 - 2**-53)


def as_grid(task: Task, tokens: np.ndarray) -> np.ndarray:
    """Tokens [cells] as [rows, columns]: numbers from 1 for the first symbol, or characters (a maze)."""
    return _signs(task)[tokens].reshape(task.shape)


def listed(task: Task, masks: np.ndarray) -> list[list[int | str]]:
    """For each cell the symbols that a mask [cells, vocabulary] holds, as in `as_grid`."""
    return [_signs(task)[mask].tolist() for mask in masks]


def _signs(task: Task) -> np.ndarray:
    """Of each token."""
    if all(task.vocabulary[token].isalnum() for token in task.symbols):
        return np.arange(len(task.vocabulary)) - task.symbols.start + 1
    return np.array(list(task.vocabulary))


def in_form_of(question: str, task: Task, tokens: np.ndarray) -> str:
    """Tokens [cells] as text laid out like the question: its line breaks and its spaces between cells."""
    text = question.strip("\r\n")
    formatted = task.format(tokens)
    characters = [task.vocabulary[token] for token in tokens.tolist()]
    lettered = len(formatted) == len(characters) != len(text)
    if lettered and (places := spans(text, task)) is not None:
        return _filled(text, places, task, tokens)
    numbers = formatted.split() if len(formatted) != len(characters) else characters
    # Cells are words (numbers), visible characters, or, in a maze, all characters of a line.
    for cell, shown in ((r"\S+", numbers), (r"\S", characters), (r"[^\r\n]", characters)):
        if len(re.findall(cell, text)) == len(tokens):
            waiting = iter(shown)
            return re.sub(cell, lambda _, waiting=waiting: next(waiting), text)
    if len(text.splitlines()) == task.shape[0]:  # a maze whose lines end early
        return "\n".join("".join(characters[i : i + task.shape[1]]) for i in range(0, len(tokens), task.shape[1]))
    return formatted


def _filled(text: str, places: Sequence[tuple[int, int]], task: Task, tokens: np.ndarray) -> str:
    """Text with the cells at these places filled in, as numbers where it has some of two digits."""
    numbers = any(end - start > 1 and text[start:end].isdecimal() for start, end in places)
    numbers = numbers and len(task.symbols) > 9
    parts, end = [], 0
    for (start, after), token in zip(places, tokens.tolist(), strict=True):
        shown = str(token - task.symbols.start + 1) if numbers and token in task.symbols else task.vocabulary[token]
        parts += [text[end:start], shown.rjust(after - start)]
        end = after
    return "".join(parts) + text[end:]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def text_of(question: object, task: Task) -> str:
    """The text of a question: text, rows of it, or lists and arrays of numbers, signs and None, nested or flat.
    PuzzleError for anything else."""
    if isinstance(question, str):
        return question
    if isinstance(question, bytes):
        return question.decode("utf-8", "replace")
    rows = _listed(question)
    if not isinstance(rows, (list, tuple)):
        raise PuzzleError(f"a question is text, a list or an array, not {quoted(type(question).__name__)}")
    few = len(rows) <= task.shape[0] or task.any_size
    if rows and few and all(isinstance(row, str) and len(row) > 1 for row in rows):
        return "\n".join(rows)
    nested = [list(row) if isinstance(row, (list, tuple)) else None for row in map(_listed, rows)]
    parts = [rows] if None in nested else nested
    drawn = " " in task.vocabulary  # a space is a cell, in mazes
    cells = [[cell if drawn and isinstance(cell, str) else _cell(cell) for cell in part or ()] for part in parts]
    between = "" if drawn or all(len(cell) == 1 for part in cells for cell in part) else " "
    return "\n".join(between.join(part) for part in cells)


def _listed(value: object) -> object:
    """Arrays, tensors and series as lists, their numbers as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value  # type: ignore[attr-defined]


def _cell(value: object) -> str:
    """One cell as text: whole numbers and signs as they are, nothing (None, NaN, an empty text) as a blank."""
    value = _listed(value)
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        return "."
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise PuzzleError(f"a cell is a whole number, a sign or None, not {quoted(value)}")
    return str(value).strip()
