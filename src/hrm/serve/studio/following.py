"""How a training goes, read from the files of its run alone: any studio can show any training."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hrm.files import names
from hrm.files.reading import UserError
from hrm.files.records import Json, Record
from hrm.runs import checkpoint
from hrm.text import learned
from hrm.text.learned import Book, State

_MOST = 8 << 20
"""Bytes of the metrics that are read at once, the last ones."""
_POINTS = 1000
"""Points of a curve that are sent at once."""


@dataclass(frozen=True)
class Point(Record):
    """Means over the last updates."""

    book: str
    step: int
    """Of the book."""
    bits: float
    replayed: float | None
    """Bits a character of what is repeated of older books."""
    rate: float
    """Updates a second."""
    seconds: float
    """Of the learner's life."""


@dataclass(frozen=True)
class Measured(Record):
    """Held-out bits a character of each book, and how it writes."""

    book: str
    update: int
    """Of the learner's life."""
    bits: dict[str, float]
    sample: str


@dataclass(frozen=True)
class Lines(Record):
    """What was logged since a mark."""

    mark: str
    """Where the next lines begin."""
    fresh: bool
    """Whether they replace all that was sent before."""
    points: list[Point] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)


def lines_since(path: Path, mark: str = "") -> Lines:
    """The lines of a run's metrics after a mark, or the last ones."""
    try:
        file = names.regular(path / "metrics.jsonl").open("rb")
    except (OSError, UserError):
        return Lines("", True)
    with file:
        found = os.fstat(file.fileno())
        node, _, at = mark.partition("-")
        begin = int(at) if node == str(found.st_ino) and at.isdecimal() else -1
        fresh = not 0 <= begin <= found.st_size  # a resumed training writes the file again
        begin = max(0, found.st_size - _MOST) if fresh else max(begin, found.st_size - _MOST)
        file.seek(begin)
        data = file.read(_MOST)
    whole = data[: data.rfind(b"\n") + 1]
    points: list[Point] = []
    measured: list[Measured] = []
    for line in whole.splitlines():
        try:
            record = json.loads(line)
            if record.get("event") == "eval":
                measured.append(_measured(record))
            elif "bits" in record:
                points.append(_point(record))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # a line that a crash left, or of another kind of run
    every = -(-len(points) // _POINTS) or 1
    thinned = [point for place, point in enumerate(points, 1) if place % every == 0 or place == len(points)]
    return Lines(f"{found.st_ino}-{begin + len(whole)}", fresh, thinned, measured[-200:])


def _point(record: Json) -> Point:
    replayed = record["replayed_bits"]
    return Point(
        str(record["book"]), int(record["book_step"]), float(record["bits"]),
        None if replayed is None else float(replayed), float(record["steps_per_second"]), float(record["seconds"]),
    )  # fmt: skip


def _measured(record: Json) -> Measured:
    bits = {str(name): float(value) for name, value in record["bits_per_character"].items()}
    return Measured(str(record["book"]), int(record["step"]), bits, str(record["sample"]))


@dataclass(frozen=True)
class Learned(Record):
    """A book of a learner; bits are held out, a character."""

    name: str
    characters: int
    learned_at: str | None
    state: str
    epochs: int
    step: int
    steps: int | None
    before: float | None
    then: float | None
    now: float | None
    measured: list[tuple[int, float]]
    """Step of the book and its bits, while it was read."""
    sha256: str


@dataclass(frozen=True)
class Reader(Record):
    """A learner as its newest checkpoint has it."""

    books: list[Learned]
    vocabulary: int
    parameters: int
    updates: int
    seconds: float
    characters: int


def newest(path: Path) -> State | None:
    """The state of a learner's newest checkpoint whose files are whole; None where there is none yet."""
    for where in reversed(checkpoint.named(path / "checkpoints")):
        try:
            return _state(where, where.stat().st_mtime_ns)
        except (UserError, OSError, ValueError):
            continue  # it has just been pruned, or is damaged
    return None


@lru_cache(maxsize=64)
def _state(where: Path, changed: int) -> State:
    return learned.load(where, ())[1]


def reader(state: State) -> Reader:
    """What the page says of a learner."""
    books = [_learned(book) for book in state.books]
    characters = sum(book.characters for book in state.books)
    return Reader(books, len(state.tokens), state.parameters, state.step_number, state.seconds, characters)


def _learned(book: Book) -> Learned:
    measured = [(score.step, score.bits_per_character[book.number]) for score in book.scores]
    return Learned(
        book.name, book.characters, book.learned_at, book.state, book.epochs, book.step, book.steps,
        book.bits_per_character_before, book.bits_per_character_then, book.bits_per_character_now, measured,
        book.sha256,
    )  # fmt: skip
