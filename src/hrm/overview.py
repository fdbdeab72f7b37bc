"""How far runs are: one of hrm train in numbers, and everything that lies below a folder as a list. Nothing is locked,
written or computed here, and no model is loaded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hrm.files import names
from hrm.files.reading import SMALL, UserError, json_of, reason
from hrm.files.records import Json, Record
from hrm.puzzles import kinds
from hrm.puzzles.config import Config
from hrm.runs import Run, checkpoint, lock
from hrm.runs.checkpoint import DamagedCheckpoint
from hrm.settings import Recipe, families, kind_of
from hrm.text import learned
from hrm.text.config import LearnConfig, TextConfig, calibration

_TAIL = 1 << 20
"""Bytes of the metrics in which the last line of a step is looked for."""
_TOLD = (
    "loss", "perplexity", "bits_per_byte", "exact_accuracy", "token_accuracy", "accuracy", "grad_norm",
    "steps_per_second", "tokens_per_second", "utilisation",
)  # fmt: skip
"""Of the metrics, what a glance is for."""
_SCORES = (
    ("q_error", "error of Q", "", False), ("exact_match", "exact match", "%", True),
    ("exact_accuracy", "exact", "%", True), ("bits_per_character", "bits", "bits/character", False),
    ("bits_per_byte", "bits", "bits/byte", False), ("loss", "loss", "nats/token", False),
)  # fmt: skip
"""Measures by which the best checkpoint was chosen, or that go with it: name, words, unit, whether more is better."""
_BUFFERS = ("z_h_init", "z_l_init", "task_embedding.weight")
"""Among the weights, what is no parameter."""
_FILES = ("run.json", "config.yaml", "metrics.jsonl", "best.json", "result.json", "checkpoints")
State = Literal["training", "paused", "finished", "damaged"]


@dataclass(frozen=True)
class Score(Record):
    """The best measurement of a run on what it held out; a share is in percent where the unit says so."""

    name: str
    value: float
    unit: str
    better: Literal["higher", "lower"]

    def __str__(self) -> str:
        return f"{self.value:.1f} % {self.name}" if self.unit == "%" else f"{self.value:.3f} {self.unit or self.name}"


@dataclass(frozen=True)
class Listed(Record):
    """A run in a list; what a damaged one does not tell is null. `kind` is puzzles, text or learner."""

    run: str
    kind: str | None
    task: str | None
    """What is learned: the puzzle, the text, or a learner's books."""
    parameters: int | None
    step: int | None
    steps: int | None
    score: Score | None
    state: State
    """paused: also one whose process was killed; it can be resumed."""
    problem: str | None
    """What is damaged, in a sentence."""
    writer: str | None
    """The process that writes into it now."""
    changed: str
    """When a file of the run last changed, in UTC."""


def runs(folder: Path) -> Iterator[Path]:
    """Every run folder at or below a folder, in the order of the names; nothing inside of a run is looked at, nor what
    is hidden. Of links to folders, only one to a run itself counts."""
    for where, inside, files in os.walk(folder):
        if "run.json" in files:
            inside.clear()
            yield Path(where)
            continue
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        linked = (Path(where, name) for name in inside if os.path.islink(os.path.join(where, name)))
        yield from (path for path in linked if (path / "run.json").is_file())


def listed(path: Path) -> Listed:
    """What a list says of a run. Whatever is wrong with its files is said there, and never raised."""
    try:
        return _listed(path)
    except Exception as error:  # a list ends for nothing that one folder holds
        problem = str(error) if isinstance(error, UserError) else reason(error)
        kind = _named(_family(path))
        return Listed(str(path), kind, None, None, None, None, None, "damaged", problem, None, _changed(path))


def training(path: Path) -> Json:
    """What `hrm status --json` says of a run of hrm train."""
    kind = kind_of(path)
    return _training(Run.open(path, kind), kind)


def _training(run: Run[Any], kind: type[Recipe]) -> Json:
    records = list(run.records(_TAIL))
    lines = [record for record in records if "event" not in record and type(record.get("step")) is int]
    saved = checkpoint.complete(run.checkpoints)
    last, writer, best = lines[-1] if lines else {}, lock.writer(run.path), run.best
    step = max(last.get("step", 0), *(checkpoint.step_of(path) for path in saved), 0)
    # Not that of before it was resumed, also where no further step was saved.
    again = [record.get("from_step") for record in records if record.get("event") == "resumed"]
    over = run.outcome.get("step") == step and not (again and again[-1] == step < run.config.train.steps)
    ended = run.outcome if over else {}
    return {
        "kind": kind.family, "state": "running" if writer else ended.get("state", "not running"),
        "writer": writer, "step": step, "steps": run.config.train.steps,
        "checkpoint": checkpoint.step_of(saved[-1]) if saved else None,
        "last": _numbers(last), "best": None if best is None else {"step": best["step"], **_numbers(best)},
        "calibration": calibration(run.path),
    }  # fmt: skip


def _numbers(record: Json) -> dict[str, float]:
    return {name: record[name] for name in _TOLD if isinstance(record.get(name), int | float)}


def _listed(path: Path) -> Listed:
    kind = families().get(str(_family(path)), Config)
    run: Run[Any] = Run.open(path, kind)  # says best what is wrong with its run.json
    newest, problem = _newest(run.checkpoints)
    writer, state = lock.writer(path), None
    if isinstance(run.config, LearnConfig):
        known = learned.load(newest, ())[1] if newest else None
        books = known.books if known else []
        reading = next((book for book in books if book.state == "learning"), books[-1] if books else None)
        task, parameters = _books([book.name for book in books]), known.parameters if known else None
        step, steps = (reading.step, reading.steps) if reading else (0, None)
        score = _known([book.bits_per_character_now for book in books])
        state = "finished" if books and all(book.state != "learning" for book in books) else "paused"
    else:
        told = _training(run, kind)
        task, parameters = _task(run.config), _parameters(newest, run.config) if newest else None
        step, steps, score = told["step"], told["steps"], _score(run.best or {})
        state = "finished" if told["state"] == "finished" else "paused"
    state = "damaged" if problem else "training" if writer else state
    return Listed(
        str(path), _named(kind.family), task, parameters, step, steps, score, state, problem, writer, _changed(path)
    )


def _newest(directory: Path) -> tuple[Path | None, str | None]:
    """The newest checkpoint whose files have the sizes they should have, and what is wrong with a newer one."""
    problem = None
    for path in reversed(checkpoint.named(directory)):
        try:
            checkpoint.verify(path, contents=False)
            return path, problem
        except DamagedCheckpoint as error:
            if os.path.lexists(path):  # if it is gone, a training has just pruned it
                problem = problem or str(error)
    return None, problem


def _family(path: Path) -> object:
    """What the run.json says of its kind; None where it cannot be read."""
    try:
        facts = json_of(names.regular(path / "run.json"), SMALL)
    except (UserError, OSError):
        return None
    return facts.get("kind", "puzzle") if isinstance(facts, dict) else None


def _named(family: object) -> str | None:
    return {"puzzle": "puzzles", "text": "text", "learner": "learner"}.get(str(family))


def _task(config: Config | TextConfig) -> str:
    """What a training is about, in a few words."""
    if isinstance(config, TextConfig):
        data = ", ".join(Path(part).name for part in (config.data or "").split(","))
        return " ".join(filter(None, ("" if config.text.kind in ("text", "rows") else config.text.kind, data)))
    task = config.task
    if task.kind == "sudoku":
        return "sudoku {0}x{0}".format(task.box[0] * task.box[1])
    if task.kind in ("maze", "grid"):
        return f"{task.kind} {task.size[0]}x{task.size[1]}"
    return f"gym {task.gym}" if task.kind == "gym" else kinds.bare(task.kind)


def _books(names: list[str]) -> str:
    shown = ", ".join(names[-3:])  # the last that it has read
    return f"{len(names)} books: {'..., ' * (len(names) > 3)}{shown}" if len(names) > 1 else shown


def _parameters(path: Path, config: Config | TextConfig) -> int:
    """The parameters of a checkpoint, as `hrm train` counts them: tied layers once, and no buffers."""
    sizes = checkpoint.shapes(path, "weights")
    if isinstance(config, TextConfig) and config.arch.tied:
        sizes.pop("lm_head.weight", None)
    return sum(math.prod(shape) for name, shape in sizes.items() if not name.endswith(_BUFFERS))


def _score(best: Json) -> Score | None:
    for key, name, unit, higher in _SCORES:
        value = best.get(key)
        if isinstance(value, int | float):
            return Score(name, 100 * value if unit == "%" else value, unit, "higher" if higher else "lower")
    return None


def _known(bits: list[float | None]) -> Score | None:
    """How well a learner still knows its books, on average."""
    read = [value for value in bits if value is not None]
    return Score("bits", sum(read) / len(read), "bits/character", "lower") if read else None


def _changed(path: Path) -> str:
    times = []
    for name in _FILES:
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.fromtimestamp(max(times, default=0.0), UTC).isoformat(timespec="seconds")
