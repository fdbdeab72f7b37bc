"""Any grid-to-grid data set: no rules known, so nothing is generated, augmented or verified."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters, digits
from typing import TYPE_CHECKING

import numpy as np

from hrm.files.reading import UserError, quoted
from hrm.puzzles.tasks import Puzzle, PuzzleError, Symmetry

if TYPE_CHECKING:
    from rich.console import RenderableType

LETTERS = digits + ascii_letters
"""The characters of the first 62 tokens."""


class Grid:
    """Grids of `rows` x `cols` tokens below `vocabulary`; token 0 is padding."""

    name = "grid"
    uniforms = 0
    verifies = False

    def __init__(self, rows: int, cols: int, vocabulary: int):
        if min(rows, cols) < 1:
            raise UserError(f"a grid of {rows} x {cols} is not possible (--task.size): use at least 1 1")
        if not 2 <= vocabulary <= 1_000_000:
            raise UserError(
                f"a vocabulary of {vocabulary} is not possible (--task.vocabulary): use 2 to 1000000 tokens"
            )
        self.shape = rows, cols
        # Beyond the letters one character each from a plane without white space, so that a token has a character.
        self.vocabulary = (LETTERS + "".join(chr(0x10000 + i) for i in range(vocabulary - len(LETTERS))))[:vocabulary]
        self.symbols = range(1, vocabulary)
        self.groups = np.indices(self.shape).reshape(2, -1)
        self._dtype = np.uint8 if vocabulary <= 256 else np.int32

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] (int32 for more than 256 tokens): numbers between white space, or one character per token."""
        cells = self.groups.shape[1]
        fields = text.split()
        if len(fields) == cells and all(field.isdecimal() for field in fields):
            tokens = [int(field[:20]) for field in fields]  # more digits are no token either
        else:
            fields = list("".join(fields))
            tokens = [self.vocabulary.find(field) for field in fields]
        if len(tokens) != cells:
            raise PuzzleError(f"expected {cells} numbers or characters, {self.shape[0]} rows, got {len(tokens)}")
        for at, token in enumerate(tokens):
            if not 0 <= token < len(self.vocabulary):
                row, column = divmod(at, self.shape[1])
                place = f"row {row + 1}, column {column + 1}"
                raise PuzzleError(f"{quoted(fields[at])} at {place} is not a token below {len(self.vocabulary)}")
        return np.array(tokens, self._dtype)

    def format(self, tokens: np.ndarray) -> str:
        """Numbers separated by spaces, row after row."""
        return " ".join(map(str, tokens.tolist()))

    def check(self, question: np.ndarray) -> None:
        """PuzzleError for a wrong number of cells or a token out of range: all that can be said without rules."""
        if question.shape != self.groups.shape[1:] or question.min() < 0 or question.max() >= len(self.vocabulary):
            raise PuzzleError(f"expected {self.groups.shape[1]} tokens below {len(self.vocabulary)}")

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """False: no rule tells a right answer from a wrong one."""
        return False

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """UserError: only data says what the puzzles are."""
        raise UserError("a grid task has no generator: give your data set with --data PATH")

    def augment(
        self, questions: np.ndarray, answers: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The arrays as they are: no symmetry is known."""
        return questions, answers

    def view(self, uniforms: np.ndarray) -> Symmetry:
        """The puzzle as it is: no symmetry is known."""
        return Symmetry(np.arange(self.groups.shape[1]), np.arange(len(self.vocabulary)))

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The question's own bytes."""
        return puzzle.question.astype(np.int32).tobytes()

    def draw(
        self, question: np.ndarray, answer: np.ndarray | None = None, marked: Sequence[int] = ()
    ) -> RenderableType:
        """The tokens row by row, padding as '.', `marked` cells red and followed by '!'."""
        from rich.text import Text

        shown, wrong, text = question if answer is None else answer, set(marked), Text(no_wrap=True)
        for cell, token in enumerate(shown.tolist()):
            character = self.vocabulary[token] if token else "."
            text.append(character + ("!" if cell in wrong else " "), "bold red" if cell in wrong else "")
            if (cell + 1) % self.shape[1] == 0 and cell + 1 < len(shown):
                text.append("\n")
        return text
