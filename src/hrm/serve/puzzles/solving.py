"""A request to solve puzzles: what is asked, how hard it is tried, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.config import Strategy
from hrm.puzzles.solving import Answer, Solver
from hrm.puzzles.solving.engine import Outcome, Rules, Segment
from hrm.puzzles.solving.solver import Asked, Question
from hrm.serve.waiting import Ticket

MOST_SHOWN = 2_000_000
"""Cells, or probabilities, of all segments together that a request is shown: they are kept until they are read."""
_NO_PROBABILITIES = np.zeros((0, 0), np.float32)


class Seen(NamedTuple):
    """A puzzle after a segment, for those who watch. `probabilities` are empty unless they were asked for."""

    index: int
    segment: Segment


class Answered(NamedTuple):
    """The answer to the puzzle in this place of the request."""

    index: int
    answer: Any
    """An Answer, or an ArcAnswer."""


class Show(NamedTuple):
    """What a request wants to see of the thinking."""

    trace: bool = False
    """Every segment, with the answer."""
    watch: bool = False
    """Every segment as soon as it is computed."""
    probabilities: bool = False
    """Of every symbol in every cell, with the segments that are watched."""


@dataclass(eq=False)
class Piece:
    """One grid for the model: a puzzle, or one of the copies of an ARC task."""

    solving: Solving
    index: int
    """The puzzle's place in the request."""
    asked: Asked
    number: int = 0
    """Of the pieces of one puzzle."""
    watched: bool = False
    trace: list[Segment] = field(default_factory=list)

    def observe(self, segment: Segment) -> None:
        """Called after each segment if it is watched, and tells it while there is room."""
        show, bare = self.solving.show, _NO_PROBABILITIES
        self.solving.room -= segment.probabilities.size if show.probabilities else segment.readout.size
        self.solving.room -= 0 if segment.deduced is None else segment.deduced.candidates.size
        if self.solving.room < 0:
            return
        # Copies: the arrays are views of the whole batch's.
        shares = segment.probabilities.copy() if show.probabilities else bare
        segment = segment._replace(readout=segment.readout.copy(), probabilities=shares)
        if show.trace:
            self.trace.append(segment._replace(probabilities=bare))
        if show.watch:
            self.solving.deliver(Seen(self.index, segment))


Event = Seen | Answered


class Solving(Ticket[Event]):
    """Puzzles to be answered. Each takes a slot of its own, so that they come as completed."""

    def __init__(
        self,
        questions: Sequence[Question],
        strategy: Strategy,
        deliver: Callable[[Event | Ticket[Event]], None],
        owner: str = "",
        seconds: float = 600,
        show: Show = Show(),  # noqa: B008
    ) -> None:
        super().__init__(deliver, owner, seconds)
        self.questions, self.strategy, self.show = questions, strategy, show
        self.segments = 0
        """Segments computed for its answers so far."""
        self.flops = 0.0
        """Floating-point operations of these."""
        self.room = MOST_SHOWN
        """Cells that may still be shown."""
        self.total = 0
        """How many pieces it has, once it is begun."""
        self.taken = self.ended = 0
        self.rules: Rules
        self.solver: Solver
        self._pieces: Iterator[Piece]

    def begin(self, solver: Solver) -> None:
        """Check what can be checked before it waits; UserError for a strategy that is not possible."""
        if not self.questions:
            raise UserError("there is no puzzle in the request: give one")
        self.solver = solver
        self.total, self.rules = self.prepare()
        self._pieces = self.pieces()

    def next_piece(self) -> Piece:
        """The next one, read; called by one thread at a time, `total` times."""
        piece = next(self._pieces)
        self.taken += 1
        return piece

    def prepare(self) -> tuple[int, Rules]:
        """How many pieces there will be, and the rules for all."""
        return len(self.questions), self.solver.rules(self.strategy)

    def pieces(self) -> Iterator[Piece]:
        """The pieces, each read only when it is its turn."""
        watched = self.show.trace or self.show.watch
        for index, question in enumerate(self.questions):
            yield Piece(self, index, self.solver.read(question), watched=watched)

    def gather(self, piece: Piece, outcome: Outcome | None) -> Answer | Any | None:
        """The answer that is complete with this outcome, if one is."""
        return self.solver.answer(piece.asked, outcome, piece.trace if self.show.trace else None)

    def end_piece(self, piece: Piece, outcome: Outcome | None) -> None:
        """Count an outcome, None for an invalid question, and hand out what it completes."""
        self.ended += 1
        if outcome is not None:
            self.segments += outcome.segments
            self.flops += outcome.segments * self.solver.flops
        if (answer := self.gather(piece, outcome)) is not None:
            self.deliver(Answered(piece.index, answer))
        if self.ended == self.total:
            self.finish("done")
