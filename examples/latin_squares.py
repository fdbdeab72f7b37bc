"""A puzzle of your own: Latin squares. docs/your-own-task.md explains each part."""

from dataclasses import replace
from pathlib import Path

import numpy as np

import hrm
from hrm.puzzles.tasks import Puzzle
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.training.session import train


class LatinSquare(Grid):
    """Every row and every column holds each digit once. Tokens: 0 padding, 1 blank, 2 and up the digits."""

    name = "latin square"
    verifies = True

    def __init__(self, n: int):
        super().__init__(n, n, vocabulary=n + 2)
        self.vocabulary, self.symbols = "?.123456789"[: n + 2], range(2, n + 2)

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        square = answer.reshape(self.shape)
        lines = np.sort(np.concatenate([square, square.T]))
        return bool(((question == 1) | (question == answer)).all() and (lines == np.array(self.symbols)).all())

    judge = verify  # a question may have several right answers, so the one it was made from does not judge

    def generate(self, rng: np.random.Generator) -> Puzzle:
        n = len(self.symbols)
        square = (rng.permutation(n)[:, None] + rng.permutation(n)) % n
        answer = rng.permutation(self.symbols)[square].ravel().astype(np.uint8)
        return Puzzle(np.where(rng.random(n * n) < 0.4, np.uint8(1), answer), answer)


task = LatinSquare(5)
preset = hrm.load_preset("sudoku-4x4")
train(replace(preset, train=replace(preset.train, steps=200)), Path("runs/latin"), task=task)
print(hrm.load("runs/latin", task=task).solve("3....4.32....4..4.31..2..").answer)
