"""Token files: a folder of tokens.bin, mask.bin, documents.npy and index.json, mapped from the disk. Rows for training
come in two forms. *Stream*: the text runs through all rows. *Whole* (the default of data with a mask): documents are
kept together as long as they fit, so that no answer is cut off from its question."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import numpy as np

from hrm.files import names
from hrm.files.digest import sha256
from hrm.files.npy import IGNORE
from hrm.files.output import flush, to_json
from hrm.files.reading import UserError, reading
from hrm.files.records import Json
from hrm.text.data.sources import DocumentPart
from hrm.text.data.tokenizers import characters_of, tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FORMAT = 1
_AT_ONCE = 1 << 20  # characters that are tokenized at once
Span = tuple[int, int]
"""First token and number of inputs of a piece of a row; its labels are the tokens one further."""


class Example(NamedTuple):
    """The tokens of a document, or of a part of one, without the end token."""

    tokens: np.ndarray
    mask: np.ndarray | None = None
    """True where a token counts in the loss; None: all do."""
    characters: int = 0
    bytes: int = 0
    """Size of the text that counts, as UTF-8."""
    ends: bool = True
    """Whether the document ends here."""


R = TypeVar("R")


class Batch(NamedTuple):
    """Rows of a language model, int64 [rows, length]."""

    input_ids: np.ndarray
    labels: np.ndarray
    """The next token; -100 where it does not count or belongs to the next document."""
    position_ids: np.ndarray
    """From 0 in every document and at the beginning of a row; documents do not see each other."""

    @property
    def token_types(self) -> np.ndarray:
        """1 for what is given, 0 for what counts: the prefixes of a model that reads them in both directions."""
        types = np.ones_like(self.labels)
        types[:, 1:] = (self.labels[:, :-1] == IGNORE) | (self.position_ids[:, 1:] == 0)
        return types


def spread(rows: Sequence[R], apart: int) -> Sequence[R]:
    """One of every `apart` rows from all over them, and at least one where there are any."""
    return rows[(min(apart, max(1, len(rows))) - 1) // 2 :: apart]


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches in one."""
    return Batch(*map(np.concatenate, zip(*batches, strict=True)))


def encode(tokenizer: PreTrainedTokenizerFast, documents: Iterable[str]) -> Iterator[Example]:
    """Documents as tokens. What looks like a special token in them stays text."""
    table = characters_of(tokenizer)
    stream = iter(documents)
    while texts := _some(stream):
        if table is None:
            ids = tokenizer(
                texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False
            )["input_ids"]
        else:
            ids = [table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)] for text in texts]
        for text, tokens in zip(texts, ids, strict=True):
            size = len(text.encode("utf-8", "surrogatepass"))
            yield Example(np.asarray(tokens, np.int64), None, len(text), size, not isinstance(text, DocumentPart))


def begun(examples: Iterable[Example], token: int | None) -> Iterator[Example]:
    """The same documents, each with `token` before it where it does not begin so already."""
    begins = True
    for example in examples:
        if begins and token is not None and (not len(example.tokens) or example.tokens[0] != token):
            mask = None if example.mask is None else np.concatenate(([False], example.mask))
            example = example._replace(tokens=np.concatenate(([token], example.tokens)), mask=mask)
        begins = example.ends
        yield example


class Packed:
    """A folder of tokens. `len(packed.documents) - 1` documents begin at `packed.documents[:-1]`."""

    def __init__(self, folder: Path, facts: Json):
        self.folder = folder
        self.facts = facts
        self.count: int = facts["count"]
        self.characters: int = facts["characters"]
        self.bytes: int = facts["bytes"]
        self.whole: bool = facts["whole"]
        self.documents: np.ndarray = np.load(self._whole_file("documents.npy"), mmap_mode="r", allow_pickle=False)
        self._rows: dict[int, Sequence[Sequence[Span]]] = {}

    @cached_property
    def tokens(self) -> np.ndarray:
        """All tokens in a row; UserError where they are not those that were written."""
        return np.memmap(self._whole_file("tokens.bin"), self.facts["dtype"], "r")

    @cached_property
    def mask(self) -> np.ndarray | None:
        """1 where a token counts, None where all do; UserError where it is not the one that was written."""
        return np.memmap(self._whole_file("mask.bin"), np.uint8, "r") if self.facts["mask"] else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of index.json, which holds those of the other files."""
        return hashlib.sha256(names.read_bytes(self.folder / "index.json")).hexdigest()

    def _whole_file(self, name: str) -> Path:
        """A file at its first reading: UserError where its content has changed since it was written."""
        path = names.regular(self.folder / name)
        facts = path.stat()
        if not _unchanged(path, self.facts["sha256"][name], facts.st_size, facts.st_mtime_ns, facts.st_ino):
            raise UserError(_changed(path))
        return path

    @classmethod
    def write(
        cls,
        folder: Path,
        tokenizer: PreTrainedTokenizerFast,
        items: Iterable[Example],
        report: Callable[[Example], object] | None = None,
        whole: bool | None = None,
    ) -> Packed:
        """Write a folder that is complete or absent, the end token after each document; `report` hears of each example.
        `whole`: whether rows keep documents together; default: where any example has a mask."""
        folder = Path(folder)
        if folder.exists():
            raise UserError(f"{folder} exists: choose another folder or remove it")
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end token (eos_token), which separates documents: set one")
        temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
        temporary.mkdir(parents=True)
        try:
            facts = _write(temporary, tokenizer, items, report)
            facts["whole"] = facts["mask"] if whole is None else whole
            (temporary / "index.json").write_text(to_json(facts, indent=2), "utf-8")
            for path in temporary.iterdir():
                flush(path)
            os.replace(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls.open(folder, tokenizer)

    @classmethod
    def open(cls, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Self:
        """Open a folder; UserError where it is incomplete or was made with another tokenizer."""
        folder = Path(folder)
        facts = facts_of(folder)
        with reading(folder, "restore it or pack the text again"):
            packed = cls(folder, facts)
        starts = packed.documents
        fits = starts.ndim == 1 and len(starts) == facts["documents"] + 1 and starts.dtype.kind in "iu"
        if not fits or starts[0] or starts[-1] != packed.count or not (starts[1:] > starts[:-1]).all():
            raise UserError(f"{folder / 'documents.npy'} does not fit tokens.bin: restore it or pack the text again")
        if tokenizer is not None and tokenizer_hash(tokenizer) != facts["tokenizer"]:
            raise UserError(f"{folder} was packed with another tokenizer: use that one or pack the text again")
        return packed

    def epoch(self, length: int) -> int:
        """Number of rows in which every token is a target once."""
        return len(self._whole(length)) if self.whole else -(-(self.count - 1) // length)

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        """Rows `rows` of the `size` rows of a step, counted from 0: a function of (seed, step, row) and nothing else.
        An epoch is a random order of all rows (as a stream, of a grid with a random offset) in which every token but a
        document's first is a label exactly once; `size` need not divide it."""
        count = self.epoch(length)
        found: list[Sequence[Span]] = []
        for row in rows:
            epoch, place = divmod(step * size + row, count)
            number = int(order(seed, epoch, count)[place])
            found.append(self._whole(length)[number] if self.whole else self._grid(seed, epoch, number, length))
        return self._assemble(found, length)

    def row(self, seed: int, epoch: int, number: int, length: int) -> Batch:
        """Row `number` of an epoch in the stream form, before rows are put in order."""
        return self._assemble([self._grid(seed, epoch, number, length)], length)

    def windows(self, length: int, stride: int | None = None, rows: int = 8, apart: int = 1) -> Iterator[Batch]:
        """All rows in order, `rows` at a time, for evaluation: every token but a document's first is a label once. With
        a stride below `length`, text runs through the rows and each after the first counts its last `stride` labels
        only, so that every one has at least `length - stride` tokens before it. `apart`: one row of that length, and at
        least one."""
        step = length if stride is None else stride
        if not 1 <= step <= length:
            raise UserError(f"--stride must be from 1 to {length}, the length of a row")
        if self.whole and stride is None:
            every: Iterator[Sequence[Span]] = iter(spread(self._whole(length), apart))
        else:
            last = self.count - 1
            starts = spread(range(0, max(1, last - length + step), step), apart)
            every = ([(start, min(length, last - start))] for start in starts)
        first = 1
        while some := list(islice(every, rows)):
            batch = self._assemble(some, length)
            batch.labels[first:, : length - step] = IGNORE
            first = 0
            yield batch

    def samples(self, length: int, pad: int | None, rows: int = 256) -> Iterator[Batch]:
        """All documents in order, each in a row of its own filled up with `pad`, or in several where it is longer."""
        every = ([span] for span in self._spans(length))
        while some := list(islice(every, rows)):
            yield self._assemble(some, length, pad)

    def verify(self) -> Packed:
        """Itself, read once; UserError for a file that has changed since it was written, or tokens out of range."""
        if int(self.tokens.max()) >= self.facts["vocabulary"] or (self.mask is None and self.facts["mask"]):
            raise UserError(f"{self.folder / 'tokens.bin'} holds tokens beyond its vocabulary: pack the text again")
        return self

    def check(self) -> Iterator[str]:
        """A sentence for each file whose content has changed since it was written."""
        for name, digest in self.facts["sha256"].items():
            if sha256(names.regular(self.folder / name)) != digest:
                yield _changed(self.folder / name)

    def _grid(self, seed: int, epoch: int, number: int, length: int) -> list[Span]:
        """Row `number` of the text read in a circle from a random token on."""
        last = self.count - 1
        offset = int(np.random.default_rng([seed, epoch, 1]).integers(last))
        start, inputs = (offset + number * length) % last, min(length, last - number * length)
        head = min(inputs, last - start)
        return [(start, head)] + ([(0, inputs - head)] if inputs > head else [])

    def _whole(self, length: int) -> Sequence[Sequence[Span]]:
        """Documents (in pieces where longer than a row) in as few rows as going once through them finds."""
        if length not in self._rows:
            rows: list[list[Span]] = []
            with_room: list[list[int]] = [[] for _ in range(length + 1)]
            rooms = 0  # bit n: some row has room for n more inputs
            for start, inputs in self._spans(length):
                fitting = rooms >> inputs
                room = inputs + (fitting & -fitting).bit_length() - 1 if fitting else length
                if not fitting:
                    rows.append([])
                    with_room[length].append(len(rows) - 1)
                row = with_room[room].pop()
                rooms &= ~(0 if with_room[room] else 1 << room)
                rows[row].append((start, inputs))
                if room > inputs:
                    with_room[room - inputs].append(row)
                    rooms |= 1 << room - inputs
            self._rows[length] = rows
        return self._rows[length]

    def _spans(self, length: int) -> Iterator[Span]:
        """Each document, in pieces of at most `length` inputs; pieces in which nothing counts are left out."""
        for begin, end in zip(self.documents[:-1].tolist(), self.documents[1:].tolist(), strict=True):
            for start in range(begin, end - 1, length):
                inputs = min(length, end - 1 - start)
                if self.mask is None or self.mask[start + 1 : start + 1 + inputs].any():
                    yield start, inputs

    def _assemble(self, rows: Sequence[Sequence[Span]], length: int, pad: int | None = None) -> Batch:
        ids = np.full((len(rows), length), self.facts["eos"] if pad is None else pad, np.int64)
        labels = np.full_like(ids, IGNORE)
        positions = np.empty_like(ids)
        for row, spans in enumerate(rows):
            at = 0
            for start, inputs in spans:
                here = slice(at, at + inputs)
                ids[row, here] = self.tokens[start : start + inputs]
                labels[row, here] = self.tokens[start + 1 : start + inputs + 1]
                if self.mask is not None:
                    labels[row, here][self.mask[start + 1 : start + inputs + 1] == 0] = IGNORE
                first, last = np.searchsorted(self.documents, (start, start + inputs), "right")
                begins = np.asarray(self.documents[first:last]) - start
                labels[row, at + begins - 1] = IGNORE
                positions[row, here] = _since(begins[begins < inputs], inputs)
                at += inputs
            positions[row, at:] = np.arange(length - at)
        if ids.size and max(ids.max(), labels.max()) >= self.facts["vocabulary"]:
            known = f"the {self.facts['vocabulary']:,} of its tokenizer"
            where = self.folder / "tokens.bin"
            raise UserError(f"{where} holds tokens beyond {known}: restore it or pack the text again")
        return Batch(ids, labels, positions)


def facts_of(folder: Path) -> Json:
    """What index.json says of a packed folder; UserError where that cannot be, or its files have other sizes."""
    facts = _facts(folder)
    sizes = {"tokens.bin": facts["count"] * np.dtype(facts["dtype"]).itemsize}
    sizes |= {"mask.bin": facts["count"]} if facts["mask"] else {}
    for name, size in sizes.items():
        found = path.stat().st_size if (path := names.regular(folder / name)).is_file() else 0
        if found != size:
            raise UserError(f"{folder / name} has {found:,} of {size:,} bytes: restore it or pack the text again")
    return facts


def _changed(path: Path) -> str:
    return f"{path} has changed since it was written: restore it or pack the text again"


@lru_cache(maxsize=256)
def _unchanged(path: Path, digest: str, *state: int) -> bool:
    """Whether a file has this SHA-256; cached until its size, time or inode changes."""
    return sha256(path) == digest


def _some(stream: Iterator[str]) -> list[str]:
    """The next documents, enough to keep every core busy."""
    texts: list[str] = []
    left = _AT_ONCE
    while left > 0 and (text := next(stream, None)) is not None:
        texts.append(text)
        left -= len(text) + 64
    return texts


def _since(begins: np.ndarray, count: int) -> np.ndarray:
    """Of each position the distance to the last beginning at or before it; 0 is one."""
    last = np.zeros(count, np.int64)
    last[begins] = begins
    return np.arange(count) - np.maximum.accumulate(last)


@lru_cache(maxsize=4)
def order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch's rows."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def _write(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    items: Iterable[Example],
    report: Callable[[Example], object] | None,
) -> Json:
    """Write the arrays; return what index.json says of them."""
    dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
    eos: Any = tokenizer.eos_token_id
    unknown = tokenizer.unk_token_id
    starts, count, characters, size, unknowns, masked, ended = array("q", [0]), 0, 0, 0, 0, False, True
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "mask.bin").open("wb") as mask:
        for item in items:
            ids = np.append(item.tokens, eos) if item.ends else item.tokens
            tokens.write(ids.astype(dtype).tobytes())
            if item.mask is not None and not masked:
                masked = True
                mask.writelines(b"\1" * min(1 << 20, count - start) for start in range(0, count, 1 << 20))
            if masked:
                counts = np.ones(len(ids), np.uint8)
                counts[: len(item.tokens)] = 1 if item.mask is None else item.mask
                mask.write(counts.tobytes())
            count += len(ids)
            characters, size, ended = characters + item.characters, size + item.bytes, item.ends
            unknowns += 0 if unknown in (None, eos) else int((item.tokens == unknown).sum())
            if item.ends:
                starts.append(count)
            if report:
                report(item)
        if not ended:
            starts.append(count)
    if count < 2:
        raise UserError("there is no text to pack")
    if not masked:
        (folder / "mask.bin").unlink()
    np.save(folder / "documents.npy", np.frombuffer(starts, np.int64))
    return {
        "format": FORMAT, "count": count, "documents": len(starts) - 1, "characters": characters, "bytes": size,
        "unknown": unknowns, "dtype": dtype.str, "mask": masked, "eos": eos, "vocabulary": len(tokenizer),
        "tokenizer": tokenizer_hash(tokenizer),
        "sha256": {path.name: sha256(path) for path in sorted(folder.iterdir())},
    }  # fmt: skip


def _facts(folder: Path) -> Json:
    path = folder / "index.json"
    with reading(path, "restore it or pack the text again"):
        facts = json.loads(names.read_text(path))
        numbers = [facts[name] for name in ("count", "documents", "characters", "bytes", "eos", "vocabulary")]
        right = all(type(number) is int and 0 <= number < 2**60 for number in numbers)
        right = right and facts["dtype"] in ("<u2", "<u4") and isinstance(facts["tokenizer"], str)
        right = right and all(type(facts[name]) is bool for name in ("mask", "whole"))
        files = {"tokens.bin", "documents.npy", *(["mask.bin"] if facts["mask"] else [])}
        right = right and facts["sha256"].keys() == files and facts["eos"] < facts["vocabulary"]
        if not right or facts["format"] != FORMAT:
            raise ValueError("not of this version")
    return facts
