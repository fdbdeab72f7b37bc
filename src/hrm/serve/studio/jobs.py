"""Trainings as processes of their own: they survive the page, the studio, and the terminal that it was started from.

What is needed to start one again lies in the folder's `.studio`: NAME.json, and what it printed in NAME.log. Everything
else that is said of a training comes from its run, so that a studio started later knows as much as this one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import psutil

from hrm.files.output import refused
from hrm.files.reading import SMALL, UserError, json_of
from hrm.files.records import Record, taken
from hrm.runs import durable, lock

PLACE = ".studio"
_LOG = 1 << 14
"""Bytes of what a process printed that are looked at."""
_PATIENCE = 900.0
"""Seconds in which a training must have saved after it was asked to."""


@dataclass(frozen=True)
class Job(Record):
    """A training that the studio started."""

    name: str
    """Of the run."""
    books: list[str]
    """For hrm learn; without any, and for hrm train, a run is resumed."""
    flags: list[str]
    process: int
    started: str

    @property
    def lives(self) -> bool:
        """Whether the process is still that one and runs."""
        try:
            found = psutil.Process(self.process)
            begun = datetime.fromisoformat(self.started).timestamp()
            return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - begun) < 60
        except (psutil.Error, ValueError):
            return False


class Jobs:
    """The trainings of a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / PLACE
        self._lock = threading.Lock()
        self.stopping: set[str] = set()
        """Runs that end their book once they have saved."""

    def named(self) -> list[str]:
        """Names of the runs that were started here."""
        return [unquote(path.stem) for path in sorted(self.place.glob("*.json"))]

    def job(self, name: str) -> Job | None:
        """What was started under a name."""
        path = self._file(name, "json")
        try:
            return taken(Job, json_of(path, SMALL), lambda place, value: ValueError(place))
        except (OSError, ValueError, UserError):
            return None

    def start(
        self, name: str, verb: Literal["learn", "train"], books: Sequence[str] = (), flags: Sequence[str] = ()
    ) -> Job:
        """Start a training as a process of its own; UserError if one is at it already."""
        run = self.folder / name
        command = ["train", "--resume", str(run), *flags] if verb == "train" else ["learn", str(run), *books, *flags]
        with self._lock:
            before = self.job(name)
            if (before is not None and before.lives) or lock.owner(run) is not None:
                raise UserError(f"{name} is being trained already: wait until it has ended, or pause it")
            with refused(f"{name} could not be started", lambda: "nothing was changed"):
                self.place.mkdir(parents=True, exist_ok=True)
                durable.write(self._file(name, "log"), "")
                with self._file(name, "log").open("ab") as log:
                    process = self._begin(command, log.fileno())
                started = datetime.now(UTC).isoformat(timespec="seconds")
                job = Job(name, [*books], [*flags], process.pid, started)
                try:
                    durable.write_json(self._file(name, "json"), job)
                except BaseException:  # it would run, and nobody know of it
                    process.kill()
                    process.wait()
                    raise
        threading.Thread(target=process.wait, daemon=True).start()  # so that no dead process is kept
        return job

    def _begin(self, command: list[str], log: int) -> subprocess.Popen[Any]:
        own: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            own = {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        return subprocess.Popen(
            [sys.executable, "-m", "hrm", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            **own,
        )

    def pause(self, name: str) -> None:
        """Ask a training to save and end, as Ctrl-C does; UserError where none runs."""
        process = self._process(name)
        if os.name == "nt":
            os.kill(process, getattr(signal, "CTRL_BREAK_EVENT"))  # noqa: B009
        else:
            os.kill(process, signal.SIGTERM)  # not SIGINT, at which one in a terminal asks there

    def _process(self, name: str) -> int:
        """The process that trains a run."""
        run, job = self.folder / name, self.job(name)
        try:
            with lock.own(run, "studio"):
                pass
            owner = None
        except lock.InUse:
            owner = lock.owner(run)
        if owner is not None and not owner.is_here:
            raise UserError(f"{name} is trained by another machine, {owner.host}: pause it there")
        if owner is not None and owner.verb.split()[0] not in ("learn", "train"):
            raise UserError(f"{name} is in use by hrm {owner.verb}: wait until that has ended")
        if owner is not None:
            return owner.process
        if job is not None and job.lives:
            return job.process
        raise UserError(f"{name} is not being trained")

    def stop(self, name: str, then: Callable[[], object]) -> None:
        """Ask a training to save and end, wait for it in the background, and do something."""
        try:
            process = self._process(name)
        except UserError:
            then()
            return
        self.stopping.add(name)
        self.pause(name)

        def wait() -> None:
            try:
                end = time.monotonic() + _PATIENCE
                while time.monotonic() < end and _lives(process):
                    time.sleep(0.1)
                with suppress(UserError):  # it is paused then, and says why
                    then()
            finally:
                self.stopping.discard(name)

        threading.Thread(target=wait, daemon=True).start()

    def printed(self, name: str) -> list[str]:
        """The last lines that a training has printed."""
        try:
            with self._file(name, "log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _LOG))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return lines[1:] if size > _LOG else lines

    def complaint(self, name: str) -> str | None:
        """Why the last training ended, if that was an error."""
        last = next(iter(self.printed(name)[-1:]), "")
        verb, colon, said = last.partition(": ")
        is_error = colon and verb in ("hrm learn", "hrm train") and not said.startswith(("ended by", "interrupted"))
        return said if is_error else None

    def rename(self, name: str, other: str) -> None:
        """Call what is kept of a run by another name, of which nothing is kept any more."""
        self.forget(other)
        for suffix in ("json", "log"):
            with suppress(OSError):
                self._file(name, suffix).replace(self._file(other, suffix))

    def forget(self, name: str) -> None:
        """Delete what is kept of a run here."""
        for suffix in ("json", "log"):
            with suppress(OSError):
                self._file(name, suffix).unlink()

    def _file(self, name: str, suffix: str) -> Path:
        return self.place / f"{bare(name)}.{suffix}"


def bare(name: str) -> str:
    """The name of a run as that of a file, no longer than it has to be; `unquote` undoes it."""
    return name.replace("%", "%25").replace("/", "%2F")


def _lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
