"""Puzzles in, verified answers out: at once, or line by line while they are thought about."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from hrm.files.reading import UserError, quoted
from hrm.serve import errors
from hrm.serve.errors import Refusal, TimedOut, Unavailable
from hrm.serve.models import Served
from hrm.serve.puzzles.arc import ArcSolving
from hrm.serve.puzzles.schema import LINES, PuzzleAnswer, SeenSegment, SolveEnd, SolveRequest, SolveResponse, SolveUsage
from hrm.serve.puzzles.solving import Answered, Seen, Show, Solving
from hrm.serve.routes.answers import Held, borrowed, unless_left
from hrm.serve.waiting import Listening
from hrm.terminal import clean

router = APIRouter(prefix="/v1")
log = logging.getLogger("hrm.serve")


@router.post("/solve", response_model=SolveResponse, responses={200: {"content": LINES}})
async def solve(request: Request, body: SolveRequest, held: Held) -> Response:
    """Solve one puzzle, or many. With `stream` or `watch` the answer is lines of JSON: a `SeenSegment` after each
    segment that is watched, a `PuzzleAnswer` for each puzzle, and a `SolveEnd`, or an error."""
    served = await borrowed(request, held, body.model)
    listening: Listening[Any] = Listening()
    solving = _solving(request, body, served, listening)
    held.callback(solving.cancel)
    await run_in_threadpool(served.engine.submit, solving)
    lines = _lines(request, body, listening, solving)
    return _Lines(lines) if body.stream or body.watch else await unless_left(request, _whole(body.model, lines))


def _solving(request: Request, body: SolveRequest, served: Served, listening: Listening[Any]) -> Solving:
    """What the engine is asked; UserError for a model that cannot be."""
    if served.solver is None:
        raise Refusal(f"the model {quoted(body.model)} writes text and solves no puzzles: choose another", "model")
    task, show = served.solver.task, Show(body.trace, body.watch, body.watch and body.probabilities)
    seconds = request.app.state.models.limits.seconds
    about = body.asked, body.strategy, listening.deliver, request.state.owner, seconds, show
    if task.embedded:
        return ArcSolving(*about, folder=served.path, copies=body.copies)
    if body.copies is not None:
        raise Refusal(f"copies are for runs on ARC, and this one solves {task.name}", "copies")
    return Solving(*about)


async def _whole(model: str, lines: AsyncIterator[BaseModel]) -> Response:
    """All answers together."""
    answers: list[PuzzleAnswer] = []
    async for line in lines:
        if isinstance(line, PuzzleAnswer):
            answers.append(line)
        elif isinstance(line, SolveEnd):
            found = SolveResponse(model=model, answers=sorted(answers, key=lambda each: each.index), usage=line.usage)
            return Response(found.model_dump_json(), media_type="application/json")
    raise AssertionError


async def _lines(
    request: Request, body: SolveRequest, listening: Listening[Any], solving: Solving
) -> AsyncIterator[BaseModel]:
    """Segments, answers and the end, in the order of a stream; UserError where not everything is answered."""
    waiting: dict[int, PuzzleAnswer] = {}
    sent = 0
    async for event in listening.events(solving):
        if isinstance(event, Seen):
            yield _seen(event, solving)
            continue
        answer = _answer(event)
        if request.app.state.settings.log_contents:
            log.info("%s was asked %s: %s", body.model, clean(repr(answer.question)), clean(repr(answer.answer)))
        if not body.ordered:
            yield answer
            continue
        waiting[event.index] = answer
        while sent in waiting:
            yield waiting.pop(sent)
            sent += 1
    _check_end(solving)
    usage = SolveUsage(puzzles=len(solving.questions), segments=solving.segments, flops=solving.flops)
    yield SolveEnd(usage=usage)


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
    # JSON can hold halves of characters, and UTF-8 cannot.
    found["question"] = found["question"].encode("utf-8", "replace").decode()
    return PuzzleAnswer(index=event.index, **found)


def _seen(event: Seen, solving: Solving) -> SeenSegment:
    described = solving.solver.describe(event.segment)
    described["grid"] = described["grid"].tolist()
    symbols = solving.solver.task.symbols
    shares = event.segment.probabilities[:, symbols.start : symbols.stop]
    return SeenSegment(index=event.index, probabilities=shares.round(4).tolist() if shares.size else None, **described)


class _Lines(StreamingResponse):
    """JSON lines. Whatever happens, the source is closed."""

    media_type = next(iter(LINES))

    def __init__(self, found: AsyncIterator[BaseModel]) -> None:
        super().__init__(_written(found), headers={"X-Accel-Buffering": "no"})
        self._found: Any = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()  # type: ignore[attr-defined]
            await self._found.aclose()


async def _written(found: AsyncIterator[BaseModel]) -> AsyncIterator[str]:
    try:
        async for line in found:
            yield line.model_dump_json() + "\n"
    except UserError as error:  # the status has been sent
        yield bytes(errors.of(error).body).decode() + "\n"
