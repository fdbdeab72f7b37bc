"""ARC over HTTP: tasks that a run has learned, answered through their copies, which vote."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrm.core.halting import wants_to_halt
from hrm.files.reading import UserError, quoted
from hrm.files.records import Json
from hrm.puzzles.arc.files import ArcTask, task_of
from hrm.puzzles.arc.measuring import ATTEMPTS, Guess, question_of, vote
from hrm.puzzles.arc.sets import FILE, TaskRecord
from hrm.puzzles.solving.answer import confidence
from hrm.puzzles.solving.engine import Job, Outcome, Rules, Segment
from hrm.puzzles.solving.solver import Asked
from hrm.puzzles.tasks.arc import Arc
from hrm.serve.puzzles.solving import Piece, Solving


class ArcAnswer(NamedTuple):
    """The guesses for each test input of a task, the best first; without a verifier they are never more than that."""

    id: str
    guesses: list[list[Guess]]
    segments: int = 0
    attempts: int = 0
    reason: str | None = None
    trace: list[Json] | None = None

    def to_dict(self) -> Json:
        """With the fields that other answers have."""
        best = [guesses[0] if guesses else None for guesses in self.guesses]
        grids = [[] if guess is None else guess.grid.tolist() for guess in best]
        whole = bool(best) and all(guess is not None for guess in best)
        tests = [
            [{**guess._asdict(), "grid": guess.grid.tolist()} for guess in some[:ATTEMPTS]] for some in self.guesses
        ]
        return {
            "status": "invalid" if self.reason else "answered" if whole else "unsolved", "question": self.id,
            "answer": json.dumps(grids) if whole else None, "reason": self.reason, "segments": self.segments,
            "attempts": self.attempts, "confidence": best[0].confidence if best and best[0] else 0.0,
            "grid": grids[0] if grids else None, "trace": self.trace, "tests": tests,
        }  # fmt: skip


class ArcSolving(Solving):
    """ARC tasks as JSON. `folder` is the run's, which says what it has learned; `copies` how many of a task vote."""

    def __init__(self, *about: Any, folder: Path, copies: int | None = None) -> None:
        super().__init__(*about)
        self.folder, self.copies = folder, copies

    def prepare(self) -> tuple[int, Rules]:
        """Every copy of every test input is a piece."""
        board, strategy = self._board, self.strategy
        most = board.copies if self.copies is None else self.copies
        if not 1 <= most <= board.copies:
            raise UserError(f"--copies must be from 1 to {board.copies}, the copies that were trained, not {most}")
        self.copies = most
        record = _record(self.folder, (self.folder / "data" / FILE).stat().st_mtime_ns)
        numbers = {name: number for number, name in enumerate(record.names)}
        self._asked = [self._read(question, numbers) for question in self.questions]
        self._ballots: dict[tuple[int, int], dict[int, tuple[np.ndarray, float]]] = defaultdict(dict)
        self._spent: dict[int, int] = defaultdict(int)
        self._left = [most * len(task.test) if task else 1 for task, _, _ in self._asked]
        self._traces: dict[int, list[Segment]] = defaultdict(list)
        halt = partial(wants_to_halt, q_continue=self.solver.q_continue, margin=strategy.margin)
        rules = Rules(strategy.max_segments or self.solver.max_segments, halt=halt, budget=strategy.budget)
        return sum(self._left), rules

    def pieces(self) -> Iterator[Piece]:
        """Test input by test input, copy by copy; the first copy, the task as it is, can be watched."""
        assert self.copies is not None
        for index, (task, number, reason) in enumerate(self._asked):
            if task is None:
                yield Piece(self, index, Asked("", None, reason))
                continue
            for which in range(len(task.test)):
                for copy in range(self.copies):
                    task_id = self._board.row(number, copy)
                    job = Job(question_of(self._board, task, which, task_id), task_id)
                    watched = copy == 0 and which == 0 and (self.show.trace or self.show.watch)
                    yield Piece(self, index, Asked(task.id, job), which * self.copies + copy, watched)

    def gather(self, piece: Piece, outcome: Outcome | None) -> ArcAnswer | None:
        """The vote, once every copy has spoken."""
        task, _, reason = self._asked[piece.index]
        if task is None or outcome is None or self.copies is None:
            return ArcAnswer(_id_of(self.questions[piece.index])[0] or "", [], reason=reason)
        which, copy = divmod(piece.number, self.copies)
        job = piece.asked.job
        assert job is not None
        grid = self._board.unseen(self._board.decode(outcome.readout), job.task_id)
        self._ballots[piece.index, which][copy] = grid, confidence(outcome.q[0])
        self._spent[piece.index] += outcome.segments
        self._left[piece.index] -= 1
        if piece.watched:
            self._traces[piece.index] = piece.trace
        if self._left[piece.index]:
            return None
        found = [self._ballots.pop((piece.index, which)) for which in range(len(task.test))]
        guesses = [vote([ballots[copy] for copy in sorted(ballots)]) for ballots in found]
        trace = [self.solver.describe(segment) for segment in self._traces.pop(piece.index, [])]
        attempts = self.copies * len(task.test)
        return ArcAnswer(task.id, guesses, self._spent[piece.index], attempts, None, trace if self.show.trace else None)

    @property
    def _board(self) -> Arc:
        board = self.solver.task
        assert isinstance(board, Arc)
        return board

    def _read(self, question: Any, numbers: dict[str, int]) -> tuple[ArcTask | None, int, str]:
        """A task with its number, or the reason why it cannot be answered."""
        name, value = _id_of(question)
        try:
            if name is None:
                raise UserError('a task of ARC is {"id": ..., "train": [...], "test": [...]}')
            task = task_of("the request", name, value)
            if name not in numbers:
                raise UserError(
                    f"the run has not learned the task {quoted(name)}, and it answers only tasks whose demonstrations "
                    "it was trained on: learn it with `hrm train --init RUN --new-tasks FILE`"
                )
            for which in range(len(task.test)):
                question_of(self._board, task, which, self._board.row(numbers[name]))
        except UserError as error:
            return None, 0, str(error).removesuffix("restore the file").rstrip(":; ")
        return task, numbers[name], ""


def _id_of(question: Any) -> tuple[str | None, Any]:
    """The id of a task and what it holds: {"id", "train", "test"} or {ID: {"train", "test"}}, as text or parsed."""
    if isinstance(question, str):
        try:
            question = json.loads(question)
        except (ValueError, RecursionError):
            return None, None
    if isinstance(question, dict) and len(question) == 1 and "train" not in question:
        ((name, value),) = question.items()
        return str(name)[:200], value
    if isinstance(question, dict) and isinstance(question.get("id"), str):
        return question["id"][:200], question
    return None, None


def _plain(guess: Guess) -> Json:
    return {"grid": guess.grid.tolist(), "votes": guess.votes, "confidence": guess.confidence}


@lru_cache(maxsize=4)
def _record(folder: Path, changed: int) -> TaskRecord:
    return TaskRecord.load(folder / "data")
