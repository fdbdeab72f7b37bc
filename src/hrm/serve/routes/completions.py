"""Continuing texts: what `hrm generate` writes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from hrm.serve.errors import Refusal
from hrm.serve.models import Served
from hrm.serve.routes import answers
from hrm.serve.routes.answers import Held
from hrm.serve.schema import CompletionAnswer, CompletionChoice, CompletionLogprobs, CompletionRequest
from hrm.serve.text.answering import Alone, Answering, Choice, another, sampling_of
from hrm.serve.text.writing import Wish, Written
from hrm.text.writing.generation import encode

router = APIRouter(prefix="/v1")


@router.post("/completions", response_model=CompletionAnswer, responses=answers.events_of("CompletionAnswer"))
async def complete(wished: CompletionRequest, request: Request, held: Held) -> Any:
    """Continue a text, or several; with `stream` each token as it is written."""
    served = await answers.text_model(request, held, wished.model)
    prompts = await run_in_threadpool(_prompts, served, wished)
    seed, count = answers.drawn_seed(wished), wished.n or 1
    budget = answers.budget_of(wished, served, wished.mode)
    most = answers.most_tokens(request, wished.max_tokens, 200)
    memory = served.session.conversation.most
    plans = []
    for ids in prompts:
        read = ids if len(ids) < memory else ids[-max(1, memory // 2) :]
        for i in range(count):
            drawn = sampling_of(wished, most, another(seed, i))
            plans.append(Alone(Wish(read, drawn, budget, wished.logprobs or 0, memory)))
    answering = answers.answering(request, served, plans)
    writer = _Writer(served, wished, answers.facts("cmpl", served, wished, seed), answering, prompts, count)
    if wished.stream:
        return answers.Events(writer.chunks(request))
    return await answers.unless_left(request, writer.whole(request))


class _Writer:
    """What was written, in OpenAI's form."""

    def __init__(
        self, served: Served, wished: CompletionRequest, facts: dict[str, Any], answering: Answering,
        prompts: list[list[int]], count: int,
    ) -> None:  # fmt: skip
        self.served, self.wished, self.facts, self.answering = served, wished, facts, answering
        self.read = sum(map(len, prompts))
        self.before = [
            served.session.tokenizer.decode(ids, skip_special_tokens=True) if wished.echo else ""
            for ids in prompts
            for _ in range(count)
        ]
        self.offsets = [len(text) for text in self.before]

    async def whole(self, request: Request) -> CompletionAnswer | Response:
        await self.answering.all()
        choices = self.answering.choices
        answers.log_contents(request, self.served.name, self.wished.prompt, choices)
        found = [self._choice(c, self.before[c.index] + c.text, c.written, True) for c in choices]
        return CompletionAnswer(**self.facts, choices=found, usage=answers.usage(choices, self.read))

    async def chunks(self, request: Request) -> AsyncIterator[CompletionAnswer]:
        begun: set[int] = set()
        async for choice, written in self.answering.events():
            new = [] if written is None else [written]
            text = "".join(each.token.text for each in new)
            if choice.index not in begun:
                begun.add(choice.index)
                text = self.before[choice.index] + text
            if text or written is None or self.wished.logprobs is not None:
                found = self._choice(choice, text, new, written is None)
                yield CompletionAnswer(**self.facts, choices=[found])
        choices = self.answering.choices
        answers.log_contents(request, self.served.name, self.wished.prompt, choices)
        if self.wished.stream_options and self.wished.stream_options.include_usage:
            yield CompletionAnswer(**self.facts, choices=[], usage=answers.usage(choices, self.read))

    def _choice(self, choice: Choice, text: str, written: list[Written], over: bool) -> CompletionChoice:
        logprobs = None if self.wished.logprobs is None else self._logprobs(choice.index, written)
        ended: dict[str, Any] = {"finish_reason": answers.finish(choice), "end": choice.end} if over else {}
        return CompletionChoice(
            **{"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": None} | ended
        )

    def _logprobs(self, index: int, written: list[Written]) -> CompletionLogprobs:
        tokens = [each.token for each in written]
        offsets = []
        for token in tokens:
            offsets.append(self.offsets[index])
            self.offsets[index] += len(token.text)
        tops = [{top.token: top.logprob for top in answers.likeliest(self.served, each)} for each in written]
        return CompletionLogprobs(
            tokens=[token.text for token in tokens], token_logprobs=[token.log_probability for token in tokens],
            top_logprobs=tops if self.wished.logprobs else None, text_offset=offsets,
            depth=[token.depth for token in tokens], confidence=[token.confidence for token in tokens],
            entropy=[token.entropy for token in tokens],
        )  # fmt: skip


def _prompts(served: Served, wished: CompletionRequest) -> list[list[int]]:
    """The tokens of each prompt; UserError for one that cannot be read."""
    tokenizer, model = served.session.tokenizer, served.session.model
    given: Any = wished.prompt
    several = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    with served.reading:
        found = [encode(tokenizer, each, model.config.max_position_embeddings - 1) for each in several]
    if any(id >= model.config.vocab_size for ids in found for id in ids):
        raise Refusal(f"the prompt has tokens that are none: they are below {model.config.vocab_size:,}", "prompt")
    return found
