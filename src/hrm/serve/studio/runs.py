"""The runs of the studio's folder: what is said of them, and what may be done to them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hrm.files import names
from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.overview import Listed, listed, runs
from hrm.runs import durable, lock
from hrm.serve.studio.jobs import PLACE, Jobs

BOOKS = "books"
"""Folder of the books that were given to the page, beside the runs."""
_WATCHED = ("run.json", "config.yaml", "metrics.jsonl", "best.json", "result.json", "checkpoints", *lock.FILES)
State = Literal["starting", "training", "stopping", "paused", "finished", "failed", "damaged"]


@dataclass(frozen=True)
class Shown(Record):
    """A run on the page; a learner's `step` and `steps` are those of its book."""

    name: str
    kind: str | None
    task: str | None
    parameters: int | None
    step: int | None
    steps: int | None
    score: str | None
    state: State
    problem: str | None
    changed: str
    can_pause: bool
    can_resume: bool


class Folder:
    """A folder of runs."""

    def __init__(self, path: Path) -> None:
        self.path, self.jobs = path.absolute(), Jobs(path.absolute())
        self._known: dict[Path, tuple[object, Listed]] = {}
        for left in self.path.glob(".deleted-*"):  # of a studio that was killed while it deleted
            durable.discard(left)

    def run(self, name: str) -> Path:
        """The path of a run by its name, which leads nowhere else; UserError if there is none."""
        path = self.place(name)
        if not (path / "run.json").is_file():
            raise UserError(f"there is no run {name} in {self.path}")
        return path

    def place(self, name: str) -> Path:
        """Where a run of this name is, or would be."""
        parts = name.split("/")
        for part in parts:
            if (why := names.fault(part)) is not None:
                raise UserError(f"{why}: use letters, digits and spaces")
            if part.startswith((".", "-")):
                raise UserError(f"{part!r} begins with a dot or a dash: begin it with a letter or a digit")
        return names.place_in(self.path, *parts)

    def free(self, name: str) -> Path:
        """Where a new run of this name goes; UserError for a name that is taken or cannot be one."""
        if "/" in name or "\\" in name:
            raise UserError("a name has no slash: use letters, digits and spaces")
        path = self.place(name)
        if name.lower() in (BOOKS, PLACE):
            raise UserError(f"{name} is the folder of the books: choose another name")
        if os.path.lexists(path):
            raise UserError(f"there is something called {name} already: choose another name")
        return path

    def shown(self) -> list[Shown]:
        """All of them, those that changed last first. Only what has changed is read again."""
        found, seen = [], set()
        for path in runs(self.path):
            if path.is_symlink():
                continue
            seen.add(path)
            found.append(self._shown(path, self._listed(path)))
        self._known = {path: known for path, known in self._known.items() if path in seen}
        there = {each.name for each in found}
        found += [each for name in self.jobs.named() if name not in there and (each := self._begun(name))]
        return sorted(found, key=lambda each: (each.changed, each.name), reverse=True)

    def one(self, name: str) -> Shown:
        """One of them; UserError if there is none of that name."""
        path = self.place(name)
        found = self._shown(path, self._listed(path)) if (path / "run.json").is_file() else self._begun(name)
        if found is None:
            raise UserError(f"there is no run {name} in {self.path}")
        return found

    def _listed(self, path: Path) -> Listed:
        mark = tuple(_mark(path / name) for name in _WATCHED)
        known = self._known.get(path)
        if known is None or known[0] != mark or known[1].writer:  # a killed writer leaves no trace in the folder
            known = self._known[path] = (mark, listed(path))
        return known[1]

    def _shown(self, path: Path, found: Listed) -> Shown:
        name = path.relative_to(self.path).as_posix()
        job, state, problem = self.jobs.job(name), found.state, found.problem
        shown: State = state
        if state == "training" and name in self.jobs.stopping:
            shown = "stopping"
        elif state != "training" and state != "damaged" and job is not None and job.lives:
            shown = "starting"
        elif state in ("paused", "finished") and (said := self.jobs.complaint(name)):
            shown, problem = ("failed" if state == "paused" else state), said  # its next book could not begin
        owner = lock.owner(path) if shown == "training" else None
        pauses = shown == "starting" or (owner is not None and owner.verb.split()[0] in ("learn", "train"))
        return Shown(
            name, found.kind, found.task, found.parameters, found.step, found.steps,
            None if found.score is None else str(found.score), shown, problem, found.changed,
            pauses, shown in ("paused", "failed") and found.kind is not None,
        )  # fmt: skip

    def _begun(self, name: str) -> Shown | None:
        """A training whose run is not there yet, or never came to be."""
        job = self.jobs.job(name)
        if job is None:
            return None
        said = None if job.lives else (self.jobs.complaint(name) or "it ended before it had begun")
        task = ", ".join(job.books)
        state: State = "failed" if said else "starting"
        return Shown(name, "learner", task, None, None, None, None, state, said, job.started, not said, bool(said))

    def resume(self, name: str) -> None:
        """Continue what was begun, as it was begun."""
        kind, job = self.one(name).kind, self.jobs.job(name)
        if kind in ("puzzles", "text"):
            self.jobs.start(name, "train")
        elif job is not None and all(Path(book).is_file() for book in job.books):
            self.jobs.start(name, "learn", job.books, job.flags)
        else:
            self.run(name)
            self.jobs.start(name, "learn")  # the text of a paused book is in the run

    def stop(self, name: str) -> None:
        """End the book that a learner reads or has paused at: it counts as learned."""
        self.run(name)
        self.jobs.stop(name, lambda: self.jobs.start(name, "learn", flags=["--stop"]))

    def rename(self, name: str, other: str) -> str:
        """Give a run another name in the same folder, and return that; UserError while a process writes into it."""
        path, parent = self.run(name), name.rpartition("/")[0]
        if "/" in other:
            raise UserError("a name has no slash: use letters, digits and spaces")
        target = f"{parent}/{other}" if parent else other
        place = self.place(target) if parent else self.free(other)
        for each in (name, target):  # what is about to begin has no folder yet
            self._idle(each)
        with lock.own(path, "studio") as owned:
            if os.path.lexists(place):
                raise UserError(f"there is something called {other} already: choose another name")
            owned.rename(place)
        self.jobs.rename(name, target)
        return target

    def delete(self, name: str) -> None:
        """Delete a run with all that is in its folder; UserError while a process writes into it."""
        path, job = self.place(name), self.jobs.job(name)
        if (path / "run.json").is_file():
            self._idle(name)
            with lock.own(path, "studio") as owned:
                gone = path.with_name(f".deleted-{path.name}-{os.getpid()}")
                owned.rename(gone)  # in one step, so that no half of a run is left under its name
            durable.discard(gone)
        elif job is None:
            raise UserError(f"there is no run {name} in {self.path}")
        self._idle(name)
        self.jobs.forget(name)

    def _idle(self, name: str) -> None:
        job = self.jobs.job(name)
        if job is not None and job.lives:
            raise UserError(f"{name} is being trained: pause it first")


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
