"""A puzzle of your own: Latin squares. docs/your-own-task.md explains each part."""

import numpy as np

import hrm


class LatinSquare(hrm.Task):
    """Every row and every column holds each digit once."""

    name = "latin square"
    verifies = True
    blank = 1

    def __init__(self, n: int = 5):
        super().__init__(n, n, "?.123456789"[: n + 2])
        self.symbols = range(2, n + 2)

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        square = answer.reshape(self.shape)
        lines = np.sort(np.concatenate([square, square.T]))
        return bool(((question == 1) | (question == answer)).all() and (lines == np.array(self.symbols)).all())

    judge = verify  # a question may have several right answers, so the one it was made from does not judge

    def generate(self, rng: np.random.Generator) -> hrm.Puzzle:
        n = len(self.symbols)
        square = (rng.permutation(n)[:, None] + rng.permutation(n)) % n
        answer = rng.permutation(self.symbols)[square].ravel().astype(np.uint8)
        return hrm.Puzzle(np.where(rng.random(n * n) < 0.4, np.uint8(1), answer), answer)
