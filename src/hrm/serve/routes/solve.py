"""Puzzles in, verified answers out: at once, or line by line while they are thought about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
from fastapi import APIRouter, Request
from fastapi.concurrency import contextmanager_in_threadpool, run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from hrm.files.reading import UserError, quoted
from hrm.serve import errors
from hrm.serve.errors import Refusal, TimedOut, Unavailable
from hrm.serve.puzzles.arc import ArcSolving
from hrm.serve.puzzles.schema import LINES, PuzzleAnswer, SeenSegment, SolveEnd, SolveRequest, SolveResponse, SolveUsage
from hrm.serve.puzzles.solving import Answered, Seen, Show, Solving
from hrm.serve.waiting import Listening

router = APIRouter(prefix="/v1")


@router.post("/solve", response_model=SolveResponse, responses={200: {"content": LINES}})
async def solve(request: Request, body: SolveRequest) -> Response:
    """Solve one puzzle, or many. With `stream` or `watch` the answer is lines of JSON: a `SeenSegment` after each
    segment that is watched, a `PuzzleAnswer` for each puzzle, and a `SolveEnd`, or an error."""
    async with AsyncExitStack() as stack:
        models = request.app.state.models
        served = await stack.enter_async_context(contextmanager_in_threadpool(models.lend(body.model)))
        if served.solver is None:
            raise Refusal(f"the model {quoted(body.model)} writes text and solves no puzzles: choose another", "model")
        listening: Listening[Any] = Listening()
        kind = ArcSolving if served.solver.task.embedded else Solving
        solving = kind(
            body.asked, body.strategy, listening.deliver, request.state.owner, models.limits.seconds,
            Show(body.trace, body.watch, body.watch and body.probabilities),
        )  # fmt: skip
        if isinstance(solving, ArcSolving):
            solving.folder, solving.copies = served.path, body.copies
        elif body.copies is not None:
            raise Refusal(f"copies are for runs on ARC, and this one solves {served.solver.task.name}", "copies")
        stack.callback(solving.cancel)
        await run_in_threadpool(served.engine.submit, solving)
        if not (body.stream or body.watch):
            return _json(await _unless_left(request, _whole(body.model, listening, solving)))
        return _Lines(_lines(listening, solving, body.ordered), stack.pop_all())


async def _whole(model: str, listening: Listening[Any], solving: Solving) -> SolveResponse:
    """All answers together."""
    found = {}
    async for event in listening.events(solving):
        if isinstance(event, Answered):
            found[event.index] = _answer(event)
    _check_end(solving)
    return SolveResponse(model=model, answers=[found[index] for index in sorted(found)], usage=_usage(solving))


async def _lines(listening: Listening[Any], solving: Solving, ordered: bool) -> AsyncIterator[str]:
    """The lines of a stream."""
    waiting: dict[int, PuzzleAnswer] = {}
    sent = 0
    async for event in listening.events(solving):
        if isinstance(event, Seen):
            yield _line(_seen(event, solving))
        elif not ordered:
            yield _line(_answer(event))
        else:
            waiting[event.index] = _answer(event)
            while sent in waiting:
                yield _line(waiting.pop(sent))
                sent += 1
    try:
        _check_end(solving)
    except UserError as error:
        yield bytes(errors.of(error).body).decode() + "\n"
    else:
        yield _line(SolveEnd(usage=_usage(solving)))


def _check_end(solving: Solving) -> None:
    """Raise unless everything was answered."""
    if solving.end == "deadline":
        raise TimedOut("the puzzles took longer than a request may: ask for fewer, or set budget")
    if solving.end in ("stopped", "cancelled"):
        raise Unavailable("the server is ending: ask another")
    if solving.error is not None:
        if isinstance(solving.error, UserError):
            raise solving.error
        raise _Mistake("the server has made a mistake: its log says where") from solving.error


class _Mistake(Refusal):
    status, code = 500, "internal"


def _answer(event: Answered) -> PuzzleAnswer:
    found = event.answer.to_dict()
    # Text with halves of characters, which JSON can hold and UTF-8 cannot.
    found["question"] = found["question"].encode("utf-8", "replace").decode()
    return PuzzleAnswer(index=event.index, **found)


def _seen(event: Seen, solving: Solving) -> SeenSegment:
    described = solving.solver.describe(event.segment)
    described["grid"] = described["grid"].tolist()
    symbols = solving.solver.task.symbols
    shares = event.segment.probabilities[:, symbols.start : symbols.stop]
    return SeenSegment(index=event.index, probabilities=shares.round(4).tolist() if shares.size else None, **described)


def _usage(solving: Solving) -> SolveUsage:
    return SolveUsage(puzzles=len(solving.questions), segments=solving.segments, flops=solving.flops)


def _json(found: BaseModel) -> Response:
    return Response(found.model_dump_json(), media_type="application/json")


def _line(found: BaseModel) -> str:
    return found.model_dump_json() + "\n"


async def _unless_left(request: Request, work: Any) -> Any:
    """The result, unless the client leaves before it is there: then the work is cancelled."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Unavailable("the client has left")
        return await doing
    finally:
        for task in (doing, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, UserError):
                await task


class _Lines(StreamingResponse):
    """A stream that cleans up behind itself however it ends."""

    def __init__(self, lines: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(lines, media_type=next(iter(LINES)), headers={"X-Accel-Buffering": "no"})
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._stack.aclose()
