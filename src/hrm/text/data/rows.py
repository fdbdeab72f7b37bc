"""HRM's dataset folder with rows of text: inputs, and the next tokens as labels; each row is read on its own."""

from __future__ import annotations

import hashlib
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hrm.files import npy
from hrm.files.npy import IGNORE
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.text.data.corpus import MANIFEST, Corpus
from hrm.text.data.packed import Batch, Packed, order, spread
from hrm.text.data.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Rows:
    """Rows of a fixed length (128 tokens make rows of 127: inputs all but the last, labels all but the first). `batch`
    and `windows` are those of Packed, for `length` equal to `self.length` only."""

    def __init__(
        self, folder: Path, inputs: list[np.ndarray], labels: list[np.ndarray], ignored: int | None, vocabulary: int,
        pad: int | None = None,
    ):  # fmt: skip
        self.folder, self.vocabulary, self.pad = folder, vocabulary, pad
        self.length = inputs[0].shape[1]
        self._inputs, self._labels, self._ignored = inputs, labels, ignored
        self._starts = [0, *accumulate(map(len, inputs))]
        self.rows = self._starts[-1]
        self.count = self.rows * self.length
        self.characters = self.bytes = 0
        """The size of the text, which the folder does not say: known when opened with a tokenizer."""

    @classmethod
    def open(cls, path: Path, tokenizer: PreTrainedTokenizerFast | None = None, split: str = "train") -> Rows:
        """The rows of a split of a dataset folder (or of the folder of a split); UserError where they cannot be."""
        path = Path(path)
        folder = path if (path / "dataset.json").is_file() else path / split
        facts = npy.metadata(folder)
        vocabulary, length = facts["vocab_size"], facts["seq_len"]
        if tokenizer is not None and vocabulary > (size := len(tokenizer)):
            raise UserError(f"{folder} has {vocabulary} tokens, but the tokenizer {size}: use the one it was made with")
        arrays: dict[str, list[np.ndarray]] = {"inputs": [], "labels": []}
        for name in map(str, facts["sets"]):
            for field, found in arrays.items():
                array = npy.read_array(folder, name, field, mapped=True)
                where = folder / f"{name}__{field}.npy"
                if array.ndim != 2 or array.shape[1] != length:
                    raise UserError(f"{where} has shape {list(array.shape)}, but dataset.json says rows of {length}")
                known = [value for value in (facts.get("ignore_label_id"), IGNORE) if value is not None]
                wrong = (array < 0) | (array >= vocabulary)
                if field == "labels":
                    wrong &= ~np.isin(array, known)
                if wrong.any():
                    row = int(np.flatnonzero(wrong.any(axis=1))[0])
                    raise UserError(f"{where} row {row}: a value is not between 0 and {vocabulary - 1}; remove the row")
                found.append(array)
            if len(arrays["inputs"][-1]) != len(arrays["labels"][-1]):
                raise UserError(f"{folder / name}__labels.npy has not as many rows as {name}__inputs.npy")
        known = facts.get("ignore_label_id"), vocabulary, facts.get("pad_id")
        rows = cls(folder, arrays["inputs"], arrays["labels"], *known)
        if not rows.rows:
            raise UserError(f"{folder} holds no rows")
        if tokenizer is not None:
            for batch in rows.windows(length, rows=256):
                for text in tokenizer.batch_decode([row[row != IGNORE] for row in batch.labels]):
                    rows.characters += len(text)
                    rows.bytes += len(text.encode())
        return rows

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all rows."""
        digest = hashlib.sha256()
        for array in (*self._inputs, *self._labels):
            for start in range(0, len(array), 4096):
                digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
        return digest.hexdigest()

    def epoch(self, length: int) -> int:
        """Number of rows."""
        self._require(length)
        return self.rows

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        """Rows `rows` of the `size` rows of a step: every epoch in another order."""
        count = self.epoch(length)
        places = [divmod(step * size + row, count) for row in rows]
        return self._take([int(order(seed, epoch, count)[place]) for epoch, place in places])

    def windows(self, length: int, stride: int | None = None, rows: int = 8, apart: int = 1) -> Iterator[Batch]:
        """All rows in order, or one of `apart`, `rows` at a time."""
        self._require(length)
        if stride not in (None, length):
            raise UserError(f"{self.folder} has rows of its own: --stride cannot be given")
        chosen = spread(range(self.rows), apart)
        for start in range(0, len(chosen), rows):
            yield self._take(chosen[start : start + rows])

    def _require(self, length: int) -> None:
        if length != self.length:
            raise UserError(f"{self.folder} has rows of {self.length} tokens, not {length}: set the length to that")

    def _take(self, numbers: Iterable[int]) -> Batch:
        places = [(part := bisect_right(self._starts, number) - 1, number - self._starts[part]) for number in numbers]
        ids, labels = (
            np.array([arrays[part][row] for part, row in places], np.int64).reshape(-1, self.length)
            for arrays in (self._inputs, self._labels)
        )
        if self._ignored is not None:
            labels[labels == self._ignored] = IGNORE
        # Padding at a row's end is a document of its own, which nothing sees.
        padding = np.logical_and.accumulate(((ids == self.pad) & (labels == IGNORE))[:, ::-1], axis=1)
        ends = self.length - padding.sum(axis=1, keepdims=True)
        positions = np.broadcast_to(np.arange(self.length), ids.shape)
        return Batch(ids, labels, np.where(positions < ends, positions, positions - ends))


def write_rows(path: Path, splits: Mapping[str, Packed], length: int, vocabulary: int, pad: int = 0) -> None:
    """Write splits as HRM's dataset folder, complete or absent: a document a row of `length` tokens, then `pad`. A
    longer text continues in the next row. Padding does not count: its labels are -100."""
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists: choose another folder or remove it")
    temporary = path.with_name(f".tmp-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name, packed in splits.items():
            folder = temporary / name
            folder.mkdir(parents=True)
            batches = list(packed.samples(length, pad))
            rows = sum(len(batch.labels) for batch in batches)
            arrays = {
                "inputs": np.concatenate([batch.input_ids for batch in batches]).astype(np.int32),
                "labels": np.concatenate([batch.labels for batch in batches]).astype(np.int32),
                "puzzle_identifiers": np.zeros(rows, np.int32),
                "puzzle_indices": np.arange(rows + 1, dtype=np.int32),
                "group_indices": np.arange(rows + 1, dtype=np.int32),
            }
            for field, array in arrays.items():
                np.save(folder / f"all__{field}.npy", array)
            facts = {
                "pad_id": pad, "ignore_label_id": IGNORE, "blank_identifier_id": 0, "vocab_size": vocabulary,
                "seq_len": length, "num_puzzle_identifiers": 1, "total_groups": rows, "mean_puzzle_examples": 1.0,
                "sets": ["all"],
            }  # fmt: skip
            (folder / "dataset.json").write_text(to_json(facts), "utf-8")
        (temporary / "identifiers.json").write_text('["<blank>"]', "utf-8")
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


Tokens = Packed | Corpus | Rows
"""Text as tokens, in any of its forms on the disk."""


def open_text(path: Path, tokenizer: PreTrainedTokenizerFast | None = None, split: str = "train") -> Tokens:
    """A packed folder, a corpus or HRM's dataset folder, whichever a path is; of several splits the one named. What is
    held out may be called test or validation."""
    path = Path(path)
    others = {"test": "validation", "validation": "test"}
    for folder in (path, path / split, path / others.get(split, split)):
        if (folder / "index.json").is_file():
            return Packed.open(folder, tokenizer).verify()
        if (folder / MANIFEST).is_file():
            return Corpus.open(folder, tokenizer)
        if (folder / "dataset.json").is_file():
            return Rows.open(folder, tokenizer)
    raise UserError(f"{path} holds no packed text: make some with `hrm data pack`")


def held_out(path: Path | str) -> Path | None:
    """The part of a packed folder, corpus or dataset folder that is to be measured on; None: it has none."""
    return next((part for name in ("validation", "test") if (part := Path(path) / name).is_dir()), None)


def is_packed(path: Path | str) -> bool:
    """Whether `open_text` can be asked: a packed folder, a folder of splits of them, or HRM's dataset folder."""
    path = Path(path)
    files = ("index.json", "dataset.json", MANIFEST)
    return any((path / part / name).is_file() for part in ("", "train") for name in files)


def tokenizer_of(path: Path) -> PreTrainedTokenizerFast | None:
    """The tokenizer that lies in a packed folder, beside it or beside the folder it is a part of; None: no such."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "tokenizer").is_dir():
            return load_tokenizer(folder / "tokenizer")
    return None
