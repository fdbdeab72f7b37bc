"""What can be known of a maze after a number of visits, each of which carries news one cell far.

A wave leaves the goal. It puts an arrow into every free cell, towards the cell that it came from; where it came from
several, down is before left, right and up. Once it has reached the start, marks follow the arrows back to the goal.
"""

from __future__ import annotations

import numpy as np

from hrm.puzzles.tasks.search import MazeSearch

NEVER = 1 << 30


class Wave:
    """When each free cell gets its arrow and its mark, in visits; `NEVER` where it gets none."""

    def __init__(self, open_: np.ndarray, start: int | None, goal: int | None) -> None:
        """`open_` [rows, cols] bool: all but walls; None where there is no such end."""
        search, columns = MazeSearch(open_), open_.shape[1]
        self.arrives, self.arrow, self.marked = (np.full(open_.size, value) for value in (NEVER, -1, NEVER))
        """[cells] the visit of the arrow, its direction (an index of down, left, right, up) and the visit of the
        mark."""
        for visit, wave in enumerate([] if goal is None else search.waves(goal)):
            self.arrives[search.cells(wave)] = visit
        distance = np.pad(self.arrives.reshape(open_.shape), 1, constant_values=NEVER)
        nearer = self.arrives.reshape(open_.shape) - 1
        beside = [distance[2:, 1:-1], distance[1:-1, :-2], distance[1:-1, 2:], distance[:-2, 1:-1]]
        for direction in (3, 2, 1, 0):
            self.arrow[((beside[direction] == nearer) & (nearer >= 0) & (nearer < NEVER - 1)).ravel()] = direction
        steps = [columns, -1, 1, -columns]
        here, visit = start, NEVER if start is None else int(self.arrives[start])
        while here is not None and visit < NEVER and here != goal:
            self.marked[here] = visit
            here, visit = here + steps[self.arrow[here]], visit + 1
        self.ends = visit - 1
        """The visit of the last mark."""
