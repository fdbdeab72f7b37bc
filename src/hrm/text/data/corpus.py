"""A corpus: packed text of several sources in many shards, mixed by weight, opened in no time whatever its size.

The folder holds `corpus.json` and a packed folder per shard; what a row of a training reads is computed from
(seed, step, row), so that there is no index of rows in memory and none on the disk.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import accumulate, chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from hrm.files import names, output
from hrm.files.digest import sha256
from hrm.files.reading import UserError, quoted, reading
from hrm.files.records import Record, taken
from hrm.text.data.packed import Batch, Packed, facts_of, joined
from hrm.text.data.tokenizers import tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MANIFEST = "corpus.json"
_BLOCK = 1024
"""Rows in which the sources have their shares, to one row each."""
_MASK = 2**64 - 1
Size = Annotated[int, lambda value: type(value) is int and 0 < value < 2**60]
Count = Annotated[int, lambda value: type(value) is int and 1 < value < 2**60]
Weight = Annotated[float, lambda value: type(value) in (int, float) and 1e-6 <= value <= 1e15]


@dataclass(frozen=True)
class ShardFacts(Record):
    """What the manifest says of a shard."""

    folder: str
    """Below the corpus."""
    sha256: str
    """Of its index.json, which has those of the other files."""
    count: Count
    """Tokens: two at least, one to see and one to predict."""
    documents: Size
    characters: Size
    bytes: Size


@dataclass(frozen=True)
class SourceFacts(Record):
    """Where a part of a corpus comes from, how often it is read and where it is."""

    name: str
    weight: Weight
    """Of the rows that a training reads, relative to the other sources."""
    licence: str
    origin: str
    """A page or a file."""
    shards: list[ShardFacts] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Tokens."""
        return sum(shard.count for shard in self.shards)


@dataclass(frozen=True)
class Manifest(Record):
    """`corpus.json`."""

    format: Annotated[int, lambda value: type(value) is int and value == 1]
    tokenizer: str
    """Hash of the tokenizer that all of it was packed with."""
    sources: list[SourceFacts]


class Shard(Packed):
    """Packed text whose files are not hashed at their first reading: `check` does it for those who ask."""

    def _whole_file(self, name: str) -> Path:
        return names.regular(self.folder / name)

    @cached_property
    def tokens(self) -> np.ndarray:
        """All tokens in a row."""
        return _scattered(super().tokens)


class Corpus:
    """Sources that a training reads in the shares of their weights. `batch` and `windows` are those of Packed."""

    def __init__(self, folder: Path, manifest: Manifest, tokenizer: PreTrainedTokenizerFast | None = None) -> None:
        self.folder, self.sources, self._manifest, self._tokenizer = folder, manifest.sources, manifest, tokenizer
        shards = [shard for source in manifest.sources for shard in source.shards]
        self.count, self.characters, self.bytes, self.documents = (
            sum(getattr(shard, name) for shard in shards) for name in ("count", "characters", "bytes", "documents")
        )
        total = sum(source.weight for source in self.sources)
        self._shares = [source.weight / total for source in self.sources]
        self._largest = self._shares.index(max(self._shares))
        self._block = _BLOCK * -(-(len(self.sources) ** 2) // _BLOCK)  # so that the largest has a row in each
        self._shard = lru_cache(maxsize=None)(self._open)
        self._mixture = lru_cache(maxsize=4)(self._mixed)
        self._starts = lru_cache(maxsize=None)(self._counted)

    @classmethod
    def open(cls, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Corpus:
        """Read the manifest and look for its shards; UserError where one is missing, or for another tokenizer."""
        folder, hint = Path(folder), "restore it or make the corpus again"
        with reading(folder / MANIFEST, hint):
            content = json.loads(names.read_text(folder / MANIFEST))

            def refuse(place: str, value: object) -> Exception:
                return ValueError(f"'{place}' is {quoted(value)}")

            manifest: Manifest = taken(Manifest, content, refuse)
            if not manifest.sources or not all(source.shards for source in manifest.sources):
                raise ValueError("it names no shards")
            called = [source.name for source in manifest.sources]
            if len(set(called)) < len(called):
                raise ValueError("two of its sources have one name")
        for shard in (shard for source in manifest.sources for shard in source.shards):
            where = names.place_in(folder, *shard.folder.split("/"))
            if not where.is_dir():
                raise UserError(f"{where} is missing: {hint}")
            if facts_of(where)["count"] != shard.count:
                raise UserError(f"{where} does not fit {folder / MANIFEST}: {hint}")
        if tokenizer is not None and tokenizer_hash(tokenizer) != manifest.tokenizer:
            raise UserError(f"{folder} was packed with another tokenizer: use that one or make the corpus again")
        return cls(folder, manifest, tokenizer)

    @property
    def first(self) -> Path:
        """The folder of the first shard."""
        return self.folder / self.sources[0].shards[0].folder

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which holds those of the shards."""
        return hashlib.sha256(names.read_bytes(self.folder / MANIFEST)).hexdigest()

    def epoch(self, length: int) -> int:
        """Number of rows of all sources, in which every token is a target once."""
        return sum(self._starts(source, length)[-1] for source in range(len(self.sources)))

    def epochs(self, rows: int, length: int) -> dict[str, float]:
        """How often each source has been read in this many rows of a training."""
        return {
            source.name: rows * share / self._starts(number, length)[-1]
            for number, (source, share) in enumerate(zip(self.sources, self._shares, strict=True))
        }

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        """Rows `rows` of the `size` rows of a step, counted from 0: a function of (seed, step, row) and nothing else.

        Each source is read epoch after epoch, in another order every time.
        """
        return joined([self._row(seed, step * size + row, length) for row in rows])

    def windows(self, length: int, stride: int | None = None, rows: int = 8, apart: int = 1) -> Iterator[Batch]:
        """All rows in order, shard after shard, each as those of Packed."""
        return chain.from_iterable(shard.windows(length, stride, rows, apart) for shard in self._opened())

    def samples(self, length: int, pad: int | None, rows: int = 256) -> Iterator[Batch]:
        """All documents in order, each in a row of its own or in several, as those of Packed."""
        return chain.from_iterable(shard.samples(length, pad, rows) for shard in self._opened())

    def verify(self) -> Corpus:
        """Itself: tokens are compared with the vocabulary when a row is read."""
        return self

    def check(self) -> Iterator[str]:
        """A sentence for each file whose content has changed since it was written."""
        for shard in (shard for source in self.sources for shard in source.shards):
            index = self.folder / shard.folder / "index.json"
            if sha256(names.regular(index)) != shard.sha256:
                yield f"{index} has changed since it was written: restore it or make the corpus again"
            else:
                yield from self._shard(shard).check()

    def _opened(self) -> Iterator[Shard]:
        return (self._shard(shard) for source in self.sources for shard in source.shards)

    def _open(self, facts: ShardFacts) -> Shard:
        where, index = self.folder / facts.folder, self.folder / facts.folder / "index.json"
        if index.is_file() and sha256(names.regular(index)) != facts.sha256:
            raise UserError(f"{where} has changed since {self.folder / MANIFEST} was read: restore it")
        shard = Shard.open(where, self._tokenizer)
        if shard.facts["tokenizer"] != self._manifest.tokenizer or shard.whole:
            raise UserError(f"{where} does not fit {self.folder / MANIFEST}: restore it or make the corpus again")
        return shard

    def _row(self, seed: int, number: int, length: int) -> Batch:
        """Row `number` of a training: its source by the weights, then its place there by epoch and order."""
        block, place = divmod(number, self._block)
        source, taken = self._mixture(seed, block)[place]
        starts = self._starts(source, length)
        epoch, place = divmod(self._before(source, block) + taken, starts[-1])
        row = permuted(place, starts[-1], f"{seed} {self.sources[source].name} {epoch}")
        part = bisect_right(starts, row) - 1
        return self._shard(self.sources[source].shards[part]).row(seed, epoch, row - starts[part], length)

    def _before(self, source: int, block: int) -> int:
        """Rows of a source in all blocks before this one: its share, and to the largest source what is left over."""
        if source != self._largest:
            return int(self._shares[source] * block * self._block)
        others = (number for number in range(len(self.sources)) if number != source)
        return block * self._block - sum(self._before(other, block) for other in others)

    def _mixed(self, seed: int, block: int) -> list[tuple[int, int]]:
        """The source of each row of a block, and how many of its rows come before in the block."""
        numbers = range(len(self.sources))
        rows = [self._before(number, block + 1) - self._before(number, block) for number in numbers]
        mixed = np.random.default_rng([seed, block]).permutation(np.repeat(numbers, rows)).tolist()
        counts = [count() for _ in numbers]
        return [(number, next(counts[number])) for number in mixed]

    def _counted(self, source: int, length: int) -> list[int]:
        """First row of each shard of a source, and the number of all."""
        return [0, *accumulate(-(-(shard.count - 1) // length) for shard in self.sources[source].shards)]


def seal(folder: Path, sources: Iterable[SourceFacts]) -> Corpus:
    """Write the manifest of the packed folders in `folder/MANIFEST/`, in the order of their names, for each source."""
    listed, tokenizer = [], ""
    for source in sources:
        shards = []
        for index in sorted((folder / source.name).glob("*/index.json")):
            facts = Shard.open(index.parent).facts
            sizes = {name: facts[name] for name in ("count", "documents", "characters", "bytes")}
            shards.append(ShardFacts(index.parent.relative_to(folder).as_posix(), sha256(index), **sizes))
            tokenizer = facts["tokenizer"]
        listed.append(replace(source, shards=shards))
    output.write_json(folder / MANIFEST, Manifest(1, tokenizer, listed))
    return Corpus.open(folder)


def permuted(place: int, count: int, key: str) -> int:
    """Where `place` comes in the random order of [0, count) that `key` names: one of each, computed without a table.

    Four rounds of a Feistel network over the next power of four, walked until the number is below `count`.
    """
    half = max(1, -(-(count - 1).bit_length() // 2))
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for secret in _secrets(key):
            mixed = (right + secret) * 0xBF58476D1CE4E5B9 & _MASK
            mixed = (mixed ^ mixed >> 31) * 0x94D049BB133111EB & _MASK
            left, right = right, left ^ (mixed >> 29 & mask)
        place = left << half | right
        if place < count:
            return place


def _scattered(mapped: np.ndarray) -> np.ndarray:
    """A mapped array of which the system reads no more ahead than is asked for, since rows lie anywhere."""
    file = getattr(mapped, "_mmap", None)
    if file is not None and hasattr(mmap, "MADV_RANDOM"):
        file.madvise(mmap.MADV_RANDOM)
    return mapped


@lru_cache(maxsize=4096)
def _secrets(key: str) -> tuple[int, ...]:
    digest = hashlib.blake2b(key.encode(), digest_size=32).digest()
    return tuple(int.from_bytes(digest[i : i + 8], "little") for i in range(0, 32, 8))
