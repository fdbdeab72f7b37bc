"""A cloze: how well an n-gram model of the reference's words, read in both directions, fills in the words of a text.

Each word is hidden in turn and guessed from those before and after it, P(w | before, after) being in proportion to
P(w | before) P(w | after) / P(w). That is no understanding: it asks whether words stand where they stand in natural
text of this kind, a few words to either side. 100 is held-out text of the reference, 0 the same with the words of each
block shuffled, which keeps what shuffling characters does not: the words themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.text.quality.measures import blocks_of, words_of
from hrm.text.quality.ngram import MOST_WORDS, NGram, best_order
from hrm.text.quality.scale import LEAST_BLOCKS, Interval, halves, interval_of, mean_of, resampled

_MOST_BLOCKS = 200
"""Of a longer text, this many blocks at equal distances are filled in."""


@dataclass(frozen=True)
class Part(Record):
    """One number of a cloze: of a text, of natural text, of its words shuffled, and the score as an `Interval`."""

    value: float
    natural: float
    shuffled: float
    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Filled(Record):
    """How well the words of a text are guessed."""

    words: int
    order: int
    """Of the n-gram models: the word and how many before or after it."""
    top_1: Part
    """Share of the words that are the likeliest guess; one that the reference has not is never guessed."""
    top_5: Part
    log_probability: Part
    """Mean, in nats."""
    overall: Interval
    """The mean score of the three."""


class Cloze:
    """The two models of one half of a reference, and the ends of the scale from the other half."""

    def __init__(self, text: str, size: int = 1000, seed: int = 0) -> None:
        self.size, self._seed = size, seed
        known, held_out = halves(blocks_of(text, size))
        words = [tuple(words_of(block)) for block in known]
        fit, tried = words[: -len(words) // 5], words[-len(words) // 5 :]
        self.order = best_order(fit, tried, MOST_WORDS)
        self._before, self._after = _Guess(words, self.order), _Guess([part[::-1] for part in words], self.order)
        rng = np.random.default_rng(seed)
        natural = [words_of(block) for block in _some(held_out)]
        shuffled = [[block[i] for i in rng.permutation(len(block))] for block in natural]
        ends = [np.array([self._fill(block) for block in blocks if block]) for blocks in (natural, shuffled)]
        if not len(ends[0]):
            raise UserError("the reference has no words to hide: leave out --cloze")
        self.natural, self.shuffled = (values.mean(0) for values in ends)
        error = np.sqrt(sum(values.var(0) for values in ends) / len(ends[0]))
        self.tells = self.natural - self.shuffled > 2 * error
        """Which of the three tell natural text from shuffled words here; the others have no score."""

    def judge(self, name: str, text: str) -> Filled:
        """What a cloze says of a text, with 95 % intervals; UserError for a text too short or without words."""
        blocks = [words for block in _some(blocks_of(text, self.size)) if (words := words_of(block))]
        if len(blocks) < LEAST_BLOCKS:
            raise UserError(
                f"{name} has too few blocks of words for a cloze: give at least {LEAST_BLOCKS * self.size:,}"
            )
        values = np.array([self._fill(block) for block in blocks])
        drawn = resampled(len(blocks), self._seed)
        both = np.vstack([values.mean(0), drawn @ values])
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = 100 * np.clip((both - self.shuffled) / (self.natural - self.shuffled), 0, 1)
        scores = np.where(self.tells, scores, np.nan)
        first, five, log_p = (
            Part(
                float(values[:, i].mean()), float(self.natural[i]), float(self.shuffled[i]),
                **interval_of(scores[:, i]),
            )
            for i in range(3)
        )  # fmt: skip
        return Filled(sum(map(len, blocks)), self.order, first, five, log_p, interval_of(mean_of(scores)))

    def _fill(self, words: Sequence[str]) -> tuple[float, float, float]:
        """Share right among the top 1 and 5, and mean log-probability, of the words of a block."""
        index, unknown, reach = self._before.index, self._before.size - 1, self.order - 1
        first = five = total = 0.0
        for i, word in enumerate(words):
            before = self._before.after(tuple(words[max(0, i - reach) : i]))
            after = self._after.after(tuple(words[i + 1 : i + 1 + reach][::-1]))
            joint = before * after / self._before.alone
            at = index.get(word, unknown)
            rank = int((joint[:unknown] >= joint[at]).sum()) - 1 if at != unknown else unknown
            first, five = first + (rank < 1), five + (rank < 5)
            total += float(np.log(joint[at] / joint.sum()))
        return first / len(words), five / len(words), total / len(words)


class _Guess:
    """An n-gram model whose guesses are whole distributions, [words + an unknown one]."""

    def __init__(self, parts: Sequence[tuple[str, ...]], order: int) -> None:
        model = NGram(parts, order)
        self.index = {word: i for i, word in enumerate(sorted(model.following.get((), ())))}  # in both directions
        self.size, self.order = model.size, order
        self._known = {
            context: (np.array([self.index[word] for word in counts]), np.array([*counts.values()], float))
            for context, counts in model.following.items()
        }
        self.alone = self._on(np.full(self.size, 1 / self.size), ())

    def after(self, context: tuple[str, ...]) -> np.ndarray:
        """P(w | context), as `NGram.probabilities` has it."""
        p = self.alone
        for k in range(1, len(context) + 1):
            p = self._on(p, context[len(context) - k :])
        return p

    def _on(self, p: np.ndarray, context: tuple[str, ...]) -> np.ndarray:
        found = self._known.get(context)
        if found is None:
            return p
        at, counts = found
        mixed = len(counts) * p
        mixed[at] += counts
        return mixed / (counts.sum() + len(counts))


def _some(blocks: list[str]) -> list[str]:
    chosen = np.linspace(0, len(blocks) - 1, min(len(blocks), _MOST_BLOCKS)).round().astype(int) if blocks else ()
    return [blocks[i] for i in chosen]
