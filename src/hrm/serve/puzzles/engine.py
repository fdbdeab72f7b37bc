"""The thread that solves: puzzles of all requests in one batch, which they enter and leave between segments."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from hrm.puzzles.solving import Solver
from hrm.puzzles.solving.engine import Batches, Outcome
from hrm.serve.puzzles.solving import Piece, Solving
from hrm.serve.waiting import End, FairQueue, Limits

READERS = 2
"""Threads that read questions: whether a Sudoku has one solution can take seconds to find out."""
log = logging.getLogger(__name__)


class Step(NamedTuple):
    """What an engine did in one segment, for the metrics."""

    requests: int
    """How many puzzles shared it."""
    answered: int
    """Puzzles that ended with it."""
    depth: int
    """Segments of these, over all their attempts, summed."""
    seconds: float


class PuzzleEngine:
    """Solves the puzzles of all requests to one solver. A request takes slots puzzle by puzzle, in turn with those of
    other owners; an answer is the one that the solver gives to the puzzle alone."""

    def __init__(self, solver: Solver, limits: Limits | None = None, on_step: Callable[[Step], None] | None = None):
        self.solver, self.limits, self._on_step = solver, limits or Limits(), on_step
        self._queue: FairQueue[Solving] = FairQueue(self.limits.waiting)
        self._batches = Batches(solver.models)
        self._changed = threading.Condition()
        self._ready: deque[Piece] = deque()
        """Read, and waiting for a slot; guarded by `_changed`, like `_open`."""
        self._open: set[Solving] = set()
        """Requests that have begun and not ended."""
        self._until: float | None = None
        """When to stop, once it is closing."""
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, name="hrm-solve", daemon=True)]
        self._threads += [threading.Thread(target=self._read, name="hrm-read", daemon=True) for _ in range(READERS)]
        for thread in self._threads:
            thread.start()

    def submit(self, *solvings: Solving) -> None:
        """Take requests on, all or none; UserError for impossible settings, Busy when too many wait."""
        for solving in solvings:
            solving.begin(self.solver)
        self._queue.put(*solvings)

    @property
    def waiting(self) -> int:
        """Requests of which a puzzle waits for a slot."""
        return len(self._queue)

    def close(self, seconds: float = 30.0) -> None:
        """Take no more, give requests that have begun this long to end, and stop the threads."""
        if self._until is None:
            self._until = time.monotonic() + seconds
            begun = []
            while (solving := self._queue.take()) is not None:
                begun.append(solving) if solving.taken else solving.finish("stopped")
            self._queue.close()
            for solving in begun:
                self._queue.back(solving)
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # The engine's thread

    def _work(self) -> None:
        while not self._over():
            try:
                self._turn()
            except Exception as error:
                log.exception("solving failed")
                self._batches = Batches(self.solver.models)
                self._end_all("failed", error)
        self._end_all("stopped")

    def _over(self) -> bool:
        """Whether the thread stops: it is closing, and nothing is open or the time is up."""
        with self._changed:
            if self._until is not None and (not self._open or time.monotonic() > self._until):
                self._stopped.set()
            return self._stopped.is_set()

    def _turn(self) -> None:
        """One segment of everything that has a slot."""
        self._queue.sweep()
        self._drop()
        self._admit()
        count = len(self._batches)
        if not count:
            with self._changed:
                if not self._ready:
                    self._changed.wait(0.2)
            return
        started = time.perf_counter()
        ended = self._batches.advance()
        seconds = time.perf_counter() - started
        if self._on_step is not None:
            depth = sum(outcome.segments for _, outcome in ended)
            self._on_step(Step(count, len(ended), depth, seconds))
        for piece, outcome in ended:  # after the step is told: who has an answer finds it counted
            self._end(piece, outcome)

    def _drop(self) -> None:
        """Free the slots of requests that were left or are out of time."""
        with self._changed:
            gone: dict[Solving, End] = {}
            for solving in self._open:
                if (end := solving.end or solving.over) is not None:
                    gone[solving] = end
            if not gone:
                return
            self._open -= gone.keys()
            self._ready = deque(piece for piece in self._ready if piece.solving not in gone)
            self._changed.notify_all()
        self._batches.drop(lambda piece: piece.solving in gone)
        for solving, end in gone.items():
            solving.finish(end)

    def _admit(self) -> None:
        """Give free slots to puzzles; an invalid question needs none."""
        while True:
            with self._changed:
                job = self._ready[0].asked.job if self._ready else None
                if not self._ready or (job is not None and len(self._batches) >= self.limits.slots):
                    return
                piece = self._ready.popleft()
                self._changed.notify_all()
            if piece.solving.end is not None:
                continue
            if job is None:
                self._end(piece, None)
            else:
                self._batches.enter(piece, job, piece.solving.rules, piece.observe if piece.watched else None)

    def _end(self, piece: Piece, outcome: Outcome | None) -> None:
        piece.solving.end_piece(piece, outcome)
        if piece.solving.end is not None:
            with self._changed:
                self._open.discard(piece.solving)

    def _end_all(self, end: End, error: Exception | None = None) -> None:
        with self._changed:
            left, self._open = self._open, set()
            self._ready.clear()
            self._changed.notify_all()
        for solving in left:
            solving.finish(end, error)

    # The readers' threads

    def _read(self) -> None:
        """Read the question whose turn it is, as slots become free."""
        while not self._stopped.is_set():
            with self._changed:
                if len(self._ready) >= self.limits.slots:
                    self._changed.wait(1.0)
                    continue
            solving = self._queue.take()
            if solving is None:
                self._stopped.wait(0.02) if self._until is not None else self._queue.wait(0.5)
                continue
            with self._changed:
                if self._stopped.is_set():
                    solving.finish("stopped")
                if solving.end is not None:
                    continue
                self._open.add(solving)
            try:
                piece = solving.next_piece()
            except Exception as error:
                log.exception("reading a question failed")
                solving.finish("failed", error)
                continue
            with self._changed:
                if solving.end is None:
                    self._ready.append(piece)
                self._changed.notify_all()
            if solving.taken < solving.total:
                self._queue.back(solving)
