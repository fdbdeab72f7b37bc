"""The routes of Inside: the figures of `hrm analyze` for a run, made by processes of their own, and the report."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from os import environ
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from hrm.files import names
from hrm.files.reading import UserError
from hrm.report.story import figures_of
from hrm.serve.models import Models
from hrm.serve.studio.jobs import PLACE, bare

Question = Literal["steps", "dimensions", "answers", "paths", "halting", "ablate", "training", "report"]
QUESTIONS: dict[str, str] = {
    "steps": "How far its states move at every step, and what other schedules would bring",
    "answers": "What it would answer after every step",
    "halting": "How deep it thinks, and whether it knows when to stop",
    "paths": "Where its thinking goes, and whether it comes back after noise",
    "dimensions": "In how many directions its states spread",
    "ablate": "What it loses when a part of it is knocked out",
    "training": "How it learned",
    "report": "All of it on one page, with samples, that anyone can open",
}
"""What can be asked, in words."""
_KINDS = {".svg": "image/svg+xml", ".png": "image/png", ".html": "text/html; charset=utf-8"}
_ALONE = {
    # Whatever a run's files hold, a page of them has no origin, loads nothing and reaches nothing.
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; media-src data:; font-src data:; frame-ancestors 'none'"
}
_LARGEST = 64 << 20
HRM = (sys.executable, "-m", "hrm")
_SHARE = re.compile(rb"(\d{1,3})%")
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
router = APIRouter(prefix="/studio", tags=["studio"])


class Asked(BaseModel):
    """A question about a run."""

    model_config = ConfigDict(extra="forbid")
    run: str = Field(max_length=300)
    question: Question


class Work:
    """A question that is being answered, or was answered last, by a process of its own."""

    def __init__(self, run: str, question: str, command: list[str]) -> None:
        self.run, self.question, self.began = run, question, time.monotonic()
        self.share, self.stopped, self.problem = 0.0, False, ""
        # As in a terminal, so that it tells how far it is.
        told = {**environ, "FORCE_COLOR": "1", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [*HRM, *command], env=told,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def lives(self) -> bool:
        """Whether it is still at it."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the process."""
        self.stopped = True
        self.process.kill()
        self._thread.join(10)

    def plain(self) -> dict[str, Any]:
        """For the page."""
        return {
            "run": self.run, "question": self.question, "lives": self.lives, "share": self.share,
            "seconds": round(time.monotonic() - self.began), "problem": self.problem, "stopped": self.stopped,
        }  # fmt: skip

    def _follow(self) -> None:
        last = b""
        assert self.process.stderr is not None
        with self.process:
            for piece in _pieces(self.process.stderr):
                last = (last + piece)[-4096:]
                if found := _SHARE.findall(piece):
                    self.share = min(1.0, int(found[-1]) / 100)
        code = self.process.returncode
        if code and not self.stopped:
            lines = [line.strip() for line in _CODES.sub("", last.decode("utf-8", "replace")).splitlines()]
            said = next((line for line in reversed(lines) if line), f"it ended with code {code}")
            self.problem = re.sub(r"^hrm \w+: ", "", said)


class Works:
    """One question at a time: they take all of a small machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.work: Work | None = None

    def start(self, run: str, question: str, command: list[str]) -> Work:
        """Answer a question in a process of its own; UserError while another one is being answered."""
        with self._lock:
            if self.work is not None and self.work.lives:
                raise UserError(f"{self.work.run} is being looked into just now: wait until that is done, or stop it")
            self.work = Work(run, question, command)
            return self.work

    def stop(self) -> None:
        """End what is being done, if anything is."""
        with self._lock:
            if self.work is not None and self.work.lives:
                self.work.stop()


@router.get("/inside")
def inside(request: Request, run: Annotated[str, Query(max_length=300)]) -> dict[str, Any]:
    """What has been found out about a run, what can be asked, and what is being worked on."""
    place, report, work = _place(request, run), _report(request, run), _works(request).work
    asked = [name for name in QUESTIONS if name != "report" or report is not None]
    figures = [
        {
            "question": each.question, "title": each.title, "says": each.says, "command": each.command,
            "about": QUESTIONS.get(each.question, ""), "picture": f"{each.question}.svg",
            "changed": (place / f"{each.question}.svg").stat().st_mtime_ns,
        }
        for each in figures_of(place) if each.question in QUESTIONS
    ]  # fmt: skip
    return {
        "figures": figures, "report": report is not None and report.is_file(),
        "questions": [{"name": name, "about": QUESTIONS[name]} for name in asked],
        "work": work.plain() if work is not None and work.run == run else None,
    }  # fmt: skip


@router.get("/inside/file", response_class=Response)
def file(
    request: Request, run: Annotated[str, Query(max_length=300)], name: Annotated[str, Query(max_length=40)]
) -> Response:
    """A picture or the report, by its bare name."""
    path = _report(request, run) if name == "report.html" else _place(request, run) / name
    known = {"report.html", *(f"{question}{form}" for question in QUESTIONS for form in (".svg", ".png"))}
    if name not in known or path is None or not path.is_file():
        raise UserError(f"{run} has no figure of that name")
    return Response(names.read_bytes(path, _LARGEST), media_type=_KINDS[path.suffix], headers=_ALONE)


@router.post("/inside")
def look(request: Request, asked: Asked) -> dict[str, Any]:
    """Begin to answer a question."""
    path = str(_path(request, asked.run))
    command, place = ["analyze", asked.question, path], _place(request, asked.run)
    if not place.is_relative_to(path):
        command += ["--out", str(place)]
    if asked.question == "report":
        if (out := _report(request, asked.run)) is None:
            raise UserError(f"{asked.run} is no run of this folder, so that there is nothing to report")
        out.parent.mkdir(parents=True, exist_ok=True)
        command = ["report", path, "--out", str(out)]
    return _works(request).start(asked.run, asked.question, command).plain()


@router.post("/inside/stop")
def stop(request: Request) -> dict[str, Any]:
    """End what is being worked on; what was found before stays."""
    _works(request).stop()
    work = _works(request).work
    return {"work": work.plain() if work is not None else None}


def _works(request: Request) -> Works:
    return request.app.state.works


def _path(request: Request, run: str) -> Path:
    models: Models = request.app.state.models
    return models.about(run)["path"]


def _place(request: Request, run: str) -> Path:
    """Where the figures of a run lie; those of a solver that comes with the package are kept by the studio."""
    path, folder = _path(request, run), request.app.state.folder.path
    own = path.is_relative_to(folder)
    return names.place_in(path, "analysis") if own else names.place_in(folder, PLACE, "figures", path.name)


def _report(request: Request, run: str) -> Path | None:
    """Where the report about a run lies; None for what is no run of the folder."""
    path, folder = _path(request, run), request.app.state.folder.path
    if not path.is_relative_to(folder) or not (path / "run.json").is_file():
        return None
    return names.place_in(folder, PLACE, "reports", f"{bare(run)}.html")


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """What comes, as it comes."""
    while piece := stream.read1(1 << 12):  # type: ignore[attr-defined]
        yield piece
