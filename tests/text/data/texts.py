"""Small texts, tokenizers and token files for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hrm.text.data import Example, Packed, encode, make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VERSE = """\
'Twas brillig, and the slithy toves
  Did gyre and gimble in the wabe:

All mimsy were the borogoves,\tAnd the mome raths outgrabe.
"""


def letters() -> PreTrainedTokenizerFast:
    """One token per character of the verse."""
    return make_tokenizer("char", [VERSE])


def pack(folder: Path, texts: Sequence[str], whole: bool = False) -> Packed:
    return Packed.write(folder, letters(), encode(letters(), texts), whole=whole)


_NUMBERS = make_tokenizer("char", ["".join(map(chr, range(0x4E00, 0x4E00 + 5000)))])


def numbered(folder: Path, lengths: Sequence[int], whole: bool = False, masked: bool = False) -> Packed:
    """Documents (end tokens included) in which every token has a number of its own from 2 on, so that rows tell all."""
    items, first = [], 2
    for length in lengths:
        tokens = np.arange(first, first + length - 1)
        items.append(Example(tokens, tokens % 3 == 0 if masked else None))
        first += length - 1
    return Packed.write(folder, _NUMBERS, items, whole=whole)


def lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path
