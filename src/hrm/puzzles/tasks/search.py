"""Search solvers: they make puzzles and check questions; the model, not these, answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce
from itertools import product
from operator import and_, or_
from typing import NamedTuple

import numpy as np


class Found(NamedTuple):
    """What a Sudoku search found; `complete` is False where it ran out of guesses before it was done."""

    solutions: list[list[int]]
    guesses: int
    complete: bool


class SudokuSearch:
    """Sudoku as exact cover, the whole board in one integer: one subtraction looks at every constraint at once.

    A constraint (this cell holds a digit, this row / column / box holds this digit) is a field of n + 1 bits: one bit
    per candidate that could satisfy it and above them a guard bit, set while the constraint is open. Each candidate
    (cell, digit) thus has four bits. Grids are sequences of n*n numbers, 0 for blank, 1..n for the digits.
    """

    def __init__(self, box_rows: int, box_cols: int):
        self.n = n = box_rows * box_cols
        self.cells = n * n
        positions: list[tuple[int, ...]] = []  # per candidate cell*n + digit: its bit in each of its four constraints
        for row, column, digit in product(range(n), repeat=3):
            box, place = row // box_rows * box_rows + column // box_cols, row % box_rows * box_cols + column % box_cols
            fields = (
                (row, column, digit),
                (n + row, digit, column),
                (2 * n + column, digit, row),
                (3 * n + box, digit, place),
            )
            positions.append(tuple((major * n + minor) * (n + 1) + index for major, minor, index in fields))
        self.candidates = [reduce(or_, (1 << p for p in bits)) for bits in positions]
        members: dict[int, int] = {}
        for bits, mask in zip(positions, self.candidates, strict=True):
            for p in bits:
                members[p // (n + 1)] = members.get(p // (n + 1), 0) | mask
        self.guards = reduce(or_, (1 << f * (n + 1) + n for f in members))
        self.start = (1 << len(members) * (n + 1)) - 1
        self.keep = []  # per candidate: what is left of the board once it is placed
        for bits in positions:
            fields = [p // (n + 1) for p in bits]
            closed = reduce(or_, (1 << f * (n + 1) + n for f in fields))
            self.keep.append(self.start & ~(closed | reduce(or_, (members[f] for f in fields))))
        self.candidate_at = {p: candidate for candidate, bits in enumerate(positions) for p in bits}

    def board(self, clues: Sequence[int]) -> int:
        """The state after placing the clues, which must not contradict one another."""
        return reduce(and_, (self.keep[c * self.n + v - 1] for c, v in enumerate(clues) if v), self.start)

    def _propagate(self, state: int, placed: list[int]) -> int | None:
        """Place naked and hidden singles until there are none; None for a contradiction, 0 for solved."""
        n, guards, keep, candidate_at = self.n, self.guards, self.keep, self.candidate_at
        while True:
            open_ = state & guards
            ones = open_ >> n
            rest = state & (state - ones)  # every field without its lowest candidate; an empty one loses its guard
            if rest & guards != open_:
                return None
            single = open_ & ~((rest ^ open_) + (open_ - ones))  # adding 2^n - 1 reaches the guard from 1 upwards
            if not single:
                return state
            singles = state & (single - (single >> n))
            while singles:
                candidate = candidate_at[singles.bit_length() - 1]
                singles &= keep[candidate]
                state &= keep[candidate]
                placed.append(candidate)

    def _branch(self, state: int) -> list[int]:
        """The candidates of an open constraint that has the fewest."""
        n = self.n
        open_ = state & self.guards
        ones, rest = open_ >> n, state
        while True:
            rest = open_ | (rest & (rest - ones))
            empty = open_ & ~((rest ^ open_) + (open_ - ones))
            if empty:  # ran out of candidates first
                guard = empty.bit_length() - 1
                return [self.candidate_at[p] for p in range(guard - n, guard) if state >> p & 1]

    def search(
        self, state: int, limit: int, budget: float = float("inf"), rng: np.random.Generator | None = None
    ) -> Found:
        """Up to `limit` completions of a state, giving up after `budget` guesses; `rng` shuffles the order of trying.
        `Found.solutions` are lists of the candidates placed; a guess is a branching on the most constrained choice."""
        solutions: list[list[int]] = []
        stack: list[tuple[int, list[int]]] = [(state, [])]
        guesses = 0
        while stack:
            board, placed = stack.pop()
            left = self._propagate(board, placed)
            if left == 0:
                solutions.append(placed)
                if len(solutions) == limit:
                    break
            elif left is not None:
                if guesses >= budget:
                    return Found(solutions, guesses, False)
                guesses += 1
                choices = self._branch(left)
                if rng is not None:
                    choices = rng.permutation(choices).tolist()
                stack += [(left & self.keep[c], [*placed, c]) for c in choices]
        return Found(solutions, guesses, True)

    def grid(self, candidates: list[int]) -> list[int]:
        """The complete grid that a list of candidates, one per cell, spells out."""
        return [c % self.n + 1 for c in sorted(candidates)]

    def solve(
        self, clues: Sequence[int], limit: int = 2, budget: float = float("inf")
    ) -> tuple[list[list[int]], Found]:
        """Up to `limit` solutions of a question whose clues do not contradict one another, and how they were found."""
        found = self.search(self.board(clues), limit, budget)
        given = [c * self.n + v - 1 for c, v in enumerate(clues) if v]
        return [self.grid(given + placed) for placed in found.solutions], found

    def fill(self, rng: np.random.Generator) -> list[int]:
        """A random complete grid; an unlucky start is dropped after a few guesses per cell."""
        while True:
            found = self.search(self.start, 1, 4 * self.cells, rng)
            if found.solutions:
                return self.grid(found.solutions[0])

    def dig(self, grid: Sequence[int], rng: np.random.Generator, budget: float = float("inf")) -> list[int]:
        """Blank cells of a complete grid in random order while its solution stays the only one. Every clue left is
        necessary, so the puzzle is minimal; but one that takes over `budget` guesses to test stays."""
        clues = list(grid)
        for cell in rng.permutation(self.cells).tolist():
            clues[cell] = 0
            elsewise = self.board(clues) & ~self.candidates[cell * self.n + grid[cell] - 1]
            found = self.search(elsewise, 1, budget)
            if found.solutions or not found.complete:
                clues[cell] = grid[cell]
        return clues


sudoku_search = cache(SudokuSearch)


class MazeSearch:
    """Breadth-first search in a grid of cells, a whole wave at a time: sets of cells are integers, a bit per cell.
    Every row is followed by one bit that stays wall, so that a step never leaves a row."""

    def __init__(self, free: np.ndarray):
        """`free` [rows, cols]: where one can walk."""
        self.width = free.shape[1] + 1
        padded = np.pad(free, ((0, 0), (0, 1)))
        self.free = int.from_bytes(np.packbits(padded, bitorder="little").tobytes(), "little")

    def around(self, cells: int) -> int:
        """The free neighbours of a set of cells."""
        return (cells << 1 | cells >> 1 | cells << self.width | cells >> self.width) & self.free

    def bit(self, cell: int) -> int:
        """The set that holds one cell, given by its index in reading order."""
        return 1 << cell // (self.width - 1) * self.width + cell % (self.width - 1)

    def cells(self, cells: int) -> list[int]:
        """The indices of a set of cells, in reading order."""
        bits = np.frombuffer(cells.to_bytes(cells.bit_length() // 8 + 1, "little"), np.uint8)
        found = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        return (found // self.width * (self.width - 1) + found % self.width).tolist()

    def waves(self, start: int, goal: int = -1) -> list[int]:
        """Sets of cells at distance 0, 1, 2, ... from a cell, up to all that can be reached or to the goal's wave."""
        wave = seen = self.bit(start)
        end = self.bit(goal) if goal >= 0 else 0
        waves = []
        while wave:
            waves.append(wave)
            if wave & end:
                break
            wave = self.around(wave) & ~seen
            seen |= wave
        return waves

    def distance(self, start: int, goal: int) -> int | None:
        """Steps on a shortest path; None where there is no path."""
        waves = self.waves(start, goal)
        return len(waves) - 1 if waves[-1] & self.bit(goal) else None

    def path(self, start: int, goal: int) -> list[int]:
        """The cells strictly between start and goal on a shortest path: down before left before right before up. It is
        the one that a breadth-first search from the start finds when it looks at neighbours in this order, and the
        answer of every maze in Maze-Hard. No cells where there is no way."""
        here, path, width = self.bit(start), 0, self.width
        waves = self.waves(goal, start)
        for wave in waves[-2:0:-1] if waves[-1] & here else []:
            steps = here << width, here >> 1, here << 1, here >> width
            here = next(step for step in steps if step & wave)
            path |= here
        return self.cells(path)
