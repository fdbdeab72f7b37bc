"""What the two routes for text share: the model, the budget, streams, usage, and clients that leave."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.serve import errors
from hrm.serve.errors import Refusal
from hrm.serve.models import Models, Served
from hrm.serve.schema import MOST, PromptDetails, TextRequest, TopLogprob, Usage
from hrm.serve.text.answering import Answering, Choice, Plan
from hrm.serve.text.writing import Written
from hrm.terminal import clean
from hrm.text.model.budget import Request as Budgeted

log = logging.getLogger("hrm.serve")
T = TypeVar("T")


def events_of(chunk: str) -> dict[int | str, dict[str, Any]]:
    """For the schema: a stream of chunks of this name, of which the last line says [DONE]."""
    forms = [{"$ref": f"#/components/schemas/{name}"} for name in (chunk, "ErrorBody")]
    lines = [{"contentMediaType": "application/json", "contentSchema": {"anyOf": forms}}, {"const": "[DONE]"}]
    data = {"type": "string", "anyOf": lines}
    event = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    return {200: {"content": {"text/event-stream": {"itemSchema": event}}}}


async def _held() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


Held = Annotated[AsyncExitStack, Depends(_held)]
"""What is given back once the answer has been sent, its stream included."""


async def borrowed(request: Request, held: AsyncExitStack, name: str) -> Served:
    """The model of this name, until the answer has been sent."""
    models: Models = request.app.state.models
    served = await run_in_threadpool(models.borrow, name)
    held.push_async_callback(run_in_threadpool, models.release, served)
    return served


async def text_model(request: Request, held: AsyncExitStack, name: str) -> Served:
    """The same for a model of text; UserError for another."""
    served = await borrowed(request, held, name)
    if served.text is None:
        raise Refusal(f"the model '{name}' solves puzzles and does not write: ask /v1/solve", "model")
    return served


def budget_of(wished: TextRequest, served: Served, mode: str | None) -> Budgeted:
    """What a request says of depth, over what its mode says; UserError for a mode that the model lacks."""
    modes = served.session.modes
    if mode is not None and mode not in modes:
        raise Refusal(f"this model has the modes {', '.join(modes)} alone", "mode")
    found: Any = {} if mode is None else {**modes[mode]}
    for name in ("max_segments", "halting", "exit_threshold", "schedule"):
        if (value := getattr(wished, name)) is not None:
            found[name] = value
    return found


def drawn_seed(wished: TextRequest) -> int:
    """The seed of a request, or a new one."""
    return secrets.randbelow(MOST) if wished.seed is None else wished.seed


def most_tokens(request: Request, wished: int | None, default: int) -> int:
    """How many tokens are written at most; UserError for more than the server writes."""
    allowed: int = request.app.state.settings.most_tokens
    if wished is not None and wished > allowed:
        raise Refusal(f"{wished:,} tokens are more than the {allowed:,} that this server writes", "max_tokens")
    return min(allowed, default) if wished is None else wished


def facts(kind: str, served: Served, wished: TextRequest, seed: int) -> dict[str, Any]:
    """What an answer and each chunk of a stream begins with."""
    folders = served.checkpoint.replace("\\", "/").rstrip("/").split("/")
    return {
        "id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time()), "model": wished.model,
        "system_fingerprint": folders[-1], "seed": seed,
    }  # fmt: skip


def answering(request: Request, served: Served, plans: Sequence[Plan]) -> Answering:
    """The texts of a request, queued; Busy where the engine takes no more."""
    models, metrics = request.app.state.models, request.app.state.metrics
    if len(plans) > models.limits.waiting:
        raise Refusal(f"{len(plans)} texts are more than the {models.limits.waiting} that may wait: ask for fewer", "n")
    found = Answering(
        served.engine, plans, request.state.owner, models.limits.seconds,
        lambda first, took: (metrics.first if first else metrics.between).labels(served.name).observe(took),
    )  # fmt: skip
    found.begin()
    return found


def usage(choices: Sequence[Choice], prompts: int) -> Usage:
    """What a request took; `prompts`: tokens of its prompts, each counted once."""
    written = sum(len(choice.written) for choice in choices)
    segments, flops = sum(choice.segments for choice in choices), sum(choice.flops for choice in choices)
    details = PromptDetails(cached_tokens=min(prompts, sum(choice.cached for choice in choices)))
    return Usage(
        prompt_tokens=prompts, completion_tokens=written, total_tokens=prompts + written,
        prompt_tokens_details=details, segments=segments, flops=flops,
    )  # fmt: skip


def finish(choice: Choice) -> Any:
    """OpenAI's word for why a text ends."""
    return "stop" if choice.end in ("end", "stop", "sentence") else "length"


def likeliest(served: Served, written: Written) -> list[TopLogprob]:
    """The likeliest tokens in the place of one."""
    return [top_logprob(served.session.tokenizer.decode([id]), value) for id, value in written.top]


def top_logprob(token: str, value: float) -> TopLogprob:
    """A token with its log-probability."""
    return TopLogprob(token=token, logprob=max(value, -9999.0), bytes=list(token.encode()))


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | Response:
    """The result of `work`, which is cancelled when the client leaves."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await doing if doing.done() else Response(status_code=499)
    finally:
        for task in (doing, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """Server-sent events, ended by [DONE]. Whatever happens, the source is closed."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[BaseModel]) -> None:
        super().__init__(_lines(chunks), headers={"X-Accel-Buffering": "no"})
        self._chunks: Any = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()  # type: ignore[attr-defined]
            await self._chunks.aclose()


async def _lines(chunks: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    try:
        async for chunk in chunks:
            yield f"data: {chunk.model_dump_json(exclude_none=True)}\n\n"
    except UserError as error:  # the status has been sent
        yield f"data: {bytes(errors.of(error).body).decode()}\n\n"
    yield "data: [DONE]\n\n"


def log_contents(request: Request, name: str, asked: object, choices: Sequence[Choice]) -> None:
    """Write prompt and answers into the log, where that was asked for."""
    if request.app.state.settings.log_contents:
        log.info("%s was asked %s and wrote %s", name, to_json(asked), clean(to_json([c.text for c in choices])))
