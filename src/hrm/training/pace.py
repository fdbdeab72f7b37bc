"""How long the parts of a training take, and so how much time is left."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LATELY = 20
"""Updates of which the mean counts."""


class Pace:
    """Seconds that an update, a measurement or a save takes, and those of everything from the beginning on."""

    def __init__(self) -> None:
        self.last: dict[str, float] = defaultdict(float)
        """Of each part the seconds that it takes, for an update the mean of the latest."""
        self._told = time.perf_counter()
        self._lately: deque[float] = deque(maxlen=_LATELY)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside is one of these; one that was broken off does not count."""
        start = time.perf_counter()
        yield
        self.last[name] = time.perf_counter() - start
        if name == "update":
            self._lately.append(self.last[name])
            self.last[name] = sum(self._lately) / len(self._lately)

    def left(self, parts: Mapping[str, int]) -> float:
        """Seconds for this many of each part."""
        return sum(count * self.last[name] for name, count in parts.items())

    def spent(self) -> float:
        """Seconds of everything since this was last asked."""
        now = time.perf_counter()
        seconds, self._told = now - self._told, now
        return seconds
