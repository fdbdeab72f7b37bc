"""The texts of one request: several at once, each in one part or in as many as a talk takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from hrm.files.reading import UserError
from hrm.serve.errors import TimedOut, Unavailable
from hrm.serve.text.writing import Wish, Writing, Written
from hrm.serve.waiting import Busy, Ticket
from hrm.text.chat.conversation import Conversation
from hrm.text.writing.generation import Sampling

AGAIN = 0.1
"""Seconds after which a part of a text that found the queue full asks again."""


class Plan(Protocol):
    """What a text is written from."""

    def first(self) -> Wish: ...

    def then(self, part: Writing) -> Wish | None:
        """The next part after one that has ended."""
        ...


@dataclass
class Alone:
    """A text in one part."""

    wish: Wish

    def first(self) -> Wish:
        return self.wish

    def then(self, part: Writing) -> Wish | None:
        return None


@dataclass
class Talk:
    """An answer in a conversation, in the same parts as `hrm chat` writes: one that outgrows the memory continues from
    its last half, with another seed."""

    conversation: Conversation
    wish: Wish
    """How to write; its tokens are those that the conversation gives."""
    written: int = 0
    characters: int = 0
    ids: list[int] = field(default_factory=list)
    part: Wish | None = None

    def begin(self) -> None:
        """Read the conversation; UserError for one that is too long. One that ends with an answer continues it."""
        conversation, said = self.conversation, self.conversation.messages
        begun = said.pop() if conversation.talks and said[-1].role == "assistant" else None
        self.ids, conversation.forgotten = conversation.reading()
        if begun is not None:
            plain: Any = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
            self.ids = self.ids + list(conversation.tokenizer(begun.content, **plain)["input_ids"])
            if len(self.ids) >= conversation.most:
                self.ids = self.ids[-max(1, conversation.most // 2) :]
            said.append(begun)
        self.part = self._part()

    def first(self) -> Wish:
        assert self.part is not None
        return self.part

    def then(self, part: Writing) -> Wish | None:
        conversation, new, end = self.conversation, part.completion.tokens, part.completion.end
        self.ids = self.ids + [token.id for token in new]
        kept = new[:-1] if end == "end" and not conversation.talks else new
        conversation.add("".join(token.text for token in new), [token.id for token in kept])
        self.written += len(new)
        self.characters += len(part.completion.text)
        if end != "length" or self.written >= self.wish.sampling.max_new_tokens or not new:
            return None
        if conversation.talks:
            self.ids = self.ids[-max(1, conversation.most // 2) :]
        else:
            self.ids, conversation.forgotten = conversation.reading()
        return self._part()

    def _part(self) -> Wish:
        sampling, conversation = self.wish.sampling, self.conversation
        left = min(conversation.most - len(self.ids), sampling.max_new_tokens - self.written)
        drawn = replace(sampling, max_new_tokens=left, seed=another(sampling.seed, conversation.answers))
        conversation.answers += 1
        natural = None if self.wish.natural is None else max(0, self.wish.natural - self.characters)
        return replace(self.wish, ids=[*self.ids], sampling=drawn, natural=natural)


def another(seed: int, number: int) -> int:
    """The seed of the text or answer of this number."""
    return (seed + 1_000_003 * number) % (1 << 63)


@dataclass
class Choice:
    """One of the texts of a request."""

    index: int
    plan: Plan
    writing: Writing | None = None
    """The part under way, or the last one."""
    over: bool = False
    written: list[Written] = field(default_factory=list)
    prompt: int = 0
    """Tokens of the prompt."""
    cached: int = 0
    """Of these, what an earlier text had left in a cache."""
    segments: int = 0
    flops: float = 0.0
    last: float = 0.0
    """When it began, or its last token came."""

    @property
    def text(self) -> str:
        return "".join(each.token.text for each in self.written)

    @property
    def end(self) -> str:
        """Why it has ended."""
        assert self.writing is not None
        ended = self.writing.end
        return self.writing.completion.end if ended == "done" else str(ended)


class Answering:
    """The texts of a request while they are written. `tell` gets, for each token, whether it is a text's first and the
    seconds it took."""

    def __init__(
        self, engine: Any, plans: Sequence[Plan], owner: str, seconds: float,
        tell: Callable[[bool, float], None] = lambda first, took: None,
    ) -> None:  # fmt: skip
        self.choices = [Choice(index, plan) for index, plan in enumerate(plans)]
        self._engine, self._owner, self._tell = engine, owner, tell
        self._deadline = time.monotonic() + seconds
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[Choice, Written | Ticket[Written]]] = asyncio.Queue()

    def begin(self) -> None:
        """Queue all of them, or none: Busy. UserError for what cannot be written."""
        for choice in self.choices:
            wish = choice.plan.first()
            choice.prompt, choice.writing, choice.last = len(wish.ids), self._writing(choice, wish), time.monotonic()
        self._engine.submit(*(choice.writing for choice in self.choices))

    async def events(self) -> AsyncIterator[tuple[Choice, Written | None]]:
        """Each token of each text as it comes, and None where a text has ended. Leaving cancels what is left. An error
        of a text is raised here."""
        try:
            while not all(choice.over for choice in self.choices):
                choice, event = await self._events.get()
                if isinstance(event, Ticket):
                    choice.over = not await self._continued(choice)
                    if choice.over:
                        yield choice, None
                    continue
                now = time.monotonic()
                self._tell(not choice.written, now - choice.last)
                choice.last = now
                choice.written.append(event)
                yield choice, event
        finally:
            for choice in self.choices:
                if choice.writing is not None:
                    choice.writing.cancel()

    async def all(self) -> None:
        """Until all are written."""
        async for _ in self.events():
            pass

    async def _continued(self, choice: Choice) -> bool:
        """Whether another part of a text follows one that has ended."""
        part = choice.writing
        assert part is not None
        choice.cached = choice.cached if choice.segments else part.cached
        choice.segments += part.segments
        choice.flops += part.flops
        if part.end == "failed":
            said = str(part.error) if isinstance(part.error, UserError) else f"{type(part.error).__name__} in the model"
            raise Unavailable(f"the text could not be written: {said}") from part.error
        if part.end in ("deadline", "stopped", "cancelled") and not choice.written:
            if part.end == "deadline":
                raise TimedOut("the time of a request was over before a token was written: try again later")
            raise Unavailable("the server is ending: ask another")
        if part.end != "done" or (wish := choice.plan.then(part)) is None:
            return False
        choice.writing = self._writing(choice, wish)
        while True:
            try:
                self._engine.submit(choice.writing)
                return True
            except Busy:  # what has begun is not refused
                if choice.writing.over is not None:
                    choice.writing.finish("deadline")
                    return True
                await asyncio.sleep(AGAIN)

    def _writing(self, choice: Choice, wish: Wish) -> Writing:
        return Writing(wish, partial(self._deliver, choice), self._owner, self._deadline - time.monotonic())

    def _deliver(self, choice: Choice, event: Written | Ticket[Written]) -> None:
        """Called in the engine's thread."""
        with suppress(RuntimeError):  # the loop has ended, and nobody listens any more
            self._loop.call_soon_threadsafe(self._events.put_nowait, (choice, event))


def sampling_of(wished: Any, most: int, seed: int) -> Sampling:
    """How a request wants its tokens drawn; what it leaves open is as on the command line."""
    stop = () if wished.stop is None else (wished.stop,) if isinstance(wished.stop, str) else tuple(wished.stop)
    temperature = 0.8 if wished.temperature is None else wished.temperature
    how = {name: getattr(wished, name) for name in ("top_p", "top_k", "min_p", "repetition_penalty")}
    how = {name: value for name, value in how.items() if value is not None}
    greedy = temperature == 0
    return Sampling(
        max_new_tokens=most, temperature=1.0 if greedy else temperature, greedy=greedy, seed=seed, stop=stop, **how
    )
