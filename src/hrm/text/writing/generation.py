"""Text from a model, token by token: what was written, how long each token was thought about, and how sure it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Unpack

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers import PreTrainedTokenizerFast, StoppingCriteria, StoppingCriteriaList

from hrm.core.kernels import at_least_float32
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.settings import check_ranges
from hrm.text.config import Decoding
from hrm.text.data.growing import new_characters
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.model.halting import stops


@dataclass(frozen=True)
class Sampling(Decoding):
    """How the next token is drawn, and when the text ends."""

    stop: tuple[str, ...] = ()
    """End before any of these words."""

    @property
    def takes_likeliest(self) -> bool:
        """Whether nothing is drawn: so near to temperature 0 no other token would be, and smaller ones overflow."""
        return self.greedy or self.temperature < 1e-4

    def check(self) -> None:
        """UserError for values that draw nothing."""
        for name, fine, need in (
            ("max_new_tokens", self.max_new_tokens > 0, "at least 1"),
            ("temperature", self.temperature > 0, "above 0 (greedy takes the likeliest token)"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("stop", all(self.stop), "words that are not empty"),
        ):
            if not fine:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} {getattr(self, name)} draws nothing: it must be {need}")
        check_ranges(self)


class Token(NamedTuple):
    """A generated token: the text it completes, depth in segments, P(halt), entropy in nats, log-probability, and
    whether it was the likeliest one."""

    id: int
    text: str
    depth: int
    confidence: float
    entropy: float
    log_probability: float
    likeliest: bool


@dataclass
class Completion:
    """What a model wrote after a prompt."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    end: str = "length"
    """Why it ends: `end` (the model ended it), `stop` (a stop word), `length`."""
    seconds: float = 0.0

    @property
    def confidence(self) -> float:
        """Mean P(halt) of the tokens."""
        return sum(token.confidence for token in self.tokens) / max(1, len(self.tokens))

    @property
    def log_likelihood(self) -> float:
        """Mean log-probability of the tokens under the model, in nats."""
        return sum(token.log_probability for token in self.tokens) / max(1, len(self.tokens))

    @property
    def summary(self) -> str:
        """What it took, in a few words."""
        n, depth = len(self.tokens), sum(token.depth for token in self.tokens) / max(1, len(self.tokens))
        rate = n / max(1e-9, self.seconds)
        return f"{n} tokens, {rate:.0f} a second; mean depth {depth:.2f} segments, confidence {self.confidence:.0%}"

    def to_dict(self) -> Json:
        """For JSON: the text, and a list of each thing known of the tokens."""
        columns = zip(*self.tokens, strict=True) if self.tokens else ((),) * len(Token._fields)
        found = dict(zip(Token._fields, map(list, columns), strict=True))
        found["tokens"], found["ids"] = found.pop("text"), found.pop("id")
        return {"text": self.text, "end": self.end, **found, "seconds": self.seconds}


def generate(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str | list[int],
    sampling: Sampling | None = None,
    on_token: Callable[[Token], None] | None = None,
    memory: int | None = None,
    **request: Unpack[Request],
) -> Completion:
    """Continue one prompt; `on_token` gets each token as soon as its text is certain. `request`: as `complete`."""
    return complete(model, tokenizer, [prompt], sampling, on_token, memory, **request)[0]


def complete(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str | list[int]],
    sampling: Sampling | None = None,
    on_token: Callable[[Token], None] | None = None,
    memory: int | None = None,
    **request: Any,
) -> list[Completion]:
    """Continue prompts, texts or tokens, in one batch; `on_token` follows the first. `request` changes the model's
    budget (`Request`). Where a text outgrows `memory` (default: all positions), its last half is read again. UserError
    for a text that is empty or too long, or has characters that the tokenizer can neither read nor replace."""
    sampling = sampling or Sampling()
    sampling.check()
    model.budget(**request)
    positions = model.config.max_position_embeddings
    most = min(memory or positions, positions)
    encoded = [encode(tokenizer, prompt, positions - 1) if isinstance(prompt, str) else [*prompt] for prompt in prompts]
    ends = ends_of(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(sorted(ends)), 0)
    rows = [Row(tokenizer, ids, ends, sampling.stop, None if i else on_token) for i, ids in enumerate(encoded)]
    start = time.perf_counter()
    devices = [] if model.device.type in ("cpu", "mps") else [model.device]
    with torch.random.fork_rng(devices), torch.inference_mode():
        torch.manual_seed(sampling.seed)
        while active := [row for row in rows if not row.done and len(row.done_tokens) < sampling.max_new_tokens]:
            for row in active:
                if len(row.ids) >= most:
                    row.ids = row.ids[-max(1, most // 2) :]
            width = max(len(row.ids) for row in active)
            ids = torch.tensor([[pad] * (width - len(row.ids)) + row.ids for row in active], device=model.device)
            mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in active])
            left = sampling.max_new_tokens - len(active[0].done_tokens)
            recorder = _Recorder(active)
            model.generate(
                ids, attention_mask=mask.to(model.device), stopping_criteria=StoppingCriteriaList([recorder]),
                trace=recorder, max_new_tokens=min(left, most - width), eos_token_id=None, pad_token_id=pad,
                **_how(sampling), **request,
            )  # fmt: skip
    for row in rows:
        row.finish(time.perf_counter() - start)
    return [row.completion for row in rows]


def ends_of(model: HRMForCausalLM, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """The tokens with which the model ends a text."""
    own: Any = (getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id)
    return {token for ids in own for token in (ids if isinstance(ids, list) else [ids]) if token is not None}


def encode(tokenizer: PreTrainedTokenizerFast, prompt: str | list[int], most: int) -> list[int]:
    """The tokens of a prompt, which may be tokens already; UserError if there are none, more than `most`, or characters
    that cannot be read."""
    if not prompt:
        raise UserError("the prompt is empty: give at least one character to continue")
    if isinstance(prompt, str):
        unknown = new_characters(tokenizer, [prompt])
        if unknown and tokenizer.unk_token_id is None:
            raise UserError(f"the model's vocabulary lacks {shown(unknown)}: leave that out of the prompt")
        ids = list(tokenizer(prompt, verbose=False)["input_ids"])  # type: ignore[call-overload]
        if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]  # a tokenizer that ends texts would end this one here
    else:
        ids = prompt
    if not ids:
        raise UserError(f"the prompt {prompt!r} has no tokens in this vocabulary: give another")
    if len(ids) > most:
        raise UserError(f"the prompt has {len(ids):,} tokens and the model reads {most:,}: shorten it")
    return ids


def shown(characters: Iterable[str]) -> str:
    """Characters in quotes, for a sentence."""
    return ", ".join(map(repr, characters))


def candidates(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str | list[int],
    count: int,
    **request: Unpack[Request],
) -> Json:
    """The likeliest next tokens with their probabilities after every segment, best first where the model stops.
    `depths` has the entropy in nats and P(halt) of each segment; `depth` is where the budget's criterion stops."""
    budget = model.budget(**request)
    budget.check(None, 0, model.lm_head)
    ids = torch.tensor([encode(tokenizer, prompt, model.config.max_position_embeddings)], device=model.device)
    types = torch.ones_like(ids) if model.config.prefix_lm else None
    depth, columns, confidences = 0, [], []
    with torch.inference_mode():
        thought = model.begin(input_ids=ids, token_type_ids=types, budget=budget)
        while len(columns) < max(depth, budget.max_segments) or not depth:
            before = thought.exited.z_h
            model.segment(thought, budget.schedule)
            z = thought.exited.z_h[:, -1]
            columns.append(torch.log_softmax(at_least_float32(model.lm_head(z)), dim=-1)[0])
            confidences.append(float(budget.probability(model.q_head(z))[0]))
            stop = stops(thought, before, budget, model.q_head, model.lm_head)
            if stop[0, -1] and not depth:
                depth = len(columns)
            stop[0, -1] = False  # the last token thinks on, the others as the model has them
            thought.halt(stop)
    logs = torch.stack(columns)
    found = [
        {"id": i, "token": tokenizer.decode([i]), "probability": float(p[depth - 1]), "per_segment": p.tolist()}
        for i in logs[depth - 1].topk(min(count, logs.shape[1])).indices.tolist()
        for p in [logs[:, i].exp()]
    ]
    depths = [
        {"segments": i, "entropy": float(-(log.exp() * log).sum()), "confidence": confidence}
        for i, (log, confidence) in enumerate(zip(logs, confidences, strict=True), 1)
    ]
    return {"prompt": prompt, "depth": depth, "candidates": found, "depths": depths}


def _how(sampling: Sampling) -> Json:
    """The sampling settings as arguments of transformers' `generate`."""
    found: Json = {"do_sample": not sampling.takes_likeliest}
    if not sampling.takes_likeliest:
        found |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        found |= {"min_p": sampling.min_p} if sampling.min_p else {}
    if sampling.repetition_penalty != 1:
        found["repetition_penalty"] = sampling.repetition_penalty
    return found


class _Recorder(StoppingCriteria):
    """Records each step of `generate`: `add` gets the model's output, `__call__` the drawn token."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def add(self, logits: Tensor, depth: Tensor, confidence: Tensor, retried: Tensor | None) -> None:
        """What the forward pass says of the next token: logits [b, v], depth and confidence [b]."""
        self.log_p = torch.log_softmax(at_least_float32(logits), dim=-1)
        if self.log_p.isnan().any():
            raise UserError("the model says nothing but NaN: its weights are damaged, use another checkpoint or copy")
        self.said = (depth, confidence, -(self.log_p.exp() * self.log_p).nan_to_num().sum(-1))

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """Take the drawn tokens down; which rows are done, [b]."""
        drawn = input_ids[:, -1]
        log_p = self.log_p.gather(1, drawn[:, None])[:, 0]
        likeliest = self.log_p.argmax(-1) == drawn
        columns = [column.tolist() for column in (drawn, *self.said, log_p, likeliest)]
        for row, values in zip(self.rows, zip(*columns, strict=True), strict=True):
            if not row.done:
                row.add(*values)
        return torch.tensor([row.done for row in self.rows], device=input_ids.device)


class Row:
    """One text being written. Tokens are released once no stop word can begin in them."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, ids: list[int], ends: set[int], stop: tuple[str, ...],
        on_token: Callable[[Token], None] | None,
    ) -> None:  # fmt: skip
        self.ids, self.ends, self.stop, self.on_token = ids, ends, stop, on_token
        self.completion = Completion()
        self.done = False
        self.done_tokens: list[Token] = []
        """All that were drawn; the completion's are those handed out."""
        self._handed, self._length = 0, 0
        self._backend, self._stream = tokenizer.backend_tokenizer, DecodeStream(ids[-8:], skip_special_tokens=True)

    def add(self, id: int, depth: int, *known: Any) -> None:
        """Take down a drawn token, and what is known of it."""
        self.ids.append(id)
        piece = "" if id in self.ends else self._stream.step(self._backend, id) or ""
        token = Token(id, piece, depth, *known)
        self.done_tokens.append(token)
        self.completion.text += piece
        text = self.completion.text
        found = [text.find(word, max(0, len(text) - len(piece) - len(word))) for word in self.stop]
        if id in self.ends:
            self.done, self.completion.end = True, "end"
        elif any(at >= 0 for at in found):
            self.done, self.completion.end = True, "stop"
            self.completion.text = text[: min(at for at in found if at >= 0)]
        else:
            held = max((_overlap(text, word) for word in self.stop), default=0)
            self._hand_out(len(text) - held)

    def finish(self, seconds: float) -> None:
        """Hand out what is held back."""
        self._hand_out(len(self.completion.text), last=True)
        self.completion.seconds = seconds

    def _hand_out(self, certain: int, last: bool = False) -> None:
        while self._handed < len(self.done_tokens):
            token = self.done_tokens[self._handed]
            after = self._length + len(token.text)
            if after > certain:
                if not last or self._length >= certain:
                    return
                token = token._replace(text=token.text[: certain - self._length])
            self._handed, self._length = self._handed + 1, after
            self.completion.tokens.append(token)
            if self.on_token is not None:
                self.on_token(token)


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of the text with which the word could begin."""
    return next((n for n in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:n])), 0)
