"""Pairs of answers to one question, of which one is preferred: packed, with what the model before said of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hrm.files import names
from hrm.files.reading import UserError, reading
from hrm.text.data.chat import examples
from hrm.text.data.forms import Preference
from hrm.text.data.packed import Batch, Example, Packed, order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REFERENCE = "reference.npy"


class PairBatch(NamedTuple):
    """Rows of pairs, a chosen answer before each rejected one, as long as the longest of them."""

    rows: Batch
    """[2 pairs, length]."""
    reference: np.ndarray
    """Log-likelihood of each row under the model before, after every segment [2 pairs, segments]."""


class Pairs:
    """Packed conversations, of which each two that follow each other are a chosen and a rejected one."""

    def __init__(self, packed: Packed, reference: np.ndarray | None = None) -> None:
        self.packed, self.reference = packed, reference
        self.folder, self.count = packed.folder, packed.count
        self.rows = packed.facts["documents"] // 2

    @classmethod
    def open(cls, folder: Path, tokenizer: PreTrainedTokenizerFast) -> Pairs:
        """Pairs with their reference; UserError for files that are not as they were written."""
        packed, file = Packed.open(folder, tokenizer), names.regular(folder / REFERENCE)
        packed.verify()
        with reading(file, "restore it or start a new run"):
            reference = np.load(file, allow_pickle=False)
            if reference.ndim != 2 or len(reference) != packed.facts["documents"] or reference.dtype != np.float32:
                raise ValueError("it does not fit the pairs")
        return cls(packed, reference)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the index of the files."""
        return self.packed.fingerprint

    def epoch(self, length: int) -> int:
        """Number of pairs."""
        return self.rows

    def pairs(self, seed: int, step: int, rows: range, size: int) -> PairBatch:
        """Pairs `rows` of the `size` pairs of a step: every epoch in another order."""
        places = [divmod(step * size + row, self.rows) for row in rows]
        return self.take([int(order(seed, epoch, self.rows)[place]) for epoch, place in places])

    def take(self, numbers: Sequence[int]) -> PairBatch:
        """These pairs; without a reference it is 0."""
        documents = [2 * number + other for number in numbers for other in (0, 1)]
        starts = self.packed.documents
        spans = [(int(starts[i]), int(starts[i + 1] - starts[i]) - 1) for i in documents]
        rows = self.packed._assemble([[span] for span in spans], max(inputs for _, inputs in spans))
        reference = np.zeros((len(documents), 1), np.float32) if self.reference is None else self.reference[documents]
        return PairBatch(rows, reference)


def encode_pairs(
    tokenizer: PreTrainedTokenizerFast, pairs: Iterable[Preference], template: str | None, length: int
) -> Iterator[Example]:
    """Both conversations of each pair, one after another, unless one is longer than a row of `length`; UserError where
    no pair is left."""
    found = False
    for pair in pairs:
        both = list(examples(tokenizer, pair, template))
        if max(len(example.tokens) for example in both) <= length:
            found = True
            yield from both
    if not found:
        raise UserError(f"no pair of answers fits into --text.length {length}: use a longer one")
