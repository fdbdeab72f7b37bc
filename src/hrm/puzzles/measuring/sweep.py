"""Accuracy against compute: what more segments, halting and further attempts buy on puzzles with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrm.core import devices
from hrm.files import output
from hrm.files.records import Record
from hrm.puzzles.config import Strategy
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.measuring import is_right, jobs_of
from hrm.puzzles.solving import engine
from hrm.puzzles.solving.engine import Rules, Segment
from hrm.puzzles.solving.solver import Solver

WORSE = 0.01
"""A fall of accuracy by this much from one depth to a larger one is reported."""


@dataclass(frozen=True)
class Curve(Record):
    """Accuracy and mean segments at growing effort: the largest number of segments, or of attempts."""

    name: str
    effort: list[int]
    mean_segments: list[float]
    accuracy: list[float]


@dataclass(frozen=True)
class Sweep(Record):
    """Curves of a solver on some puzzles, up to these segments, views, restarts and guesses."""

    n: int
    checkpoint: str
    data: str
    device: str
    dtype: str
    max_segments: int
    views: int | None
    restarts: int | None
    guesses: int | None
    curves: list[Curve]
    warnings: list[str]


class SegmentReadouts(NamedTuple):
    """Every puzzle after every segment, nothing halted; all [n, segments]."""

    right: np.ndarray
    verified: np.ndarray
    halts: np.ndarray
    """Whether the Q head would stop there."""


def sweep(
    solver: Solver,
    puzzles: PuzzleSet,
    strategy: Strategy,
    batch_size: int = 64,
    progress: Callable[[float], None] | None = None,
) -> Sweep:
    """Curves up to the given segments, views, restarts and guesses, and warnings where more segments make it worse."""
    strategy = solver.complete(strategy)
    rules = solver.rules(strategy)
    deepest, attempts = rules.max_segments, len(rules.attempts)
    tell = progress or (lambda share: None)
    parts = 2 if attempts > 1 and solver.task.verifies else 1
    readings = read_all(solver, puzzles, deepest, batch_size, lambda share: tell(share / parts))
    curves = depth_curves(readings, solver.task.verifies)
    if parts == 2:
        curves.append(_attempts(solver, puzzles, strategy, batch_size, tell))
    return Sweep(
        n=len(puzzles.inputs), checkpoint=solver.checkpoint, data=puzzles.source, device=str(solver.device),
        dtype=devices.named(solver.model.dtype), max_segments=deepest, views=strategy.views,
        restarts=strategy.restarts, guesses=strategy.guesses, curves=curves, warnings=warnings_of(curves[0]),
    )  # fmt: skip


def read_all(
    solver: Solver, puzzles: PuzzleSet, segments: int, batch_size: int, progress: Callable[[float], None]
) -> SegmentReadouts:
    """Run every puzzle to the last segment and judge each readout."""
    n, task = len(puzzles.inputs), solver.task
    readings = SegmentReadouts(*(np.zeros((n, segments), bool) for _ in range(3)))

    def observe(row: int, segment: Segment) -> None:
        at = row, segment.segment - 1
        readings.right[at] = is_right(task, puzzles.inputs[row], puzzles.labels[row], segment.readout)
        readings.verified[at] = task.verifies and task.verify(segment.question, segment.readout)
        readings.halts[at] = segment.q[0] > (segment.q[1] if solver.q_continue else 0)

    # Without a verifier and without a rule of halting nothing leaves before the end.
    for done, _ in enumerate(
        engine.solve(solver.model, jobs_of(puzzles), Rules(segments), batch_size, False, observe), 1
    ):
        progress(done / n)
    return readings


def depth_curves(readings: SegmentReadouts, verifies: bool) -> list[Curve]:
    """Running all puzzles to a depth, halting by the Q head, halting at random at the same depths, and verifying."""
    n, segments = readings.right.shape
    efforts = [d for d in sorted({*(2**i for i in range(20)), *range(16, segments, 16), segments}) if d <= segments]
    rows, at_depth = np.arange(n), readings.right.mean(0)

    def curve(name: str, points: list[tuple[np.ndarray, np.ndarray]]) -> Curve:
        depths, accuracies = zip(*points, strict=True)
        return Curve(name, efforts, [float(d.mean()) + 1 for d in depths], [float(a) for a in accuracies])

    halts = [_first(readings.halts, d) for d in efforts]
    curves = [
        curve("every puzzle to the end", [(np.array([d - 1]), at_depth[d - 1]) for d in efforts]),
        curve("the Q head halts", [(depth, readings.right[rows, depth].mean()) for depth in halts]),
        curve("halting at random, same depths", [(depth, at_depth[depth].mean()) for depth in halts]),
    ]
    if verifies:
        solved = [(_first(readings.verified, d), readings.verified[:, :d].any(1).mean()) for d in efforts]
        curves.append(curve("the verifier stops", solved))
    return curves


def _first(marks: np.ndarray, cap: int) -> np.ndarray:
    """Index of the first mark among the first `cap` columns, or of the last column."""
    marks = marks[:, :cap].copy()
    marks[:, -1] = True
    return marks.argmax(1)


def _attempts(
    solver: Solver, puzzles: PuzzleSet, strategy: Strategy, batch_size: int, progress: Callable[[float], None]
) -> Curve:
    """The share solved within 1, 2, ... attempts: models, views, noise, guesses, in the order of trying."""
    rules, n = solver.rules(replace(strategy, stop=("verifier",), budget=None)), len(puzzles.inputs)
    begun, solved, spent = np.zeros(n, int), np.zeros(n, bool), np.zeros((n, len(rules.attempts)))

    def observe(row: int, segment: Segment) -> None:
        spent[row, segment.attempt - 1] = segment.segment

    outcomes = engine.solve(solver.models, jobs_of(puzzles), rules, batch_size, False, observe)
    for done, (row, outcome) in enumerate(outcomes, 1):
        assert outcome is not None
        begun[row], solved[row] = outcome.attempts - 1, outcome.accepted
        progress(0.5 + 0.5 * done / n)
    efforts = list(range(1, len(rules.attempts) + 1))
    cost = spent.cumsum(1).mean(0)
    share = [(solved & (begun < e)).mean() for e in efforts]
    return Curve("further attempts", efforts, [float(c) for c in cost], [float(s) for s in share])


def warnings_of(fixed: Curve) -> list[str]:
    """One sentence where running longer loses accuracy."""
    best = int(np.argmax(fixed.accuracy))
    if fixed.accuracy[best] - fixed.accuracy[-1] < WORSE:
        return []
    return [
        f"more segments make it worse: {fixed.accuracy[best]:.2%} after {fixed.effort[best]} segments, "
        f"{fixed.accuracy[-1]:.2%} after {fixed.effort[-1]}; use --max-segments {fixed.effort[best]}, "
        "or let the verifier stop"
    ]


def table(result: Sweep) -> str:
    """The curves in words and numbers."""
    lines = []
    for curve in result.curves:
        lines += ["", curve.name, f"{'effort':>10}{'mean segments':>16}{'accuracy':>12}"]
        rows = zip(curve.effort, curve.mean_segments, curve.accuracy, strict=True)
        lines += [f"{effort:>10}{segments:>16.2f}{accuracy:>12.2%}" for effort, segments, accuracy in rows]
    lines += ["", *result.warnings] if result.warnings else []
    return "\n".join(lines[1:])


def draw(result: Sweep, path: Path) -> None:
    """The curves as a picture, accuracy over mean segments a puzzle."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for curve in result.curves:
        axes.plot(curve.mean_segments, [100 * a for a in curve.accuracy], marker="o", markersize=4, label=curve.name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="mean segments a puzzle", ylabel="right, %", title=f"{result.n:,} puzzles")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    output.write_figure(path, figure, 150)
