"""Questions with a dial for depth: one small rule, applied as often as a question has hops. Four kinds:

- `sum`: digits; after each the sum so far, modulo 10. `| 3 8 4` asks for 3, 1 and 5.
- `permutations`: swaps of five places (all of S5 in the end); after each the arrangement so far. `| ab bc` asks for
  `bacde` and `bcade`.
- `chain`: the links of two chains of letters, shuffled; from a letter the end of its chain. `k b m e b z e q ? k` asks
  for `z`.
- `reach`: the links of two trees, shuffled, and a root; of a letter whether the root leads to it. `yes` or `no`.

The number of hops is no token: a question of more hops needs no new word. Whoever reads a prompt answers with the next
token; training rows ask at every place that has an answer. Questions of the first two kinds stand one after another in
a row and see each other, so that more hops are no new distance between tokens either.
"""

from __future__ import annotations

import hashlib
import itertools
import string
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from hrm.files.npy import IGNORE
from hrm.files.ranges import Range
from hrm.files.reading import UserError, nearest
from hrm.text.data.packed import Batch
from hrm.text.data.tokenizers import train_words
from hrm.training.randomness import uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ROWS, _HOPS = 21, 22
_TEST = 1 << 32
"""Between the seeds of training and of test questions."""


def numbers(seed: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Uniforms in [0, 1) [rows, columns], a pure function of (seed, row): SplitMix64."""
    with np.errstate(over="ignore"):
        x = np.full((1, columns), np.uint64(seed * 0xD1342543DE82EF95 % (1 << 64))) + np.arange(
            columns, dtype=np.uint64
        )
        x = _mixed(x) + rows.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        return (_mixed(x) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Asked(NamedTuple):
    """Questions of one number of hops: tokens [n, p], and the answer after each [n, p], -100 where none is asked."""

    tokens: np.ndarray
    labels: np.ndarray


class HopTask(ABC):
    """One kind of question. Tokens are numbers of `words`, in which the end of a document is 0."""

    words: ClassVar[Sequence[str]]
    most: ClassVar[int]
    """Hops that a question can have."""
    chance: ClassVar[float]
    """The share right of who guesses among what the question's form leaves open."""
    apart: ClassVar[bool] = True
    """Whether the questions of a row are kept from seeing each other."""

    @abstractmethod
    def columns(self, hops: int) -> int:
        """Random numbers that a question takes."""

    @abstractmethod
    def ask(self, hops: int, u: np.ndarray, alone: bool) -> Asked:
        """Questions from uniforms [n, columns]. `alone`: one answer, the last, which takes all the hops; else
        everything is asked that the question can be asked."""

    @abstractmethod
    def one_step(self, asked: Asked) -> np.ndarray:
        """What is answered to the last question of each row [n] by who takes one step and stops."""

    @abstractmethod
    def check(self, tokens: Sequence[int]) -> int:
        """The answer to a question, found step by step from its tokens alone."""

    def id(self, word: str) -> int:
        """The token of a word."""
        return self.words.index(word) + 1

    def length(self, hops: int, alone: bool = False) -> int:
        """Tokens of a question."""
        return self.ask(hops, np.zeros((1, self.columns(hops))), alone).tokens.shape[1]


class Sum(HopTask):
    """Running sums modulo 10."""

    words = (*string.digits, "|")
    most, chance, apart = 1000, 0.1, False

    def columns(self, hops: int) -> int:
        return hops

    def ask(self, hops: int, u: np.ndarray, alone: bool) -> Asked:
        digits = (u * 10).astype(np.int64)
        return _running(digits + 1, digits.cumsum(1) % 10 + 1, self.id("|"), alone)

    def one_step(self, asked: Asked) -> np.ndarray:
        return asked.tokens[:, -1]

    def check(self, tokens: Sequence[int]) -> int:
        return sum(token - 1 for token in _since(tokens, self.id("|"))) % 10 + 1


_PLACES = "abcde"
_SWAPS = list(itertools.combinations(range(5), 2))
_ORDERS = list(itertools.permutations(range(5)))


class Permutations(HopTask):
    """The arrangement of five things after each of some swaps of two places."""

    words = (
        *(_PLACES[i] + _PLACES[j] for i, j in _SWAPS),
        *("".join(_PLACES[i] for i in order) for order in _ORDERS),
        "|",
    )
    most, chance, apart = 1000, 1 / 60, False
    """The number of swaps says whether an arrangement is even: 60 are left."""
    _number = np.full((5,) * 5, -1)
    _number[tuple(np.array(_ORDERS).T)] = np.arange(120)

    def columns(self, hops: int) -> int:
        return hops

    def ask(self, hops: int, u: np.ndarray, alone: bool) -> Asked:
        swaps = (u * len(_SWAPS)).astype(np.int64)
        return _running(swaps + 1, self._after(swaps) + len(_SWAPS) + 1, self.id("|"), alone)

    def _after(self, swaps: np.ndarray) -> np.ndarray:
        """The number of the arrangement after each swap [n, k]."""
        pairs, every = np.array(_SWAPS), np.arange(len(swaps))
        order, found = np.tile(np.arange(5), (len(swaps), 1)), np.empty_like(swaps)
        for k in range(swaps.shape[1]):
            i, j = pairs[swaps[:, k]].T
            order[every, i], order[every, j] = order[every, j].copy(), order[every, i].copy()
            found[:, k] = self._number[tuple(order.T)]
        return found

    def one_step(self, asked: Asked) -> np.ndarray:
        return self._after(asked.tokens[:, -1:] - 1)[:, 0] + len(_SWAPS) + 1

    def check(self, tokens: Sequence[int]) -> int:
        things = list(_PLACES)
        for token in _since(tokens, self.id("|")):
            i, j = (_PLACES.index(place) for place in self.words[token - 1])
            things[i], things[j] = things[j], things[i]
        return self.id("".join(things))


class Chain(HopTask):
    """The end of the chain on which a letter lies; there are two, equally long."""

    words = (*string.ascii_lowercase, "?")
    most, chance = 12, 0.5

    def columns(self, hops: int) -> int:
        return 26 + 4 * hops

    def ask(self, hops: int, u: np.ndarray, alone: bool) -> Asked:
        letters = u[:, :26].argsort(1)[:, : 2 * (hops + 1)].reshape(len(u), 2, hops + 1)
        links = np.stack((letters[:, :, :-1], letters[:, :, 1:]), -1).reshape(len(u), 2 * hops, 2)
        ends = np.repeat(letters[:, :, -1], hops, axis=1)
        shuffled = u[:, 26 : 26 + 2 * hops].argsort(1)
        given = np.take_along_axis(links, shuffled[:, :, None], 1).reshape(len(u), -1)
        if alone:
            asked, answers = letters[:, :1, 0], letters[:, 0, -1:]
        else:
            order = u[:, 26 + 2 * hops :].argsort(1)
            asked, answers = (np.take_along_axis(part, order, 1) for part in (links[:, :, 0], ends))
        return _asked(given, self.id("?"), asked, answers)

    def one_step(self, asked: Asked) -> np.ndarray:
        return _next_of(asked.tokens, self.id("?"))

    def check(self, tokens: Sequence[int]) -> int:
        at, links = tokens[-1], _links(tokens, self.id("?"))
        while at in links:
            at = links[at]
        return at


class Reach(HopTask):
    """Whether a root leads to a letter; beside its tree there is another, equally large."""

    words = (*string.ascii_letters, "?", "yes", "no")
    most, chance = 16, 0.5

    def columns(self, hops: int) -> int:
        side = -(-hops // 2)
        links = 2 * (hops + side)
        return 52 + 2 * side + 2 * links + 1

    def ask(self, hops: int, u: np.ndarray, alone: bool) -> Asked:
        n, side = len(u), -(-hops // 2)
        each, links = hops + 1 + side, 2 * (hops + side)
        letters = u[:, :52].argsort(1)[:, : 2 * each].reshape(n, 2, each)
        at = 52
        # A path of all the hops, and leaves that hang from it above its end.
        places = (u[:, at : at + 2 * side] * hops).astype(np.int64).reshape(n, 2, side)
        at += 2 * side
        path = np.tile(np.arange(hops), (n, 2, 1))
        parents = np.take_along_axis(letters, np.concatenate((path, places), 2), 2)
        pairs = np.stack((parents, letters[:, :, 1:]), -1).reshape(n, links, 2)
        given = np.take_along_axis(pairs, u[:, at : at + links].argsort(1)[:, :, None], 1).reshape(n, -1)
        at += links
        says = np.repeat(np.array([[self.id("yes"), self.id("no")]]) - 1, each - 1, 1).repeat(n, 0)
        if alone:
            which = (u[:, -1:] * 2).astype(np.int64)
            asked, answers = letters[np.arange(n)[:, None], which, hops], self.id("yes") - 1 + which
        else:
            order = u[:, at : at + links].argsort(1)
            asked, answers = (np.take_along_axis(part, order, 1) for part in (pairs[:, :, 1], says))
        rooted = np.concatenate((given, np.full((n, 1), self.id("?") - 1)), 1)
        return _asked(rooted, letters[:, 0, :1] + 1, asked, answers)

    def one_step(self, asked: Asked) -> np.ndarray:
        tokens, mark = asked.tokens, self.id("?")
        at = int((tokens[0] == mark).argmax())
        pairs = tokens[:, :at].reshape(len(tokens), -1, 2)
        direct = ((pairs[:, :, 0] == tokens[:, at + 1, None]) & (pairs[:, :, 1] == tokens[:, -1:])).any(1)
        return np.where(direct, self.id("yes"), self.id("no"))

    def check(self, tokens: Sequence[int]) -> int:
        mark = self.id("?")
        root, at = tokens[list(tokens).index(mark) + 1], tokens[-1]
        above = {child: parent for parent, child in _pairs(tokens, mark)}
        while at in above:
            at = above[at]
        return self.id("yes" if at == root else "no")


TASKS: Mapping[str, HopTask] = {"sum": Sum(), "permutations": Permutations(), "chain": Chain(), "reach": Reach()}


def _running(given: np.ndarray, answers: np.ndarray, mark: int, alone: bool) -> Asked:
    """A mark, then what is given [n, k], with the answer after each, or after the last alone."""
    labels = answers.copy()
    if alone:
        labels[:, :-1] = IGNORE
    before = ((0, 0), (1, 0))
    return Asked(np.pad(given, before, constant_values=mark), np.pad(labels, before, constant_values=IGNORE))


def _since(tokens: Sequence[int], mark: int) -> list[int]:
    """What follows the last mark."""
    return [*tokens][len(tokens) - [*tokens][::-1].index(mark) :]


def _asked(given: np.ndarray, mark: int | np.ndarray, asked: np.ndarray, answers: np.ndarray) -> Asked:
    """Letters [n, .] that are given, a mark, and letters that are asked with their answers."""
    before = np.concatenate((given + 1, np.broadcast_to(mark, (len(given), 1))), 1)
    tokens = np.concatenate((before, asked + 1), 1)
    return Asked(tokens, np.concatenate((np.full_like(before, IGNORE), answers + 1), 1))


def _pairs(tokens: Sequence[int], mark: int) -> list[tuple[int, int]]:
    given = list(tokens)[: list(tokens).index(mark)]
    return list(zip(given[::2], given[1::2], strict=True))


def _links(tokens: Sequence[int], mark: int) -> dict[int, int]:
    return dict(_pairs(tokens, mark))


def _next_of(tokens: np.ndarray, mark: int) -> np.ndarray:
    """The letter to which the last letter of each row is linked."""
    at = int((tokens[0] == mark).argmax())
    pairs = tokens[:, :at].reshape(len(tokens), -1, 2)
    return pairs[np.arange(len(tokens)), (pairs[:, :, 0] == tokens[:, -1:]).argmax(1), 1]


def task_of(name: str) -> HopTask:
    """The task of this name; UserError if there is none."""
    if name not in TASKS:
        raise UserError(f"no questions with hops are called '{name}'{nearest(name, TASKS) or ': ' + ', '.join(TASKS)}")
    return TASKS[name]


def tokenizer_of_task(name: str) -> PreTrainedTokenizerFast:
    """A token a word, words between spaces."""
    return train_words(task_of(name).words)


def questions(name: str, hops: int, count: int, seed: int = 0) -> Asked:
    """`count` test questions of this many hops, each with one answer; none has a training question's numbers."""
    task = task_of(name)
    Range(1, task.most).check("hops", hops)
    return task.ask(hops, numbers(2 * seed + 1 + _TEST * hops, np.arange(count), task.columns(hops)), alone=True)


def baselines(name: str, asked: Asked) -> dict[str, float]:
    """The share of questions answered right by guessing, by the commonest answer to them, by the last word said, and
    by one step."""
    task, right = task_of(name), asked.labels[:, -1]
    return {
        "chance": task.chance,
        "majority": float(np.bincount(right).max() / len(right)),
        "copy": float((asked.tokens[:, -1] == right).mean()),
        "one step": float((task.one_step(asked) == right).mean()),
    }


class Hops:
    """Questions in rows of `length` tokens, made when they are read: batches as those of Packed. All rows of a step
    have questions of one number of hops, which is drawn between half of the most and the most; the most rises from 1 to
    `hops` in the first `rising` steps."""

    folder = None

    def __init__(
        self, name: str, hops: int, examples: int, seed: int, length: int, rising: int = 0, held_out: bool = False,
        alone: bool = False,
    ) -> None:  # fmt: skip
        """`examples`: different questions, of which each number of hops has an equal share. `alone`: each has one
        answer, the last."""
        self.name, self.task, self.hops, self.length, self.rising = name, task_of(name), hops, length, rising
        Range(1, self.task.most).check("text.hops", hops)
        if length < (least := self.task.length(hops)):
            wants = f"{name} with {hops} hops takes {least} tokens"
            raise UserError(f"{wants}, more than --text.length {length}: use --text.length {least}")
        self.each, self.seed, self.held_out, self.alone = max(1, examples // hops), 2 * seed, held_out, alone
        asked = (self.task.ask(k, np.zeros((1, self.task.columns(k))), alone) for k in range(1, hops + 1))
        self.count = self.each * sum(int((each.labels != IGNORE).sum()) for each in asked)
        """Answers."""
        self.characters = self.bytes = self.count

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the questions."""
        facts = (self.name, self.hops, self.each, self.seed, self.length, self.held_out, self.alone)
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def epoch(self, length: int) -> int:
        """Rows that hold every question once."""
        return max(1, -(-self.each * self.hops // max(1, length // self.task.length(self.hops))))

    def hops_at(self, seed: int, step: int) -> int:
        """The hops of a step's questions."""
        most = self.hops
        if step < self.rising:
            most = 1 + self.hops * step // self.rising
        least = -(-most // 2)
        return least + int(uniforms(seed, _HOPS, step, 1, 1)[0, 0] * (most - least + 1))

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        """Rows `rows` of the `size` rows of a step."""
        hops = self.hops_at(seed, step)
        many = length // self.task.length(hops)
        draws = uniforms(seed, _ROWS, step, size, many)[rows.start : rows.stop]
        return self._take(hops, (draws * self.each).astype(np.int64), length)

    def windows(self, length: int, stride: int | None = None, rows: int = 8, apart: int = 1) -> Iterator[Batch]:
        """Rows of all numbers of hops in turn."""
        for hops in range(1, self.hops + 1):
            many = length // self.task.length(hops)
            for first in range(0, max(1, self.each // many), rows * apart):
                where = np.arange(first * many, (first + rows) * many).reshape(rows, many)
                yield self._take(hops, where, length)

    def _take(self, hops: int, which: np.ndarray, length: int) -> Batch:
        """Rows with the questions `which` [rows, questions]."""
        n, many = which.shape
        seed = self.seed + (_TEST if self.held_out else 0) * hops + self.held_out + (hops << 20)
        asked = self.task.ask(hops, numbers(seed, which.reshape(-1), self.task.columns(hops)), self.alone)
        each = asked.tokens.shape[1]
        rest = length - many * each
        pads = ((0, 0), (0, rest))
        places = np.concatenate((np.tile(np.arange(each), many), np.arange(rest)))
        if not self.task.apart:
            places = np.arange(length)
        return Batch(
            np.pad(asked.tokens.reshape(n, -1), pads),
            np.pad(asked.labels.reshape(n, -1), pads, constant_values=IGNORE),
            np.broadcast_to(places, (n, length)).copy(),
        )
