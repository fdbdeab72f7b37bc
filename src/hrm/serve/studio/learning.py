"""What the dialog of a training says: sizes, the flags they become, and how long it will take."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json, Record
from hrm.serve.studio.books import given, head
from hrm.serve.studio.runs import Folder
from hrm.text.config import LearnConfig

_HEAD = 100_000
"""Characters of a book on which is tried how long it takes."""
_OFTEN = 5.0
"""Seconds between lines of metrics."""


@dataclass(frozen=True)
class Size(Record):
    """A shape for a new learner."""

    name: str
    title: str
    about: str
    arch: dict[str, int]


SIZES = (
    Size("tiny", "Tiny", "to see how it works; it learns which letters follow each other",
         {"dim": 64, "heads": 2, "intermediate_size": 160, "fast_layers": 1, "slow_layers": 1}),
    Size("small", "Small", "words, and pieces of sentences; a good start",
         {"dim": 128, "heads": 4, "intermediate_size": 320, "fast_layers": 3, "slow_layers": 3}),
    Size("middle", "Middle", "what hrm learn makes unless told otherwise",
         {"dim": 256, "heads": 8, "intermediate_size": 640, "fast_layers": 3, "slow_layers": 3}),
    Size("large", "Large", "for many books, or a fast machine",
         {"dim": 512, "heads": 8, "intermediate_size": 1280, "fast_layers": 4, "slow_layers": 4}),
)  # fmt: skip
Count = Annotated[int, Field(ge=1, le=10**6)]


class Wish(BaseModel):
    """What a book is to be learned with."""

    model_config = ConfigDict(extra="forbid")
    run: str = Field(max_length=300)
    """Name of a new learner, or of the one that reads on."""
    fresh: bool
    size: Literal["tiny", "small", "middle", "large"] = "small"
    tokens: Literal["char", "bpe:2000"] = "char"
    books: list[str] = Field(min_length=1, max_length=100)
    """Paths, in the order in which they are read."""
    encoding: str | None = Field(None, max_length=40)
    epochs: Count = 3
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    stride: Annotated[int, Field(ge=1, le=80)] = 8
    checkpoint_every: Count = 200
    eval_every: Annotated[int, Field(ge=0, le=10**6)] = 0
    log_every: Annotated[int, Field(ge=1, le=10_000)] = 10

    @property
    def arch(self) -> dict[str, int]:
        """Of a new learner."""
        return next(size.arch for size in SIZES if size.name == self.size)

    def flags(self) -> list[str]:
        """For hrm learn."""
        found: dict[str, object] = {
            "epochs": self.epochs, "batch-size": self.batch_size, "stride": self.stride,
            "checkpoint-every": self.checkpoint_every, "eval-every": self.eval_every, "log-every": self.log_every,
        }  # fmt: skip
        if self.fresh:
            found |= {f"arch.{name.replace('_', '-')}": value for name, value in self.arch.items()}
            found["tokenizer"] = self.tokens
        if self.encoding:
            found["encoding"] = self.encoding
        return [part for name, value in found.items() for part in (f"--{name}", str(value))]


def begin(folder: Folder, wish: Wish) -> str:
    """Start the training; its name."""
    books = [str(given(book)) for book in wish.books]
    name = wish.run.strip()
    if wish.fresh:
        folder.free(name)
        if (job := folder.jobs.job(name)) is not None and not job.lives:
            folder.jobs.forget(name)
    else:
        folder.run(name)
    folder.jobs.start(name, "learn", books, wish.flags())
    return name


def suggested(folder: Folder, book: str) -> str:
    """A free name for a learner that begins with a book."""
    stem = re.sub(r"[^\w -]+", " ", Path(book).stem, flags=re.ASCII if book.isascii() else 0)
    stem = " ".join(stem.split()).lower()[:40].strip(" -_") or "reader"
    names = (stem if number == 1 else f"{stem} {number}" for number in range(1, 10_000))
    return next(name for name in names if _is_free(folder, name))


def _is_free(folder: Folder, name: str) -> bool:
    try:
        folder.free(name)
    except UserError:
        return False
    return folder.jobs.job(name) is None


async def probe(folder: Folder, wish: Wish, characters: list[int]) -> AsyncIterator[Json]:
    """Events while it is tried how long a wish takes, the last with the timing; leaving it ends the trial."""
    run = "" if wish.fresh else str(folder.run(wish.run))
    path = given(wish.books[0])
    place = Path(await run_in_threadpool(tempfile.mkdtemp, prefix="hrm-probe-"))
    process = None
    try:
        text = await run_in_threadpool(head, path, wish.encoding, _HEAD)
        (place / "head.txt").write_text(text, "utf-8")
        settings: Json = {"batch_size": wish.batch_size, "stride": wish.stride}
        if wish.fresh:
            settings["tokenizer"] = wish.tokens
        asked = {"place": str(place), "run": run, "arch": wish.arch if wish.fresh else {}, "settings": settings}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "hrm.serve.studio.probing", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        answer = asyncio.ensure_future(process.communicate(to_json(asked).encode()))
        while not answer.done():
            await asyncio.wait([answer], timeout=0.5)
            yield {"event": "waiting"}
        yield _timing(wish, characters, len(text), answer.result()[0])
    finally:
        # In a task of its own: what is left early can no longer wait.
        cleaning = asyncio.create_task(_clean(process, place))
        _cleaning.add(cleaning)
        cleaning.add_done_callback(_cleaning.discard)


_cleaning: set[asyncio.Task[None]] = set()


async def _clean(process: asyncio.subprocess.Process | None, place: Path) -> None:
    if process is not None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    await run_in_threadpool(shutil.rmtree, place, True)


def _timing(wish: Wish, characters: list[int], tried: int, output: bytes) -> Json:
    """The whole from the piece."""
    try:
        found = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise UserError("the trial has failed: this machine may have too little memory for this size") from None
    if "error" in found:
        raise UserError(found["error"])
    seconds, updates = 0.0, 0
    kept = 1 - LearnConfig().holdout
    for place, each in enumerate(characters):
        others = found["books"] + place
        rows = wish.epochs * max(1, int(kept * each) // found["stride"])
        steps = max(1, rows // found["batch_size"])
        replay = 1 + (found["replay"] or 1.5) * (others > 0)
        measured = steps // wish.eval_every if wish.eval_every else wish.epochs
        seconds += steps * found["seconds_per_update"] * replay + measured * (others + 1) * found["measuring"]
        updates += steps
    each = seconds / max(1, updates)
    often = min(50, max(5, round(_OFTEN / max(1e-6, each))))
    return {
        "event": "timed", "seconds": seconds, "seconds_per_update": each, "updates": updates,
        "parameters": found["parameters"], "log_every": often,
    }  # fmt: skip
