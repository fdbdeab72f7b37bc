"""Measuring a model of text: loss, accuracy and calibration at every fixed depth, and where tokens choose theirs."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hrm.core import devices
from hrm.core.calibration import BINS, interval
from hrm.core.kernels import at_least_float32
from hrm.files.records import Record
from hrm.text.data import Tokens
from hrm.text.data.hops import Hops
from hrm.text.measuring.subject import LOGITS
from hrm.text.model import Budget, HRMForCausalLM, Thought
from hrm.text.model.budget import Request

THRESHOLDS = {
    "q": (0.1, 0.3, 0.5, 0.7, 0.9),
    "kl": (1.0, 0.3, 0.1, 0.03, 0.01, 0.003),
    "change": (1.0, 0.5, 0.2, 0.1, 0.05),
    "readout": (0.5, 0.7, 0.9, 0.95, 0.99),
}
"""Exit thresholds of a curve, by criterion."""


class TokenScores(NamedTuple):
    """Of each counted token [n]: loss in nats, whether the best next token is right, its probability, and P(halt) where
    the model says one."""

    loss: np.ndarray
    right: np.ndarray
    probability: np.ndarray
    confidence: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Means(Record):
    """Means over tokens that were read at one depth, or at depths of their own."""

    mean_segments: float
    loss: float
    """Nats a token."""
    perplexity: float
    bits_per_byte: float
    bits_per_character: float
    token_accuracy: float
    ece: float
    """Calibration error of the best token's probability."""
    ece_q: float | None = None
    """That of P(halt); None for a model that does not say one."""
    ece_q_target: float | None = None
    """That of P(halt) towards what the Q head was trained to say."""
    exact_match: float | None = None
    """The share of answers in which every token is the likeliest one: then, and only then, is it what the model writes
    greedily."""
    exact_match_interval: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class _Fixed(Record):
    segments: int


@dataclass(frozen=True, kw_only=True)
class Fixed(Means, _Fixed):
    """Every token at the same depth."""


@dataclass(frozen=True, kw_only=True)
class _Chosen(Record):
    exit_threshold: float


@dataclass(frozen=True, kw_only=True)
class Chosen(Means, _Chosen):
    """Every token at the depth that it chooses under a threshold."""

    depths: list[int]
    """How many tokens stopped at each."""
    random: Means | None = None
    """The same depths dealt out at random."""


@dataclass(frozen=True, kw_only=True)
class _Counted(Record):
    n: int
    answers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Measured(Means, _Counted):
    """A measurement; its means are those of the model as the budget uses it."""

    bytes: int
    characters: int
    unknown: int
    max_segments: int
    halting: str
    exit_threshold: float | None
    schedule: list[int]
    length: int
    stride: int
    fixed: list[Fixed]
    adaptive: list[Chosen]
    tokens_per_second: float
    seconds: float
    device: str
    dtype: str


class LossTotals:
    """Sums over the tokens that were read at one depth, or at depths of their own."""

    def __init__(self) -> None:
        self.count, self.loss, self.right, self.segments = 0, 0.0, 0, 0
        self.gaps = {name: np.zeros(BINS) for name in ("ece", "ece_q", "ece_q_target")}
        self.targets = self.answers = self.exact = 0
        self.halts = True

    def add(self, reading: TokenScores, depth: np.ndarray | int, answers: np.ndarray | None = None) -> None:
        """Add the tokens of a batch, with the depth of each and the answer to which it belongs."""
        self.count += len(reading.loss)
        self.loss += float(reading.loss.sum(dtype=np.float64))
        self.right += int(reading.right.sum())
        self.segments += int(np.sum(depth)) if isinstance(depth, np.ndarray) else depth * len(reading.loss)
        self._gap("ece", reading.probability, reading.right)
        if reading.confidence is None:
            self.halts = False
        else:
            self._gap("ece_q", reading.confidence, reading.right)
        if answers is not None:
            wrong = np.bincount(answers, reading.right == 0)
            self.answers, self.exact = self.answers + len(wrong), self.exact + int((wrong == 0).sum())

    def add_target(self, confidence: np.ndarray, target: np.ndarray) -> None:
        """Add P(halt) of the Q head and its training target."""
        self.targets += len(confidence)
        self._gap("ece_q_target", confidence, target)

    def result(self, size: TextSize) -> Means:
        """The means."""
        n = max(1, self.count)
        loss = self.loss / n
        gaps = {name: float(np.abs(gap).sum()) for name, gap in self.gaps.items()}
        return Means(
            mean_segments=self.segments / n, loss=loss, perplexity=math.exp(min(loss, 700)),
            bits_per_byte=self.loss / math.log(2) / max(1, size.bytes),
            bits_per_character=self.loss / math.log(2) / max(1, size.characters), token_accuracy=self.right / n,
            ece=gaps["ece"] / n, ece_q=gaps["ece_q"] / n if self.halts else None,
            ece_q_target=gaps["ece_q_target"] / self.targets if self.targets else None,
            exact_match=self.exact / self.answers if self.answers else None,
            exact_match_interval=list(interval(self.exact, self.answers)) if self.answers else None,
        )  # fmt: skip

    def _gap(self, name: str, confidence: np.ndarray, right: np.ndarray) -> None:
        which = np.minimum((confidence * BINS).astype(int), BINS - 1)
        self.gaps[name] += np.bincount(which, confidence - right, minlength=BINS)


class AdaptiveDepth:
    """Tokens that choose their depth under one budget, and with `control` the same depths dealt out at random."""

    def __init__(self, budget: Budget, control: bool, generator: torch.Generator) -> None:
        self.budget, self.control, self.generator = budget, control, generator
        self.chosen, self.dealt = LossTotals(), LossTotals()
        self.histogram = np.zeros(budget.limit + 1, np.int64)

    def add(self, model: HRMForCausalLM, tokens: dict[str, Tensor], labels: Tensor, answers: np.ndarray | None) -> None:
        """Read a batch."""
        budget, counted = self.budget, labels != -100
        thought = model.begin(**tokens, budget=budget)
        model.think(thought, budget)
        depth = thought.depth[counted]
        reading = read(model, thought, labels, budget)
        self.chosen.add(reading, depth.cpu().numpy(), answers)
        self.histogram += torch.bincount(depth, minlength=len(self.histogram)).cpu().numpy()
        if not self.control:
            return
        others = thought.depth.clone()
        others[counted] = depth[torch.randperm(len(depth), generator=self.generator).to(depth.device)]
        if not torch.equal(others, thought.depth):
            thought = model.begin(**tokens, budget=budget)
            halt_at(model, thought, others, budget)
            reading = read(model, thought, labels, budget)
        self.dealt.add(reading, others[counted].cpu().numpy(), answers)

    def result(self, size: TextSize) -> Chosen:
        """Means over the tokens, and how many stopped at each depth."""
        random, depths = self.dealt.result(size) if self.control else None, self.histogram[1:].tolist()
        means = self.chosen.result(size)
        return Chosen(exit_threshold=self.budget.exit_threshold, **means, depths=depths, random=random)


class TextSize(NamedTuple):
    """What the counted tokens stand for."""

    bytes: int
    characters: int
    unknown: int
    """Tokens that stand for characters the tokenizer does not know."""


class WindowsRead:
    """The windows of a text one after the other, and what of it was read."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, packed: Tokens | Hops, length: int, stride: int | None,
        limit: int | None, progress: Callable[[float], None] | None,
    ) -> None:  # fmt: skip
        self.packed, self.length, self.stride, self.limit, self.progress = packed, length, stride, limit, progress
        self.answering = stride is None and getattr(packed, "mask", None) is not None
        self.unknown, self.seen = tokenizer.unk_token_id, 0
        self._table, self._sizes = byte_lengths(tokenizer), np.zeros(3, np.int64)

    @property
    def size(self) -> TextSize:
        """What the counted tokens stand for."""
        return TextSize(*self._sizes.tolist())

    def batches(self, rows: int, device: torch.device) -> Iterator[tuple[dict[str, Tensor], Tensor, np.ndarray | None]]:
        """Tokens [b, p], labels [b, p], and of each counted one its answer; about `limit` counted ones, from all over
        the text."""
        each = self.stride or self.length
        wanted = max(1, -(-(self.limit or self.packed.count) // each))
        apart = max(1, -(-self.packed.count // each) // wanted)
        for batch in self.packed.windows(self.length, self.stride, rows, apart):
            columns = (*batch, batch.token_types)
            ids, labels, positions, types = (torch.from_numpy(column).to(device) for column in columns)
            counted = labels != -100
            if not bool(counted.any()):
                continue
            which = labels[counted].cpu().numpy()
            unknown = 0 if self.unknown is None else (which == self.unknown).sum()
            self._sizes += (*self._table[which].sum(0), unknown)
            answers = _numbered(positions, counted) if self.answering else None
            yield {"input_ids": ids, "position_ids": positions, "token_type_ids": types}, labels, answers
            self.seen += len(which)
            if self.progress is not None:
                most = min(self.limit or self.packed.count, self.packed.count)
                self.progress(min(1.0, self.seen / max(1, most)))
            if self.limit is not None and self.seen >= self.limit:
                return


def evaluate(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    packed: Tokens | Hops,
    length: int,
    stride: int | None = None,
    batch_size: int = 8,
    thresholds: tuple[float, ...] = (),
    progress: Callable[[float], None] | None = None,
    limit: int | None = None,
    control: bool = True,
    **request: Unpack[Request],
) -> Measured:
    """Measure every token of a text at every depth, and where tokens stop, in windows of `length` tokens. Adaptive
    depth is measured at `thresholds`, else at the budget's own, each beside a `control`: the same depths dealt out at
    random. `limit`: about how many tokens are enough. Where some tokens are given and others count, a document is an
    answer."""
    budget = model.budget(**request)
    adaptive = budget.adaptive
    budgets = [budget._replace(exit_threshold=t) for t in thresholds or (budget.exit_threshold,)] if adaptive else []
    if adaptive and budget.exit_threshold not in [b.exit_threshold for b in budgets]:
        budgets.append(budget)
    fixed = budget._replace(halting="fixed", retry_confidence=0.0)
    depths = [LossTotals() for _ in range(fixed.max_segments)]
    generator = torch.Generator().manual_seed(0)
    curve = [AdaptiveDepth(each, control, generator) for each in budgets]
    windows = WindowsRead(tokenizer, packed, length, stride, limit, progress)
    was_training, start = model.training, time.perf_counter()
    model.eval()
    with torch.inference_mode():
        for tokens, labels, answers in windows.batches(batch_size, model.device):
            _fixed(model, tokens, labels, fixed, depths, answers)
            for each in curve:
                each.add(model, tokens, labels, answers)
    model.train(was_training)
    seconds = time.perf_counter() - start
    seen, size = windows.seen, windows.size
    own = next((each.chosen for each in curve if each.budget == budget), depths[-1])
    return Measured(
        n=seen, answers=depths[-1].answers if windows.answering else None, **own.result(size), **size._asdict(),
        max_segments=budget.max_segments, halting=budget.halting if adaptive else "fixed",
        exit_threshold=budget.exit_threshold if adaptive else None, schedule=list(budget.schedule), length=length,
        stride=stride or length, fixed=[Fixed(segments=i, **tally.result(size)) for i, tally in enumerate(depths, 1)],
        adaptive=[each.result(size) for each in curve], tokens_per_second=seen / seconds, seconds=seconds,
        device=str(model.device), dtype=devices.named(model.compute_dtype),
    )  # fmt: skip


def read(model: HRMForCausalLM, thought: Thought, labels: Tensor, budget: Budget) -> TokenScores:
    """Scores of the labelled tokens at their current depth, in pieces because logits are large."""
    counted = labels != -100
    z, targets = thought.exited.z_h[counted], labels[counted]
    parts = []
    for some, wanted in zip(*(t.split(max(1, LOGITS // model.config.vocab_size)) for t in (z, targets)), strict=True):
        logits = at_least_float32(model.lm_head(some))
        scale, (top, best) = logits.logsumexp(-1), logits.max(-1)
        loss = scale - logits.gather(1, wanted[:, None])[:, 0]
        parts.append((loss, best == wanted, (top - scale).exp(), budget.probability(model.q_head(some))))
    return TokenScores(*(torch.cat(column).float().cpu().numpy() for column in zip(*parts, strict=True)))


def halt_at(model: HRMForCausalLM, thought: Thought, depth: Tensor, budget: Budget) -> None:
    """Run segments until every token has the given depth [b, p]."""
    for segment in range(1, int(depth.max()) + 1):
        model.segment(thought, budget.schedule)
        thought.halt(depth <= segment)


def _fixed(
    model: HRMForCausalLM,
    tokens: dict[str, Tensor],
    labels: Tensor,
    budget: Budget,
    depths: list[LossTotals],
    answers: np.ndarray | None,
) -> None:
    """One pass to the last segment, read after each."""
    config, before = model.config, None
    thought = model.begin(**tokens, budget=budget)
    for segment, tally in enumerate(depths, 1):
        model.segment(thought, budget.schedule)
        reading = read(model, thought, labels, budget)
        tally.add(reading, segment, answers)
        if config.q_target == "improvement" and before is not None and before.confidence is not None:
            depths[segment - 2].add_target(before.confidence, before.loss - reading.loss < config.q_gamma)
        before = reading


def _numbered(positions: Tensor, counted: Tensor) -> np.ndarray:
    """Of each counted token the number of its document in the batch, from 0, leaving out those without such tokens."""
    documents = (positions == 0).flatten().cumsum(0)[counted.flatten()]
    return np.unique(documents.cpu().numpy(), return_inverse=True)[1]


def byte_lengths(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """[vocabulary, 2]: UTF-8 bytes and characters (which count where their first byte is) of every token; 0 for special
    ones, 1 for the unknown token."""
    backend = tokenizer.backend_tokenizer
    decoder = json.dumps(json.loads(backend.to_str())["decoder"])
    of_byte = {letter: byte for byte, letter in enumerate(_byte_letters())} if '"ByteLevel"' in decoder else None
    special = set(tokenizer.all_special_ids)
    table = np.zeros((max(len(tokenizer), *tokenizer.get_vocab().values(), 0) + 1, 2), np.int64)
    for token, index in tokenizer.get_vocab().items():
        if index == tokenizer.unk_token_id:
            table[index] = 1
        elif index not in special:
            raw = _bytes_of(token, of_byte, decoder)
            table[index] = len(raw), sum(byte & 0xC0 != 0x80 for byte in raw)
    return table


def _bytes_of(token: str, of_byte: dict[str, int] | None, decoder: str) -> bytes:
    if of_byte is not None and all(letter in of_byte for letter in token):
        return bytes(of_byte[letter] for letter in token)
    if '"ByteFallback"' in decoder and re.fullmatch("<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return (token.replace("\u2581", " ") if "\\u2581" in decoder or "\u2581" in decoder else token).encode()


def _byte_letters() -> str:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2)."""
    plain, more = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}, count(256)
    return "".join(chr(byte if byte in plain else next(more)) for byte in range(256))
