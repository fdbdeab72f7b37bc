"""Compares carried states (a token starts from the last token's state) with fresh ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hrm.core import devices
from hrm.core.kernels import at_least_float32
from hrm.files.records import Json
from hrm.text.data import Rows, Tokens
from hrm.text.measuring.losses import LossTotals, TextSize, TokenScores, byte_lengths
from hrm.text.model import HRMCache, HRMForCausalLM
from hrm.text.model.budget import Request

STATES = ("reset", "carry")


def evaluate_states(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    packed: Tokens,
    length: int,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    limit: int | None = None,
    **request: Unpack[Request],
) -> Json:
    """Read rows of one text each token by token, as they are generated, with fresh states and with carried ones. The
    first numbers are those of carried states; `states` has both. `limit` stops after about this many tokens."""
    tallies = {state: LossTotals() for state in STATES}
    table, sizes, seen = byte_lengths(tokenizer), np.zeros(2, np.int64), 0
    budget, answering = model.budget(**request | {"state": "carry"}), getattr(packed, "mask", None) is not None
    was_training, start = model.training, time.perf_counter()
    model.eval()
    with torch.inference_mode():
        # A cache knows no borders of documents: a row has to have one alone.
        apart = not isinstance(packed, Rows)
        rows = packed.samples(length, None, batch_size) if apart else packed.windows(length, None, batch_size)
        for batch in rows:
            ids, labels = (torch.from_numpy(array).to(model.device) for array in (batch.input_ids, batch.labels))
            counted = (labels != -100).cpu().numpy()
            answers = np.unique(np.nonzero(counted)[0], return_inverse=True)[1] if answering else None
            for state in STATES:
                reading, depth = _read(model, ids, labels, **request | {"state": state})
                tallies[state].add(reading, depth, answers)
            seen += int(counted.sum())
            sizes += table[batch.labels[counted]].sum(0)
            if progress is not None:
                progress(min(1.0, seen / max(1, min(limit or packed.count, packed.count))))
            if limit is not None and seen >= limit:
                break
    model.train(was_training)
    found = {state: tally.result(TextSize(int(sizes[0]), int(sizes[1]), 0)) for state, tally in tallies.items()}
    answers = {"answers": tallies["carry"].answers} if answering else {}
    return {
        "n": seen, **answers, "state": "carry", **found["carry"], "bytes": int(sizes[0]), "characters": int(sizes[1]),
        "max_segments": budget.max_segments, "halting": budget.halting if budget.adaptive else "fixed",
        "length": length, "states": found, "seconds": time.perf_counter() - start, "device": str(model.device),
        "dtype": devices.named(model.compute_dtype),
    }  # fmt: skip


def _read(
    model: HRMForCausalLM, ids: Tensor, labels: Tensor, **request: Unpack[Request]
) -> tuple[TokenScores, np.ndarray]:
    """Losses and depths of the counted tokens, row after row."""
    cache, columns = HRMCache(), []
    for place in range(ids.shape[1]):
        out = model(ids[:, place : place + 1], past_key_values=cache, use_cache=True, **request)
        logits, label = at_least_float32(out.logits[:, -1]), labels[:, place].clamp(min=0)
        scale, (top, best) = logits.logsumexp(-1), logits.max(-1)
        loss = scale - logits.gather(1, label[:, None])[:, 0]
        columns.append((loss, best == label, (top - scale).exp(), out.confidence[:, -1], out.depth[:, -1]))
    counted = labels != -100
    *parts, depth = (torch.stack(column, 1)[counted].float().cpu().numpy() for column in zip(*columns, strict=True))
    return TokenScores(*parts), depth.astype(int)
