"""Text that a model writes, to be judged."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Unpack

import numpy as np
from transformers import PreTrainedTokenizerFast

from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling, complete

_ROW = 1000
"""Least characters of a row."""
_MOST_ROWS = 16
"""Rows that are written side by side."""
_BEGINNING = 100  # characters
_SENTENCE_END = re.compile(r"[.!?]\S*\s+")


def write(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    characters: int,
    length: int | None = None,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
    **request: Unpack[Request],
) -> str:
    """Write `characters` characters after beginnings of sentences of `text`, which are left out. The model reads at
    most `length` tokens at once (default: what it can), then half of them again; a row that ends its text continues
    with another beginning. `progress` gets the characters so far. Equal settings write equal text."""
    sampling = sampling or Sampling()
    half = max(1, min(length or model.config.max_position_embeddings, model.config.max_position_embeddings) // 2)
    rng = np.random.default_rng(sampling.seed)
    starts = [match.end() for match in _SENTENCE_END.finditer(text[:-_BEGINNING])] or [0]

    def beginning() -> list[int]:
        start = int(rng.choice(starts))
        return tokenizer.encode(text[start : start + _BEGINNING], add_special_tokens=False)

    count = max(1, min(_MOST_ROWS, characters // _ROW))
    each = -(-characters // count)
    read = [beginning() for _ in range(count)]
    written = [""] * count
    while todo := [row for row in range(count) if len(written[row]) < each]:
        step = replace(sampling, max_new_tokens=half, seed=int(rng.integers(1 << 31)))
        completions = complete(model, tokenizer, [read[row][-half:] for row in todo], step, **request)
        for row, completion in zip(todo, completions, strict=True):
            ended = completion.end == "end"
            written[row] += completion.text + ("\n\n" if ended else "")
            read[row] = beginning() if ended else read[row] + [token.id for token in completion.tokens]
        if progress is not None:
            progress(min(characters, sum(min(each, len(row)) for row in written)))
    return "".join(row[:each] for row in written)[:characters]
