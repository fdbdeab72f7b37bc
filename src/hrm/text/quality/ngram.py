"""An n-gram model of a text, of characters or words, interpolated over all orders (Witten and Bell 1991).

After a context h that was seen c(h) times, followed by T(h) different tokens, with h' the context without its first
token: P(w | h) = (c(hw) + T(h) P(w | h')) / (c(h) + T(h)). Below the single tokens, all and an unknown one are equal.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any

Tokens = str | tuple[str, ...]
"""Characters, or words."""
MOST = 2_000_000
"""Tokens that a model is made from; of a longer text, the first."""
MOST_CHARACTERS, MOST_WORDS = 8, 4
"""The largest orders that are tried."""


class NGram:
    """Counts of what follows on every context of up to `order` - 1 tokens; the parts do not run into each other."""

    def __init__(self, parts: Iterable[Tokens], order: int) -> None:
        self.order = order
        self.following: dict[Tokens, Counter[str]] = defaultdict(Counter)
        left = MOST
        for part in parts:
            part, left = part[:left], left - len(part[:left])
            for i, token in enumerate(part):
                for k in range(min(order - 1, i) + 1):
                    self.following[part[i - k : i]][token] += 1
        self.following = dict(self.following)
        self.totals = {context: counts.total() for context, counts in self.following.items()}
        self.size = len(next((counts for context, counts in self.following.items() if not context), ())) + 1
        """Different tokens, an unknown one included."""

    def probabilities(self, before: Tokens, token: str) -> list[float]:
        """P(token | the last k tokens before), for k = 0 to `order` - 1."""
        p, found = 1 / self.size, []
        for k in range(self.order):
            context = before[len(before) - k :] if k <= len(before) else None
            if context is not None and (counts := self.following.get(context)) is not None:
                kinds = len(counts)
                p = (counts[token] + kinds * p) / (self.totals[context] + kinds)
            found.append(p)
        return found

    def draw(self, before: Tokens, rng: Random) -> str:
        """A token that follows; never the unknown one."""
        for k in range(min(self.order - 1, len(before)), -1, -1):
            context = before[len(before) - k :]
            counts = self.following.get(context)
            if counts and (rng.random() * (self.totals[context] + len(counts)) < self.totals[context] or not k):
                return rng.choices(list(counts), list(counts.values()))[0]
        raise ValueError("a model of no text continues none")


def losses(model: NGram, parts: Iterable[Tokens]) -> list[float]:
    """Nats a token of other text for each order from 1 to the model's."""
    sums, count = [0.0] * model.order, 0
    for part in parts:
        for i, token in enumerate(part):
            before = part[max(0, i - model.order + 1) : i]
            for k, p in enumerate(model.probabilities(before, token)):
                sums[k] -= math.log(p)
            count += 1
    return [each / max(1, count) for each in sums]


def best_order(known: Sequence[Tokens], held_out: Sequence[Tokens], most: int) -> int:
    """The order up to `most` under which a model of the known parts finds the held-out ones likeliest."""
    found = losses(NGram(known, most), held_out)
    return 1 + found.index(min(found))


def write(model: NGram, characters: int, seed: int, progress: Callable[[int], Any] = lambda done: None) -> str:
    """Characters that a model of characters writes from the start of a text on."""
    rng, text = Random(seed), ""
    while len(text) < characters:
        text += model.draw(text[len(text) - min(len(text), model.order - 1) :], rng)
        if len(text) % 1000 == 0:
            progress(len(text))
    return text
