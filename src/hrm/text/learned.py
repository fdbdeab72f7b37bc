"""What a learner's checkpoint says of itself, judged before anything of it is believed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hrm.files.encoding import known_encoding
from hrm.files.reading import UserError, quoted
from hrm.runs import checkpoint
from hrm.runs.checkpoint import DamagedCheckpoint

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 1 << 53
Rule = Callable[[Any], bool]


def load(path: Path, groups: Collection[str] | None = None) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """`checkpoint.load` of a learner's checkpoint; DamagedCheckpoint unless its state is one that a learner writes."""
    tensors, state = checkpoint.load(path, groups)
    check(state, path)
    return tensors, state


def check(state: Mapping[str, Any], where: Path) -> None:
    """DamagedCheckpoint for a state in which something is missing or of another kind."""
    _judge(state, _STATE, "", where)
    for number, book in enumerate(state["books"]):
        place = f"books[{number}]"
        _judge(book, _BOOK, place, where)
        if book["number"] != number:
            raise _damaged(where, f"{place}.number", book["number"])
        for score in book["scores"]:
            _judge(score, _SCORE, f"{place}.scores", where)
            if len(score["bits_per_character"]) <= number:
                raise _damaged(where, f"{place}.scores", score)
    for number, entry in enumerate(state["growth"]):
        _judge(entry, _GROWTH, f"growth[{number}]", where)
        _judge(entry, _KINDS[entry["kind"]], f"growth[{number}]", where)


def folder_of(run: Path, book: Mapping[str, Any]) -> Path:
    """Where the packed text of a book lies."""
    return run / "books" / f"{book['number']:03}-{book['sha256'][:12]}"


def _judge(value: Any, rules: Mapping[str, Rule], place: str, where: Path) -> None:
    """A rule whose name ends in ? is one for what may be missing."""
    if not isinstance(value, dict):
        raise _damaged(where, place, value)
    for name, fits in rules.items():
        key = name.rstrip("?")
        if (key in value or key == name) and not fits(value.get(key)):
            raise _damaged(where, f"{place}.{key}".strip("."), value.get(key))


def _damaged(where: Path, place: str, value: Any) -> DamagedCheckpoint:
    return DamagedCheckpoint(where, f"'{place}' of state.json is {quoted(value)}, which no learner writes")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST


def _number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < _MOST)


def _seconds(value: Any) -> bool:
    return _number(value) and math.isfinite(value) and value >= 0


def _size(value: Any) -> bool:
    return _count(value) and value > 0


def _flag(value: Any) -> bool:
    return type(value) is bool


def _of(fits: Rule, length: int | None = None) -> Rule:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(fits, value))


def _by_name(fits: Rule) -> Rule:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _in(*known: str) -> Rule:
    return lambda value: isinstance(value, str) and value in known


def _sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _encoding(value: Any) -> bool:
    try:
        return value is None or bool(known_encoding(value))
    except (UserError, TypeError, AttributeError):
        return False


def _anything(value: Any) -> bool:
    return True


_STATE: dict[str, Rule] = {
    "step_number": _count, "seconds": _seconds, "books": _of(_by_name(_anything)), "growth": _of(_by_name(_anything)),
    "counters": _by_name(_number), "parameters": _size, "model": _by_name(_anything), "tokens": _of(_text),
    "tokenizer?": _by_name(_text),
}  # fmt: skip
_BOOK: dict[str, Rule] = {
    "name": _text, "sha256": _sha256, "characters": _size, "epochs": _size, "step": _count, "number": _count,
    "state": _in("learning", "finished", "stopped"), "scores": _of(_by_name(_anything)),
    "source?": _text, "learned_at?": _text,
    "finished_at?": _text, "begun?": _flag, "new_tokens?": _count, "bits_per_character_before?": _number,
    "bits_per_character_then?": _number, "bits_per_character_now?": _number, "packed?": _by_name(_sha256),
    "encoding?": _encoding, "steps?": _count,
}  # fmt: skip
_SCORE: dict[str, Rule] = {
    "step": _count,
    "bits_per_character": _of(_number),
    "update?": _count,
    "memory_bytes?": _count,
}
_GROWTH: dict[str, Rule] = {
    "kind": _in("vocabulary", "depth"), "at": _text, "step": _count, "characters": _count,
}  # fmt: skip
_KINDS: dict[str, dict[str, Rule]] = {
    "vocabulary": {"vocabulary": _of(_count, 2), "added?": _text},
    "depth": {
        "fast_layers": _count, "slow_layers": _count, "parameters?": _of(_count, 2),
        "why?": _in("characters", "plateau", "command"),
    },
}  # fmt: skip
