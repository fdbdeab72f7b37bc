"""Measuring a solver on puzzles whose labels it never sees."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hrm.config import Strategy
from hrm.data.puzzle_set import IGNORE, PuzzleSet
from hrm.evaluation.calibration import calibrate, expected_calibration_error
from hrm.solving import engine
from hrm.solving.engine import Job
from hrm.solving.solver import Solver
from hrm.tasks import Task


def evaluate(
    solver: Solver,
    puzzles: PuzzleSet,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
    **strategy: Any,
) -> dict[str, Any]:
    """Solve every puzzle and judge the result; `progress` gets the number of puzzles done so far, `strategy` are fields
    of hrm.config.Strategy.

    solved: reported with status solved (answered, where the task has no verifier); wrong: of these, the ones that the
    label contradicts, or for mazes and tasks with a method `judge` a second reading of the rules; unsolved: the rest.
    exact_accuracy counts readouts equal to the label, token_accuracy is the mean over puzzles of their share of right
    cells; of unsolved puzzles both look at the last readout. Mazes, which have many right answers, add `valid` and
    `optimal`: the shares of readouts that are a path, and a shortest one.
    """
    n = len(puzzles.inputs)
    how = solver.complete(Strategy(**strategy))
    rules = solver.rules(how)
    judge = getattr(solver.task, "judge", None)
    totals: Counter[str] = Counter()
    tokens = 0.0
    q, rights = np.zeros(n), np.zeros(n, bool)
    start = time.perf_counter()
    outcomes = engine.solve(solver.models, jobs_of(puzzles), rules, batch_size, ordered=False)
    for done, (row, outcome) in enumerate(outcomes, 1):
        assert outcome is not None
        label, readout = puzzles.labels[row], outcome.readout
        counted = label != IGNORE
        hits = (label == readout)[counted]
        tokens += float(hits.mean()) if len(hits) else 0.0
        exact = len(hits) > 0 and bool(hits.all())
        verdicts = _paths(solver.task, puzzles.inputs[row], label, readout)
        right = judge(puzzles.inputs[row], readout) if judge else verdicts.get("optimal", exact)
        wrong = outcome.accepted and not right
        q[row], rights[row] = outcome.q[0], right
        totals.update(verdicts, exact=exact, solved=outcome.accepted, wrong=wrong, segments=outcome.segments)
        if progress is not None:
            progress(done)
    seconds = time.perf_counter() - start
    confidences = np.array([solver.confidence((value,)) for value in q])
    return {
        "n": n,
        "exact_accuracy": totals["exact"] / max(n, 1),
        "token_accuracy": tokens / max(n, 1),
        **{name: totals[name] / max(n, 1) for name in ("valid", "optimal") if name in totals},
        "solved": totals["solved"],
        "wrong": totals["wrong"],
        "unsolved": n - totals["solved"],
        "mean_segments": totals["segments"] / max(n, 1),
        "max_segments": rules.max_segments,
        "restarts": how.restarts,
        "views": how.views,
        "ece": expected_calibration_error(confidences, rights),
        "calibration": calibrate(q, rights),
        "puzzles_per_second": n / seconds,
        "seconds": seconds,
        "device": str(solver.device),
        "dtype": str(solver.model.dtype).removeprefix("torch."),
        "checkpoint": solver.checkpoint,
        "data": puzzles.source,
        "data_sha256": _sha256(puzzles),
    }


def jobs_of(puzzles: PuzzleSet) -> Iterator[Job]:
    """The questions of a set, for the engine."""
    return (Job(question, int(id)) for question, id in zip(puzzles.inputs, puzzles.task_ids, strict=True))


def is_right(task: Task, question: np.ndarray, label: np.ndarray, readout: np.ndarray) -> bool:
    """Whether a readout equals the label in every cell that counts; in a maze, whether it is a shortest path."""
    counted = label != IGNORE
    exact = bool(counted.any()) and bool((label == readout)[counted].all())
    return exact or _paths(task, question, label, readout).get("optimal", False)


def _paths(task: Task, question: np.ndarray, label: np.ndarray, readout: np.ndarray) -> dict[str, bool]:
    """For mazes: is the readout a path, and as short as the label's? Walked step by step, apart from the verifier."""
    if task.name != "maze":
        return {}
    free, start, goal, path = (task.vocabulary.index(character) for character in " SGo")
    marks = (question == free) & (readout == path)
    valid = bool(np.all((readout == question) | marks))
    here, end = int(np.flatnonzero(question == start)[0]), int(np.flatnonzero(question == goal)[0])
    left = {*np.flatnonzero(marks).tolist(), end}
    rows, columns = task.shape
    while valid and here != end:
        row, column = divmod(here, columns)
        beside = [((row - 1) * columns + column, row > 0), ((row + 1) * columns + column, row < rows - 1)]
        beside += [(here - 1, column > 0), (here + 1, column < columns - 1)]
        ways = [cell for cell, inside in beside if inside and cell in left]
        valid = len(ways) == 1
        if valid:
            here = ways[0]
            left.remove(here)
    valid = valid and not left
    return {"valid": valid, "optimal": valid and int(marks.sum()) <= int((label == path).sum())}


def _sha256(puzzles: PuzzleSet) -> str:
    """Of the file; of a folder's files in the order of their names; of the arrays where there is no file."""
    digest, source = hashlib.sha256(), Path(puzzles.source)
    found = sorted(source.rglob("*")) if source.is_dir() else [source]
    files = [path for path in found if path.is_file()]
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    if not files:
        digest.update(puzzles.inputs.tobytes() + puzzles.labels.tobytes())
    return digest.hexdigest()
