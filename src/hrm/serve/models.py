"""The models that a server offers: each loaded when first asked for, and dropped when others need its place."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from hrm.files.output import refusal
from hrm.files.reading import UserError, quoted, reason, shown
from hrm.files.records import Json
from hrm.puzzles import solvers
from hrm.puzzles.config import Config
from hrm.puzzles.solving import Solver
from hrm.puzzles.solving import load as load_solver
from hrm.runs import Run, checkpoint, lock, threads
from hrm.serve.errors import Unavailable, UnknownModel
from hrm.serve.waiting import Busy, Limits
from hrm.settings import kind_of
from hrm.text.config import is_text
from hrm.text.load import TextModel, load_text

LOOK_SECONDS = 2.0
"""How often the checkpoints of a run in training are looked at, at most."""


class State(NamedTuple):
    """What lies in a folder: by it is seen that there is something newer than what is in memory."""

    newest: str | None
    """The newest checkpoint of a run in training; None where none is training."""
    files: tuple[object, ...] = ()
    """Where none is: its checkpoints, and when what says which one is the best, or the weights, changed."""


@dataclass
class Served:
    """A model in memory with its engine. Either `text` or `solver` is there."""

    name: str
    path: Path
    kind: Literal["text", "puzzles"]
    engine: Any
    text: TextModel | None
    solver: Solver | None
    checkpoint: str
    bytes: int
    state: State
    """Of the folder when this was read."""
    users: int = 0
    """Requests that hold it."""
    used: float = 0.0
    looked: float = 0.0
    replaced: bool = False
    session: Any = None
    """Of a text model: how it talks, its modes and its memory. Nobody talks with it."""
    reading: threading.Lock = field(default_factory=threading.Lock)
    """Held while its tokenizer reads."""


class Models:
    """Runs by name. Methods may be called from any thread; `get` and `lend` wait while a model is loaded. `observe`
    gets the name of a model and each step of its engine."""

    def __init__(
        self,
        runs: Mapping[str, str | Path],
        limits: Limits | None = None,
        *,
        checkpoint: str = "best",
        device: str | None = None,
        precision: str | None = None,
        memory: int = 8 << 30,
        observe: Callable[[str, Any], None] = lambda name, step: None,
    ) -> None:
        """`memory`: bytes of weights that are held at once; a single model may be larger."""
        self.limits = limits or Limits()
        self.observe = observe
        self._which, self._device, self._precision, self._memory = checkpoint, device, precision, memory
        self._paths = {name: solvers.find(path) for name, path in runs.items()}
        self._loaded: dict[str, Served] = {}
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._closed = False

    def names(self) -> list[str]:
        """In the order in which they were added."""
        with self._lock:
            return list(self._paths)

    def engines(self) -> dict[str, Any]:
        """The engine of each model; None for one that is not loaded."""
        with self._lock:
            return {name: self._loaded[name].engine if name in self._loaded else None for name in self._paths}

    def add(self, name: str, path: str | Path) -> None:
        """Offer another run, or the same one from another folder."""
        with self._lock:
            same = self._paths.get(name) == (path := solvers.find(path))
            self._paths[name] = path
            old = None if same else self._loaded.pop(name, None)
        self._retire(old)

    def remove(self, name: str) -> None:
        """Offer it no longer; who uses it may finish."""
        with self._lock:
            self._paths.pop(name, None)
            old = self._loaded.pop(name, None)
        self._retire(old)

    def about(self, name: str) -> Json:
        """What is known of a model without loading it; UserError for an unknown one."""
        path = self._path(name)
        with self._lock:
            served = self._loaded.get(name)
        with suppress(OSError, IndexError):
            files = [file for file in (path / "run.json", path / "config.json") if file.is_file()]
            created = int(files[0].stat().st_mtime)
            return {
                "name": name, "path": path, "kind": "text" if is_text(path) else "puzzles", "created": created,
                "loaded": served is not None, "checkpoint": None if served is None else Path(served.checkpoint).name,
            }  # fmt: skip
        raise UnknownModel(f"the run of the model {quoted(name)} is gone", "model")

    def get(self, name: str) -> Served:
        """The model, loaded; UserError for one that is unknown or cannot be. Prefer `lend`, whose model stays."""
        return self._borrow(name, 0)

    def borrow(self, name: str) -> Served:
        """The same; it is not dropped until `release`."""
        return self._borrow(name, 1)

    def release(self, served: Served) -> None:
        """Give back what was borrowed."""
        with self._lock:
            served.users -= 1
            gone = served.replaced and not served.users
        if gone:
            _close(served, 0)

    @contextmanager
    def lend(self, name: str) -> Iterator[Served]:
        """The same for a block, in which it is not dropped."""
        served = self.borrow(name)
        try:
            yield served
        finally:
            self.release(served)

    def close(self, seconds: float) -> None:
        """Take no more requests; those under way have this long to finish."""
        with self._lock:
            self._closed = True
            served = list(self._loaded.values())
            self._loaded.clear()
        closing = [threading.Thread(target=_close, args=(each, seconds)) for each in served]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    def _path(self, name: str) -> Path:
        with self._lock:
            path = self._paths.get(name)
            known = list(self._paths)
        if path is None:
            raise UnknownModel(f"there is no model {quoted(name)}: there are {shown(known)}", "model")
        return path

    def _borrow(self, name: str, users: int) -> Served:
        path = self._path(name)
        with self._loading[name]:
            while True:
                with self._lock:
                    served = self._loaded.get(name)
                if served is None:
                    served = self._replace(None, self._load(name, path))
                elif self._outdated(served):
                    with suppress(Unavailable):  # half written or damaged: what is in memory still answers
                        served = self._replace(served, self._load(name, path))
                with self._lock:
                    if self._closed:
                        raise Unavailable("the server is ending: ask another")
                    if self._loaded.get(name) is served:  # another model has not just taken its place
                        served.users += users
                        served.used = time.monotonic()
                        return served

    def _outdated(self, served: Served) -> bool:
        """Whether there is a newer checkpoint, or another run in its place."""
        now = time.monotonic()
        if now - served.looked < LOOK_SECONDS:
            return False
        served.looked = now
        with suppress(OSError, UserError):
            return _state(served.path) != served.state
        return False  # what is in memory still answers

    def _load(self, name: str, path: Path) -> Served:
        for again in (True, False):
            try:
                return self._read(name, path)
            except Exception as error:  # whatever a folder holds, the server stays
                if again:  # a training may just have pruned the checkpoint
                    continue
                if not path.exists():
                    raise UnknownModel(f"the run of the model {quoted(name)} is gone", "model") from error
                said = str(error) if isinstance(error, UserError) else refusal(error) or reason(error)
                raise Unavailable(f"the model {quoted(name)} cannot be loaded: {said}", "model") from error
        raise AssertionError

    def _read(self, name: str, path: Path) -> Served:
        state = _state(path)
        which = self._which if state.newest is None else "latest"
        observe = partial(self.observe, name)
        if is_text(path):
            from hrm.serve.text.engine import TextEngine
            from hrm.text.chat.session import Session

            text = load_text(path, which, self._device or "auto", self._precision)
            threads.settle_for(text.model, self.limits.slots)
            engine, size = TextEngine(text, self.limits, observe), _bytes(text.model)
            found = Served(name, path, "text", engine, text, None, text.name, size, state, looked=time.monotonic())
            found.session = Session(text)
            return found
        from hrm.serve.puzzles.engine import PuzzleEngine

        solver = load_solver(path, which, self._device, self._precision)
        threads.settle_for(solver.models[0], self.limits.slots * solver.models[0].positions)
        engine, size = PuzzleEngine(solver, self.limits, observe), sum(map(_bytes, solver.models))
        return Served(
            name, path, "puzzles", engine, None, solver, solver.checkpoint, size, state, looked=time.monotonic()
        )

    def _replace(self, old: Served | None, new: Served) -> Served:
        """Put a model into the table, and drop others where the memory is needed."""
        with self._lock:
            closed = self._closed
            others = {name: each for name, each in self._loaded.items() if each is not old}
            idle = sorted((each for each in others.values() if not each.users), key=lambda each: each.used)
            dropped: list[Served] = []
            while idle and sum(each.bytes for each in others.values()) + new.bytes > self._memory:
                dropped.append(others.pop(idle.pop(0).name))
            full = bool(others) and sum(each.bytes for each in others.values()) + new.bytes > self._memory
            if not full and not closed:
                self._loaded = others | {new.name: new}
        if full or closed:
            _close(new, 0)
            if closed:
                raise Unavailable("the server is ending: ask another")
            raise Busy(5)
        for each in (*dropped, old):
            self._retire(each)
        return new

    def _retire(self, served: Served | None) -> None:
        if served is None:
            return
        with self._lock:
            served.replaced = True
            idle = not served.users
        if idle:
            _close(served, 0)


def names_of(runs: tuple[str, ...]) -> dict[str, Path]:
    """Models for a command line: each RUN is named like its folder, NAME=RUN as it says. UserError for two of one name,
    and for what is no run."""
    found: dict[str, Path] = {}
    for run in runs:
        name, equals, place = run.partition("=")
        if not equals or Path(run).exists():
            name, place = Path(run).resolve().name if Path(run).exists() else Path(run).name, run
        path = solvers.find(place)
        if not is_text(path):
            Run.open(path, kind_of(path) if (path / "run.json").is_file() else Config)  # says what is missing
        if name in found:
            raise UserError(f"two models would be named {name}: give one another name, as in other={place}")
        found[name] = path
    return found


def _state(path: Path) -> State:
    """What lies in a folder now."""
    saved = [each.name for each in checkpoint.named(path / "checkpoints")]
    if (path / "run.json").is_file() and lock.writer(path) is not None:
        return State(saved[-1] if saved else None)
    return State(None, (*saved, *(_changed(path / name) for name in ("best.json", "config.json", "model.safetensors"))))


def _changed(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _bytes(model: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _close(served: Served, seconds: float) -> None:
    served.engine.close(seconds)
