"""A puzzle of your own: nonograms of 5x5 cells, whose clues stand in cells of their own. docs/your-own-task.md uses it.

hrm train gym-kakurasu --task.kind examples/nonogram.py:Nonogram --out runs/nonogram
hrm solve runs/nonogram puzzles.csv --task examples/nonogram.py:Nonogram
"""

from itertools import groupby, product

import numpy as np

import hrm

SIDE, ROOM = 5, 3
"""Cells of a side, and of the clues before it: no line of 5 has more than 3 runs."""
OUTSIDE, BLANK, FILLED, EMPTY, ZERO = range(1, 6)
"""Tokens; then come 1 to 5."""


def runs(line: np.ndarray) -> list[int]:
    """The lengths of the runs of filled cells in a line: what its clues say, [0] where there is none."""
    return [len(list(cells)) for filled, cells in groupby(line == FILLED) if filled] or [0]


LINES = [np.array(line) for line in product((FILLED, EMPTY), repeat=SIDE)]


class Nonogram(hrm.Task):
    """Fill cells so that the runs in every row and column are as long as its clues say, in their order."""

    verifies = True
    outside, blank = OUTSIDE, BLANK

    def __init__(self) -> None:
        super().__init__(ROOM + SIDE, ROOM + SIDE, "?-.#x012345")
        self.symbols = range(FILLED, EMPTY + 1)

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Givens that changed, cells neither filled nor empty, and the clues of lines that do not keep them."""
        asked, told = question.reshape(self.shape), answer.reshape(self.shape)
        wrong = (told != asked) & (asked != BLANK)
        inner = told[ROOM:, ROOM:]
        wrong[ROOM:, ROOM:] |= (inner != FILLED) & (inner != EMPTY)
        for i in range(SIDE):
            wrong[ROOM + i, :ROOM] |= runs(inner[i]) != self.clue(asked[ROOM + i, :ROOM])
            wrong[:ROOM, ROOM + i] |= runs(inner[:, i]) != self.clue(asked[:ROOM, ROOM + i])
        return wrong.ravel()

    def judge(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Several answers may be right, so that the label does not judge."""
        return self.verify(question, answer)

    def check(self, question: np.ndarray) -> None:
        """PuzzleError where a line has no filling that keeps its clues and givens."""
        super().check(question)
        board = question.reshape(self.shape)
        for where, each in (("row", board), ("column", board.T)):
            for number, line in enumerate(each[ROOM:], 1):
                clue, given = self.clue(line[:ROOM]), line[ROOM:]
                fits = (runs(full) == clue and np.isin(given, (BLANK, *full)).all() for full in LINES)
                if not any(fits):
                    raise hrm.PuzzleError(f"nothing fits the clues of {where} {number}")

    def generate(self, rng: np.random.Generator) -> hrm.Puzzle:
        """A random picture and the clues that it has."""
        return self.puzzle(np.where(rng.random((SIDE, SIDE)) < 0.6, FILLED, EMPTY))

    def puzzle(self, picture: np.ndarray) -> hrm.Puzzle:
        """The puzzle [cells] whose answer is this picture [SIDE, SIDE]."""
        board = np.full(self.shape, OUTSIDE, np.uint8)
        for i in range(SIDE):
            across, down = runs(picture[i]), runs(picture[:, i])
            board[ROOM + i, ROOM - len(across) : ROOM] = np.array(across) + ZERO
            board[ROOM - len(down) : ROOM, ROOM + i] = np.array(down) + ZERO
        answer = board.copy()
        board[ROOM:, ROOM:], answer[ROOM:, ROOM:] = BLANK, picture
        return hrm.Puzzle(board.ravel(), answer.ravel())

    def clue(self, cells: np.ndarray) -> list[int]:
        """The numbers before a line."""
        return (cells[cells >= ZERO].astype(int) - ZERO).tolist()

    # Rows become columns: the one symmetry that needs no new clues.

    uniforms = 1
    boards = np.arange((ROOM + SIDE) ** 2).reshape(ROOM + SIDE, ROOM + SIDE)
    sources = np.stack([boards.ravel(), boards.T.ravel()])

    def symmetries(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The board as it is or transposed, for each row; no token changes its name."""
        names = np.tile(np.arange(len(self.names)), (len(uniforms), 1))
        return self.sources[(uniforms[:, 0] < 0.5).astype(int)], names

    def canonical(self, puzzle: hrm.Puzzle) -> bytes:
        """The smaller of the two."""
        return min(puzzle.question[source].tobytes() for source in self.sources)
