"""Deduction as a strategy of the engine: kill, check, decide, and go back on a contradiction.

The model does all deduction and all choosing. A decision pins a symbol; what is tried when it fails is the state before
it without that symbol, so that a search misses nothing that the kills left. Kills are undone on the way back. When
everything was tried, some kill was wrong: the puzzle begins again, first through a view that is new to the model, then
from other states, then with a lower threshold, in the end with none.

A puzzle that takes long is looked at in several states at once, since a call for two costs little more than for one:
untried sides of its first decisions, in the end also the next search before the first has ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hrm.core.recurrence import Carry
from hrm.puzzles.lattice import Lattice
from hrm.puzzles.model import DEAD, PuzzleModel, Readout
from hrm.puzzles.solving.engine import Batch, Deduced, Row, Segment, left_by, shake
from hrm.puzzles.tasks import Symmetry

CAUTION = (1.0, 1.0, 1.0, 0.2, 0.03, 0.0)
"""Shares of the threshold, each for the puzzle as asked and through another view; with the last the model kills
nothing. All but the first begin with noise in the states, so that the model goes wrong elsewhere."""
EARLY = {0: 0.1, 1: 0.3}
"""Shares of the threshold by the decisions that stand: the fewer they are, the more of a search a wrong kill spoils."""
VIEWS = 20
"""Tried to find one that is new to the model."""
WIDER, WIDEST = 12, 16
"""A puzzle may have as many branches under way as WIDER segments were spent on it, WIDEST at most."""
ANOTHER = 200
"""A puzzle has one search under way, and one more for each ANOTHER segments spent: where kills were wrong in the first,
it ends late. All get as many branches."""


class Kept(NamedTuple):
    """Candidates [p], the states that they had, and the cells that decisions pinned."""

    alive: Tensor
    slow: Tensor
    fast: Tensor
    decided: tuple[int, ...]


@dataclass(eq=False)
class Search:
    """One of a puzzle's searches: through a view, with a share of the threshold."""

    view: Symmetry | None
    caution: float
    untried: list[Kept] = field(default_factory=list)
    """What decisions leave for later, that of the last one last."""
    branches: int = 0
    """Under way."""


@dataclass(eq=False)
class Puzzle:
    """Where a row stands."""

    row: Row
    searches: list[Search] = field(default_factory=list)
    """Under way."""
    begun: int = 0
    """How many searches were; two for each of CAUTION."""
    decisions: int = 0
    """Made so far, also those taken back."""


@dataclass(eq=False)
class Branch:
    """A state of a puzzle that the model looks at."""

    puzzle: Puzzle
    search: Search
    decided: tuple[int, ...] = ()


class DeducingBatch(Batch):
    """Puzzles whose model deduces: row i of `alive` and of the carry belongs to branch i."""

    def __init__(self, model: PuzzleModel) -> None:
        super().__init__(model)
        assert model.lattice is not None
        self.lattice: Lattice = model.lattice
        self.alive: Tensor
        self.puzzles: list[Puzzle] = []
        self.branches: list[Branch] = []

    @torch.no_grad()
    def enter(self, rows: list[Row]) -> None:
        if not rows:
            return
        before = len(self.rows)
        super().enter(rows)
        alive = self.lattice.start(self.questions[before:])
        self.alive = torch.cat((self.alive, alive)) if before else alive
        for row in rows:
            puzzle = Puzzle(row, begun=1)
            puzzle.searches.append(Search(row.view, CAUTION[0], branches=1))
            self.puzzles.append(puzzle)
            self.branches.append(Branch(puzzle, puzzle.searches[0]))

    @torch.inference_mode()
    def keep(self, stay: list[int]) -> None:
        if len(stay) == len(self.rows):
            return
        index = torch.tensor(stay, dtype=torch.long, device=self.device)
        self.rows, self.puzzles = [self.rows[i] for i in stay], [self.puzzles[i] for i in stay]
        self.questions, self.task_ids = self.questions[index], self.task_ids[index]
        left = set(self.puzzles)
        self._choose([i for i, branch in enumerate(self.branches) if branch.puzzle in left])

    @torch.inference_mode()
    def advance(self) -> list[tuple[Row, bool]]:
        """One call for every branch."""
        branches, lattice = self.branches, self.lattice
        before = self.carry.z_h
        calls = max(row.rules.deduce.segments for row in self.rows)
        self.carry, readouts = self.model.deduce(self.carry, lattice.pack(self.alive, padded=True), calls, every=False)
        readout = readouts[-1]
        assert readout.keep is not None
        thresholds = [
            branch.puzzle.row.rules.deduce.kill * branch.search.caution * EARLY.get(len(branch.decided), 1.0)
            for branch in branches
        ]
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

        shown: dict[Puzzle, int] = {}
        """Its verified branch, otherwise the oldest."""
        verified: set[Puzzle] = set()
        for i, branch in enumerate(branches):
            puzzle, row = branch.puzzle, branch.puzzle.row
            row.segments += calls
            shown.setdefault(puzzle, i)
            if puzzle in verified or row.rules.verify is None:
                continue
            row.view = branch.search.view
            if row.rules.verify(row.job.question, row.turned_back(tokens[i])):
                verified.add(puzzle)
                shown[puzzle] = i
        for puzzle, at in shown.items():
            puzzle.row.view, puzzle.row.readout = branches[at].search.view, tokens[at]
        self._show(list(shown.values()), before, readout, tokens, killed, refused)

        over = {puzzle for puzzle in self.puzzles if puzzle in verified or self._left(puzzle.row) <= 0}
        ended: list[int] = []
        for i, branch in enumerate(branches):
            # A verifier may know more rules than the groups: what it refuses with no cell open is refused as well.
            if branch.puzzle in over:
                continue
            if refused[i] or cells[i] < 0:
                if not self._go_back(i, branch):
                    ended.append(i)
                    if not branch.puzzle.searches:
                        over.add(branch.puzzle)
            elif stuck[i] and not self._decide(i, branch, cells[i], symbols[i]):
                over.add(branch.puzzle)

        left, stay = [], []
        for number, puzzle in enumerate(self.puzzles):
            if puzzle in over:
                at = shown[puzzle]
                left_by(puzzle.row, tokens[at], tuple(q[at]), puzzle.decisions)
                left.append((puzzle.row, puzzle in verified))
            else:
                stay.append(number)
        if ended:
            self._choose([i for i in range(len(branches)) if i not in ended])
        self.keep(stay)
        self._widen(calls)
        return left

    def _left(self, row: Row) -> float:
        """Segments that may still be spent on a row."""
        return min(row.rules.max_segments - row.segments, (row.rules.budget or math.inf) - row.spent)

    def _decide(self, i: int, branch: Branch, cell: int, symbol: int) -> bool:
        """Pin a symbol, and keep what is left without it; False where no more may be decided."""
        puzzle, search = branch.puzzle, branch.search
        most = puzzle.row.rules.deduce.decisions
        if most is not None and puzzle.decisions >= most:
            return False
        count = self.lattice.symbols
        other, place = self.alive[i].clone(), cell * count + symbol
        other[place] = False
        search.untried.append(Kept(other, self.carry.z_h[i, other], self.carry.z_l[i, other], branch.decided))
        puzzle.decisions += 1
        branch.decided = (*branch.decided, cell)
        self.alive[i, cell * count : (cell + 1) * count] = False
        self.alive[i, place] = True
        return True

    def _go_back(self, i: int, branch: Branch) -> bool:
        """Let a branch that is refuted continue where its search has something untried, or else begin the next search;
        False: there is neither, or its search has other branches to which that is left."""
        search, puzzle = branch.search, branch.puzzle
        if search.untried:
            self._put(i, search.untried.pop())
            return True
        search.branches -= 1
        if search.branches:
            return False
        puzzle.searches.remove(search)
        if search.caution == 0:
            # Without kills nothing is missed.
            puzzle.searches.clear()
        elif (state := self._next_search(puzzle)) is not None:
            branch.search = puzzle.searches[-1]
            self._put(i, state)
            return True
        return False

    def _next_search(self, puzzle: Puzzle) -> Kept | None:
        """Begin with the puzzle once more; None after the last way."""
        row = puzzle.row
        view = row.first_view
        if puzzle.begun % 2:
            other = self._other_view(row)
            puzzle.begun += other is None
            view = other or view
        if puzzle.begun >= 2 * len(CAUTION):
            return None
        search = Search(view, CAUTION[puzzle.begun // 2], branches=1)
        puzzle.begun += 1
        puzzle.searches.append(search)
        asked = row.asked if view is None else view.apply(row.asked)
        question = torch.from_numpy(asked.astype(np.int64))[None].to(self.device)
        carry = self.model.initial_carry(question, torch.tensor([row.job.task_id], device=self.device))
        alive = self.lattice.start(question)[0]
        if puzzle.begun > 2:
            states = torch.stack(carry).clone()
            shake(states[:, 0], row.rules.seed, puzzle.begun, asked)
            carry = Carry(*states)
        return Kept(alive, carry.z_h[0, alive], carry.z_l[0, alive], ())

    def _widen(self, calls: int) -> None:
        """Add branches and searches where a puzzle has taken long; where its segments end, put branches aside."""
        added: list[tuple[Branch, Kept]] = []
        aside: set[int] = set()
        for puzzle in self.puzzles:
            room = min(WIDEST, max(1, puzzle.row.segments // WIDER), math.ceil(self._left(puzzle.row) / calls))
            room -= sum(search.branches for search in puzzle.searches)
            while room < 0:
                self._put_aside(max(puzzle.searches, key=_width), aside)
                room += 1
            while room > 0 and (new := self._new_branch(puzzle)) is not None:
                added.append(new)
                room -= 1
            # Where there is no room, a search with fewer branches, or a new one, gets the place of one of the widest.
            while not room and (widest := max(puzzle.searches, key=_width)).branches > self._fewest(puzzle) + 1:
                new = self._new_branch(puzzle)
                if new is None:
                    break
                added.append(new)
                if not self._put_aside(widest, aside):
                    break  # all of its branches are new: for this call there is one more
        self._add(added)
        if aside:
            self._choose([i for i in range(len(self.branches)) if i not in aside])

    def _fewest(self, puzzle: Puzzle) -> float:
        """Branches of the search that gets the next one."""
        if self._begins_another(puzzle):
            return 0
        return min((search.branches for search in puzzle.searches if search.untried), default=math.inf)

    def _begins_another(self, puzzle: Puzzle) -> bool:
        return len(puzzle.searches) <= puzzle.row.segments // ANOTHER and puzzle.begun < 2 * len(CAUTION)

    def _new_branch(self, puzzle: Puzzle) -> tuple[Branch, Kept] | None:
        """Of another search, or what the narrowest one has left untried longest; None where there is neither."""
        if self._begins_another(puzzle) and (state := self._next_search(puzzle)) is not None:
            return Branch(puzzle, puzzle.searches[-1]), state
        waiting = [search for search in puzzle.searches if search.untried]
        if not waiting:
            return None
        search = min(waiting, key=_width)
        state = search.untried.pop(0)
        search.branches += 1
        return Branch(puzzle, search), state

    def _add(self, added: list[tuple[Branch, Kept]]) -> None:
        """Look at these states from now on."""
        if not added:
            return
        old = len(self.alive)
        more = torch.zeros(len(added), *self.carry.z_h.shape[1:], dtype=self.carry.z_h.dtype, device=self.device)
        self.carry = Carry(*(torch.cat((state, more)) for state in self.carry))
        self.alive = torch.cat((self.alive, torch.stack([state.alive for _, state in added])))
        self.branches += [branch for branch, _ in added]
        for i, (_, state) in enumerate(added, old):
            self._put(i, state)

    def _put_aside(self, search: Search, aside: set[int]) -> bool:
        """Leave the youngest branch of a search for later; False where it has none yet."""
        there = [i for i in range(len(self.alive)) if self.branches[i].search is search and i not in aside]
        if not there:
            return False
        i, alive = there[-1], self.alive[there[-1]]
        branch = self.branches[i]
        search.untried.append(Kept(alive.clone(), self.carry.z_h[i, alive], self.carry.z_l[i, alive], branch.decided))
        search.branches -= 1
        aside.add(i)
        return True

    def _put(self, i: int, state: Kept) -> None:
        """Branch i continues with this state."""
        self.alive[i], self.branches[i].decided = state.alive, state.decided
        for all_states, values in zip(self.carry, (state.slow, state.fast), strict=True):
            all_states[i, state.alive] = values

    def _choose(self, stay: list[int]) -> None:
        """Forget all branches but these."""
        index = torch.tensor(stay, dtype=torch.long, device=self.device)
        self.branches = [self.branches[i] for i in stay]
        self.carry, self.alive = self.carry.select(index), self.alive[index]

    def _show(
        self, shown: list[int], before: Tensor, readout: Readout, tokens: np.ndarray, killed: Tensor,
        refused: list[bool],
    ) -> None:  # fmt: skip
        """Tell the observers of one branch of each puzzle."""
        if all(row.observe is None for row in self.rows):
            return
        moved, q = self.moved(before), readout.q.tolist()
        shares = readout.logits.float().softmax(-1).cpu().numpy()
        alive, dead = self._masks(self.alive), self._masks(killed)
        for i in shown:
            branch = self.branches[i]
            row = branch.puzzle.row
            if row.observe is None:
                continue
            decided = np.zeros_like(alive[i])
            decided[list(branch.decided)] = True
            deduced = Deduced(
                row.turned_back(alive[i].copy()), row.turned_back(dead[i].copy()), row.turned_back(decided).max(1),
                branch.puzzle.decisions, refused[i],
            )  # fmt: skip
            row.observe(Segment(
                row.job.question, row.turned_back(tokens[i]), row.segments, len(row.ballots) + 1, tuple(q[i]),
                moved[i], row.turned_back(shares[i]), deduced,
            ))  # fmt: skip

    def _masks(self, candidates: Tensor) -> np.ndarray:
        """[b, cells, vocabulary] of the candidates [b, p]."""
        first, count = self.lattice.first, self.lattice.symbols
        masks = np.zeros((len(candidates), self.lattice.cells, self.model.board.vocabulary), bool)
        masks[..., first : first + count] = self.lattice.by_cell(candidates).cpu().numpy()
        return masks

    def _other_view(self, row: Row) -> Symmetry | None:
        """A view that exchanges kinds of groups, such as rows and columns: all others are the same to the model."""
        if row.rules.view is None:
            return None
        numbers = range(row.attempt.view + 1, row.attempt.view + VIEWS)
        views = (row.rules.view(row.job.question, number) for number in numbers)
        keeps = self._keeps_groups(row.first_view)
        return next((view for view in views if self._keeps_groups(view) != keeps), None)

    def _keeps_groups(self, view: Symmetry | None) -> bool:
        """Whether every partition is mapped onto itself."""
        pairs = [] if view is None else [np.stack((row, row[view.source])) for row in self.model.board.groups]
        return all(np.unique(pair, axis=1).shape[1] == pair.max() + 1 for pair in pairs)


def _width(search: Search) -> int:
    return search.branches


def _decisions(lattice: Lattice, alive: Tensor, scores: Tensor) -> tuple[list[int], list[int]]:
    """For each row a cell with the fewest candidates, of these the one of which the model is least sure, and its surest
    symbol there; -1 where no cell is open."""
    # Where it is sure, its own kills follow soon: a decision there says little.
    counts = lattice.by_cell(alive).sum(2)
    best = scores.float().softmax(-1).max(-1)
    few = torch.where(counts > 1, counts, lattice.symbols + 1)
    cell = (few + best.values).argmin(1)
    rows = torch.arange(len(alive), device=alive.device)
    none = few[rows, cell] > lattice.symbols
    return torch.where(none, -1, cell).tolist(), best.indices[rows, cell].tolist()
