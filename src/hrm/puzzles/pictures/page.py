"""Solving as one HTML file: step through the segments of a puzzle, see the probabilities of each cell."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np

from hrm.files.output import to_json
from hrm.files.records import Json
from hrm.puzzles.pictures.candidates import abreast, marks
from hrm.puzzles.solving.answer import Answer, as_grid
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.solving.solver import Solver
from hrm.puzzles.tasks import Task

BARS = 16
"""Up to this many symbols each has its own bar; of more, a cell shows its most probable ones."""


class Steps(NamedTuple):
    """What the steps of a page or a moving picture are, where they are something else than a solver's segments."""

    unit: str = ""
    """One word; by default a segment, or a call of a model that deduces."""
    names: Sequence[str] = ()
    """Of each step; by default they are counted."""
    wrong: Sequence[Sequence[int]] | None = None
    """The cells that are marked in each step; by default those that break a rule."""
    means: tuple[str, str, str] = (
        "breaks a rule", "break a rule",
        "Cells that contradict another cell or the question. With none left, the answer is checked.",
    )  # fmt: skip
    """Why a cell, or several, are marked, and the same in a sentence."""
    about: str = ""
    """A sentence below the verdict; by default about the answer."""

    def marked(self, task: Task, segments: Sequence[Segment], number: int) -> list[int]:
        """The cells that are marked in a step, counted from 0."""
        segment = segments[number]
        return task.wrong(segment.question, segment.readout) if self.wrong is None else list(self.wrong[number])


def page(solver: Solver, answer: Answer, segments: Sequence[Segment], steps: Steps = Steps()) -> str:  # noqa: B008
    """The HTML of a page about one answer and its observed segments (at least one). It needs no other file and no
    network. Probabilities are rounded to 0.1 percent."""
    fields = {
        "title": html.escape(f"{_name(solver)}: {verdict(answer)}"),
        "status": answer.status,
        "verdict": html.escape(verdict(answer)),
        "about": html.escape(steps.about or _about(solver, answer)),
        "unit": html.escape(_unit(segments, steps)),
        "question": html.escape(_rows(answer.question, solver.task)),
        "answer": html.escape(_rows(answer.answer or "none was accepted", solver.task)),
        # A "<" could end the script element that holds the data.
        "data": to_json(_data(solver, answer, segments, steps), separators=(",", ":")).replace("<", "\\u003c"),
    }
    template = resources.files("hrm.puzzles.pictures").joinpath("page.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)


def verdict(answer: Answer) -> str:
    """The outcome in a few words."""
    many = "s" if answer.segments != 1 else ""
    again = f" in {answer.attempts} attempts" if answer.attempts > 1 else ""
    decided = f" and {answer.decisions} decision{'s' * (answer.decisions > 1)}" if answer.decisions else ""
    checked = {"solved": ", verified", "answered": ", not verified"}.get(answer.status, "")
    return f"{answer.status} after {answer.segments} segment{many}{decided}{again}{checked}".capitalize()


def chosen(solver: Solver, answer: Answer, segments: Sequence[Segment]) -> int:
    """The last segment, counted from 1, whose readout is the answer. After a vote that may not be the last one."""
    if answer.answer is not None and answer.grid is not None:
        for number in range(len(segments), 0, -1):
            if np.array_equal(as_grid(solver.task, segments[number - 1].readout), answer.grid):
                return number
    return len(segments)


def _unit(segments: Sequence[Segment], steps: Steps) -> str:
    return steps.unit or ("segment" if segments[0].deduced is None else "call")


def _rows(text: str, task: Task) -> str:
    """Break a long line with one character per cell into the rows of the grid."""
    rows, columns = task.shape
    one_line = len(text) == rows * columns > 81 and "\n" not in text
    return "\n".join(text[i : i + columns] for i in range(0, len(text), columns)) if one_line else text


def _name(solver: Solver) -> str:
    rows, columns = solver.task.shape
    return f"{rows}x{columns} {solver.task.name.capitalize()}"


def _about(solver: Solver, answer: Answer) -> str:
    believed = f"the model's own confidence is {answer.confidence:.0%}"
    checked = {
        "solved": "every rule holds",
        "answered": "no rule is known that could tell a right answer from a wrong one",
        "unsolved": "no readout passed the verifier",
    }
    return f"{_name(solver)}. {checked.get(answer.status, '').capitalize()}; {believed}."


def _data(solver: Solver, answer: Answer, segments: Sequence[Segment], told: Steps) -> Json:
    task, style = solver.task, solver.task.look()
    steps = [
        {
            "segment": each.segment, "attempt": each.attempt, "confidence": _number(solver.confidence(each.q)),
            "q": [_number(value) for value in each.q], "residual": _number(each.residual),
            "wrong": told.marked(task, segments, number), "shares": _shares(each), **_candidates(task, each),
        }
        for number, each in enumerate(segments)
    ]  # fmt: skip
    return {
        "rows": task.shape[0], "columns": task.shape[1], **style._asdict(),
        "bars": list(task.symbols) if len(task.symbols) <= BARS else [],
        "rules": task.marks if told.wrong is None else True,
        "both": solver.q_continue, "question": segments[0].question.tolist(),
        "chosen": chosen(solver, answer, segments), "steps": steps,
        "unit": _unit(segments, told), "places": list(told.names), "means": told.means,
        **({} if segments[0].deduced is None else {"symbols": list(task.symbols), "abreast": abreast(task)}),
    }  # fmt: skip


def _candidates(task: Task, segment: Segment) -> Json:
    """Of a model that deduces: the tokens possible in each cell, those killed in some cells, and the decided cells."""
    deduced = segment.deduced
    if deduced is None:
        return {}
    held = marks(task, segment)
    return {
        "alive": [each.alive for each in held],
        "dying": {str(cell): each.dying for cell, each in enumerate(held) if each.dying},
        "decided": np.flatnonzero(deduced.decided).tolist(), "decisions": deduced.decisions,
        "refused": deduced.refused,
    }  # fmt: skip


def _shares(segment: Segment) -> list[int | list[int]]:
    """For each cell the readout's token if it is certain, else token, share in 1/1000, token, share, ... The readout
    comes first, the others by falling probability; shares below 1/1000 are left out."""
    cells = np.arange(len(segment.readout))
    rank = -segment.probabilities.astype(np.float64)
    rank[cells, segment.readout] = -2
    tokens = np.argsort(rank, axis=1, kind="stable")[:, :BARS]
    shares = np.rint(1000 * np.take_along_axis(segment.probabilities, tokens, axis=1)).astype(int)
    found: list[int | list[int]] = []
    for names, parts in zip(tokens.tolist(), shares.tolist(), strict=True):
        kept = [number for i, pair in enumerate(zip(names, parts, strict=True)) if i == 0 or pair[1] for number in pair]
        found.append(names[0] if parts[0] == 1000 else kept)
    return found


def _number(value: float) -> float | None:
    """Round to four significant digits; None for what JSON cannot express."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
