"""What a learner keeps of its books and its growth, and how a checkpoint's state is judged before it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from hrm.files.encoding import known_encoding
from hrm.files.reading import UserError, quoted
from hrm.files.records import Record, taken
from hrm.runs import checkpoint
from hrm.runs.checkpoint import DamagedCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

_MOST = 1 << 53


def _is_number(value: object) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _MOST)


def _is_encoding(value: Any) -> bool:
    try:
        return value is None or bool(known_encoding(value))
    except (UserError, TypeError, AttributeError):
        return False


Count = Annotated[int, lambda value: type(value) is int and 0 <= value < _MOST]
Size = Annotated[int, lambda value: type(value) is int and 0 < value < _MOST]
Number = Annotated[float, _is_number]
Seconds = Annotated[float, lambda value: _is_number(value) and math.isfinite(value) and value >= 0]
Sha256 = Annotated[str, lambda value: isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)]
Encoding = Annotated[str | None, _is_encoding]
Pair = Annotated[list[int], lambda value: isinstance(value, list) and len(value) == 2]


@dataclass(frozen=True, kw_only=True)
class Score(Record):
    """A measurement of all books up to one, while that was read."""

    step: Count
    update: Count | None = None
    """Of the learner's life."""
    bits_per_character: list[Number]
    memory_bytes: Count | None = None
    """What is kept of the books, at the end of this one."""


@dataclass(kw_only=True)
class Book(Record):
    """A book that was read or is being read; what an older version did not note is None."""

    name: str
    source: str | None = None
    """The path of its file."""
    sha256: Sha256
    characters: Size
    learned_at: str | None = None
    epochs: Size
    step: Count
    state: Literal["learning", "finished", "stopped"]
    number: Count
    """Its place among the books."""
    scores: list[Score]
    begun: bool = False
    """Whether the memory has prepared for it."""
    encoding: Encoding = None
    new_tokens: Count = 0
    packed: dict[str, Sha256] | None = None
    """Fingerprints of its parts."""
    steps: Count | None = None
    bits_per_character_before: Number | None = None
    finished_at: str | None = None
    bits_per_character_then: Number | None = None
    """Right after it was read."""
    bits_per_character_now: Number | None = None
    """After the newest book."""


@dataclass(frozen=True, kw_only=True)
class Growth(Record):
    """A moment at which the model grew: `step` updates and `characters` of books into its life."""

    at: str
    step: Count
    characters: Count


@dataclass(frozen=True, kw_only=True)
class NewTokens(Growth):
    """Characters or byte pairs that it did not know; sizes of the vocabulary before and after."""

    kind: Literal["vocabulary"] = "vocabulary"
    added: str | None = None
    vocabulary: Pair


@dataclass(frozen=True, kw_only=True)
class NewLayers(Growth):
    """Layers on top; parameters before and after."""

    kind: Literal["depth"] = "depth"
    why: Literal["characters", "plateau", "command"] | None = None
    fast_layers: Count
    slow_layers: Count
    parameters: Pair | None = None


@dataclass(kw_only=True)
class State(Record):
    """A learner's `state.json`."""

    step_number: Count
    seconds: Seconds
    books: list[Book]
    growth: list[NewTokens | NewLayers]
    counters: dict[str, Number]
    """Of the optimizer."""
    parameters: Size
    model: dict[str, object]
    """Its form."""
    tokens: list[str]
    tokenizer: dict[str, str] | None = None
    """Its files, where tokens are not characters."""


def load(path: Path, groups: Collection[str] | None = None) -> tuple[dict[str, dict[str, Tensor]], State]:
    """`checkpoint.load` of a learner's checkpoint; DamagedCheckpoint unless its state is one that a learner writes."""
    tensors, found = checkpoint.load(path, groups)
    state: State = taken(State, found, partial(_damaged, path))
    for number, book in enumerate(state.books):
        place = f"books[{number}]"
        if book.number != number:
            raise _damaged(path, f"{place}.number", book.number)
        for score in book.scores:
            if len(score.bits_per_character) <= number:
                raise _damaged(path, f"{place}.scores", score.plain())
    return tensors, state


def folder_of(run: Path, book: Book) -> Path:
    """Where the packed text of a book lies."""
    return run / "books" / f"{book.number:03}-{book.sha256[:12]}"


def _damaged(where: Path, place: str, value: object) -> DamagedCheckpoint:
    return DamagedCheckpoint(where, f"'{place}' of state.json is {quoted(value)}, which no learner writes")
