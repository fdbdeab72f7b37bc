"""Measures of a text's quality, each taken of one block of it and compared with a reference text.

The docstring of a measure is its definition. All look at the text alone: no model judges another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

MOST_BLOCKS = 2000
"""Of a longer text, this many blocks at equal distances are measured."""
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_CLOSERS = "\"'”’»)]}*_"
_SENTENCE_END = re.compile(rf"(?<=[.!?…])[{re.escape(_CLOSERS)}]*\s+|(?<=[。！？])[」』”]?|\n\s*\n")
_MARKS = tuple(".!?…。！？")
_PAIRS = {")": "(", "]": "[", "}": "{", "”": "“", "»": "«", "」": "「", "』": "『"}
"""Single quotes are left out: nothing tells them from apostrophes."""
_OPENERS = tuple(_PAIRS.values())
_WINDOW = 50  # words


class Reference:
    """What is known of the reference: its characters, trigrams, words and lengths of sentences."""

    def __init__(self, blocks: Sequence[str], words: Collection[str] = ()) -> None:
        self.characters = _Direction(Counter("".join(blocks)))
        self.trigrams = _Direction(Counter(gram for block in blocks for gram in _grams(block, 3)))
        self.words = {word for block in blocks for word in words_of(block)} | set(words)
        self.lengths = np.sort(np.concatenate([_lengths(block) for block in blocks]))
        self.spread = _spread(self.lengths)


class _Direction:
    """A vector of counts, for cosines."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts, self._norm = counts, _norm(counts.values())

    def cosine(self, other: Counter[str]) -> float:
        dot = sum(count * self._counts.get(key, 0) for key, count in other.items())
        return dot / max(self._norm * _norm(other.values()), 1e-12)


def characters(block: str, reference: Reference) -> float:
    """Cosine of the counts of characters with the reference's."""
    return reference.characters.cosine(Counter(block))


def trigrams(block: str, reference: Reference) -> float:
    """Cosine of the counts of three characters in a row with the reference's."""
    return reference.trigrams.cosine(Counter(_grams(block, 3)))


def real_words(block: str, reference: Reference) -> float:
    """Share of the letters that stand in words of the reference, or of the word list given, whatever their case."""
    words = words_of(block)
    # Of letters, not of words: chance alone makes short words.
    return sum(len(word) for word in words if word in reference.words) / max(sum(map(len, words)), 1)


def sentence_lengths(block: str, reference: Reference) -> float:
    """1 minus the normalized energy distance of the logarithms of sentence lengths, in words, from the reference's."""
    lengths = _lengths(block)
    between = np.abs(lengths[:, None] - reference.lengths[None, :]).mean()
    return float((_spread(lengths) + reference.spread) / max(2 * between, 1e-12))


def sentence_form(block: str, reference: Reference) -> float:
    """Share of the sentences that begin with a capital letter and end with a mark such as . ! or ?"""
    bodies = [re.sub(r"^[\W_]+", "", sentence) for sentence in _sentences(block)]  # from the first letter or digit
    formed = [body[:1].isupper() and body.rstrip(_CLOSERS).endswith(_MARKS) for body in bodies]
    return sum(formed) / max(len(formed), 1)


def pairs(block: str, reference: Reference) -> float:
    """Share of the double quotation marks and brackets that have their partner in the same paragraph; 1 without any."""
    found = [_matched(paragraph) for paragraph in re.split(r"\n\s*\n", block)]
    marks = sum(total for _, total in found)
    return sum(matched for matched, _ in found) / marks if marks else 1.0


def repeated_grams(block: str, reference: Reference) -> float:
    """Share of the runs of eight characters that have occurred before in the block."""
    grams = list(_grams(block, 8))
    return 1 - len(set(grams)) / max(len(grams), 1)


def longest_repeat(block: str, reference: Reference) -> float:
    """Length of the longest run of characters that occurs twice in the block, as a logarithm to base 2."""
    low, high = 0, len(block)
    while high - low > 1:
        middle = (low + high) // 2
        grams = len(block) - middle + 1
        low, high = (middle, high) if len(set(_grams(block, middle))) < grams else (low, middle)
    return float(np.log2(1 + low))


def distinct_words(block: str, reference: Reference) -> float:
    """Mean share of different ones among all words, pairs and triples of words (distinct-1, -2 and -3)."""
    words = words_of(block)
    runs = [[tuple(words[i : i + n]) for i in range(len(words) - n + 1)] for n in (1, 2, 3)]
    return float(np.mean([len(set(each)) / max(len(each), 1) for each in runs]))


def type_token_ratio(block: str, reference: Reference) -> float:
    """Mean share of different words in windows of 50 words, or in the whole block if it has fewer."""
    words = words_of(block)
    windows = [words[i : i + _WINDOW] for i in range(0, max(len(words) - _WINDOW, 0) + 1, 5)]
    return float(np.mean([len(set(window)) / max(len(window), 1) for window in windows]))


class Measure(NamedTuple):
    """A measure, the group whose mean it enters, and the worst value on the far side of the natural one, if any."""

    of: Callable[[str, Reference], float]
    group: str
    worst: Callable[[int], float] | None = None
    """From the characters of a block: what a text scores that says one thing over and over."""

    @property
    def name(self) -> str:
        return self.of.__name__

    @property
    def definition(self) -> str:
        return self.of.__doc__ or ""


MEASURES = (
    Measure(characters, "characters"),
    Measure(trigrams, "trigrams"),
    Measure(real_words, "words"),
    Measure(sentence_lengths, "sentences"),
    Measure(sentence_form, "sentences"),
    Measure(pairs, "sentences"),
    Measure(repeated_grams, "repetition", lambda size: 1.0),
    Measure(longest_repeat, "repetition", lambda size: float(np.log2(size))),
    Measure(distinct_words, "diversity", lambda size: 0.0),
    Measure(type_token_ratio, "diversity", lambda size: 0.0),
)


def blocks_of(text: str, size: int) -> list[str]:
    """The text in blocks of `size` characters, what is left over dropped; at most MOST_BLOCKS of them."""
    count = len(text) // size
    chosen = np.linspace(0, count - 1, min(count, MOST_BLOCKS)).round().astype(int) if count else ()
    return [text[i * size : (i + 1) * size] for i in chosen]


def measure(blocks: Sequence[str], reference: Reference) -> np.ndarray:
    """Every measure of every block, [blocks, measures]."""
    return np.array([[one.of(block, reference) for one in MEASURES] for block in blocks])


def words_of(text: str) -> list[str]:
    """Runs of letters, inner apostrophes included, in lower case."""
    return _WORD.findall(text.lower().replace("’", "'"))


def _grams(text: str, n: int) -> Iterable[str]:
    return (text[i : i + n] for i in range(len(text) - n + 1))


def _sentences(block: str) -> list[str]:
    """Its sentences, without the first and last, which the edges of the block have cut, if others are left."""
    edges = [0, *(match.end() for match in _SENTENCE_END.finditer(block)), len(block)]
    found = [piece for start, end in pairwise(edges) if (piece := block[start:end].strip())]
    return found[1:-1] or found


def _lengths(block: str) -> np.ndarray:
    return np.log1p([len(words_of(sentence)) for sentence in _sentences(block)] or [0])


def _spread(values: np.ndarray) -> float:
    """Mean distance of two different values; unlike the mean over all pairs it does not depend on their number."""
    n = len(values)
    return float(2 * (np.sort(values) * (2 * np.arange(n) - n + 1)).sum() / max(n * (n - 1), 1))


def _norm(values: Iterable[int]) -> float:
    return float(np.sqrt(sum(value * value for value in values)))


def _matched(paragraph: str) -> tuple[int, int]:
    """Marks with a partner, and all marks. A straight quote opens or closes by what stands beside it."""
    waiting: list[str] = []
    matched = total = 0
    for i, mark in enumerate(paragraph):
        if mark == '"':
            before, after = paragraph[i - 1 : i] or " ", paragraph[i + 1 : i + 2] or " "
            opens = not after.isspace() and (before.isspace() or before in _OPENERS)
            mark = "“" if opens else " " if before.isspace() else "”"  # between two spaces it does neither
            total += mark == " "
        if mark in _OPENERS:
            total += 1
            waiting.append(mark)
        elif mark in _PAIRS:
            total += 1
            if waiting and waiting[-1] == _PAIRS[mark]:
                waiting.pop()
                matched += 2
    return matched, total
