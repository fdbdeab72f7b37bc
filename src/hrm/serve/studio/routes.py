"""The routes of Home and Learn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from hrm import __version__
from hrm.files.output import refusal, to_json
from hrm.files.reading import UserError, reason
from hrm.files.records import Json
from hrm.serve.studio import books, following, learning
from hrm.serve.studio.runs import BOOKS, Folder
from hrm.text.config import LearnConfig

router = APIRouter(prefix="/studio", tags=["studio"])
_LINES = "application/x-ndjson"
_USUAL = ("epochs", "batch_size", "stride", "checkpoint_every", "eval_every")
Name = Annotated[str, Query(max_length=300)]


class Named(BaseModel):
    """A run by its name in the folder."""

    model_config = ConfigDict(extra="forbid")
    run: str = Field(max_length=300)


class Renamed(Named):
    """A run and its new name."""

    to: str = Field(min_length=1, max_length=200)


class Look(BaseModel):
    """A book to be looked at."""

    model_config = ConfigDict(extra="forbid")
    path: str = Field(max_length=4096)
    encoding: str | None = Field(None, max_length=40)


class Trial(BaseModel):
    """A training, of which it is to be found how long it takes."""

    model_config = ConfigDict(extra="forbid")
    wish: learning.Wish
    characters: list[Annotated[int, Field(ge=1, le=2**50)]] = Field(min_length=1, max_length=100)
    """Of each book."""


def _folder(request: Request) -> Folder:
    return request.app.state.folder


@router.get("/about")
def about(request: Request) -> dict[str, Any]:
    """Where the studio works, and what Learn offers."""
    usual = LearnConfig()
    return {
        "folder": str(_folder(request).path), "version": __version__,
        "sizes": [each.plain() for each in learning.SIZES],
        "usual": {name: getattr(usual, name) for name in _USUAL},
    }  # fmt: skip


@router.get("/runs")
def runs(request: Request) -> dict[str, Any]:
    """All runs of the folder, those that changed last first."""
    shown = _folder(request).shown()
    request.app.state.offer(shown)
    return {"runs": [each.plain() for each in shown]}


@router.post("/pause")
def pause(request: Request, named: Named) -> Named:
    """Ask a training to save and end, as Ctrl-C does."""
    _folder(request).place(named.run)
    _folder(request).jobs.pause(named.run)
    return named


@router.post("/resume")
def resume(request: Request, named: Named) -> Named:
    """Continue a training."""
    _folder(request).resume(named.run)
    return named


@router.post("/stop")
def stop(request: Request, named: Named) -> Named:
    """End the book that a learner reads: it counts as learned."""
    _folder(request).stop(named.run)
    return named


@router.post("/rename")
def rename(request: Request, renamed: Renamed) -> Named:
    """Give a run another name."""
    return Named(run=_folder(request).rename(renamed.run, renamed.to.strip()))


@router.post("/delete")
def delete(request: Request, named: Named) -> Named:
    """Delete a run with all that is in its folder."""
    _folder(request).delete(named.run)
    return named


@router.get("/books")
def kept(request: Request) -> dict[str, Any]:
    """The books in the folder."""
    found = books.kept(_folder(request).path / BOOKS)
    return {"books": [{"name": path.name, "path": str(path), "bytes": path.stat().st_size} for path in found][:200]}


@router.put("/books")
async def take(request: Request, name: Annotated[str, Query(min_length=1, max_length=1000)]) -> dict[str, Any]:
    """Keep a book; its bytes are the body."""
    size = request.headers.get("content-length", "")
    folder = _folder(request).path / BOOKS
    try:
        path = await books.take(folder, name, request.stream(), int(size) if size.isdecimal() else None)
    except ClientDisconnect:
        raise UserError(f"{name[:80]} was cut off: choose it again") from None
    return {"name": path.name, "path": str(path), "bytes": path.stat().st_size}


@router.post("/look")
def look(request: Request, asked: Look) -> StreamingResponse:
    """Read a book through: lines of {"share"}, and at the end {"book"}."""
    path, folder = books.given(asked.path), _folder(request)

    def work(progress: Callable[[float], None]) -> Json:
        found = books.look(path, asked.encoding or None, progress)
        return {"book": found.plain(), "name": learning.suggested(folder, found.name)}

    return StreamingResponse(_told(work), media_type=_LINES)


@router.get("/learners")
def learners(request: Request) -> dict[str, Any]:
    """The models that learn books, with what they have read and know."""
    folder, found = _folder(request), []
    for shown in folder.shown():
        if shown.kind != "learner" or shown.state == "damaged":
            continue
        state = following.newest(folder.place(shown.name))
        if state is not None and state.books:
            alphabet = "".join(token for token in state.tokens if len(token) == 1)
            told = following.reader(state).plain() | {"alphabet": alphabet, "characters_alone": state.tokenizer is None}
            found.append(shown.plain() | told)
    return {"learners": found}


@router.post("/probe")
async def probe(request: Request, trial: Trial) -> StreamingResponse:
    """Find in about ten seconds how long a training takes; leaving ends the trial."""
    return StreamingResponse(_safe(learning.probe(_folder(request), trial.wish, trial.characters)), media_type=_LINES)


@router.post("/learn")
def learn(request: Request, wish: learning.Wish) -> Named:
    """Begin to learn, in a process of its own."""
    return Named(run=learning.begin(_folder(request), wish))


@router.get("/training")
def training(request: Request, run: Name, mark: Annotated[str, Query(max_length=80)] = "") -> dict[str, Any]:
    """How a learner's training goes: its state, its books, and the lines of its metrics since a mark."""
    folder = _folder(request)
    shown, path, job = folder.one(run), folder.place(run), folder.jobs.job(run)
    state = following.newest(path)
    return {
        "run": shown.plain(), "reader": None if state is None else following.reader(state).plain(),
        "lines": following.lines_since(path, mark).plain(), "printed": folder.jobs.printed(run)[-30:],
        "books": [] if job is None else [Path(book).name for book in job.books],
    }  # fmt: skip


async def _told(work: Callable[[Callable[[float], None]], Json]) -> AsyncIterator[bytes]:
    """What work in a thread says: its share in lines, then its result; it ends when nobody listens any more."""
    loop, lines, left = asyncio.get_running_loop(), asyncio.Queue[Json](), threading.Event()
    last = -1.0

    def progress(share: float) -> None:
        nonlocal last
        if left.is_set():
            raise UserError("nobody waits for it any more")
        if share - last >= 0.01:
            last = share
            loop.call_soon_threadsafe(lines.put_nowait, {"share": round(share, 3)})

    async def run() -> None:
        try:
            await lines.put(await run_in_threadpool(work, progress))
        except Exception as error:  # said in the stream, whose status has been sent
            await lines.put(_fault(error))

    task = asyncio.create_task(run())
    try:
        while True:
            line = await lines.get()
            yield (to_json(line) + "\n").encode()
            if "share" not in line:
                break
    finally:
        left.set()
        await asyncio.shield(task)


async def _safe(events: AsyncIterator[Json]) -> AsyncIterator[bytes]:
    """Lines of JSON, the last of which says what went wrong."""
    try:
        async for event in events:
            yield (to_json(event) + "\n").encode()
    except Exception as error:
        yield (to_json(_fault(error)) + "\n").encode()


def _fault(error: Exception) -> Json:
    said = str(error) if isinstance(error, UserError) else refusal(error) or reason(error)
    return {"error": {"message": said, "type": "invalid_request_error", "param": None, "code": None}}
