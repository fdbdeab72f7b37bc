"""Some of a text set aside for measuring."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from hrm.files.reading import UserError, quoted
from hrm.text.data.sources import Again, DocumentPart

NEAR, FAR = 30, 200
"""Characters within which a space to cut at is looked for in small and large texts; without one a cut is anywhere."""
LEAST, LEAST_SHARE, ENOUGH = 200, 0.01, 50_000
"""Characters that tell something, the share that does, and the characters from which on a smaller share does too."""
T = TypeVar("T")
_SPACE = re.compile(r"\s")
_LINE, _REMEMBERED = 40, 1 << 20  # bytes of a line that is no accident when it comes again; lines to compare with


def hold_out(items: Iterable[T], share: float = 0.1, blocks: int = 10) -> tuple[Iterable[T], Iterable[T]]:
    """What is left, and `share` of the text in `blocks` blocks spread evenly over it, one at the end. `items` are
    documents, or anything else that counts one each and is never cut. Documents longer than a block are cut into
    documents of their own, at a space if one is near. All is read three times, nothing is kept."""
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

    def part(held_out: bool) -> Iterable[T]:
        return Again(lambda: (item for held, item in _cut(items, total, share, blocks) if held == held_out))

    return part(False), part(True)


def doubts(kept: Iterable[Any], held: Iterable[Any]) -> Iterator[str]:
    """A sentence for each reason why what is held out may say little: there is too little, or it is trained on too. Of
    texts, lines are compared; of conversations (lists of messages), what is asked. Both are read once."""
    seen: dict[int, str] = {}
    sizes: Counter[int] = Counter()
    size = count = 0
    for line, length in _units(held):
        size, count = size + length, count + 1
        if line and (len(seen) < _REMEMBERED or hash(line) in seen):
            seen.setdefault(hash(line), line)
            sizes[hash(line)] += length
    texts, rest, again = size > count, 0, set()
    for line, length in _units(kept):
        rest += length
        if hash(line) in seen:
            again.add(hash(line))
    share = size / max(1, size + rest)
    unit = "characters" if texts else "conversations"
    if (texts and size < LEAST) or (share < LEAST_SHARE and size < (ENOUGH if texts else 100)):
        yield (
            f"only {size:,} {unit} ({share:.1%}) are held out, too little to tell how well it learns: hold out more "
            "with --holdout (of hrm train: --text.holdout), or measure on another file"
        )
    common = sum(sizes[key] for key in again) / max(1, size)
    if common >= LEAST_SHARE:
        what = "text stands, line for line, in the training text" if texts else "questions are in the training part"
        example = quoted(max((seen[key] for key in again), key=len))
        yield f"{common:.1%} of the held-out {what} too, which makes what is measured too good: {example} for example"


def _units(items: Iterable[Any]) -> Iterator[tuple[str, int]]:
    """Lines with their sizes, "" for those too short to matter; or what conversations ask, which count one each."""
    begun = ""
    for item in items:
        if not isinstance(item, str):
            yield "\n".join(message["content"] for message in item if message["role"] != "assistant"), 1
            continue
        lines = (begun + item).splitlines(keepends=True)
        # A line that continues in the next DocumentPart; of one without an end, nothing is kept.
        begun = lines.pop() if isinstance(item, DocumentPart) and lines and len(lines[-1]) < 10_000 else ""
        for line in lines:
            plain = " ".join(line.split())
            yield (plain if len(plain.encode("utf-8", "surrogatepass")) >= _LINE else ""), len(line)


def _size(item: object) -> int:
    return len(item) if isinstance(item, str) else 1


def _cut(items: Iterable[Any], total: int, share: float, blocks: int) -> Iterator[tuple[bool, Any]]:
    """Each item, or piece of one, and whether it is held out."""
    block = total / blocks
    look = int(min(FAR, max(NEAR, share * block / 4)))
    ends = [part for n in range(blocks) for part in ((n + 1 - share) * block, (n + 1) * block)]
    borders = [int(end) for end in ends[:-1]]  # behind an even number of them text is kept, behind an odd one held out
    at = passed = 0
    inside = False  # the last item was a Part
    for item in items:
        while not inside and passed < len(borders) and borders[passed] <= at:
            passed += 1
        rest, more = item, isinstance(item, DocumentPart)
        if more or inside or (isinstance(item, str) and len(item) > block * share):
            while passed < len(borders) and at + len(rest) > borders[passed]:
                begin = max(0, borders[passed] - at)
                space = _SPACE.search(rest, begin, begin + look)
                if space is None and more and len(rest) < begin + look:
                    break  # there may be one in the next Part
                cut = begin if space is None else space.start()
                # Where a Part ended just here this is empty, and ends its document.
                yield passed % 2 == 1, str(rest[:cut])
                at, passed, rest = at + cut, passed + 1, rest[cut:]
        yield passed % 2 == 1, DocumentPart(rest) if more else rest
        at, inside = at + _size(rest), more
