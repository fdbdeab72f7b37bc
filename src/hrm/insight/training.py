"""`hrm analyze training`: the curves of several runs in one picture, from their metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.insight.figures import Finding, Table, canvas, look, shares
from hrm.runs import Run
from hrm.settings import kind_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = list[tuple[int, float]]
"""(step, value) in order."""
MOST = 1e30
"""Nothing that a training measures is larger; infinities and NaN are neither smaller."""


class Course(NamedTuple):
    """What a run's metrics say."""

    name: str
    family: str
    loss: Curve
    held_out: dict[str, Curve]
    """By book; "" for a run that is no learner."""
    clock: Curve
    """Seconds of training by step."""
    books: list[tuple[str, int, int]]
    """Of a learner: name, first and last step, as it read them."""
    unreadable: int

    def seconds(self, steps: Sequence[int]) -> np.ndarray | None:
        """At these steps, or None where no seconds were recorded."""
        return np.interp(steps, *zip(*self.clock, strict=True)) if len(self.clock) > 1 else None  # type: ignore[arg-type]


def course(path: Path) -> Course:
    """The course of a run; UserError where there is none, or nothing that can be read."""
    kind = kind_of(path)
    run: Run[Any] = Run.open(path, kind)
    records = [record for record in run.records() if type(record.get("step")) is int]
    lines = run.metrics.read_bytes().count(b"\n") if run.metrics.is_file() else 0
    plain = [record for record in records if "event" not in record]
    name = "bits" if kind.family == "learner" else "token_loss" if kind.family == "text" else "loss"
    scale = 1 / math.log(2) if name == "token_loss" else 1.0
    loss = [(step, value * scale) for step, value in _curve(plain, name)]
    measured = [record for record in records if record.get("event") == "eval"]
    held_out: dict[str, Curve] = {}
    for book in dict.fromkeys(key for record in measured for key in _books(record)):
        held_out[book] = _curve([{"step": record["step"], book: _books(record).get(book)} for record in measured], book)
    if not held_out and (
        found := _curve(measured, "exact_accuracy" if kind.family == "puzzle" else "bits_per_character")
    ):
        held_out[""] = found
    if not loss and not held_out:
        what = "are damaged: no line can be read" if lines and not records else "hold no curve yet: train it first"
        raise UserError(f"the metrics of {path} {what}")
    books = [
        (str(book), steps[0], steps[-1])
        for book, each in groupby((record for record in plain if "book" in record), lambda record: record["book"])
        if (steps := [record["step"] for record in each])
    ]
    unreadable = max(0, lines - len(run.records()))
    return Course(path.name, kind.family, loss, held_out, _curve(plain, "seconds"), books, unreadable)


def training(paths: Sequence[Path]) -> Finding:
    """Loss and held-out quality of each run against steps and seconds; runs of puzzles, or of text."""
    courses = [course(path) for path in paths]
    puzzles = [one.family == "puzzle" for one in courses]
    if any(puzzles) and not all(puzzles):
        one, other = courses[puzzles.index(True)], courses[puzzles.index(False)]
        raise UserError(f"{one.name} and {other.name} are of puzzles and text: compare runs of one kind")
    names = [one.name for one in courses]
    courses = [
        one._replace(name=str(path)) if names.count(one.name) > 1 else one
        for one, path in zip(courses, paths, strict=True)
    ]
    quality = "held-out puzzles right" if puzzles[0] else "held-out bits a character"
    loss = "loss in nats" if puzzles[0] else "loss in bits a token"
    rows: list[list[Any]] = []
    for one in courses:
        steps = [step for step, _ in [*one.loss, *(pair for curve in one.held_out.values() for pair in curve)]]
        spent = one.seconds([max(steps)])
        for book, curve in one.held_out.items() or [("", [])]:
            best = _best(curve, puzzles[0])
            rows.append([_named(one, book), max(steps), None if spent is None else round(float(spent[0])),
                         one.loss[-1][1] if one.loss else None, curve[-1][1] if curve else None,
                         best[1] if best else None, best[0] if best else None])  # fmt: skip
    columns = ["run", "steps", "seconds", f"last {loss}", f"last {quality}", "best", "at step"]
    title = f"How {len(courses)} run{'s'[: len(courses) > 1]} learned" + (
        f": {courses[0].name}" if len(courses) == 1 else ""
    )
    numbers: Json = {"runs": [one._asdict() for one in courses]}
    about: Json = {"family": "puzzle" if puzzles[0] else "text", "runs": [str(path) for path in paths]}
    return Finding(
        "training", title, about, _sentences(courses, puzzles[0], rows), {"last and best values": Table(columns, rows)},
        numbers, lambda: _draw(courses, title, loss, quality),
    )  # fmt: skip


def _curve(records: Sequence[Json], name: str) -> Curve:
    """What is a number of a size that can be drawn."""
    found = [(record["step"], record.get(name)) for record in records]
    return [(step, float(value)) for step, value in found
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST]  # fmt: skip


def _books(record: Json) -> Json:
    found = record.get("bits_per_character")
    return found if isinstance(found, dict) else {}


def _best(curve: Curve, highest: bool) -> tuple[int, float] | None:
    return (max if highest else min)(curve, key=lambda pair: pair[1], default=None)


def _named(one: Course, book: str) -> str:
    return f"{one.name}: {book}" if book else one.name


def _sentences(courses: list[Course], puzzles: bool, rows: list[list[Any]]) -> list[str]:
    said = []
    known = [row for row in rows if row[5] is not None]
    if len(courses) > 1 and known and not any(one.books for one in courses):
        best = (max if puzzles else min)(known, key=lambda row: row[5])
        value = f"{best[5]:.1%} right" if puzzles else f"{best[5]:.3f} bits a character"
        said.append(f"The best held-out value is that of {best[0]}: {value} at step {best[6]:,}.")
    for row in known:
        worse = row[5] - row[4] if puzzles else row[4] - row[5]
        if worse > 0.02 * abs(row[5]):
            last = f"{row[4]:.1%}" if puzzles else f"{row[4]:.3f}"
            said.append(f"{row[0]} ended at {last}, worse than its best at step {row[6]:,}.")
    said += [f"{one.name} has no held-out measurement." for one in courses if not one.held_out]
    said += [f"{one.unreadable} lines of {one.name}'s metrics could not be read." for one in courses if one.unreadable]
    return [*said, "Seconds are as each run recorded them, on its own machine."]


def _draw(courses: list[Course], title: str, loss: str, quality: str) -> Figure:
    figure, axes = canvas(4, title=title, columns=2)
    number = 0
    for one in courses:
        _line(axes[0], axes[1], one, one.loss, look(number, marks=False) | {"label": one.name})
        for book, curve in one.held_out.items():
            _line(axes[2], axes[3], one, curve, look(number) | {"label": _named(one, book)})
            number += 1
        number += not one.held_out
    for axis, label in zip(axes, (loss, loss, quality, quality), strict=True):
        axis.set(ylabel=label)
    if any(value > 0 for one in courses for _, value in one.loss):
        for axis in axes[:2]:
            axis.set_yscale("log")
    for axis in (axes[0], axes[2]):
        axis.set(xlabel="steps" + (" (shaded: every other book)" if courses[0].books else ""))
        for i, (_, first, last) in enumerate(courses[0].books):
            if i % 2:
                axis.axvspan(first, last, color="0.5", alpha=0.15, linewidth=0)
    for axis in (axes[1], axes[3]):
        axis.set(xlabel="seconds of training")
    if quality.endswith("right"):
        shares(axes[2])
        shares(axes[3])
    for axis in (axes[0], axes[2]):
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    return figure


def _line(by_step: Axes, by_time: Axes, one: Course, curve: Curve, how: dict[str, Any]) -> None:
    if not curve:
        return
    steps, values = zip(*curve, strict=True)
    by_step.plot(steps, values, **how)
    seconds = one.seconds(steps)
    if seconds is not None:
        by_time.plot(seconds, values, **how)
