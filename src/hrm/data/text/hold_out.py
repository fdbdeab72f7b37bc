"""Some of a text set aside for measuring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from hrm.config import UserError
from hrm.data.text.sources import Part

_SPACE = re.compile(r"\s")


class _Half(Iterable[Any]):
    """One of the two parts; can be read any number of times, as can what it comes from."""

    def __init__(self, items: Iterable[Any], total: int, share: float, blocks: int, held: bool):
        self._settings = items, total, share, blocks
        self._held = held

    def __iter__(self) -> Iterator[Any]:
        return (item for held, item in _cut(*self._settings) if held == self._held)


def hold_out(items: Iterable[Any], share: float = 0.1, blocks: int = 10) -> tuple[Iterable[Any], Iterable[Any]]:
    """What is left, and `share` of the text in `blocks` blocks spread evenly over it, one at the end.

    `items` are documents, or anything else that counts one each and is never cut. Documents longer than a block are
    cut, at a space, into documents of their own. Everything is read three times in all, nothing is kept.
    """
    if not 0 < share < 1 or blocks < 1:
        raise UserError(f"a share of {share} in {blocks} blocks cannot be held out: use a share between 0 and 1")
    if iter(items) is items:
        items = list(items)
    total = whole = 0
    for item in items:
        total += _size(item)
        whole += not isinstance(item, str)
    if whole:
        blocks = max(1, min(blocks, int(share * whole)))
    if total < 2:
        raise UserError("there is too little to hold some of it out")
    return _Half(items, total, share, blocks, False), _Half(items, total, share, blocks, True)


def _size(item: Any) -> int:
    return len(item) if isinstance(item, str) else 1


def _cut(items: Iterable[Any], total: int, share: float, blocks: int) -> Iterator[tuple[bool, Any]]:
    """Each item, or piece of one, and whether it is held out."""
    block = total / blocks
    ends = [part for n in range(blocks) for part in ((n + 1 - share) * block, (n + 1) * block)]
    borders = [int(end) for end in ends[:-1]]  # behind an even number of them text is kept, behind an odd one held out
    at = passed = 0
    inside = False  # the last item was a Part
    for item in items:
        while not inside and passed < len(borders) and borders[passed] <= at:
            passed += 1
        rest, more = item, isinstance(item, Part)
        if more or inside or (isinstance(item, str) and len(item) > block * share):
            while passed < len(borders) and at + len(rest) > borders[passed]:
                space = _SPACE.search(rest, max(0, borders[passed] - at))
                if space is None:
                    break
                # Where a Part ended just here this is empty, and ends its document.
                yield passed % 2 == 1, str(rest[: space.start()])
                at, passed, rest = at + space.start(), passed + 1, rest[space.start() :]
        yield passed % 2 == 1, Part(rest) if more else rest
        at, inside = at + _size(rest), more
