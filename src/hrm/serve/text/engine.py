"""One thread per model, in which the texts of many requests are written segment by segment.

Between two segments texts enter and leave. Those of the same schedule share each segment, whatever their lengths,
depths and settings; texts of different schedules take turns, by the time that each schedule has had.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hrm.core.kernels import at_least_float32, packed
from hrm.core.recurrence import Carry, Schedule
from hrm.files.reading import UserError
from hrm.serve.text.cost import Cost
from hrm.serve.text.kept import KeptCaches
from hrm.serve.text.writing import Step, Wish, Writing, Written
from hrm.serve.waiting import End, FairQueue, Limits
from hrm.text.chat.session import SENTENCE_END
from hrm.text.load import TextModel
from hrm.text.model.budget import Budget
from hrm.text.model.cache import HRMCache
from hrm.text.model.halting import stops_of
from hrm.text.model.thought import Thought
from hrm.text.writing.drawing import Drawing
from hrm.text.writing.generation import Row, Token, ends_of

log = logging.getLogger(__name__)
CHUNK = 128
"""Tokens of prompts that are read at a time: texts that are being written wait no longer than these take."""
IDLE = 0.5
"""Seconds after which a thread with nothing to do looks whether a waiting request is over."""


@dataclass
class _Text:
    """A request in its slot."""

    writing: Writing
    row: Row
    budget: Budget
    drawing: Drawing
    most: int
    unread: list[int]
    """Tokens that no segment has seen; the last one is the newest of the text."""
    cache: HRMCache = field(default_factory=HRMCache)
    thought: Thought | None = None
    """The tokens that are thought about now."""
    ends: bool = False
    """Whether they are the last of `unread`, so that a token is drawn after them."""
    tops: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    """The likeliest tokens where each was drawn."""
    sentence: bool = False
    """Whether it has come to the end of a sentence where it may end."""
    length: int = 0
    """Characters handed out."""
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    """State [1, d] of the token thought about last."""
    depth: int = 0
    """Its depth."""

    @property
    def schedule(self) -> Schedule:
        return self.budget.schedule


class TextEngine:
    """Writes texts with one model; `on_step` is told in the engine's thread what each segment was, before texts end."""

    def __init__(
        self, loaded: TextModel, limits: Limits | None = None, on_step: Callable[[Step], None] | None = None
    ) -> None:
        self.loaded, self.model, self.tokenizer = loaded, loaded.model, loaded.tokenizer
        self.limits, self.on_step = limits or Limits(), on_step
        self.queue: FairQueue[Writing] = FairQueue(self.limits.waiting)
        self.active: list[_Text] = []
        self.cost = Cost(self.model)
        self.kept = KeptCaches(0 if self.model.config.prefix_lm else self.limits.slots)
        self._ends = ends_of(self.model, self.tokenizer)
        self._had: dict[Schedule, float] = {}
        """Seconds that each schedule with texts under way has had."""
        self._closing = threading.Event()
        self._last = float("inf")
        """When the engine must be done, once it is closing."""
        self._thread = threading.Thread(target=self._run, name=f"writes with {loaded.name}", daemon=True)
        self._thread.start()

    def submit(self, *writings: Writing) -> None:
        """Queue requests, all or none; Busy if not all fit, UserError for one that cannot be."""
        for writing in writings:
            self.check(writing.wish)
        self.queue.put(*writings)

    def check(self, wish: Wish) -> None:
        """UserError for a wish that cannot be fulfilled."""
        wish.sampling.check()
        positions = self.model.config.max_position_embeddings
        if not 0 < len(wish.ids) < positions:
            raise UserError(f"the prompt has {len(wish.ids):,} tokens and the model reads {positions - 1:,}: change it")
        budget = self.model.budget(**wish.request)
        budget.check(None, 0, self.model.lm_head)

    def close(self, seconds: float = 0) -> None:
        """Take no more, end what waits, finish what is under way for so long, and wait for the thread."""
        self._last = time.monotonic() + seconds
        self._closing.set()
        self.queue.close()
        self._thread.join()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self.queue)

    @property
    def cache_bytes(self) -> int:
        """Keys and values held."""
        return sum(_bytes(cache) for cache in [*(text.cache for text in [*self.active]), *self.kept.caches])

    def _run(self) -> None:
        with torch.inference_mode(), packed(self.model):
            self.model.model.refresh()
            while True:
                try:
                    if not self._tick():
                        return
                except Exception as error:  # a thread that dies would leave every later request without an answer
                    log.exception("writing failed")
                    for text in self.active:
                        text.writing.finish("failed", error)
                    self.active, self._had = [], {}
                    self.kept.clear()

    def _tick(self) -> bool:
        """Admit, compute one segment, draw; whether there is more to do."""
        self.queue.sweep()
        for text in self.active:
            over: End | None = "stopped" if time.monotonic() > self._last else text.writing.over
            if over is not None:
                self._leave(text, over)
        self._sweep()
        self._admit()
        if not self.active:
            self._had = {}
            if self._closing.is_set():
                self.kept.clear()
                return False
            self.queue.wait(IDLE)
            return True
        schedule = self._turn()
        start = time.perf_counter()
        together = self._begin([text for text in self.active if text.schedule == schedule])
        thoughts: list[Thought] = [text.thought for text in together if text.thought is not None]
        before = [thought.exited.z_h for thought in thoughts]
        live = [thought.new if thought.all_live else int(thought.live.sum()) for thought in thoughts]
        computed = self.model.segments(thoughts, schedule)
        halting: dict[Budget, list[int]] = {}
        for i, (text, tokens, count) in enumerate(zip(together, live, computed, strict=True)):
            text.writing.segments += tokens
            text.writing.flops += self.cost.segment(schedule, count, len(text.row.ids))
            if text.budget.adaptive:
                halting.setdefault(text.budget, []).append(i)
        for budget, which in halting.items():
            some = [thoughts[i] for i in which], [before[i] for i in which]
            halts = stops_of(*some, budget, self.model.q_head, self.model.lm_head)
            for i, stop in zip(which, halts, strict=True):
                thoughts[i].halt(stop)
        for text, thought in zip(together, thoughts, strict=True):
            self._settle(text, thought)
        drawn, done = self._draw([text for text in together if text.thought is None and text.ends])
        took = time.perf_counter() - start
        self._had[schedule] += took
        if self.on_step is not None:
            depth = sum(token.depth for token in drawn)
            self.on_step(Step(len(together), sum(computed), len(drawn), depth, took))
        for text in done:  # after the step is told: who has an answer finds it counted
            self._leave(text, "done")
        self._sweep()
        return True

    def _sweep(self) -> None:
        """Free the slots of texts that have ended."""
        self.active = [text for text in self.active if text.writing.end is None]

    def _admit(self) -> None:
        """Give free slots to requests that wait."""
        while len(self.active) < self.limits.slots:
            writing = self.queue.take()
            if writing is None:
                return
            try:
                self.active.append(self._text(writing))
            except Exception as error:
                writing.finish("failed", error)

    def _text(self, writing: Writing) -> _Text:
        wish = writing.wish
        positions = self.model.config.max_position_embeddings
        most = min(wish.memory or positions, positions)
        row = Row(
            self.tokenizer, [*wish.ids], self._ends, wish.sampling.stop, lambda token: self._hand_out(text, token)
        )
        drawing = Drawing(wish.sampling, self.model.device)
        budget = self.model.budget(**wish.request)
        text = _Text(writing, row, budget, drawing, most, [*wish.ids])
        if (found := self.kept.take(writing.owner, budget, wish.ids)) is not None:
            text.cache, writing.cached = found
            text.unread = wish.ids[writing.cached :]
        text.cache.room = min(most, len(wish.ids) + wish.sampling.max_new_tokens, 256) + 1
        return text

    def _turn(self) -> Schedule:
        """The schedule whose texts have had the least time; a new one begins where the others are."""
        there = {text.schedule for text in self.active}
        self._had = {schedule: had for schedule, had in self._had.items() if schedule in there}
        least = min(self._had.values(), default=0.0)
        for schedule in there:
            self._had.setdefault(schedule, least)
        return min(there, key=lambda schedule: (self._had[schedule], schedule))

    def _begin(self, texts: list[_Text]) -> list[_Text]:
        """Those that are in this segment: all under way, every text's next token, and prompts while there is room."""
        room = CHUNK - sum(text.thought.new for text in texts if text.thought is not None and text.thought.new > 1)
        for text in texts:
            if text.thought is not None or (len(text.unread) > 1 and room <= 0):
                continue
            whole = self.model.config.prefix_lm and not text.cache.get_seq_length()
            count = len(text.unread) if whole else min(len(text.unread), max(1, room))
            room -= count if count > 1 else 0
            chunk, text.unread = text.unread[:count], text.unread[count:]
            text.ends = not text.unread
            ids = torch.tensor([chunk], device=self.model.device)
            types = torch.ones_like(ids) if whole else None
            text.thought = self.model.begin(
                input_ids=ids, token_type_ids=types, past_key_values=text.cache, budget=text.budget
            )
        return [text for text in texts if text.thought is not None]

    def _settle(self, text: _Text, thought: Thought) -> None:
        """After a segment: a thought from which the text can be continued is over."""
        deep = thought.segment == text.budget.max_segments
        if not (thought.written if text.budget.adaptive else deep):
            return
        text.cache.carry = Carry(*(z[:, -1:] for z in thought.exited))
        text.last, text.depth = thought.exited.z_h[:, -1], int(thought.depth[0, -1])
        text.thought = None

    def _draw(self, texts: list[_Text]) -> tuple[list[Token], list[_Text]]:
        """The next token of each text whose last one has been thought about, and the texts that this ends."""
        if not texts:
            return [], []
        z = torch.cat([text.last for text in texts])
        logits = self.model.lm_head(z)
        log_p = torch.log_softmax(at_least_float32(logits), dim=-1)
        likeliest = log_p.argmax(-1).tolist()
        entropy = (-(log_p.exp() * log_p).nan_to_num().sum(-1)).tolist()
        q = self.model.q_head(z)
        found: list[Token] = []
        done: list[_Text] = []
        for i, text in enumerate(texts):
            if log_p[i].isnan().any():
                problem = "the model says nothing but NaN: its weights are damaged, use another checkpoint or copy"
                self._leave(text, "failed", UserError(problem))
                continue
            id = likeliest[i] if text.drawing.plain else text.drawing(logits[i : i + 1], text.row.ids)
            depth, confidence = text.depth, float(text.budget.probability(q[i]))
            text.writing.flops += self.cost.head
            if text.writing.wish.top:
                best = log_p[i].topk(min(text.writing.wish.top, log_p.shape[1]))
                text.tops.append(tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            known = depth, confidence, entropy[i], float(log_p[i, id]), id == likeliest[i]
            text.row.add(id, *known)
            found.append(text.row.done_tokens[-1])
            if not self._continues(text, id):
                done.append(text)
        return found, done

    def _continues(self, text: _Text, id: int) -> bool:
        """Whether the text is not done with its token, which is then read next."""
        row, wish = text.row, text.writing.wish
        if row.done or text.sentence or len(row.done_tokens) >= wish.sampling.max_new_tokens:
            return False
        text.unread = [id]
        if len(row.ids) >= text.most:  # it is read again from its last half
            row.ids = row.ids[-max(1, text.most // 2) :]
            text.unread = [*row.ids]
            text.cache.reset()
        return True

    def _hand_out(self, text: _Text, token: Token) -> None:
        completion, wish = text.row.completion, text.writing.wish
        place = len(completion.tokens) - 1
        text.writing.deliver(Written(token, text.tops[place] if wish.top else ()))
        if wish.natural is None or text.sentence:
            return
        text.length += len(token.text)
        said = completion.text[: text.length]
        text.sentence = text.length >= wish.natural and SENTENCE_END.search(said[-80:]) is not None

    def _leave(self, text: _Text, end: End, error: Exception | None = None) -> None:
        """Free the slot, and hand out what is held back."""
        row, writing = text.row, text.writing
        if end == "done" and text.thought is None:
            self.kept.put(writing.owner, text.budget, row.ids, text.cache)
        text.thought, text.cache = None, HRMCache()
        if end == "done" and text.sentence and not row.done:
            row.completion.end = "sentence"
        if end in ("done", "stopped", "deadline"):
            row.finish(time.monotonic() - writing.arrived)
        row.on_token = None  # it knows the text, which knows the row: only the garbage collector would free the two
        writing.completion = row.completion
        writing.finish(end, error)


def _bytes(cache: HRMCache) -> int:
    """Of its buffers, also where they are not yet filled."""
    layers = [layer for layer in [*cache.layers] if layer.is_initialized]
    return sum(t.numel() * t.element_size() for layer in layers for t in layer.reserve(0))  # type: ignore[union-attr]
