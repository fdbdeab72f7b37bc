"""Verbatim copies: of a training text in another text, and of a text in itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LEAST = 30
"""Characters that must agree in a row to count as a copy."""
_BASE = 0x9E3779B97F4A7C15  # odd, so that its powers can be divided out modulo 2**64


class Copies(NamedTuple):
    """Which characters stand in copies of at least LEAST characters, and the longest copy itself, or ""."""

    inside: np.ndarray
    """A truth value per character."""
    longest: str

    @property
    def share(self) -> float:
        return float(self.inside.mean()) if len(self.inside) else 0.0


class TrainingText:
    """A text that others may have copied from; it is hashed and sorted once."""

    def __init__(self, text: str) -> None:
        self._hashes = _Hashes(plain(text))
        windows = self._hashes.of(LEAST)
        self._order = np.argsort(windows)
        self._sorted = windows[self._order]

    def copies(self, text: str) -> Copies:
        """What of a text, read as `plain`, stands here too."""
        text = plain(text)
        hashes = _Hashes(text)
        windows = hashes.of(LEAST)
        starts = np.flatnonzero(_among(windows, self._sorted))
        # A longer copy begins where a least one does, in either text.
        ours = self._order[_among(self._sorted, np.unique(windows[starts]))]

        def still(length: int) -> np.ndarray:
            at = hashes.fitting(starts, length)
            known = np.unique(self._hashes.of(length, self._hashes.fitting(ours, length)))
            return at[_among(hashes.of(length, at), known)]

        return _copies(text, starts, still)


def repeats(text: str) -> Copies:
    """What of a text, read as `plain`, has stood earlier in the same text."""
    text = plain(text)
    hashes = _Hashes(text)
    windows = hashes.of(LEAST)
    order = np.argsort(windows, kind="stable")  # equal windows stay in the order of the text
    again = np.flatnonzero(windows[order][1:] == windows[order][:-1]) + 1
    both = np.unique(order[np.concatenate([again, again - 1])])

    def still(length: int) -> np.ndarray:
        at = hashes.fitting(both, length)
        _, which, counts = np.unique(hashes.of(length, at), return_inverse=True, return_counts=True)
        return at[counts[which] > 1]

    return _copies(text, order[again], still)


def plain(text: str) -> str:
    """The text with every run of white space as one space: a copy may break its lines elsewhere."""
    return " ".join(text.split())


def _copies(text: str, starts: np.ndarray, still: Callable[[int], np.ndarray]) -> Copies:
    """From the starts of all copies of LEAST characters, and a function that gives the starts for a larger length."""
    change = np.zeros(len(text) + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + LEAST, -1)
    inside = np.cumsum(change)[:-1] > 0
    if not len(starts):
        return Copies(inside, "")
    # A copy holds copies of all lesser lengths, so the longest is found by doubling, then halving.
    low, high, at = LEAST, 2 * LEAST, int(starts.min())
    while len(found := still(high)):
        low, high, at = high, 2 * high, int(found[0])
    while high - low > 1:
        middle = (low + high) // 2
        found = still(middle)
        low, high, at = (middle, high, int(found[0])) if len(found) else (low, middle, at)
    return Copies(inside, text[at : at + low])


class _Hashes:
    """Hashes of windows of any length, a text read once: differences of sums of c_i b^i, modulo 2**64."""

    def __init__(self, text: str) -> None:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        self._size = len(codes)
        self._sums = np.zeros(self._size + 1, np.uint64)
        np.cumsum((codes + np.uint64(1)) * _powers(_BASE, self._size), out=self._sums[1:])
        self._inverse = _powers(pow(_BASE, -1, 1 << 64), self._size)

    def of(self, length: int, at: np.ndarray | None = None) -> np.ndarray:
        """The hash of the window of a length at each place; default: all places."""
        if at is None:
            at = np.arange(max(self._size - length + 1, 0))
        return (self._sums[at + length] - self._sums[at]) * self._inverse[at]

    def fitting(self, at: np.ndarray, length: int) -> np.ndarray:
        """The places at which a window of a length ends inside the text."""
        return at[at + length <= self._size]


def _powers(base: int, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers)


def _among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which values are in a sorted array."""
    if not len(known):
        return np.zeros(len(values), bool)
    return known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
