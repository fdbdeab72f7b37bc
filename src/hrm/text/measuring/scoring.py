"""Likelihoods of texts after contexts: what multiple choice, last words and lm-eval tasks ask of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Unpack

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.files.reading import UserError
from hrm.text.measuring.subject import subject_of
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request


class Score(NamedTuple):
    """Of a continuation: log-probability in nats, whether each token is the likeliest, tokens, their mean depth, and
    whether what stands before it was too long."""

    log_probability: float
    greedy: bool
    tokens: int
    depth: float
    cut: bool = False


class Scorer:
    """A model that is asked how likely texts are. `request` changes its budget. A text without a context begins after
    the tokenizer's bos or else eos token, a context that is too long loses its beginning, and models of prefixes read
    the context as one."""

    def __init__(
        self,
        model: HRMForCausalLM | PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        batch_size: int = 8,
        **request: Unpack[Request],
    ) -> None:
        self.tokenizer, self.batch_size, self.device = tokenizer, batch_size, model.device
        self.subject = subject_of(model, tokenizer, **request)
        self.length = self.subject.length

    @property
    def first(self) -> int:
        """What a text without a context begins after; UserError for a tokenizer that has no such token."""
        ends: Any = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        if ends == (None, None):
            raise UserError("the tokenizer has neither a bos nor an eos token for a text to begin after: add one")
        return ends[0] if ends[0] is not None else ends[1]

    def continuations(
        self, pairs: Sequence[tuple[str, str]], progress: Callable[[float], None] | None = None
    ) -> list[Score]:
        """How likely each continuation is after its context."""
        return self._scores([self.encode(context, text) for context, text in pairs], progress)

    def whole(self, texts: Sequence[str], progress: Callable[[float], None] | None = None) -> list[Score]:
        """How likely whole texts are, read in windows that do not overlap."""
        rows, counts = [], []
        for text in texts:
            ids = [self.first, *self.subject.ids(text, alone=True)]
            windows = [ids[at : at + self.length + 1] for at in range(0, len(ids) - 1, self.length)]
            counts.append(len(windows))
            rows += [(window[:1], window[1:]) for window in windows]
        scores, found = iter(self._scores(rows, progress, prefix=False)), []
        for some in (list(itertools.islice(scores, count)) for count in counts):
            tokens = sum(score.tokens for score in some)
            depth = sum(score.depth * score.tokens for score in some) / max(1, tokens)
            found.append(Score(sum(s.log_probability for s in some), all(s.greedy for s in some), tokens, depth))
        return found

    def encode(self, context: str, text: str) -> tuple[list[int], list[int]]:
        """Tokens of both, cut where the context's own tokens end; spaces between them belong to the continuation."""
        kept = context.rstrip()
        text = context[len(kept) :] + text
        if not kept:
            return [self.first], self.subject.ids(text, alone=True)
        both, alone = self.subject.ids(kept + text), self.subject.ids(kept)
        if len(both) <= len(alone):
            return alone, self.subject.ids(text, alone=True)  # the seam melted into one token
        return both[: len(alone)], both[len(alone) :]

    def _scores(
        self, rows: Sequence[tuple[list[int], list[int]]], progress: Callable[[float], None] | None, prefix: bool = True
    ) -> list[Score]:
        found = [Score(0.0, True, 0, 0.0)] * len(rows)
        order = sorted((i for i, (_, text) in enumerate(rows) if text), key=lambda i: -sum(map(len, rows[i])))
        for at in range(0, len(order), self.batch_size):
            some = order[at : at + self.batch_size]
            for i, score in zip(some, self._batch([rows[i] for i in some], prefix), strict=True):
                found[i] = score
            if progress is not None:
                progress(min(1.0, (at + len(some)) / len(order)))
        return found

    @torch.inference_mode()
    def _batch(self, rows: Sequence[tuple[list[int], list[int]]], prefix: bool) -> Iterator[Score]:
        cut = [((context + text)[-self.length - 1 :], min(len(text), self.length)) for context, text in rows]
        width = max(len(ids) - 1 for ids, _ in cut)
        inputs, labels, types = (torch.full((len(cut), width), fill) for fill in (0, -100, 0))
        for row, (ids, count) in enumerate(cut):
            end = len(ids) - 1
            inputs[row, :end] = torch.tensor(ids[:-1])
            labels[row, end - count : end] = torch.tensor(ids[-count:])
            types[row, : len(ids) - count] = 1
        inputs, labels, types = (each.to(self.device) for each in (inputs, labels, types))
        # What pads a row comes after all that counts, where nothing looks.
        columns = self.subject.columns(inputs, labels, types if prefix else None)
        counts, lost = [count for _, count in cut], [sum(map(len, row)) - 1 > self.length for row in rows]
        split = (column.cpu().split(counts) for column in columns)
        for loss, right, depth, less in zip(*split, lost, strict=True):
            yield Score(-float(loss.cpu().double().sum()), bool(right.all()), len(loss), float(depth.mean()), less)
