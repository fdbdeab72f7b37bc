"""Durations of the parts of a training, and the time left that follows from them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_LATELY = 20
"""The mean is over this many recent updates."""


class Pace:
    """Measures the seconds of an update, a measurement and a save, and of the training as a whole."""

    def __init__(self) -> None:
        self.last: dict[str, float] = defaultdict(float)
        """Seconds of each part: the latest time, or for an update the mean of recent ones."""
        self._told = time.perf_counter()
        self._lately: deque[float] = deque(maxlen=_LATELY)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as one such part; a block that raises does not count."""
        start = time.perf_counter()
        yield
        self.last[name] = time.perf_counter() - start
        if name == "update":
            self._lately.append(self.last[name])
            self.last[name] = sum(self._lately) / len(self._lately)

    def left(self, parts: Mapping[str, int]) -> float:
        """Estimated seconds for this many of each part."""
        return sum(count * self.last[name] for name, count in parts.items())

    def spent(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        seconds, self._told = now - self._told, now
        return seconds
