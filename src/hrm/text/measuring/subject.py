"""What is measured: a model that thinks in segments, or any causal model of transformers, which reads a token once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StoppingCriteria,
    StoppingCriteriaList,
)

from hrm.core.calibration import expected_calibration_error
from hrm.core.kernels import at_least_float32
from hrm.files.records import Json
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.model.loss import token_loss
from hrm.text.writing.generation import Sampling, complete, encode

LOGITS = 1 << 22
"""Most logits in memory at once: they are read twice and should stay in a CPU's cache."""
WHOLE = 1 << 28
"""Most logits of a model that gives those of all its positions."""


class Columns(NamedTuple):
    """Of the labelled tokens, row after row [n]: loss in nats, whether the likeliest one is right, segments taken."""

    loss: Tensor
    right: Tensor
    depth: Tensor


class Written(NamedTuple):
    """What was written after a prompt: tokens, their segments, whether the model ended it, and how sure it was."""

    text: str
    tokens: int
    segments: int
    ended: bool
    confidence: float | None = None


class Subject(Protocol):
    """A model of text with its tokenizer, as measuring asks it."""

    tokenizer: PreTrainedTokenizerFast
    length: int
    """The most tokens that it reads."""

    def ids(self, text: str, alone: bool = False) -> list[int]:
        """Tokens of a text as the model is used to read one; `alone`: none added."""
        ...

    def columns(self, ids: Tensor, labels: Tensor, types: Tensor | None) -> Columns:
        """What the model says of labelled tokens [b, p] (-100: none)."""
        ...

    def write(self, prompts: Sequence[str | list[int]], sampling: Sampling) -> list[Written]:
        """Continue prompts in one batch."""
        ...

    def thought(self, written: Sequence[Written], right: Sequence[bool]) -> Json:
        """How deep the model thought about answers, and how well it knew which were right; nothing without depth."""
        ...


class Thinking:
    """A model that thinks in segments; `request` changes its budget."""

    def __init__(self, model: HRMForCausalLM, tokenizer: PreTrainedTokenizerFast, **request: Unpack[Request]) -> None:
        self.model, self.tokenizer, self.request = model, tokenizer, request
        self.length = model.config.max_position_embeddings

    def ids(self, text: str, alone: bool = False) -> list[int]:
        """Tokens of a text, none added."""
        return _ids(self.tokenizer, text, add_special_tokens=False)

    def columns(self, ids: Tensor, labels: Tensor, types: Tensor | None) -> Columns:
        """At the depth that each token takes."""
        budget, where = self.model.budget(**self.request), labels != -100
        thought = self.model.begin(input_ids=ids, token_type_ids=types, budget=budget)
        self.model.think(thought, budget)
        states, wanted = thought.exited.z_h[where], labels[where]
        losses, right = [], []
        size = max(1, LOGITS // self.model.config.vocab_size)
        for z, targets in zip(states.split(size), wanted.split(size), strict=True):
            logits = self.model.lm_head(z)
            losses.append(token_loss(logits[None], targets[None])[0])
            right.append(logits.argmax(-1) == targets)
        return Columns(torch.cat(losses), torch.cat(right), thought.depth[where].float())

    def write(self, prompts: Sequence[str | list[int]], sampling: Sampling) -> list[Written]:
        """With the states that the budget asks for."""
        said = complete(self.model, self.tokenizer, prompts, sampling, **self.request)
        return [
            Written(a.text, len(a.tokens), sum(t.depth for t in a.tokens), a.end == "end", a.confidence) for a in said
        ]

    def thought(self, written: Sequence[Written], right: Sequence[bool]) -> Json:
        """Mean depth, the calibration of the mean confidence of an answer, and the budget."""
        budget, sure = self.model.budget(**self.request), np.array([one.confidence for one in written])
        segments, tokens = sum(one.segments for one in written), sum(one.tokens for one in written)
        return {
            "mean_segments": segments / max(1, tokens),
            "ece_q": expected_calibration_error(sure, np.array(right, bool)),
            "max_segments": budget.max_segments,
            "halting": budget.halting,
        }


class Plain:
    """A causal model of transformers: every token is read once."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model, self.tokenizer, self.length = model, tokenizer, longest(model, tokenizer)
        own: Any = (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id)
        self.ends = {token for ids in own for token in (ids if isinstance(ids, list) else [ids]) if token is not None}

    def ids(self, text: str, alone: bool = False) -> list[int]:
        """Tokens of a text after those that its tokenizer puts before one."""
        return _ids(self.tokenizer, text, **({"add_special_tokens": False} if alone else {}))

    def columns(self, ids: Tensor, labels: Tensor, types: Tensor | None) -> Columns:
        """At depth 1; every token sees only those before it, whatever `types` says."""
        loss, right, _ = self.scores(ids, labels)
        return Columns(loss, right, torch.ones_like(loss))

    def scores(self, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the labelled tokens: loss, whether the likeliest is right, and its probability."""
        # Such a model gives the logits of every position, so that not all rows fit at once.
        rows = max(1, WHOLE // (ids.shape[1] * self.model.config.get_text_config().vocab_size))
        parts = []
        for some, labelled in zip(ids.split(rows), labels.split(rows), strict=True):
            where = labelled != -100
            logits = self.model(input_ids=some, use_cache=False).logits[where]
            size = max(1, LOGITS // logits.shape[-1])
            for each, wanted in zip(logits.split(size), labelled[where].split(size), strict=True):
                each = at_least_float32(each)
                scale, (top, best) = each.logsumexp(-1), each.max(-1)
                parts.append((scale - each.gather(1, wanted[:, None])[:, 0], best == wanted, (top - scale).exp()))
        loss, right, probability = map(torch.cat, zip(*parts, strict=True))
        return loss, right, probability

    def write(self, prompts: Sequence[str | list[int]], sampling: Sampling) -> list[Written]:
        """Up to a stop word, the model's own end, or the longest text that it reads."""
        sampling.check()
        most, device = self.length, self.model.device
        rows = [encode(self.tokenizer, prompt, most - 1) for prompt in prompts]
        width, pad = max(map(len, rows)), next(iter(sorted(self.ends)), 0)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        drawn = {} if sampling.greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p}
        config = GenerationConfig(
            max_new_tokens=min(sampling.max_new_tokens, most - width), do_sample=not sampling.greedy, **drawn,
            top_k=sampling.top_k or None, eos_token_id=sorted(self.ends) or None, pad_token_id=pad,
        )  # fmt: skip
        devices = [] if device.type in ("cpu", "mps") else [device]
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(sampling.seed)
            stop = StoppingCriteriaList([_Stop(self.tokenizer, width, sampling.stop)])
            generate: Any = self.model.generate
            out = generate(ids, attention_mask=mask, generation_config=config, stopping_criteria=stop)
        return [self._written(row, sampling.stop) for row in out[:, width:].tolist()]

    def thought(self, written: Sequence[Written], right: Sequence[bool]) -> Json:
        """Nothing: such a model has no depth."""
        return {}

    def _written(self, ids: list[int], stop: Iterable[str]) -> Written:
        end = next((at for at, token in enumerate(ids) if token in self.ends), None)
        kept = ids[:end]
        text = str(self.tokenizer.decode(kept, skip_special_tokens=True))
        for word in stop:
            text = text.split(word)[0]
        return Written(text, len(kept), len(kept), end is not None)


class _Stop(StoppingCriteria):
    """Ends each row of a batch once a stop word is in what it wrote."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, width: int, words: Sequence[str]) -> None:
        self.tokenizer, self.width, self.words = tokenizer, width, words

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        said = self.tokenizer.batch_decode(input_ids[:, self.width :]) if self.words else [""] * len(input_ids)
        return torch.tensor([any(word in text for word in self.words) for text in said], device=input_ids.device)


def subject_of(
    model: HRMForCausalLM | PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **request: Unpack[Request]
) -> Subject:
    """A model as measuring asks it."""
    return Thinking(model, tokenizer, **request) if isinstance(model, HRMForCausalLM) else Plain(model, tokenizer)


def longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> int:
    """The most tokens that a model reads: what it says of itself, else what its tokenizer says, else 2,048."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    said = positions or tokenizer.model_max_length
    return said if isinstance(said, int) and 1 < said < 1 << 30 else 2048


def _ids(tokenizer: Any, text: str, **how: Any) -> list[int]:
    return list(tokenizer(text, verbose=False, **how)["input_ids"])
