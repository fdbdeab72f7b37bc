"""Deduction as a strategy of the engine: kill, check, decide, and go back on a contradiction.

The model does all deduction and all choosing. A decision pins a symbol; what is tried when it fails is the state before
it without that symbol, so that the search misses nothing that the kills left. Kills are undone on the way back. When
everything was tried, some kill was wrong: the puzzle begins again, first through a view that is new to the model, then
with a lower threshold, in the end with none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hrm.puzzles.lattice import Lattice
from hrm.puzzles.model import DEAD, PuzzleModel, Readout
from hrm.puzzles.solving.engine import Batch, Deduced, Row, Segment, left_by
from hrm.puzzles.tasks import Symmetry

CAUTION = (1.0, 0.2, 0.03, 0.0)
"""Shares of the threshold, each for the puzzle as asked and through another view; with the last the model kills
nothing."""
VIEWS = 20
"""Tried to find one that is new to the model."""


class Kept(NamedTuple):
    """What a decision about a cell leaves for later: the candidates [p] without its symbol, and the states that they
    had."""

    cell: int
    alive: Tensor
    slow: Tensor
    fast: Tensor


@dataclass
class Search:
    """Where a puzzle stands in its search."""

    trail: list[Kept] = field(default_factory=list)
    """Of the decisions that stand, the last one last."""
    decisions: int = 0
    """Made so far, also those taken back."""
    caution: int = 0
    """How often it began again: two for each of CAUTION."""


class DeducingBatch(Batch):
    """Puzzles whose model deduces: row i of `alive` are the candidates of row i."""

    def __init__(self, model: PuzzleModel) -> None:
        super().__init__(model)
        assert model.lattice is not None
        self.lattice: Lattice = model.lattice
        self.alive: Tensor
        self.searches: list[Search] = []

    @torch.no_grad()
    def enter(self, rows: list[Row]) -> None:
        if not rows:
            return
        before = len(self.rows)
        super().enter(rows)
        alive = self.lattice.start(self.questions[before:])
        self.alive = torch.cat((self.alive, alive)) if before else alive
        self.searches += [Search() for _ in rows]

    def keep(self, stay: list[int]) -> None:
        if len(stay) < len(self.rows):
            self.alive = self.alive[torch.tensor(stay, dtype=torch.long, device=self.device)]
            self.searches = [self.searches[i] for i in stay]
        super().keep(stay)

    @torch.inference_mode()
    def advance(self) -> list[tuple[Row, bool]]:
        """One call for every row."""
        rows, lattice = self.rows, self.lattice
        before = self.carry.z_h
        calls = max(row.rules.deduce.segments for row in rows)
        self.carry, readouts = self.model.deduce(self.carry, lattice.pack(self.alive, padded=True), calls, every=False)
        readout = readouts[-1]
        assert readout.keep is not None
        thresholds = [row.rules.deduce.kill * CAUTION[search.caution // 2]
                      for row, search in zip(rows, self.searches, strict=True)]  # fmt: skip
        likely = readout.keep.sigmoid()
        killed = (
            self.alive & ~lattice.pinned(self.alive) & (likely < torch.tensor(thresholds, device=self.device)[:, None])
        )
        alive = self.alive & ~killed
        pinned = lattice.pinned(alive)
        first, count = lattice.first, lattice.symbols
        scores = readout.logits[..., first : first + count].masked_fill(~lattice.by_cell(alive), DEAD)
        tokens = (scores.argmax(-1) + first).cpu().numpy()
        refused = lattice.contradicted(alive, pinned).tolist()
        stuck = (~killed.any(1)).tolist()
        cells, symbols = _decisions(lattice, alive, scores)
        q = readout.q.tolist()
        self.alive = alive
        self._show(before, readout, tokens, calls, killed, refused)

        left, stay = [], []
        for i, (row, search) in enumerate(zip(rows, self.searches, strict=True)):
            rules = row.rules
            row.readout, row.segments = tokens[i], row.segments + calls
            verified = rules.verify is not None and rules.verify(row.job.question, row.turned_back(tokens[i]))
            over = row.segments >= rules.max_segments or row.spent >= (rules.budget or math.inf)
            if not (verified or over):
                # A verifier may know more rules than the groups: what it refuses with no cell open is refused as well.
                over = not self._go_on(i, row, search, refused[i] or cells[i] < 0, stuck[i], cells[i], symbols[i])
            if verified or over:
                left_by(row, tokens[i], tuple(q[i]), search.decisions)
                left.append((row, bool(verified)))
            else:
                stay.append(i)
        self.keep(stay)
        return left

    def _go_on(self, i: int, row: Row, search: Search, refused: bool, stuck: bool, cell: int, symbol: int) -> bool:
        """Take a row back, or further by a decision, where the model leaves it no other way; False: it gives up."""
        lattice, most = self.lattice, row.rules.deduce.decisions
        if refused:
            if search.trail:
                kept = search.trail.pop()
                self.alive[i] = kept.alive
                for state, values in zip(self.carry, (kept.slow, kept.fast), strict=True):
                    state[i, kept.alive] = values
                return True
            if not self._more_cautious(i, row, search):
                return False
            fresh = self.model.initial_carry(self.questions[i : i + 1], self.task_ids[i : i + 1])
            self.alive[i] = lattice.start(self.questions[i : i + 1])[0]
            for state, first in zip(self.carry, fresh, strict=True):
                state[i] = first[0]
        elif stuck:
            if most is not None and search.decisions >= most:
                return False
            other, place = self.alive[i].clone(), cell * lattice.symbols + symbol
            other[place] = False
            search.trail.append(Kept(cell, other, self.carry.z_h[i, other], self.carry.z_l[i, other]))
            search.decisions += 1
            self.alive[i, cell * lattice.symbols : (cell + 1) * lattice.symbols] = False
            self.alive[i, place] = True
        return True

    def _show(
        self, before: Tensor, readout: Readout, tokens: np.ndarray, calls: int, killed: Tensor, refused: list[bool]
    ) -> None:
        """Tell the observers."""
        if all(row.observe is None for row in self.rows):
            return
        moved, q = self.moved(before), readout.q.tolist()
        shares = readout.logits.float().softmax(-1).cpu().numpy()
        alive, dead = self._masks(self.alive), self._masks(killed)
        for i, (row, search) in enumerate(zip(self.rows, self.searches, strict=True)):
            if row.observe is None:
                continue
            decided = np.zeros_like(alive[i])
            decided[[kept.cell for kept in search.trail]] = True
            deduced = Deduced(
                row.turned_back(alive[i].copy()), row.turned_back(dead[i].copy()), row.turned_back(decided).max(1),
                search.decisions, refused[i],
            )  # fmt: skip
            row.observe(Segment(
                row.job.question, row.turned_back(tokens[i]), row.segments + calls, len(row.ballots) + 1, tuple(q[i]),
                moved[i], row.turned_back(shares[i]), deduced,
            ))  # fmt: skip

    def _masks(self, candidates: Tensor) -> np.ndarray:
        """[b, cells, vocabulary] of the candidates [b, p]."""
        first, count = self.lattice.first, self.lattice.symbols
        masks = np.zeros((len(candidates), self.lattice.cells, self.model.board.vocabulary), bool)
        masks[..., first : first + count] = self.lattice.by_cell(candidates).cpu().numpy()
        return masks

    def _more_cautious(self, i: int, row: Row, search: Search) -> bool:
        """What a row that begins again does differently; False after the last."""
        if CAUTION[search.caution // 2] == 0:
            return False
        search.caution += 1
        other = self._other_view(row) if search.caution % 2 else None
        if search.caution % 2 and other is None:
            search.caution += 1
        row.view = other or row.first_view
        self.questions[i] = torch.from_numpy(row.question.astype(np.int64))
        return True

    def _other_view(self, row: Row) -> Symmetry | None:
        """A view that exchanges kinds of groups, such as rows and columns: all others are the same to the model."""
        if row.rules.view is None:
            return None
        numbers = range(row.attempt.view + 1, row.attempt.view + VIEWS)
        views = (row.rules.view(row.job.question, number) for number in numbers)
        keeps = self._keeps_groups(row.view)
        return next((view for view in views if self._keeps_groups(view) != keeps), None)

    def _keeps_groups(self, view: Symmetry | None) -> bool:
        """Whether every partition is mapped onto itself."""
        pairs = [] if view is None else [np.stack((row, row[view.source])) for row in self.model.board.groups]
        return all(np.unique(pair, axis=1).shape[1] == pair.max() + 1 for pair in pairs)


def _decisions(lattice: Lattice, alive: Tensor, scores: Tensor) -> tuple[list[int], list[int]]:
    """For each row a cell with the fewest candidates, of these the one whose symbol is surest, and that symbol; -1
    where no cell is open."""
    counts = lattice.by_cell(alive).sum(2)
    best = scores.float().softmax(-1).max(-1)
    few = torch.where(counts > 1, counts, lattice.symbols + 1)
    cell = (best.values - few).argmax(1)
    rows = torch.arange(len(alive), device=alive.device)
    none = few[rows, cell] > lattice.symbols
    return torch.where(none, -1, cell).tolist(), best.indices[rows, cell].tolist()
