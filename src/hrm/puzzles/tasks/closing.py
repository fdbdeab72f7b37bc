"""Mazes that a model fails have two ways marked at once. Cells are closed until one way is left, then some are opened
again, and the shorter way stays.

The model finds every way and says which marks it doubts; here its marks are read: whether they still join the ends,
where they branch, and how long a way is. The maze itself is never searched.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import cached_property

import numpy as np

from hrm.puzzles.tasks.search import MazeSearch

NEVER, BELIEVED, MARKED = 0.02, 0.1, 0.5
"""Cells less likely on a path than the first are closed from the start; those likelier than the second count when it is
asked whether the ends are joined, those likelier than the third are marked."""
MOST_CLOSED, MOST_MORE = 80, 8
"""Cells that are tried until one way is left, and after another one was opened."""
MOST_OPENED = 4
"""Cells that are opened together, at most."""
PATIENCE = 1
"""Tries in vain for each closed cell before all begins again."""

Looks = Generator[np.ndarray, np.ndarray, None]
"""Yields the closed cells [cells] bool of the next look, and is sent the probabilities [cells] of its marks."""

Found = Generator[np.ndarray, np.ndarray, "tuple[Marks, list[int]] | None"]
"""Looks, and what they found: one way and the cells closed for it, or None."""


class Marks:
    """What a model marks where some cells are closed."""

    def __init__(self, free: np.ndarray, ends: tuple[int, int], shares: np.ndarray) -> None:
        """`free` [rows, cols] bool: open cells without the ends; `shares` [cells]: how likely each is on a path."""
        self.shape, self.ends, self.shares = free.shape, ends, shares
        open_ = free.ravel()
        self.cells = open_ & (shares >= MARKED)
        self._believed = open_ & (shares >= BELIEVED)

    @property
    def joined(self) -> bool:
        """Whether believed cells lead from one end to the other."""
        return self._walk(self._believed).distance(*self.ends) is not None

    @property
    def at_branches(self) -> np.ndarray:
        """[cells] bool: marks where a way branches, or beside that."""
        on = self._with_ends(self.cells)
        one_way = np.full(len(on), 2)
        one_way[[*self.ends]] = 1
        return self.cells & self.beside(on & (_around(on.reshape(self.shape)).sum(0).ravel() > one_way))

    @cached_property
    def chain(self) -> bool:
        """Whether they are one way that neither branches nor touches itself."""
        walk = self._walk(self.cells)
        waves = walk.waves(*self.ends)
        alone = all(wave & (wave - 1) == 0 for wave in waves)
        return bool(alone and waves[-1] == walk.bit(self.ends[1]) and len(waves) == self.length + 2)

    @property
    def length(self) -> int:
        """Cells that are marked."""
        return int(self.cells.sum())

    @cached_property
    def order(self) -> np.ndarray:
        """[cells] steps from the first end along the marks, -1 beside them."""
        walk, order = self._walk(self.cells), np.full(len(self.cells), -1)
        for step, wave in enumerate(walk.waves(self.ends[0])):
            order[walk.cells(wave)] = step
        return order

    def beside(self, cells: np.ndarray) -> np.ndarray:
        """[cells] bool: the neighbours of these."""
        return _around(cells.reshape(self.shape)).any(0).ravel()

    def doubted(self, cells: np.ndarray, random: np.random.Generator) -> int:
        """One of these cells, drawn by the root of the doubt."""
        doubt = np.sqrt(np.maximum(1 - self.shares[cells].astype(np.float64), 1e-6))
        return int(random.choice(cells, p=doubt / doubt.sum()))

    def _with_ends(self, cells: np.ndarray) -> np.ndarray:
        cells = cells.copy()
        cells[[*self.ends]] = True
        return cells

    def _walk(self, cells: np.ndarray) -> MazeSearch:
        return MazeSearch(self._with_ends(cells).reshape(self.shape))


def looks(free: np.ndarray, ends: tuple[int, int], shares: np.ndarray, random: np.random.Generator) -> Looks:
    """What to close for one look after another, without end; `shares` [cells] are those of the maze as asked."""
    search = _Search(free, ends, random)
    while True:
        # The model must be sure in every look at the maze as asked, each of which is another view.
        shares = np.maximum(shares, (yield np.zeros(free.size, bool)))
        search.closed = free.ravel() & (shares < NEVER)
        yield from search.one_way()


class _Search:
    def __init__(self, free: np.ndarray, ends: tuple[int, int], random: np.random.Generator) -> None:
        self.free, self.ends, self.random = free, ends, random
        self.closed: np.ndarray
        """Cells that the model is sure are on no path, when it begins."""

    def one_way(self) -> Looks:
        """Close doubted marks until one way is left, then look for shorter ones."""
        found = yield from self._close((yield from self._look([])), [], MOST_CLOSED)
        if found is None:
            return
        (way, closed), vain, turn = found, 0, 0
        while closed and vain <= PATIENCE * len(closed):
            turn, vain = turn + 1, vain + 1
            # A way through several loops may only get shorter in all of them at once.
            count = int(self.random.integers(1, MOST_OPENED + 1))
            found = yield from self._other_way(way, self._without(closed, turn % len(closed), count))
            if found is not None and found[0].length <= way.length:
                vain = vain if found[0].length == way.length else 0
                way, closed = found

    def _without(self, closed: list[int], at: int, count: int) -> list[int]:
        """All closed cells but one and those nearest to it."""
        places = np.stack(np.unravel_index(closed, self.free.shape))
        far = np.argsort(np.abs(places - places[:, at : at + 1]).sum(0), kind="stable")[count:]
        return [closed[i] for i in sorted(far)]

    def _other_way(self, way: Marks, closed: list[int]) -> Found:
        """The way with only these cells closed; where two are marked then, the one that was not there before."""
        marks = yield from self._look(closed)
        if marks.chain:
            return marks, closed
        meets = way.order[way.cells & marks.beside(marks.cells & ~way.cells)]
        if not len(meets):
            return None
        between = np.flatnonzero((way.order > meets.min()) & (way.order < meets.max()))
        if not len(between):
            return None
        closed = [*closed, marks.doubted(between, self.random)]
        marks = yield from self._look(closed)
        return (yield from self._close(marks, closed, MOST_MORE)) if marks.joined else None

    def _close(self, marks: Marks, closed: list[int], most: int) -> Found:
        """Close doubted marks where ways branch until one way is left; a cell without which no way is left stays open.
        None where that does not come."""
        needed = np.zeros(self.free.size, bool)
        for _ in range(most):
            if marks.chain:
                return marks, closed
            cells = np.flatnonzero(marks.at_branches & ~needed)
            if not len(cells):
                cells = np.flatnonzero(marks.cells & ~needed)
            if not len(cells):
                return None
            cell = marks.doubted(cells, self.random)
            less = yield from self._look([*closed, cell])
            if less.joined:
                marks, closed = less, [*closed, cell]
            else:
                needed[cell] = True
        return (marks, closed) if marks.chain else None

    def _look(self, closed: Iterable[int]) -> Generator[np.ndarray, np.ndarray, Marks]:
        shut = self.closed.copy()
        shut[[*closed]] = True
        shares = yield shut
        return Marks(self.free & ~shut.reshape(self.free.shape), self.ends, shares)


def _around(cells: np.ndarray) -> np.ndarray:
    """[4, rows, cols] whether each neighbour is one of the cells."""
    edge = np.pad(cells, 1)
    return np.stack([edge[:-2, 1:-1], edge[2:, 1:-1], edge[1:-1, :-2], edge[1:-1, 2:]])
