"""One pass that tells depth, quality and calibration at every limit of segments, and the depth by difficulty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from hrm.core.calibration import Reliability, interval
from hrm.files.records import Json
from hrm.insight.halting.difficulty import Measure, Tokens, of_puzzles
from hrm.insight.subject import Batch, Puzzles, Reading, Subject, Text

GROUPS = 8
"""Most groups of a difficulty that is a number."""


class _Seen(NamedTuple):
    """A batch of puzzles or labelled tokens [n], at every depth up to the last [n, segments]."""

    fixed: np.ndarray
    """Quality where all take the same depth: 1 for right, or the loss in bits."""
    halting: np.ndarray
    """Quality where each may halt earlier."""
    depth: np.ndarray
    """[n] segments that each takes."""
    halt: np.ndarray
    """P(halt)."""
    target: np.ndarray
    """What the Q head was taught to say; text with q_target "improvement" has one column less."""
    measures: list[Measure]


@dataclass
class Measured:
    """Sums over all puzzles or tokens of a model."""

    subject: Subject
    segments: int
    rule: str | None
    """What ends a puzzle or token: q, kl or change; None where nothing does."""
    taught: bool
    """Whether the Q head has learned anything."""
    count: int = 0
    depths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[segments] how many took each number of segments."""
    fixed: np.ndarray = field(default_factory=lambda: np.zeros(0))
    halting: np.ndarray = field(default_factory=lambda: np.zeros(0))
    reliable: list[Reliability] = field(default_factory=list)
    """Of the Q head, at each depth."""
    settled: Reliability = field(default_factory=Reliability)
    """Where it halts."""
    scaled: Reliability | None = None
    """The same of a solver's confidence, which is P(halt) scaled as its training measured."""
    groups: dict[str, dict[float, np.ndarray]] = field(default_factory=dict)
    """By measure and value: count, and sums of the depth, of its square, of the quality at depth 1 and of that where it
    halts."""
    labels: dict[str, tuple[str, ...] | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.depths, self.fixed, self.halting = (np.zeros(self.segments) for _ in range(3))
        if isinstance(self.subject, Puzzles) and self.subject.solver.calibration != (1.0, 0.0):
            self.scaled = Reliability()

    def add(self, seen: _Seen) -> None:
        """A batch."""
        self.count += len(seen.depth)
        self.depths += np.bincount(seen.depth - 1, minlength=self.segments)
        self.fixed += seen.fixed.sum(0)
        self.halting += seen.halting.sum(0)
        known = seen.target.shape[1]
        self.reliable += [Reliability() for _ in range(known - len(self.reliable))]
        for depth, bins in enumerate(self.reliable):
            bins.add(seen.halt[:, depth], seen.target[:, depth])
        there = np.flatnonzero(seen.depth <= known)
        at = seen.depth[there] - 1
        halt, target = seen.halt[there, at], seen.target[there, at]
        self.settled.add(halt, target)
        if self.scaled is not None and isinstance(self.subject, Puzzles):
            odds = np.log(halt.clip(1e-300)) - np.log1p(-halt.clip(None, 1 - 2**-53))
            self.scaled.add(np.array([self.subject.solver.confidence((q,)) for q in odds.tolist()]), target)
        for measure in seen.measures:
            self.labels[measure.name] = measure.labels
            groups = self.groups.setdefault(measure.name, {})
            useful = ~np.isnan(measure.values)
            values, which = np.unique(measure.values[useful], return_inverse=True)
            depth, first, last = seen.depth[useful], seen.fixed[useful, 0], seen.halting[useful, -1]
            columns = (np.ones(len(which)), depth, depth.astype(float) ** 2, first, last)
            sums = np.stack([np.bincount(which, column, minlength=len(values)) for column in columns], 1)
            for value, row in zip(values.tolist(), sums, strict=True):
                groups[value] = groups.get(value, 0.0) + row

    def mean_depth(self, most: int) -> float:
        """Where `most` segments are allowed."""
        return float((self.depths * np.minimum(np.arange(1, self.segments + 1), most)).sum() / max(1, self.count))

    def curve(self) -> list[Json]:
        """Depth and quality at 1, 2, 4 ... segments at most."""
        own = self.subject.max_segments
        efforts = {*(2**i for i in range(20)), self.segments, own}
        rows: list[Json] = []
        for most in sorted(effort for effort in efforts if effort <= self.segments):
            fixed, halting = self.fixed[most - 1], self.halting[most - 1]
            row: Json = {"max_segments": most, "mean_segments": self.mean_depth(most),
                         "halting": halting / max(1, self.count), "fixed": fixed / max(1, self.count)}  # fmt: skip
            if self.subject.family == "puzzle":
                row["interval"] = list(interval(round(float(halting)), self.count))
            rows.append(row)
        return rows

    def difficulty(self, name: str) -> list[Json]:
        """Groups of a measure: classes as they are, numbers in a few groups of about equal size."""
        labels, values = self.labels[name], sorted(self.groups[name].items())
        joined: dict[float, tuple[list[float], np.ndarray]] = {}
        total, before = sum(row[0] for _, row in values), 0.0
        for value, row in values:
            place = value if labels or len(values) <= GROUPS else int(GROUPS * (before + row[0] / 2) / total)
            kept, sums = joined.get(place, ([], np.zeros(5)))
            joined[place] = [*kept, value], sums + row
            before += row[0]
        found = []
        for inside, (count, depth, squares, first, last) in joined.values():
            low, high = f"{inside[0]:g}", f"{inside[-1]:g}"
            said = labels[int(inside[0])] if labels else low if low == high else f"{low} to {high}"
            spread = max(0.0, squares / count - (depth / count) ** 2)
            found.append({"group": said, "count": int(count), "mean_segments": depth / count,
                          "standard_error": math.sqrt(spread / count), "at_depth_1": first / count,
                          "halting": last / count})  # fmt: skip
        return found

    def plain(self) -> Json:
        """All numbers."""
        return {
            "model": self.subject.about(), "max_segments": self.subject.max_segments, "rule": self.rule,
            "count": self.count, "depths": self.depths.astype(int).tolist(), "curve": self.curve(),
            "calibration": [bins.plain() for bins in self.reliable] if self.taught else None,
            "calibration_where_it_halts": self.settled.plain() if self.taught else None,
            "calibration_scaled": self.scaled.plain() if self.taught and self.scaled is not None else None,
            "difficulty": {name: self.difficulty(name) for name in self.groups},
        }  # fmt: skip


def measure(
    subject: Subject, segments: int, limit: int, batch_size: int, progress: Callable[[float], None]
) -> Measured:
    """All sums over `limit` puzzles or windows. A puzzle's segments do not depend on when it is stopped, so that one
    pass to the end tells all smaller limits; tokens are also run as they halt, because others read them."""
    weight = subject.model.q_head.weight
    taught, rule = bool(weight.any()), "q"
    if isinstance(subject, Text):
        own = subject.model.config.halting
        rule = own if own != "fixed" else "q" if taught else None
    measured = Measured(subject, segments, rule if taught or rule != "q" else None, taught)
    count = max(1, min(limit, subject.count))
    for batch in subject.batches(batch_size, limit):
        text = isinstance(subject, Text)
        measured.add(_text(subject, batch, measured) if text else _puzzles(subject, batch, segments))
        progress((batch.first + len(batch.inputs)) / count)
    return measured


def _puzzles(subject: Any, batch: Batch, segments: int) -> _Seen:
    """`target` is whether the answer is the label, as in training; quality lets a maze have another shortest path."""
    readings = list(subject.think(batch, segments))
    right = np.stack([subject.solved(batch, reading) for reading in readings], 1)
    counted = batch.labels != -100
    same = [((reading.right == counted).all(1) & counted.any(1)).cpu().numpy() for reading in readings]
    stops = np.concatenate([reading.stops.cpu().numpy() for reading in readings], 1)
    halt = np.concatenate([reading.halt.double().cpu().numpy() for reading in readings], 1)
    stops[:, -1] = True
    depth = stops.argmax(1) + 1
    capped = np.minimum(depth[:, None], np.arange(1, segments + 1)) - 1
    halting = np.take_along_axis(right, capped, 1)
    return _Seen(right.astype(float), halting.astype(float), depth, halt, np.stack(same, 1), of_puzzles(subject, batch))


def _text(subject: Text, batch: Batch, measured: Measured) -> _Seen:
    """`target` is what the Q head was taught: that the likeliest token is right, or that one more segment brings less
    than gamma, which is unknown after the last."""
    config, counted = subject.model.config, batch.labels != -100

    def column(t: torch.Tensor) -> np.ndarray:
        return t[counted].double().cpu().numpy()

    readings = list(subject.think(batch, measured.segments))
    loss, halt, right = (
        np.stack([column(getattr(reading, name)) for reading in readings], 1) for name in ("loss", "halt", "right")
    )
    target = right if config.q_target == "right" else loss[:, :-1] - loss[:, 1:] < config.q_gamma
    halting, depth = loss, np.full(len(loss), measured.segments)
    if measured.rule is not None:
        run: list[Reading] = list(subject.halt(batch, measured.segments, measured.rule))
        halting = np.stack([column(reading.loss) for reading in run], 1)
        depth = np.stack([column(reading.stops) for reading in run], 1).argmax(1) + 1
    measures = Tokens(subject).of(batch, readings[0])
    return _Seen(loss / math.log(2), halting / math.log(2), depth, halt, target > 0, measures)
