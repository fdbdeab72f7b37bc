"""ARC: predictions over a task's copies, mapped back and put to the vote; scores; the official submission file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hrm.core.halting import wants_to_halt
from hrm.files import output
from hrm.files.reading import UserError, json_of, reading
from hrm.files.records import Json
from hrm.puzzles.arc.files import ArcTask, checked_grid, read
from hrm.puzzles.arc.sets import TaskRecord
from hrm.puzzles.solving import engine
from hrm.puzzles.solving.engine import Job, Rules
from hrm.puzzles.solving.solver import Solver, load
from hrm.puzzles.tasks.arc import Arc

ATTEMPTS = 2
"""Guesses that a submission holds for each test input."""

Submission = dict[str, list[list[np.ndarray]]]
"""For each task and each of its test inputs, the guesses in their order."""


class Guess(NamedTuple):
    """A grid that some copies agreed on, how many, and the mean of their sigmoid(q_halt)."""

    grid: np.ndarray
    votes: int
    confidence: float


class AnsweredTask(NamedTuple):
    """A task with its guesses for each test input, the best first. Without a verifier they are never more than that."""

    task: ArcTask
    guesses: list[list[Guess]]
    segments: int
    """Segments computed for all guesses together."""
    status: str = "answered"


def answer_tasks(run: Path | str, file: Path | str, **options: Any) -> Iterator[AnsweredTask]:
    """Answer every test input of ARC task files with a run's best checkpoint; `options` are those of `answer`."""
    return answer(load(run), read(file), TaskRecord.load(Path(run) / "data"), **options)


def answer(
    solver: Solver,
    tasks: Sequence[ArcTask],
    record: TaskRecord,
    copies: int | None = None,
    max_segments: int | None = None,
    halt: bool = True,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Iterator[AnsweredTask]:
    """Answer every test input through the first `copies` of its task (default: all that were trained). Each copy's
    readout, mapped back, has one vote; guesses are sorted by votes, then by mean confidence. `progress` gets the number
    of readouts so far. UserError for tasks that the run does not know."""
    board = solver.task
    assert isinstance(board, Arc)
    copies = board.copies if copies is None else copies
    if not 1 <= copies <= board.copies:
        raise UserError(f"--copies must be from 1 to {board.copies}, the copies that were trained, not {copies}")
    numbers = record.numbers(tasks)
    # Planned in advance: outcomes come in the order of this list.
    plan = [
        (place, which, board.row(number, copy))
        for place, (task, number) in enumerate(zip(tasks, numbers, strict=True))
        for which in range(len(task.test))
        for copy in range(copies)
    ]
    jobs = (Job(question_of(board, tasks[place], which, task_id), task_id) for place, which, task_id in plan)
    readouts = _readouts(solver, jobs, max_segments, halt, batch_size)
    done = 0
    waiting = iter(plan)
    for task in tasks:
        guesses, segments = [], 0
        for _ in task.test:
            ballots: list[tuple[np.ndarray, float]] = []
            for _ in range(copies):
                (_, _, task_id), (tokens, confidence, spent) = next(waiting), next(readouts)
                ballots.append((board.unseen(board.decode(tokens), task_id), confidence))
                segments, done = segments + spent, done + 1
                if progress is not None:
                    progress(done)
            guesses.append(vote(ballots))
        yield AnsweredTask(task, guesses, segments)


def vote(ballots: Sequence[tuple[np.ndarray, float]]) -> list[Guess]:
    """Equal grids together: most votes first, then the highest mean confidence, then the first to appear. A readout
    without any colour has no vote."""
    found: dict[tuple[tuple[int, ...], bytes], list[tuple[np.ndarray, float]]] = defaultdict(list)
    for grid, confidence in ballots:
        if grid.size:
            found[grid.shape, np.ascontiguousarray(grid).tobytes()].append((grid, confidence))
    guesses = [Guess(v[0][0], len(v), float(np.mean([confidence for _, confidence in v]))) for v in found.values()]
    return sorted(guesses, key=lambda guess: (-guess.votes, -guess.confidence))


def fit(solver: Solver, tasks: Sequence[ArcTask], record: TaskRecord, batch_size: int = 64) -> float:
    """The share of demonstration pairs that the task's own copy, number 0, reproduces exactly."""
    shown = [task._replace(test=task.train) for task in tasks]
    right = [
        bool(guesses) and np.array_equal(guesses[0].grid, pair.output)  # type: ignore[arg-type]
        for answered in answer(solver, shown, record, copies=1, batch_size=batch_size)
        for guesses, pair in zip(answered.guesses, answered.task.test, strict=True)
    ]
    return sum(right) / len(right)


def submission_of(answers: Sequence[AnsweredTask]) -> Submission:
    """Two guesses for each test input; the last one is repeated where there are fewer, [[0]] if there are none."""
    return {answered.task.id: [_attempts(guesses) for guesses in answered.guesses] for answered in answers}


def score(submission: Submission, tasks: Sequence[ArcTask]) -> dict[str, float]:
    """Share of tasks answered, by the first guess and by either (pass@1, pass@2), counted in the official way. A task
    with several test inputs counts with the share of them that is right; `all_pass@k` counts it only if all are, and
    `inputs_pass@k` is the share of all test inputs. UserError for a task whose outputs are not known."""
    hits = {task.id: _hits(submission[task.id], task) for task in tasks}
    result: dict[str, float] = {"tasks": len(tasks), "test_inputs": sum(len(h) for h in hits.values())}
    for k in range(1, ATTEMPTS + 1):
        within = [[rank < k for rank in ranks] for ranks in hits.values()]
        result[f"pass@{k}"] = float(np.mean([np.mean(each) for each in within]))
        result[f"all_pass@{k}"] = float(np.mean([all(each) for each in within]))
        result[f"inputs_pass@{k}"] = float(np.mean([right for each in within for right in each]))
    return result


def write_submission(path: Path, submission: Submission) -> None:
    """Write the official form: {task: [{"attempt_1": grid, "attempt_2": grid}, one for each test input]}."""
    tree = {
        task_id: [{f"attempt_{i}": grid.tolist() for i, grid in enumerate(guesses, 1)} for guesses in inputs]
        for task_id, inputs in submission.items()
    }
    output.write(path, output.to_json(tree, separators=(",", ":")) + "\n")


def read_submission(path: Path, tasks: Sequence[ArcTask], missing: Callable[[str], None] | None = None) -> Submission:
    """A submission in the official form, or a benchmark's (a folder with a file for each task, answers with facts). An
    attempt that is null or absent is a wrong one. It must be complete for these tasks; otherwise UserError names what
    is missing or wrong, or `missing` does, and the task counts as not answered."""
    tree = _submitted(path)
    known = {task.id: len(task.test) for task in tasks}
    lacking = known.keys() - tree.keys() if missing is None else ()
    for what, ids in (("has an unknown", tree.keys() - known.keys()), ("lacks", lacking)):
        if ids:
            more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
            raise UserError(f"{path} {what} task {min(ids)}{more}")
    submission: Submission = {}
    for task_id, count in known.items():
        try:
            if task_id not in tree:
                raise UserError(f"{path} lacks task {task_id}")
            with reading(f"{path}: task {task_id}"):
                submission[task_id] = _inputs(f"{path}: task {task_id}", tree[task_id], count)
        except UserError as error:
            if missing is None:
                raise
            missing(str(error))
            submission[task_id] = [[] for _ in range(count)]
    return submission


def _submitted(path: Path) -> Json:
    """What each task's answers are said to be."""
    if not path.is_dir():
        tree = json_of(path)
        if not isinstance(tree, dict):
            raise UserError(f"{path} is not a submission: it must hold an object with a list for each task")
        return tree
    files = [file for file in sorted(path.glob("*.json")) if not file.name.startswith(".") and file.stem != "results"]
    if not files:
        raise UserError(f"{path} holds no .json files: give a submission, or a folder with a file for each task")
    return {file.stem: json_of(file) for file in files}


def _inputs(where: str, inputs: object, count: int) -> list[list[np.ndarray]]:
    """The attempts at each test input of a task."""
    inputs = [inputs] if isinstance(inputs, dict) else inputs
    if not isinstance(inputs, list) or len(inputs) != count:
        found = f"{len(inputs)} entries" if isinstance(inputs, list) else "no list of them"
        raise UserError(f"{where} has {count} test inputs, but the submission has {found}")
    return [_given(f"{where}, test input {number}", entry) for number, entry in enumerate(inputs, 1)]


def _given(where: str, entry: object) -> list[np.ndarray]:
    """The attempts at one test input, in their order; a grid without cells for one that is null or absent."""
    names = [f"attempt_{i}" for i in range(1, ATTEMPTS + 1)]
    if isinstance(entry, list):  # the attempts in a row, or a single one
        alone = bool(entry) and isinstance(entry[0], list) and bool(entry[0]) and not isinstance(entry[0][0], list)
        attempts = [entry] if alone else entry
        if len(attempts) > ATTEMPTS:
            raise UserError(f"{where} has {len(attempts)} attempts instead of {ATTEMPTS}")
        entry = dict(zip(names, attempts, strict=False))
    if entry is None or (isinstance(entry, dict) and entry.keys() <= set(names)):
        found = []
        for name in names:
            grid = (entry or {}).get(name)
            grid = grid.get("answer") if isinstance(grid, dict) else grid
            found.append(np.zeros((0, 0), np.uint8) if grid in (None, []) else checked_grid(f"{where}, {name}", grid))
        return found
    raise UserError(f"{where} must have {' and '.join(names)} and nothing else")


def _readouts(
    solver: Solver, jobs: Iterator[Job], max_segments: int | None, halt: bool, batch_size: int
) -> Iterator[tuple[np.ndarray, float, int]]:
    """Tokens, sigmoid(q_halt) and segments of each job in turn: all that is asked of the engine."""
    most = solver.max_segments if max_segments is None else max_segments
    if most < 1 or batch_size < 1:
        raise UserError("--max-segments and --batch-size must be at least 1")
    stop = (
        partial(wants_to_halt, q_continue=solver.q_continue)
        if halt
        else lambda q: torch.zeros(len(q), dtype=torch.bool)
    )
    for _, outcome in engine.solve(solver.model, jobs, Rules(most, halt=stop), batch_size):
        assert outcome is not None
        yield outcome.readout, float(1 / (1 + np.exp(-np.clip(outcome.q[0], -50, 50)))), outcome.segments


def question_of(board: Arc, task: ArcTask, which: int, task_id: int) -> np.ndarray:
    """A test input as the copy with this task id shows it; UserError where it is larger than the board."""
    try:
        return board.encode(board.seen(task.test[which].input, task_id))
    except UserError as error:
        where = f"task {task.id}, test input {which + 1}"
        raise UserError(f"{where}: {error}: only a model with a larger one can") from None


def _attempts(guesses: Sequence[Guess]) -> list[np.ndarray]:
    grids = [guess.grid for guess in guesses[:ATTEMPTS]] or [np.zeros((1, 1), np.uint8)]
    return grids + grids[-1:] * (ATTEMPTS - len(grids))


def _hits(inputs: Sequence[Sequence[np.ndarray]], task: ArcTask) -> list[int]:
    """For each test input the number, from 0, of the first guess that is right; a large one where none is."""
    ranks = []
    for guesses, pair in zip(inputs, task.test, strict=True):
        if pair.output is None:
            raise UserError(f"task {task.id} has no output for a test input: give the solutions to score it")
        right = [i for i, grid in enumerate(guesses[:ATTEMPTS]) if np.array_equal(grid, pair.output)]
        ranks.append(right[0] if right else ATTEMPTS)
    return ranks
