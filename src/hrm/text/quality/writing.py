"""Text that a model writes, to be judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.text.measuring.subject import longest
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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    text: str,
    characters: int,
    length: int | None = None,
    sampling: Sampling | None = None,
    progress: Callable[[int], None] | None = None,
    **request: Unpack[Request],
) -> str:
    """Write `characters` characters after beginnings of sentences of `text`, which are left out. Any causal model reads
    at most `length` tokens at once (default: what it can), then half of them again; a row that ends its text continues
    with another beginning. `progress` gets the characters so far. Equal settings write equal text."""
    sampling = sampling or Sampling()
    most = longest(model, tokenizer)
    half = max(1, min(length or most, most) // 2)
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
        prompts = [read[row][-half:] for row in todo]
        for row, (new, ids, ended) in zip(todo, _continued(model, tokenizer, prompts, step, request), strict=True):
            written[row] += new + ("\n\n" if ended else "")
            read[row] = beginning() if ended else read[row] + ids
        if progress is not None:
            progress(min(characters, sum(min(each, len(row)) for row in written)))
    return "".join(row[:each] for row in written)[:characters]


def _continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    sampling: Sampling,
    request: Any,
) -> Iterator[tuple[str, list[int], bool]]:
    """Text and tokens after each prompt, and whether its text has ended there."""
    if isinstance(model, HRMForCausalLM):
        for one in complete(model, tokenizer, prompts, sampling, **request):
            yield one.text, [token.id for token in one.tokens], one.end == "end"
        return
    end = tokenizer.eos_token_id
    pad = next((token for token in (tokenizer.pad_token_id, end) if token is not None), 0)
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    devices = [] if model.device.type in ("cpu", "mps") else [model.device]
    generate: Any = model.generate
    with torch.random.fork_rng(devices), torch.inference_mode():
        torch.manual_seed(sampling.seed)
        rows = generate(
            ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, do_sample=True, top_k=0, top_p=1.0,
            temperature=sampling.temperature, eos_token_id=end, pad_token_id=pad,
        )[:, width:].tolist()  # fmt: skip
    for row in rows:
        ended = end in row
        row = row[: row.index(end)] if ended else row
        yield str(tokenizer.decode(row)), row, ended
