"""One scale for all measures: 100 is held-out text of the reference, 0 the same text with its characters shuffled."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.text.quality.copying import TrainingText, repeats
from hrm.text.quality.measures import MEASURES, Reference, blocks_of, measure

LEAST_BLOCKS = 4
"""A text of fewer blocks is not judged."""
FLAG = 0.1
"""A text is flagged when more than this share of it is copied from the training text, or from itself."""
GROUPS = tuple(dict.fromkeys(one.group for one in MEASURES))
COUNTED = tuple(group for group in GROUPS if group != "characters")
"""Shuffling keeps the characters' distribution: its 0 is text of equally frequent characters, and it is in no mean."""
_STRETCHES = 20  # of the reference, in turn known and held out
_RESAMPLES = 1000


@dataclass(frozen=True)
class Interval(Record):
    """A score from 0 to 100 with its 95 % interval; None where nothing is told."""

    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Measure(Record):
    """What a measure says of a text, of natural and of shuffled text, and the score as an `Interval`."""

    definition: str
    value: float
    natural: float
    shuffled: float
    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Judged(Record):
    """What is known of a text."""

    name: str
    characters: int
    blocks: int
    overall: Interval
    """The mean of the groups COUNTED."""
    groups: dict[str, Interval]
    """Means of their measures."""
    measures: dict[str, Measure]
    copied: float | None
    """The share of the text in verbatim copies of the training text."""
    longest_copy: str | None
    repeated: float
    """That in copies of the text before."""
    longest_repeat: str
    flags: list[str]


class Scale:
    """What the measures say of natural and of shuffled text in blocks of `size` characters. Half of the text, ten of
    twenty stretches, is the reference; the other half gives both ends. `words` are taken as real too. UserError for a
    text too short."""

    def __init__(self, name: str, text: str, size: int = 1000, words: Collection[str] = (), seed: int = 0) -> None:
        blocks = blocks_of(text, size)
        if len(blocks) < _STRETCHES:
            least = f"give at least {_STRETCHES * size:,}, {_STRETCHES} times --block"
            raise UserError(f"{name} has {len(text):,} characters, too few for a reference: {least}")
        self.size, self.name, self._seed = size, name, seed
        known, held_out = halves(blocks)
        self.reference = Reference(known, words)
        rng = np.random.default_rng(seed)
        natural = measure(held_out, self.reference)
        bottom = measure(["".join(rng.permutation(list(block))) for block in held_out], self.reference)
        alphabet = sorted(set(text))
        even = measure(["".join(rng.choice(alphabet, size)) for _ in held_out], self.reference)
        apart = [one.group not in COUNTED for one in MEASURES]
        bottom[:, apart] = even[:, apart]
        self.natural, self.shuffled = natural.mean(0), bottom.mean(0)
        self.worst = np.array([one.worst(size) if one.worst else np.inf for one in MEASURES])
        error = np.sqrt((natural.var(0) + bottom.var(0)) / len(held_out))
        toward = np.sign(self.worst - self.natural)
        self.tells = (self.natural - self.shuffled) * toward > 2 * error
        """Which measures tell natural from shuffled text in this reference; the others have no score."""

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Values of measures as 0 to 100, [..., measures]; nan for a measure that tells nothing here. Less than natural
        text is measured toward shuffled text, more toward the worst, or not held against a text."""
        with np.errstate(divide="ignore", invalid="ignore"):
            near = (values - self.shuffled) / (self.natural - self.shuffled)
            far = 1 - (values - self.natural) / (self.worst - self.natural)
        scores = 100 * np.clip(np.minimum(near, far), 0, 1)
        return np.where(self.tells, scores, np.nan)

    def judge(self, name: str, text: str, training: TrainingText | None = None) -> Judged:
        """The scores of a text with 95 % intervals (its blocks resampled; the ends stand), and what it has copied;
        UserError for a text too short."""
        blocks = blocks_of(text, self.size)
        if len(blocks) < LEAST_BLOCKS:
            least = f"give at least {LEAST_BLOCKS * self.size:,}, or a smaller --block than {self.size}"
            raise UserError(f"{name} has {len(text):,} characters, too few to judge: {least}")
        values = measure(blocks, self.reference)
        drawn = resampled(len(blocks), self._seed)
        # Row 0 is the text itself, the others are resampled.
        scores = self.scores(np.vstack([values.mean(0), drawn @ values]))
        groups = {group: mean_of(scores[:, [one.group == group for one in MEASURES]]) for group in GROUPS}
        overall = mean_of(np.stack([groups[group] for group in COUNTED], 1))
        own = repeats(text)
        copies = training.copies(text) if training else None
        flags = {"copies": copies is not None and copies.share > FLAG, "repeats": own.share > FLAG}
        measures = {
            one.name: Measure(
                one.definition, float(values[:, i].mean()), float(self.natural[i]), float(self.shuffled[i]),
                **interval_of(scores[:, i]),
            )
            for i, one in enumerate(MEASURES)
        }  # fmt: skip
        return Judged(
            name=name, characters=len(text), blocks=len(blocks), overall=interval_of(overall),
            groups={group: interval_of(column) for group, column in groups.items()}, measures=measures,
            copied=None if copies is None else copies.share, longest_copy=None if copies is None else copies.longest,
            repeated=own.share, longest_repeat=own.longest, flags=[flag for flag, up in flags.items() if up],
        )  # fmt: skip


def halves(blocks: Sequence[str]) -> tuple[list[str], list[str]]:
    """The blocks of a reference that are known, and those held out: every second of its stretches."""
    odd = np.arange(len(blocks)) * _STRETCHES // max(1, len(blocks)) % 2 == 1
    return [b for b, out in zip(blocks, odd, strict=True) if not out], [
        b for b, out in zip(blocks, odd, strict=True) if out
    ]


def resampled(count: int, seed: int) -> np.ndarray:
    """Weights of the blocks in each resample, [resamples, blocks]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), _RESAMPLES) / count


def mean_of(scores: np.ndarray) -> np.ndarray:
    """Over the measures that tell something, [resamples]; nan without any."""
    telling = scores[:, ~np.isnan(scores).any(0)]
    return telling.mean(1) if telling.shape[1] else np.full(len(scores), np.nan)


def interval_of(column: np.ndarray) -> Interval:
    if np.isnan(column).any():
        return Interval(None, None, None)
    low, high = np.quantile(column[1:], (0.025, 0.975))
    return Interval(float(column[0]), float(low), float(high))
