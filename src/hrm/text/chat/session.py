"""A talk with a model: its settings, its memory, and answers that come token by token."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerFast

from hrm.core.kernels import at_least_float32
from hrm.files.reading import UserError, nearest, quoted
from hrm.files.records import Json
from hrm.text.chat import modes
from hrm.text.chat.conversation import Conversation
from hrm.text.config import TALKS, CorpusConfig
from hrm.text.data.growing import new_characters
from hrm.text.load import TextModel
from hrm.text.model import HRMCache
from hrm.text.writing.generation import Completion, Sampling, Token, complete, shown

Stop = Literal["natural", "length", "unlimited"]
STOPS: tuple[Stop, ...] = ("natural", "length", "unlimited")
CANDIDATES = 5
SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\b[A-HJ-Z])[.!?\u2026]+[\"'\u201d\u2019\u00bb)\]]*\s+$"
    r"|[\u3002\uff01\uff1f]$|\n\s*\n\s*$"
)
"""Matches a text that ends with a sentence: punctuation and a space, East Asian punctuation, or an empty line."""


@dataclass(frozen=True)
class Settings:
    """What a person can change while talking."""

    mode: str = "auto"
    stop: Stop = "natural"
    min_characters: int = 80
    """The least that an answer has before it stops at a sentence end."""
    sampling: Sampling = field(default_factory=Sampling)
    trace: bool = False
    """Colour depth and confidence of every token."""
    debug: bool = False
    """Show the likeliest tokens wherever one is drawn."""


class AnswerToken(NamedTuple):
    """A token of an answer, and with `debug` the likeliest ones where it was drawn, with their probabilities."""

    token: Token
    candidates: list[tuple[str, float]]


@dataclass
class Answer(Completion):
    """What the model said; `end` may also be `sentence` or `interrupted`. `notices`: what a person should know."""

    notices: list[str] = field(default_factory=list)


class Session:
    """A model that remembers what was said. What it has read stays in its cache: only new text is read. `memory`:
    tokens it reads, by default those of the rows it was trained on. `plain`: continue the text, even where the model
    knows questions and answers."""

    def __init__(
        self, loaded: TextModel, settings: Settings | None = None, memory: int | None = None, plain: bool = False
    ) -> None:
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        most = int(self.model.config.max_position_embeddings)
        if memory is not None and not 2 <= memory <= most:
            raise UserError(f"--memory {memory} must be between 2 and {most:,}, the positions of the model")
        corpus = CorpusConfig() if loaded.run is None else loaded.run.config.text
        template = corpus.template
        asked = corpus.kind in TALKS or template is not None
        talks = not plain and (asked or bool(self.tokenizer.chat_template))
        memory = memory or min(loaded.length or most, most)
        self.conversation = Conversation(self.tokenizer, memory, talks, template)
        self.modes = modes.settle(modes.requests(loaded), modes.known_modes(loaded))
        self.settings = Settings()
        self.continues = True
        """Whether an answer may be followed by more of the same conversation; not in a batch."""
        self._told = False
        """Whether it was said that the memory is full: once is enough."""
        self.change(settings or replace(self.settings, stop="length" if talks else "natural"))
        self._cache = HRMCache()
        self._seen: list[int] = []
        """The tokens that were read last and written after them; the cache holds the first of them."""
        self._types: list[int] = []
        """Of each, 1 where it was given, 0 where the model wrote it (prefix models)."""
        self._interrupted = False

    def know(self, known: modes.Modes) -> None:
        """Take what was measured of the modes: `auto` becomes the one that is the best for its time."""
        self.modes = modes.settle(self.modes, known)

    def change(self, settings: Settings) -> None:
        """Take other settings; UserError for one that cannot be."""
        settings.sampling.check()
        if settings.mode not in self.modes:
            known = nearest(settings.mode, self.modes) or f"; there are {', '.join(self.modes)}"
            why = "" if len(self.modes) > 1 else " (a plain Transformer has no cycles)"
            raise UserError(f"there is no mode {quoted(settings.mode)}{why}{known}")
        if settings.stop not in STOPS:
            raise UserError(f"an answer cannot stop by {quoted(settings.stop)}: use {', '.join(STOPS)}")
        if settings.min_characters < 0:
            raise UserError(f"the least number of characters cannot be {settings.min_characters}")
        self.model.budget(**self.modes[settings.mode])
        self.settings = settings

    @property
    def deepest(self) -> int:
        """The most segments of a token in this mode."""
        return self.model.budget(**self.modes[self.settings.mode]).limit

    @property
    def cache_bytes(self) -> int:
        """Keys and values held."""
        return round(self._cache.bytes_per_token() * self._cache.get_seq_length()) if self._seen else 0

    @property
    def remembered(self) -> int:
        """Tokens the model reads before the next answer."""
        return len(self.conversation.reading().tokens)

    def interrupt(self) -> None:
        """End the answer under way after its next token; safe to call from a signal handler."""
        self._interrupted = True

    def clear(self) -> None:
        """Forget the conversation."""
        self.conversation.clear()
        self._told = False
        self._forget()

    def answer(self, text: str, on_token: Callable[[AnswerToken], None] | None = None) -> Answer:
        """Answer, or continue if `text` is empty; `on_token` gets each token as soon as it is written. A conversation,
        its seed and its settings mean one answer. UserError for what cannot be read; nothing is said then."""
        self._interrupted = False
        answer, start = Answer(), time.perf_counter()
        conversation, sampling = self.conversation, self.settings.sampling
        if text and (unknown := new_characters(self.tokenizer, [text])):
            if self.tokenizer.unk_token_id is None:
                raise UserError(f"the model's vocabulary lacks {shown(unknown)}: leave that out")
            answer.notices.append(f"the vocabulary lacks {shown(unknown)}, read as {self.tokenizer.unk_token}")
        conversation.ask(text)
        known, outgrown = conversation.forgotten, False
        most = math.inf if self.settings.stop == "unlimited" else sampling.max_new_tokens
        try:
            ids = self._reading()
        except UserError:
            conversation.messages.pop()
            raise
        while True:
            before = len(answer.tokens)
            left = int(min(conversation.most - len(ids), most - before))
            drawn = replace(sampling, max_new_tokens=left, seed=self._seed())
            conversation.answers += 1
            answer.end = self._part(ids, drawn, answer, on_token)
            new = answer.tokens[before:]
            ids = ids + [token.id for token in new]
            kept = new[:-1] if answer.end == "end" and not conversation.talks else new
            conversation.add("".join(token.text for token in new), [token.id for token in kept])
            if answer.end != "length" or len(answer.tokens) >= most:
                break
            if conversation.talks:  # an answer longer than the memory continues from its own last half
                ids, outgrown = ids[-max(1, conversation.most // 2) :], True
            else:
                ids = self._reading()
        if outgrown:
            answer.notices.append("the answer outgrew the memory and continued from its last half")
        if (dropped := conversation.forgotten - known) and not self._told:
            self._told = True
            unit = "message" if conversation.talks else "token"
            those = f"oldest {unit} is" if dropped == 1 else f"oldest {dropped:,} {unit}s are"
            later = ", and more as you continue" if self.continues else ""
            answer.notices.append(f"the {those} forgotten{later}: {conversation.most:,} tokens fit into the memory")
        answer.text = "".join(token.text for token in answer.tokens)
        answer.seconds = time.perf_counter() - start
        return answer

    def _reading(self) -> list[int]:
        ids, self.conversation.forgotten = self.conversation.reading()
        return ids

    def _part(
        self, ids: list[int], sampling: Sampling, answer: Answer, on_token: Callable[[AnswerToken], None] | None
    ) -> str:
        """Write on from tokens into an answer, as far as the memory or the settings allow; why it ends."""
        self._keep(ids)
        debug = _LikeliestRecorder() if self.settings.debug else None

        def take(token: Token) -> None:
            answer.tokens.append(token)
            answer.text += token.text
            if on_token is not None:
                likeliest = [] if debug is None else debug.named(self.tokenizer)
                on_token(AnswerToken(token, likeliest))
            if self._interrupted:
                raise _StopAnswer("interrupted")
            enough = self.settings.stop == "natural" and len(answer.text) >= self.settings.min_characters
            if enough and SENTENCE_END.search(answer.text[-80:]):
                raise _StopAnswer("sentence")

        request: Json = {**self.modes[self.settings.mode]}
        if debug is not None:
            request["logits_processor"] = LogitsProcessorList([debug])
        if self.model.config.prefix_lm:
            request["token_type_ids"] = torch.tensor([self._types], device=self.model.device)
        before = len(answer.tokens)
        try:
            request["past_key_values"] = self._cache
            end = complete(self.model, self.tokenizer, [ids], sampling, take, **request)[0].end
        except _StopAnswer as stopped:
            end = stopped.args[0]
        except BaseException as error:
            self._cache.reset()  # some layers may have read more than others
            if not isinstance(error, KeyboardInterrupt):
                raise
            end = "interrupted"
        written = [token.id for token in answer.tokens[before:]]
        self._seen, self._types = ids + written, self._types + [0] * len(written)
        return end

    def _keep(self, ids: list[int]) -> None:
        """Keep of the cache what these tokens begin with, but not all of them: the last one has to be read."""
        pairs = enumerate(zip(self._seen, ids, strict=False))
        same = next((i for i, (old, new) in pairs if old != new), min(len(self._seen), len(ids)))
        self._types = self._types[:same] + [1] * (len(ids) - same)
        held, same = self._cache.get_seq_length(), min(same, len(ids) - 1)
        if same < held:
            if same and not self.model.config.prefix_lm:
                self._cache.crop(same - held)
            else:  # inside a prefix earlier tokens have seen later ones
                self._cache.reset()

    def _forget(self) -> None:
        self._cache.reset()
        self._seen, self._types = [], []

    def _seed(self) -> int:
        """Another one for every answer; that of the first is the seed itself, as in `hrm generate`."""
        return (self.settings.sampling.seed + 1_000_003 * self.conversation.answers) % (1 << 63)


class _StopAnswer(Exception):
    """Raised to end an answer."""


class _LikeliestRecorder(LogitsProcessor):
    """Records the distribution of the next token, before temperature, top-k and top-p."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        p = torch.softmax(at_least_float32(scores[0]), dim=-1)
        self.best = p.topk(min(CANDIDATES, len(p)))
        return scores

    def named(self, tokenizer: PreTrainedTokenizerFast) -> list[tuple[str, float]]:
        """The likeliest tokens as text."""
        best = zip(self.best.values.tolist(), self.best.indices.tolist(), strict=True)
        return [(str(tokenizer.decode([i])), p) for p, i in best]
