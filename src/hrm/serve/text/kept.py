"""Caches of texts that have ended, for requests that begin with the same tokens, as the next turn of a talk does."""

from __future__ import annotations

from typing import NamedTuple

from hrm.text.model.budget import Budget
from hrm.text.model.cache import HRMCache

SHORTEST = 16
"""Common tokens below which reading them again is not worth a cache."""


class _Kept(NamedTuple):
    owner: str
    budget: Budget
    ids: list[int]
    cache: HRMCache


class KeptCaches:
    """The newest few. One is only for its owner, whose text it holds, and for an equal budget: under another one the
    same tokens would have been thought about differently."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: list[_Kept] = []

    def put(self, owner: str, budget: Budget, ids: list[int], cache: HRMCache) -> None:
        """Keep a cache of texts whose first tokens are `ids`."""
        held = cache.get_seq_length()
        if self.most and held >= SHORTEST and budget.state != "carry":
            self._kept = [*self._kept[1 - self.most :], _Kept(owner, budget, ids[:held], cache)][-self.most :]

    def take(self, owner: str, budget: Budget, ids: list[int]) -> tuple[HRMCache, int] | None:
        """The cache that holds most of the beginning of `ids`, cut to that, and how many tokens it holds."""
        fitting = [kept for kept in self._kept if (kept.owner, kept.budget) == (owner, budget)]
        best = max(fitting, key=lambda kept: _common(kept.ids, ids), default=None)
        if best is None or (same := min(_common(best.ids, ids), len(ids) - 1)) < SHORTEST:
            return None
        self._kept = [kept for kept in self._kept if kept is not best]
        if same < len(best.ids):
            best.cache.crop(same - len(best.ids))
        return best.cache, same

    def clear(self) -> None:
        """Drop all."""
        self._kept = []

    @property
    def caches(self) -> list[HRMCache]:
        """All that are held."""
        return [kept.cache for kept in self._kept]


def _common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
