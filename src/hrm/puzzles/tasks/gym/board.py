"""A board of Reasoning Gym: a grid whose tokens have names, some cells of which have a meaning of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.tasks import Puzzle, PuzzleError, Symmetry
from hrm.puzzles.tasks.grid import LETTERS, Grid
from hrm.puzzles.tasks.gym.source import Number, Source

if TYPE_CHECKING:
    from rich.console import RenderableType

OUTSIDE, BLANK = "-", "."
"""Names of a cell that is no part of the puzzle, and of one that the answer fills in."""
TRIES = 1000
"""Entries looked at before a dataset is said to have none that fits."""


class Board(Grid):
    """What the datasets share: names of tokens, text form, symmetries, drawing.

    A subclass says how an entry is laid out. It has rules only if `verifies`: then `conflicts` finds the cells that
    break one, and an answer without any is right.
    """

    dataset: ClassVar[str]
    defaults: ClassVar[Mapping[str, Number]]
    """Reasoning Gym's own."""
    aliases: ClassVar[Mapping[str, str]] = {"_": BLANK}
    """Other characters that `parse` reads as a token."""

    def __init__(self, options: Mapping[str, Number], rows: Number, cols: Number, names: Sequence[str]):
        if not 1 <= min(rows, cols) <= max(rows, cols) <= 64:
            size = f"{rows} x {cols} cells"
            raise UserError(f"{self.dataset} of {size} is not possible (--task.gym-options): use 1 to 64 a side")
        super().__init__(int(rows), int(cols), len(names) + 1)
        self.name = self.dataset
        self.names = ["?", *names]
        self.vocabulary = "".join(_character(name, token) for token, name in enumerate(self.names))
        self.token = {name: token for token, name in enumerate(self.names)}
        self.outside, self.blank = self.token[OUTSIDE], self.token[BLANK]
        self.options = options
        self.source = Source(self.dataset, options)
        self._known = {c: t for t, c in enumerate(self.vocabulary)} | self.token
        self._known |= {alias: self.token[name] for alias, name in self.aliases.items()}
        self._symmetries([np.arange(self.shape[0] * self.shape[1])], [np.arange(len(self.names))])

    def lay(self, entry: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Question and answer [rows, cols] of an entry."""
        raise NotImplementedError

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """What Reasoning Gym makes for a random number; the rating counts its blanks. UserError if not installed."""
        for _ in range(TRIES):
            try:
                laid = self.lay(self.source.draw(rng))
            except RuntimeError:  # a dataset's own search for a puzzle gave up
                continue
            question, answer = (grid.ravel().astype(self._dtype) for grid in laid)
            return Puzzle(question, answer, int((question == self.blank).sum()))
        raise UserError(f"Reasoning Gym made no {self.dataset} puzzle in {TRIES} tries: change --task.gym-options")

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells]: names between white space, or one character per cell (A is 10, Z 35, a 36)."""
        (rows, cols), words = self.shape, text.split()
        fields = words if len(words) == rows * cols else list("".join(words))
        if len(fields) != rows * cols:
            found = f"{len(words)} words or {len(fields)} characters"
            raise PuzzleError(f"expected {rows * cols} cells, {rows} rows of {cols}, got {found}")
        for at, field in enumerate(fields):
            if self._known.get(field, 0) == 0:
                raise PuzzleError(f"'{field}' at {self._place(at)} is none of {self._some_names()}")
        return np.array([self._known[field] for field in fields], self._dtype)

    def format(self, tokens: np.ndarray) -> str:
        """One character per cell, or names between spaces where one is longer."""
        names = [self.names[token] for token in tokens.tolist()]
        return (" " if max(map(len, self.names)) > 1 else "").join(names)

    def check(self, question: np.ndarray) -> None:
        """PuzzleError where a cell holds what cannot stand there, or no answer exists as far as the rules tell."""
        super().check(question)
        self.extent(question)
        wrong = np.flatnonzero(~self.allowed()[np.arange(question.size), question])
        if wrong.size:
            at = int(wrong[0])
            raise PuzzleError(f"'{self.names[question[at]]}' cannot stand at {self._place(at)}")

    def allowed(self) -> np.ndarray:
        """[cells, tokens] bool: what a cell of a question may hold."""
        return np.tile(np.arange(len(self.names)) > 0, (self.groups.shape[1], 1))

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """[cells] bool: cells of an answer that contradict the question or break a rule; none without rules."""
        return np.zeros(question.shape, bool)

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether no cell breaks a rule; False for a dataset without rules."""
        return self.verifies and answer.shape == question.shape and not self.conflicts(question, answer).any()

    def augment(
        self, questions: np.ndarray, answers: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One of the symmetries per row."""
        if not self.uniforms:
            return questions, answers
        which = self._drawn(uniforms)
        source, names = self._sources[which], self._renamings[which]

        def moved(grids: np.ndarray) -> np.ndarray:
            cells = np.take_along_axis(grids, source, axis=1)
            renamed = np.take_along_axis(names, np.maximum(cells, 0).astype(np.int64), axis=1)
            return np.where(cells < 0, cells, renamed).astype(grids.dtype)  # below 0: labels that do not count

        return moved(questions), moved(answers)

    def view(self, uniforms: np.ndarray) -> Symmetry:
        """The symmetry that `augment` applies for the same number."""
        which = int(self._drawn(uniforms[None])[0]) if self.uniforms else 0
        return Symmetry(self._sources[which], self._renamings[which])

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The smallest image of the question; several answers may be right, so that they do not count."""
        images = np.take_along_axis(self._renamings, puzzle.question[self._sources].astype(np.int64), axis=1)
        return min(image.tobytes() for image in images.astype(np.uint16))

    def draw(
        self, question: np.ndarray, answer: np.ndarray | None = None, marked: Sequence[int] = ()
    ) -> RenderableType:
        """The names row by row, cells outside of the puzzle empty, `marked` cells red and followed by '!'."""
        from rich.text import Text

        shown, wrong, text = question if answer is None else answer, set(marked), Text(no_wrap=True)
        names = ["" if token in (0, self.outside) else self.names[token] for token in shown.tolist()]
        width = max(map(len, names))
        for cell, name in enumerate(names):
            style = "bold red" if cell in wrong else "bold" if question[cell] not in (self.blank, 0) else ""
            text.append(name.rjust(width) + ("!" if cell in wrong else " "), style)
            if (cell + 1) % self.shape[1] == 0 and cell + 1 < len(names):
                text.append("\n")
        return text

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

    def numbers(self, values: Any) -> np.ndarray:
        """The tokens of whole numbers, or of a grid of them."""
        return np.vectorize(lambda value: self.token[str(value)], otypes=[np.int64])(np.array(values))

    def _symmetries(self, sources: Sequence[np.ndarray], renamings: Sequence[np.ndarray]) -> None:
        self._sources, self._renamings = np.stack(sources), np.stack(renamings)
        self.uniforms = int(len(sources) > 1)

    def _drawn(self, uniforms: np.ndarray) -> np.ndarray:
        return (uniforms[:, 0] * len(self._sources)).astype(np.int64)

    def _place(self, cell: int) -> str:
        return f"row {cell // self.shape[1] + 1}, column {cell % self.shape[1] + 1}"

    def _some_names(self) -> str:
        names = self.names[1:]
        return " ".join(names if len(names) < 20 else [*names[:10], "...", names[-1]])


def turned(board: np.ndarray) -> list[tuple[np.ndarray, bool, bool, bool]]:
    """The 8 symmetries of a square, 4 of a rectangle: where each cell comes from, and whether the board was transposed,
    then turned upside down, then mirrored."""
    found = []
    for transposed in (False, True) if board.shape[0] == board.shape[1] else (False,):
        for upside_down in (False, True):
            for mirrored in (False, True):
                seen = board.T if transposed else board
                seen = seen[::-1] if upside_down else seen
                seen = seen[:, ::-1] if mirrored else seen
                found.append((seen.ravel(), transposed, upside_down, mirrored))
    return found


def _character(name: str, token: int) -> str:
    """One character for a token: its name, or a letter for a number of two digits."""
    if len(name) == 1:
        return name
    return LETTERS[int(name)] if int(name) < len(LETTERS) else chr(0x10000 + token)
