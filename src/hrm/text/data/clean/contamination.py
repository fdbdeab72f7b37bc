"""What evaluations ask, as hashes of runs of words, and where a document has one of them."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hrm.files.reading import WHOLE, UserError, reading, text_of
from hrm.text.data.clean.plan import form
from hrm.text.data.sources import rows

_WORD = re.compile(r"\w+")
_MULTIPLIER = 0x9E3779B97F4A7C15
_TABLES = ".jsonl", ".ndjson", ".json", ".parquet"


class Index:
    """Runs of `n_grams` words of the texts of some files; a shorter text of at least `shortest` words is one run."""

    def __init__(self, files: Iterable[str], n_grams: int, shortest: int) -> None:
        self.files = list(files)
        self.texts = self.skipped = 0
        """Texts that are looked for, and those too short for it."""
        found: dict[int, list[np.ndarray]] = defaultdict(list)
        for number, file in enumerate(self.files):
            for text in _texts(Path(file)):
                words = _hashes(text)
                if len(words) < min(shortest, n_grams):
                    self.skipped += 1
                    continue
                self.texts += 1
                length = min(n_grams, len(words))
                runs = _runs(words, length)
                found[length].append(np.stack([runs, np.full_like(runs, number)]))
        self._runs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for length, parts in found.items():
            runs, owners = np.concatenate(parts, axis=1)
            runs, first = np.unique(runs, return_index=True)
            self._runs[length] = runs, owners[first]

    def find(self, text: str) -> str | None:
        """The file that a document has text of; None for a clean one."""
        words = _hashes(text)
        for length, (known, owners) in self._runs.items():
            if len(words) >= length:
                runs = _runs(words, length)
                places = np.searchsorted(known, runs).clip(max=len(known) - 1)
                hit = np.flatnonzero(known[places] == runs)
                if len(hit):
                    return self.files[owners[places[hit[0]]]]
        return None


def _hashes(text: str) -> np.ndarray:
    """A number for each word, whatever its case and form."""
    return np.fromiter(map(_hash, _WORD.findall(unicodedata.normalize("NFKC", text).casefold())), np.uint64)


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _runs(words: np.ndarray, length: int) -> np.ndarray:
    """A number for each `length` words in a row: a polynomial of theirs, modulo 2**64."""
    runs = np.zeros(len(words) - length + 1, np.uint64)
    for place in range(length):
        runs *= np.uint64(_MULTIPLIER)
        runs += words[place : place + len(runs)]
    return runs


def _texts(path: Path) -> Iterator[str]:
    """All text of an evaluation: of a table each field, of a text file the whole and each line."""
    ending = form(path)
    if ending in _TABLES:
        for row in rows(path):
            yield from _strings(row.fields)
    elif ending == ".csv":
        before = csv.field_size_limit(WHOLE)  # a passage may be longer than the module allows
        try:
            with reading(path):
                for line in csv.reader(io.StringIO(text_of(path))):
                    yield from line
        finally:
            csv.field_size_limit(before)
    elif ending == ".txt":
        text = text_of(path)
        yield text
        yield from text.splitlines()
    else:
        raise UserError(f"{path} cannot be read as an evaluation: use .jsonl, .json, .parquet, .csv or .txt")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
