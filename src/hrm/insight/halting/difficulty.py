"""How hard a puzzle or a token is, by what is known of it apart from the depth that it takes."""

from __future__ import annotations

import math
import unicodedata
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from hrm.files.npy import IGNORE
from hrm.insight.subject import Batch, Puzzles, Reading, Text
from hrm.puzzles.tasks.maze import PATH, Maze

ENTROPIES = (0.5, 1.0, 2.0, 3.0, 4.0)
"""Bits between the classes of entropy."""
PLACES = 8
"""Letters of a word that are told apart."""
KINDS = ("letter", "digit", "space", "punctuation", "other")


class Measure(NamedTuple):
    """A difficulty of puzzles or tokens [n]; NaN where it says nothing."""

    name: str
    values: np.ndarray
    labels: tuple[str, ...] | None = None
    """Of classes, which the values then number."""


def of_puzzles(subject: Puzzles, batch: Batch) -> list[Measure]:
    """Clues, or the steps of a maze's path, or the cells of a grid that has no blanks; and ratings, where known."""
    rows, task = slice(batch.first, batch.first + len(batch.inputs)), subject.task
    questions, labels = np.asarray(subject.puzzles.inputs[rows]), np.asarray(subject.puzzles.labels[rows])
    if isinstance(task, Maze):
        found = [Measure("steps of the path", (labels == PATH).sum(1) + 1.0)]
    elif task.blank is not None:
        clues = (questions != task.blank) & (questions != task.outside)
        found = [Measure("clues", clues.sum(1).astype(float))]
    else:
        found = [Measure("cells of the grid", ((questions != task.outside) & (labels != IGNORE)).sum(1).astype(float))]
    ratings = subject.puzzles.ratings
    return found if ratings is None else [*found, Measure("rating", np.asarray(ratings[rows], float))]


class Tokens:
    """The difficulty of a text's tokens: each that is predicted counts, not the one that is read."""

    def __init__(self, subject: Text) -> None:
        self.tokenizer: Any = subject.tokenizer
        self._known: dict[int, str] = {}

    def of(self, batch: Batch, first: Reading) -> list[Measure]:
        """Of the labelled tokens, row after row: the entropy of the prediction at depth 1, the place in the word and
        the kind of token."""
        counted = (batch.labels != -100).cpu().numpy()
        inputs, labels = batch.inputs.cpu().numpy(), batch.labels.cpu().numpy()
        bits = first.entropy.double().cpu().numpy()[counted] / math.log(2)
        edges = ("0", *(f"{edge:g}" for edge in ENTROPIES))
        classes = tuple(f"{low} to {high}" for low, high in pairwise(edges))
        kinds = np.array([KINDS.index(self.kind(token)) for token in labels[counted].tolist()], float)
        return [
            Measure("bits of entropy at depth 1", np.searchsorted(ENTROPIES, bits, "right").astype(float),
                    (*classes, f"over {edges[-1]}")),
            self._places(inputs, labels, counted),
            Measure("kind of token", kinds, KINDS),
        ]  # fmt: skip

    @cached_property
    def characters(self) -> bool:
        """Whether every token is one character, or special."""
        special = set(self.tokenizer.all_special_ids)
        return all(len(piece) == 1 for piece, token in self.tokenizer.get_vocab().items() if token not in special)

    def text(self, token: int) -> str:
        """What a token stands for, with the space that begins it; "" for a special one."""
        if token not in self._known:
            if token in self.tokenizer.all_special_ids:
                written = ""
            else:
                piece = str(self.tokenizer.convert_ids_to_tokens(token))
                begins = piece.startswith(("\u2581", "\u0120"))
                written = str(self.tokenizer.decode([token]))
                written = f" {written.lstrip(' ')}" if begins else written
            self._known[token] = written
        return self._known[token]

    def kind(self, token: int) -> str:
        """By the first character that is no space."""
        text = self.text(token)
        if not text.strip():
            return "space" if text else "other"
        sign = text.strip()[0]
        if sign.isalpha():
            return "letter"
        if sign.isdigit():
            return "digit"
        return "punctuation" if unicodedata.category(sign)[0] in "PS" else "other"

    def _places(self, inputs: np.ndarray, labels: np.ndarray, counted: np.ndarray) -> Measure:
        """Which letter of its word a character is, counted from the last space; of other tokens, whether a word begins.
        Before the first space of a row nobody knows."""
        letters = np.array([[self.text(token)[-1:].isalpha() for token in row] for row in labels.clip(0).tolist()])
        letters &= counted
        if not self.characters:
            begins = np.array([[self.text(token)[:1].isspace() for token in row] for row in labels.clip(0).tolist()])
            values = np.where(begins, 0.0, 1.0)
            names = ("begins a word", "inside a word")
        else:
            ends = np.array([[not self.text(token).strip() for token in row] for row in inputs.tolist()])
            at = np.arange(inputs.shape[1])
            last = np.maximum.accumulate(np.where(ends, at, -1), axis=1)
            values = np.where(last < 0, np.nan, np.minimum(at - last, PLACES - 1))
            names = (*map(str, range(1, PLACES)), f"{PLACES} or later")
        values = np.where(letters, values, np.nan)
        return Measure("place in the word", values[counted], names)
