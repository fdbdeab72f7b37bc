"""The numbering of keys and values: which slots the visits of a segment write and read."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from hrm.core.recurrence import Schedule


class Slots(NamedTuple):
    """Where the layers of a segment's visits store keys and values. A home is a slot's number within its segment."""

    homes: tuple[int, ...]
    """The home of every layer of every visit, in order."""
    first: tuple[bool, ...]
    """Whether each of them writes its home; later visits with the same home read it."""
    share_segments: bool

    @property
    def size(self) -> int:
        """Number of homes in a segment."""
        return max(self.homes) + 1

    @property
    def shared(self) -> bool:
        """Whether any visit reads what an earlier one wrote."""
        return self.share_segments or not all(self.first)

    def count(self, segments: int) -> int:
        """Number of slots for this many segments."""
        return self.size if self.share_segments else self.size * segments


@lru_cache
def slots_of(n_fast: int, n_slow: int, schedule: Schedule, share_cycles: bool, share_segments: bool) -> Slots:
    """The slots of a segment: without sharing one per layer of every visit, as in `hrm_text`."""
    homes: list[int] = []
    first: list[bool] = []
    known: dict[tuple[str, int], int] = {}
    size = 0
    for visit in schedule.visits(n_fast, n_slow):
        for layer in range(n_fast if visit.role == "L" else n_slow):
            home = known.get((visit.role, layer)) if share_cycles else None
            first.append(home is None)
            homes.append(size if home is None else home)
            known[visit.role, layer] = homes[-1]
            size += home is None
    return Slots(tuple(homes), tuple(first), share_segments)
