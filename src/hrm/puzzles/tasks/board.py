"""A board: a grid some cells of which have a meaning of their own, and which a smaller puzzle need not fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from hrm.puzzles.tasks.puzzle import Puzzle, PuzzleError
from hrm.puzzles.tasks.task import Task

OUTSIDE, BLANK = "-", "."
"""Names of a cell that is no part of the puzzle, and of one that the answer fills in."""


class Board(Task):
    """A task with cells outside of the puzzle, a rule for what each cell of a question may hold, and listed symmetries.
    Where it verifies, an answer without any of its `conflicts` is right."""

    aliases: ClassVar[Mapping[str, str]] = {"_": BLANK}
    blank: int

    def __init__(self, rows: int, cols: int, names: Sequence[str]) -> None:
        """`names` of the tokens without the padding; OUTSIDE and BLANK are among them."""
        super().__init__(rows, cols, ["?", *names])
        self.token = {name: token for token, name in enumerate(self.names)}
        self.outside, self.blank = self.token[OUTSIDE], self.token[BLANK]
        self.list_symmetries([np.arange(self.cells)])

    def check(self, question: np.ndarray) -> None:
        """PuzzleError where a cell holds what cannot stand there, or no answer exists as far as the rules tell."""
        super().check(question)
        self.extent(question)
        wrong = np.flatnonzero(~self.allowed()[np.arange(question.size), question])
        if wrong.size:
            at = int(wrong[0])
            raise PuzzleError(f"'{self.names[question[at]]}' cannot stand at {self.place(at)}")

    def allowed(self) -> np.ndarray:
        """[cells, tokens] bool: what a cell of a question may hold."""
        return np.tile(np.arange(len(self.names)) > 0, (self.cells, 1))

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The smallest image of the question; several answers may be right, so that they do not count."""
        images = np.take_along_axis(self._renamings, puzzle.question[self._sources].astype(np.int64), axis=1)
        return min(image.tobytes() for image in images.astype(np.uint16))

    def list_symmetries(self, sources: Sequence[np.ndarray], renamings: Sequence[np.ndarray] = ()) -> None:
        """Make these all its symmetries: where each cell comes from, and the new name of each token if any changes."""
        same = [np.arange(len(self.names))] * len(sources)
        self._sources, self._renamings = np.stack(sources), np.stack(renamings or same)
        self.uniforms = int(len(sources) > 1)

    def turn(self) -> None:
        """Make all turns and reflections of the board its symmetries."""
        self.list_symmetries([source for source, *_ in turned(np.arange(self.cells).reshape(self.shape))])

    def symmetries(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One of those that are listed for each row."""
        if not self.uniforms:
            return super().symmetries(uniforms)
        which = (uniforms[:, 0] * len(self._sources)).astype(np.int64)
        return self._sources[which], self._renamings[which]

    def inner(self, board: np.ndarray) -> np.ndarray:
        """The cells of a board [rows, cols] that a smaller puzzle fills from the top left corner."""
        return board

    def extent(self, question: np.ndarray) -> tuple[int, int]:
        """How many rows and columns of the inner cells a puzzle fills; PuzzleError if they are no rectangle."""
        inside = self.inner(question.reshape(self.shape)) != self.outside
        rows, cols = int(inside[:, 0].sum()), int(inside[0].sum())
        if not inside[:rows, :cols].all() or inside.sum() != rows * cols or not rows * cols:
            raise PuzzleError(f"the cells other than '{OUTSIDE}' are no rectangle in the top left corner")
        return rows, cols

    def empty(self) -> np.ndarray:
        """A board [rows, cols] with nothing on it."""
        return np.full(self.shape, self.outside)

    def numbers(self, values: ArrayLike) -> np.ndarray:
        """The tokens of whole numbers, or of a grid of them."""
        return np.vectorize(lambda value: self.token[str(value)], otypes=[np.int64])(np.array(values))


def turned(board: np.ndarray) -> list[tuple[np.ndarray, bool, bool, bool]]:
    """The 8 symmetries of a square, 4 of a rectangle: where each cell comes from, and whether the board was transposed,
    then turned upside down, then mirrored."""
    found, square = [], board.shape[0] == board.shape[1]
    for transposed, upside_down, mirrored in product((False, True)[: 1 + square], (False, True), (False, True)):
        seen = board.T if transposed else board
        seen = seen[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        found.append((seen.ravel(), transposed, upside_down, mirrored))
    return found
