"""Any grid-to-grid data set: no rules known, so nothing is generated, augmented or verified."""

from __future__ import annotations

from typing import Self

import numpy as np

from hrm.files.reading import UserError, quoted
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks.puzzle import PuzzleError
from hrm.puzzles.tasks.task import LETTERS, Task


class Grid(Task):
    """Grids of `rows` x `cols` tokens below `vocabulary`; token 0 is padding."""

    name = "grid"

    def __init__(self, rows: int, cols: int, vocabulary: int):
        if min(rows, cols) < 1:
            raise UserError(f"a grid of {rows} x {cols} is not possible (--task.size): use at least 1 1")
        if not 2 <= vocabulary <= 1_000_000:
            wrong = f"a vocabulary of {vocabulary} is not possible (--task.vocabulary)"
            raise UserError(f"{wrong}: use 2 to 1000000 tokens")
        super().__init__(rows, cols, LETTERS[:vocabulary])
        if vocabulary > len(LETTERS):
            self.names, self.symbols = [str(token) for token in range(vocabulary)], range(1, vocabulary)
            # Beyond the letters one character each from a plane without white space.
            self.vocabulary += "".join(chr(0x10000 + i) for i in range(vocabulary - len(LETTERS)))

    @classmethod
    def of(cls, config: TaskConfig) -> Self:
        """One of the size and vocabulary of the settings."""
        return cls(*config.size, vocabulary=config.vocabulary)

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] (int32 for more than 256 tokens): numbers between white space, or one character per token."""
        fields = text.split()
        if len(fields) == self.cells and all(field.isdecimal() for field in fields):
            tokens = [int(field[:20]) for field in fields]  # more digits are no token either
        else:
            fields = list("".join(fields))
            tokens = [self.vocabulary.find(field) for field in fields]
        if len(tokens) != self.cells:
            raise PuzzleError(f"expected {self.cells} numbers or characters, {self.shape[0]} rows, got {len(tokens)}")
        for at, token in enumerate(tokens):
            if not 0 <= token < len(self.vocabulary):
                place = f"{quoted(fields[at])} at {self.place(at)}"
                raise PuzzleError(f"{place} is not a token below {len(self.vocabulary)}")
        return np.array(tokens, self.dtype)

    def format(self, tokens: np.ndarray) -> str:
        """Numbers separated by spaces, row after row."""
        return " ".join(map(str, tokens.tolist()))

    def paint(self, token: int, given: bool, wrong: bool) -> tuple[str, str]:
        """The token as one character, padding as '.'; red and followed by '!' where it is wrong."""
        return (self.vocabulary[token] if token else ".") + ("!" if wrong else " "), "bold red" if wrong else ""
