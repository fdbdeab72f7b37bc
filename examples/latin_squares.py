"""A task of your own, explained in docs/your-own-task.md: python examples/latin_squares.py"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

import hrm
from hrm.tasks import Puzzle, PuzzleError
from hrm.tasks.grid import Grid
from hrm.training.session import train


class LatinSquare(Grid):
    """Every row and every column holds each digit once. Tokens: 0 padding, 1 blank, 2 and up the digits."""

    name = "latin square"
    verifies = True

    def __init__(self, n: int):
        super().__init__(n, n, vocabulary=n + 2)
        self.vocabulary, self.symbols = "?.123456789"[: n + 2], range(2, n + 2)

    def format(self, tokens: np.ndarray) -> str:
        return "".join(self.vocabulary[token] for token in tokens.tolist())

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        square = answer.reshape(self.shape)
        lines = np.sort(np.concatenate([square, square.T]))
        return bool(((question == 1) | (question == answer)).all() and (lines == np.array(self.symbols)).all())

    def check(self, question: np.ndarray) -> None:
        square = question.reshape(self.shape)
        for given in (line[line > 1].tolist() for line in (*square, *square.T)):
            if len(set(given)) < len(given):
                raise PuzzleError("a digit stands twice in a row or column")
        if len(list(islice(completions(square), 2))) != 1:
            raise PuzzleError("it has no solution or several")

    def generate(self, rng: np.random.Generator) -> Puzzle:
        answer = next(completions(np.ones(self.shape, np.uint8), rng)).ravel()
        while True:
            question = np.where(rng.random(answer.size) < 0.6, np.uint8(1), answer)
            with suppress(PuzzleError):
                self.check(question)
                return Puzzle(question, answer)

    def canonical(self, puzzle: Puzzle) -> bytes:
        blank = (puzzle.question == 1).reshape(self.shape)
        lines = sorted([sorted(blank.sum(0)), sorted(blank.sum(1))])
        return bytes([*lines[0], *lines[1], *sorted(np.bincount(puzzle.question, minlength=len(self.vocabulary))[2:])])


def completions(square: np.ndarray, rng: np.random.Generator | None = None) -> Iterator[np.ndarray]:
    """All ways to fill the blanks, beginning with the cell that has the fewest options."""
    options = {
        (row, column): set(range(2, len(square) + 2)) - {*square[row], *square[:, column]}
        for row, column in zip(*np.nonzero(square == 1), strict=True)
    }
    if not options:
        yield square
        return
    cell, digits = min(options.items(), key=lambda item: len(item[1]))
    for digit in sorted(digits) if rng is None else rng.permutation(sorted(digits)):
        filled = square.copy()
        filled[cell] = digit
        yield from completions(filled, rng)


task = LatinSquare(5)
preset = hrm.load_preset("sudoku-4x4")
config = replace(preset, task=replace(preset.task, puzzles=1000, holdout=200), train=replace(preset.train, steps=200))
train(config, Path("runs/latin"), task=task)

run = hrm.load("runs/latin", task=task)
print(run.solve("3....4.32....4..4.31..2..").answer)
