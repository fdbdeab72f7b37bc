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

    def __init__(self, open_: np.ndarray, start: int, goal: int) -> None:
        """`open_` [rows, cols] bool: all but walls."""
        search = MazeSearch(open_)
        self.arrives, self.arrow, self.marked = (np.full(open_.size, value) for value in (NEVER, -1, NEVER))
        """[cells] the visit of the arrow, its direction (an index of down, left, right, up) and the visit of the
        mark."""
        for visit, wave in enumerate(search.waves(goal)):
            self.arrives[search.cells(wave)] = visit
        distance = np.pad(self.arrives.reshape(open_.shape), 1, constant_values=NEVER)
        nearer = self.arrives.reshape(open_.shape) - 1
        beside = [distance[2:, 1:-1], distance[1:-1, :-2], distance[1:-1, 2:], distance[:-2, 1:-1]]
        for direction in (3, 2, 1, 0):
            self.arrow[(beside[direction] == nearer).ravel()] = direction
        path = search.path(start, goal)  # the arrows' own: both put down before left, right and up
        self.marked[path] = 2 * self.arrives[start] - self.arrives[path]
        self.ends = int(self.marked[path].max(initial=0))
        """The visit of the last mark."""
