"""Answering in a conversation: what `hrm chat` says."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from hrm.files.reading import UserError
from hrm.serve.models import Served
from hrm.serve.routes import answers
from hrm.serve.routes.answers import Held
from hrm.serve.schema import (
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatLogprobs,
    ChatRequest,
    Delta,
    Said,
    TokenLogprob,
    text_of,
)
from hrm.serve.text.answering import Answering, Talk, another, sampling_of
from hrm.serve.text.writing import Wish, Written
from hrm.text.chat.conversation import Conversation, Message
from hrm.text.chat.session import Settings
from hrm.text.data.growing import new_characters
from hrm.text.writing.generation import shown

router = APIRouter(prefix="/v1")


@router.post("/chat/completions", response_model=ChatAnswer, responses=answers.events_of("ChatChunk"))
async def chat(wished: ChatRequest, request: Request, held: Held) -> Any:
    """Answer the last message, or continue it if it is an answer; with `stream` each token as it is written."""
    served = await answers.text_model(request, held, wished.model)
    seed = answers.drawn_seed(wished)
    plans = await run_in_threadpool(_talks, served, wished, request, seed)
    answering = answers.answering(request, served, plans)
    writer = _Writer(served, wished, answers.facts("chatcmpl", served, wished, seed), answering)
    if wished.stream:
        return answers.Events(writer.chunks(request))
    return await answers.unless_left(request, writer.whole(request))


class _Writer:
    """What was said, in OpenAI's form."""

    def __init__(self, served: Served, wished: ChatRequest, facts: dict[str, Any], answering: Answering) -> None:
        self.served, self.wished, self.facts, self.answering = served, wished, facts, answering
        self.read = answering.choices[0].prompt

    async def whole(self, request: Request) -> ChatAnswer | Response:
        await self.answering.all()
        choices = self.answering.choices
        self._log(request)
        found = [
            ChatChoice(
                index=c.index, message=Said(content=c.text), logprobs=self._logprobs(c.written),
                finish_reason=answers.finish(c), end=c.end,  # type: ignore[arg-type]
            )
            for c in choices
        ]  # fmt: skip
        return ChatAnswer(**self.facts, choices=found, usage=answers.usage(choices, self.read))

    async def chunks(self, request: Request) -> AsyncIterator[ChatChunk]:
        for choice in self.answering.choices:
            yield self._chunk(ChatChunkChoice(index=choice.index, delta=Delta(role="assistant", content="")))
        async for choice, written in self.answering.events():
            if written is None:
                end: Any = choice.end
                ended = ChatChunkChoice(
                    index=choice.index, delta=Delta(), finish_reason=answers.finish(choice), end=end
                )
                yield self._chunk(ended)
            elif written.token.text or self.wished.logprobs:
                delta, logprobs = Delta(content=written.token.text), self._logprobs([written])
                yield self._chunk(ChatChunkChoice(index=choice.index, delta=delta, logprobs=logprobs))
        self._log(request)
        if self.wished.stream_options and self.wished.stream_options.include_usage:
            yield ChatChunk(**self.facts, choices=[], usage=answers.usage(self.answering.choices, self.read))

    def _chunk(self, choice: ChatChunkChoice) -> ChatChunk:
        return ChatChunk(**self.facts, choices=[choice])

    def _log(self, request: Request) -> None:
        said = [text_of(message) for message in self.wished.messages]
        answers.log_contents(request, self.served.name, said, self.answering.choices)

    def _logprobs(self, written: list[Written]) -> ChatLogprobs | None:
        if not self.wished.logprobs:
            return None
        content = [
            TokenLogprob(
                **answers.top_logprob(each.token.text, each.token.log_probability).model_dump(),
                top_logprobs=answers.likeliest(self.served, each),
                depth=each.token.depth, confidence=each.token.confidence, entropy=each.token.entropy,
            )
            for each in written
        ]  # fmt: skip
        return ChatLogprobs(content=content)


def _talks(served: Served, wished: ChatRequest, request: Request, seed: int) -> list[Talk]:
    """An answer to plan for each text; UserError for a conversation that cannot be read."""
    budget = answers.budget_of(wished, served, wished.mode or "auto")
    most, *_ = (answers.most_tokens(request, each, 300) for each in _lengths(wished))
    shortest = Settings().min_characters
    natural = served.session.settings.stop == "natural" if wished.natural is None else wished.natural
    ends = shortest if natural is True else None if natural is False else natural
    top = (wished.top_logprobs or 0) if wished.logprobs else 0
    found = []
    with served.reading:
        for i in range(wished.n or 1):
            sampling = sampling_of(wished, most, another(seed, i))
            talk = Talk(_conversation(served, wished), Wish([], sampling, budget, top, natural=ends))
            talk.begin()
            found.append(talk)
    return found


def _lengths(wished: ChatRequest) -> list[int | None]:
    """The two names of the same, the one that counts first."""
    return [each for each in (wished.max_completion_tokens, wished.max_tokens) if each is not None] or [None]


def _conversation(served: Served, wished: ChatRequest) -> Conversation:
    """What was said, as a talk at the terminal would have it."""
    own = served.session.conversation
    found = Conversation(own.tokenizer, own.most, own.talks, own.template)
    for message in wished.messages:
        text = text_of(message)
        if unknown := new_characters(own.tokenizer, [text]) if own.tokenizer.unk_token_id is None else []:
            raise UserError(f"the model's vocabulary lacks {shown(unknown)}: leave that out")
        if message.role == "user":
            if text:
                found.ask(text)
        elif text:
            found.messages.append(Message("assistant" if message.role == "assistant" else "system", text))
            found.answers += message.role == "assistant"
    if not found.messages or (found.talks and all(message.role == "assistant" for message in found.messages)):
        found.ask("")  # says what is missing
    return found
