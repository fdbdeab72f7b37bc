"""Measuring a solver on puzzles whose labels it never sees."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrm.core import devices
from hrm.core.calibration import calibrate, expected_calibration_error, interval
from hrm.files.digest import data_sha256
from hrm.files.npy import IGNORE
from hrm.files.records import Record
from hrm.puzzles.config import Strategy
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.solving import engine
from hrm.puzzles.solving.engine import Job, Outcome
from hrm.puzzles.solving.solver import Solver
from hrm.puzzles.tasks import Task


def evaluate(
    solver: Solver,
    puzzles: PuzzleSet,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    **strategy: Any,
) -> Measured:
    """Solve every puzzle and judge the result (see Measurement); `progress` gets the number of puzzles done so far."""
    measurement = Measurement(solver, puzzles, batch_size, **strategy)
    for done in measurement:
        if progress is not None:
            progress(done)
    return measurement.result()


@dataclass(frozen=True, kw_only=True)
class Measured(Record):
    """The scores of a number of puzzles."""

    n: int
    exact_accuracy: float
    """Readouts equal to the label; of unsolved puzzles this and `token_accuracy` look at the last readout."""
    exact_interval: tuple[float, float]
    """95 %."""
    token_accuracy: float
    """The mean over puzzles of their share of right cells."""
    valid: float | None = None
    """The share of readouts that are a path: mazes have many right answers."""
    optimal: float | None = None
    """That of the shortest ones."""
    solved: int
    """Reported with status solved (answered, where the task has no verifier)."""
    wrong: int
    """Of these, the ones that the label contradicts, or a second reading of the rules (`judge`, mazes)."""
    unsolved: int
    """The rest."""
    mean_segments: float
    mean_calls: float | None = None
    """Of a model that deduces."""
    mean_decisions: float | None = None
    """Of a model that deduces, also those taken back."""
    max_segments: int
    restarts: int | None
    views: int | None
    guesses: int | None
    ece: float
    calibration: tuple[float, float]
    puzzles_per_second: float
    seconds: float
    device: str
    dtype: str
    checkpoint: str
    data: str
    data_sha256: str


class Measurement:
    """Solves puzzles in the order of their set and judges each; `result` is of the first puzzles, up to the last done.
    So an interrupted measurement does not favour puzzles that are solved quickly. `strategy` are fields of
    hrm.puzzles.config.Strategy."""

    def __init__(self, solver: Solver, puzzles: PuzzleSet, batch_size: int = 64, **strategy: Any) -> None:
        self.solver, self.puzzles, self.batch_size = solver, puzzles, batch_size
        self.how = solver.complete(Strategy.of(strategy))
        self.rules = solver.rules(self.how)
        self._judged: list[_JudgedPuzzle] = []
        self._start = self._end = time.perf_counter()

    def __iter__(self) -> Iterator[int]:
        """Solve; after each puzzle the number of those done."""
        self._start = time.perf_counter()
        for row, outcome in engine.solve(self.solver.models, jobs_of(self.puzzles), self.rules, self.batch_size):
            assert outcome is not None
            self._judged.append(self._judge(row, outcome))
            self._end = time.perf_counter()
            yield row + 1

    def result(self) -> Measured:
        """What is known so far."""
        judged, solver, puzzles = list(self._judged), self.solver, self.puzzles
        n, seconds = len(judged), self._end - self._start
        totals: Counter[str] = Counter()
        for one in judged:
            totals.update(one.counts)
        q, rights = np.array([one.q for one in judged]), np.array([one.right for one in judged], bool)
        deduced = {
            "mean_calls": totals["segments"] / self.rules.deduce.segments / max(n, 1),
            "mean_decisions": totals["decisions"] / max(n, 1),
        }
        confidences = np.array([solver.confidence((value,)) for value in q])
        return Measured(
            n=n, exact_accuracy=totals["exact"] / max(n, 1), exact_interval=interval(totals["exact"], n),
            token_accuracy=sum(one.tokens for one in judged) / max(n, 1),
            **{name: totals[name] / max(n, 1) for name in ("valid", "optimal") if name in totals},
            solved=totals["solved"], wrong=totals["wrong"], unsolved=n - totals["solved"],
            mean_segments=totals["segments"] / max(n, 1), **(deduced if solver.deduces else {}),
            max_segments=self.rules.max_segments,
            restarts=self.how.restarts, views=self.how.views, guesses=self.how.guesses,
            ece=expected_calibration_error(confidences, rights), calibration=calibrate(q, rights),
            puzzles_per_second=n / seconds if n else 0.0, seconds=seconds, device=str(solver.device),
            dtype=devices.named(solver.model.dtype), checkpoint=solver.checkpoint, data=puzzles.source,
            data_sha256=self._digest,
        )  # fmt: skip

    def of(self, solver: Solver, puzzles: PuzzleSet) -> Measurement:
        """The same judgements, told of a solver with the same weights and strategy and of the same puzzles."""
        same = Measurement(solver, puzzles, self.batch_size)
        same._judged, same._start, same._end = self._judged, self._start, self._end
        return same

    @cached_property
    def _digest(self) -> str:
        return data_sha256(Path(self.puzzles.source)) or self.puzzles.sha256

    def _judge(self, row: int, outcome: Outcome) -> _JudgedPuzzle:
        task, question, label = self.solver.task, self.puzzles.inputs[row], self.puzzles.labels[row]
        counted = label != IGNORE
        hits = (label == outcome.readout)[counted]
        exact = len(hits) > 0 and bool(hits.all())
        verdicts, judged = task.verdicts(question, outcome.readout, label), task.judge(question, outcome.readout)
        right = verdicts.get("optimal", exact) if judged is None else judged
        found = verdicts | {"exact": exact, "solved": outcome.accepted, "wrong": outcome.accepted and not right}
        counts = {name: int(value) for name, value in found.items()}
        tokens = float(hits.mean()) if len(hits) else 0.0
        return _JudgedPuzzle(
            counts | {"segments": outcome.segments, "decisions": outcome.decisions}, tokens, outcome.q[0], right
        )


class _JudgedPuzzle(NamedTuple):
    """One puzzle: what it adds to the totals, its share of right cells, its q_halt, and whether it is right."""

    counts: dict[str, int]
    tokens: float
    q: float
    right: bool


def jobs_of(puzzles: PuzzleSet) -> Iterator[Job]:
    """The questions of a set, for the engine."""
    return (Job(question, int(id)) for question, id in zip(puzzles.inputs, puzzles.task_ids, strict=True))


def is_right(task: Task, question: np.ndarray, label: np.ndarray, readout: np.ndarray) -> bool:
    """Whether a readout equals the label in every cell that counts; in a maze, whether it is a shortest path."""
    counted = label != IGNORE
    exact = bool(counted.any()) and bool((label == readout)[counted].all())
    return exact or task.verdicts(question, readout, label).get("optimal", False)
