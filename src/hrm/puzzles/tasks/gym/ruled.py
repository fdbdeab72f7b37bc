"""Datasets whose scorer's verdict follows from rules that need the question only: their answers are verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import ClassVar

import numpy as np

from hrm.puzzles.tasks.board import BLANK, OUTSIDE, turned
from hrm.puzzles.tasks.gym.dataset import Dataset, Entry, Number
from hrm.puzzles.tasks.puzzle import PuzzleError

GUESSES = 50_000
"""Guesses after which `check` gives up: some seconds."""


class NQueens(Dataset):
    """Complete a board of n queens, none of which attacks another. Often several answers are right."""

    dataset = "n_queens"
    defaults: ClassVar[Mapping[str, Number]] = {"n": 8, "min_remove": 1, "max_remove": 7}
    verifies = True

    def __init__(self, options: Mapping[str, Number]):
        super().__init__(options, options["n"], options["n"], [OUTSIDE, BLANK, "Q"])
        self.n, self.queen = self.shape[0], self.token["Q"]
        self.turn()
        row, column = np.divmod(np.arange(self.n**2), self.n)
        self._lines = np.stack([row, column, row + column, row - column + self.n - 1])

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        boards = entry["metadata"]["puzzle"], [line.split() for line in entry["answer"].splitlines()]
        question, answer = (np.where(np.array(board) == "Q", self.queen, self.blank) for board in boards)
        return question, answer

    def allowed(self) -> np.ndarray:
        return np.tile(np.isin(np.arange(len(self.names)), (self.blank, self.queen)), (self.n**2, 1))

    def check(self, question: np.ndarray) -> None:
        """PuzzleError where two queens attack each other or the others have no place."""
        super().check(question)
        if self.conflicts(question, question).any():
            raise PuzzleError("two of the queens attack each other")
        placed = np.argwhere((question == self.queen).reshape(self.shape)).tolist()
        if not self._completes({row: column for row, column in placed}):
            raise PuzzleError("the other queens have no place")

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """A queen that shares a row, column or diagonal with another, a given one that is gone, any other token."""
        queens = answer == self.queen
        wrong = ((question == self.queen) & ~queens) | ~(queens | (answer == self.blank))
        for labels in self._lines:
            wrong |= queens & (np.bincount(labels, queens)[labels] > 1)
        return wrong

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether there are n queens, the given ones among them, and none attacks another."""
        return super().verify(question, answer) and int((answer == self.queen).sum()) == self.n

    def judge(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """A second reading of the rules, apart from `verify`, since a label is only one of several right answers."""
        text, given = (self.format(tokens) for tokens in (answer, question))
        at = [divmod(i, self.n) for i, character in enumerate(text) if character == "Q"]
        lines = [{r for r, _ in at}, {c for _, c in at}, {r + c for r, c in at}, {r - c for r, c in at}]
        kept = all(a == "Q" for a, q in zip(text, given, strict=True) if q == "Q")
        return kept and set(text) <= {"Q", BLANK} and len(at) == self.n == min(map(len, lines))

    def _completes(self, placed: dict[int, int]) -> bool:
        if len(placed) == self.n:
            return True
        row = next(row for row in range(self.n) if row not in placed)
        return any(
            self._completes(placed | {row: column})
            for column in range(self.n)
            if all(column != c and abs(column - c) != abs(row - r) for r, c in placed.items())
        )


class Kakurasu(Dataset):
    """0 or 1 in every cell; the ones of a row weigh 1, 2, 3, ... from the left, those of a column from the top, and the
    weights sum to the numbers at the right and at the bottom."""

    dataset = "kakurasu"
    defaults: ClassVar[Mapping[str, Number]] = {
        "min_rows": 4, "max_rows": 5, "min_cols": 4, "max_cols": 5, "p_ones": 0.3, "max_retries": 1000
    }  # fmt: skip
    verifies = True

    def __init__(self, options: Mapping[str, Number]):
        rows, cols = int(options["max_rows"]), int(options["max_cols"])
        largest = max(side * (side + 1) // 2 for side in (rows, cols))
        super().__init__(options, rows + 1, cols + 1, [OUTSIDE, BLANK, *map(str, range(largest + 1))])
        self.zero, self.one = self.numbers([0, 1]).tolist()
        if rows == cols and options["min_rows"] == options["min_cols"]:
            cells = np.arange((rows + 1) ** 2).reshape(self.shape)
            self.list_symmetries([cells.ravel(), cells.T.ravel()])

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        facts = entry["metadata"]
        rows, cols = facts["n_rows"], facts["n_cols"]
        question = self.empty()
        question[:rows, -1], question[-1, :cols] = self.numbers(facts["row_sums"]), self.numbers(facts["col_sums"])
        answer = question.copy()
        question[:rows, :cols], answer[:rows, :cols] = self.blank, self.numbers(facts["solution"])
        return question, answer

    def inner(self, board: np.ndarray) -> np.ndarray:
        return board[:-1, :-1]

    def allowed(self) -> np.ndarray:
        tokens = np.arange(len(self.names))
        allowed = np.zeros((*self.shape, len(tokens)), bool)
        allowed[:-1, :-1] = np.isin(tokens, (self.outside, self.blank, self.zero, self.one))
        allowed[:-1, -1] = allowed[-1, :-1] = tokens != self.blank
        allowed[-1, -1] = tokens == self.outside
        return allowed.reshape(-1, len(tokens)) & (tokens > 0)

    def check(self, question: np.ndarray) -> None:
        """PuzzleError where a sum is missing or no answer has these sums."""
        super().check(question)
        (rows, cols), board = self.extent(question), question.reshape(self.shape)
        for what, sums, count in (("row", board[:-1, -1], rows), ("column", board[-1, :-1], cols)):
            if not np.array_equal(sums != self.outside, np.arange(len(sums)) < count):
                raise PuzzleError(f"expected a sum for each {what} of cells, and for no other {what}")
        self._search(board[:rows, :cols], *self._targets(question))

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Cells that are neither 0 nor 1, givens and sums that changed, and sums that are not met."""
        rows, cols = self.extent(question)
        fill = np.zeros(self.shape, bool)
        fill[:rows, :cols] = question.reshape(self.shape)[:rows, :cols] == self.blank
        board, fill = answer.reshape(self.shape), fill.ravel()
        wrong = np.where(fill, (answer != self.zero) & (answer != self.one), answer != question).reshape(self.shape)
        ones = board[:rows, :cols] == self.one
        row_sums, col_sums = self._targets(question)
        wrong[:rows, -1] |= ones @ np.arange(1, cols + 1) != row_sums
        wrong[-1, :cols] |= np.arange(1, rows + 1) @ ones != col_sums
        return wrong.ravel()

    def judge(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """A second reading of the rules, apart from `verify`, for puzzles with several right answers."""
        asked, told = (np.array([self.names[t] for t in x.tolist()]).reshape(self.shape) for x in (question, answer))
        across, down = [0] * self.shape[0], [0] * self.shape[1]
        for (row, column), name in np.ndenumerate(told):
            if asked[row, column] != BLANK:
                if name != asked[row, column]:
                    return False
            elif name not in ("0", "1"):
                return False
            if name == "1" and row < self.shape[0] - 1 and column < self.shape[1] - 1:
                across[row] += column + 1
                down[column] += row + 1
        rows_meet = all(told[r, -1] in (OUTSIDE, str(across[r])) for r in range(self.shape[0]))
        return rows_meet and all(told[-1, c] in (OUTSIDE, str(down[c])) for c in range(self.shape[1]))

    def _targets(self, question: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The sums of the rows and of the columns."""
        (rows, cols), board = self.extent(question), question.reshape(self.shape) - self.zero
        return board[:rows, -1], board[-1, :cols]

    def _search(self, cells: np.ndarray, row_sums: np.ndarray, col_sums: np.ndarray) -> None:
        """PuzzleError unless there is an answer: row by row, with what is left of the columns' sums."""
        rows, cols = cells.shape
        patterns = np.array(list(product((0, 1), repeat=cols)))
        heads = patterns @ np.arange(1, cols + 1)
        left = {tuple(col_sums.tolist())}
        for row in range(rows):
            fits = heads == row_sums[row]
            for value, token in ((0, self.one), (1, self.zero)):
                fits &= ~((patterns == value) & (cells[row] == token)).any(axis=1)
            below = sum(range(row + 2, rows + 1))
            weights = (row + 1) * patterns[fits]
            left = {
                tuple(rest)
                for before in left
                for rest in (np.array(before) - weights).tolist()
                if all(0 <= r <= below for r in rest)
            }
            if len(left) > GUESSES:
                raise PuzzleError(f"too many possibilities to check: undecided after {GUESSES}")
        if not left:
            raise PuzzleError("no answer has these sums")


class Futoshiki(Dataset):
    """Every row and column holds 1 to n once, and what stands between two cells says which is larger.

    Cells and signs alternate on the board: < and > between neighbours in a row, \u2227 (the upper is less) and \u2228
    between those in a column; `parse` reads ^ and v as well.
    """

    dataset = "futoshiki"
    defaults: ClassVar[Mapping[str, Number]] = {
        "min_board_size": 4, "max_board_size": 9, "min_difficulty": 0, "max_difficulty": 3
    }  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {**Dataset.aliases, "^": "\u2227", "v": "\u2228"}
    verifies = True

    def __init__(self, options: Mapping[str, Number]):
        n = int(options["max_board_size"])
        super().__init__(
            options, 2 * n - 1, 2 * n - 1, [OUTSIDE, BLANK, *map(str, range(1, n + 1)), "<", ">", "\u2227", "\u2228"]
        )
        self.first = self.token["1"]
        self.less, self.more, self.above, self.below = (self.token[sign] for sign in "<>\u2227\u2228")
        if options["min_board_size"] == n:
            self.list_symmetries(*zip(*self._all_symmetries(n), strict=True))

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        facts, question = entry["metadata"], self.empty()
        for row, column, row2, column2, sign in facts["constraints"]:
            signs = {"<": self.less, ">": self.more} if row == row2 else {"<": self.above, ">": self.below}
            question[row + row2, column + column2] = signs[sign]
        answer, n = question.copy(), facts["board_size"]
        puzzle = np.array(facts["puzzle"])
        question[: 2 * n : 2, : 2 * n : 2] = np.where(puzzle == 0, self.blank, puzzle + self.first - 1)
        answer[: 2 * n : 2, : 2 * n : 2] = np.array(facts["solution"]) + self.first - 1
        return question, answer

    def inner(self, board: np.ndarray) -> np.ndarray:
        return board[::2, ::2]

    def allowed(self) -> np.ndarray:
        tokens = np.arange(len(self.names))
        allowed = np.tile(tokens == self.outside, (*self.shape, 1))
        allowed[::2, ::2] |= (tokens == self.blank) | ((tokens >= self.first) & (tokens < self.less))
        allowed[::2, 1::2] |= np.isin(tokens, (self.less, self.more))
        allowed[1::2, ::2] |= np.isin(tokens, (self.above, self.below))
        return allowed.reshape(-1, len(tokens))

    def check(self, question: np.ndarray) -> None:
        """PuzzleError for givens that contradict one another, no solution or several; searches."""
        super().check(question)
        rows, cols = self.extent(question)
        n, digits = rows, self._digits(question)
        if rows != cols:
            raise PuzzleError(f"{rows} rows and {cols} columns of cells are no square")
        within = self.empty()
        within[: 2 * n - 1, : 2 * n - 1] = question.reshape(self.shape)[: 2 * n - 1, : 2 * n - 1]
        if digits.max() > n or not np.array_equal(within.ravel(), question):
            raise PuzzleError(f"a sign or digit does not belong to a puzzle of {n}x{n}")
        found = list(islice(_completions(digits[:n, :n], self._pairs(question, n)), 2))
        if len(found) != 1:
            raise PuzzleError("several solutions" if found else "no solution")

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """Cells without a digit, anything given that changed, digits twice in a row or column, and signs that lie."""
        n = self.extent(question)[0]
        wrong = ((question != answer) & (question != self.blank)).reshape(self.shape)
        cells = self._digits(answer)[:n, :n]
        bad = (cells < 1) | (cells > n)
        bad |= (cells[:, :, None] == cells[:, None, :]).sum(axis=2) > 1
        bad |= (cells[:, None, :] == cells[None, :, :]).sum(axis=1) > 1
        wrong[: 2 * n : 2, : 2 * n : 2] |= bad
        for (row, column), (row2, column2) in self._pairs(question, n):
            wrong[row + row2, column + column2] |= cells[row, column] >= cells[row2, column2]
        return wrong.ravel()

    def _digits(self, tokens: np.ndarray) -> np.ndarray:
        """The digits [n, n], 0 for anything else."""
        cells = self.inner(tokens.reshape(self.shape)).astype(np.int64)
        return np.where((cells >= self.first) & (cells < self.less), cells - self.first + 1, 0)

    def _pairs(self, question: np.ndarray, n: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """(smaller, larger) cells of each sign of a puzzle of n x n."""
        board, pairs = question.reshape(self.shape), []
        for row, column in np.argwhere(board[: 2 * n - 1, : 2 * n - 1] >= self.less).tolist():
            first, second = (row // 2, column // 2), ((row + 1) // 2, (column + 1) // 2)
            pairs.append((first, second) if board[row, column] in (self.less, self.above) else (second, first))
        return pairs

    def _all_symmetries(self, n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Turns and reflections, each also with n + 1 - digit for every digit; the signs follow."""
        tokens = np.arange(len(self.names))

        def swapped(*pairs: tuple[int, int]) -> np.ndarray:
            names = tokens.copy()
            for a, b in pairs:
                names[[a, b]] = b, a
            return names

        sideways, upright = (self.less, self.more), (self.above, self.below)
        over = swapped((self.less, self.above), (self.more, self.below))
        opposite = swapped(sideways, upright)
        opposite[self.first : self.first + n] = tokens[self.first : self.first + n][::-1]
        board = np.arange((2 * n - 1) ** 2).reshape(self.shape)
        for source, transposed, upside_down, mirrored in turned(board):
            names = over if transposed else tokens
            names = swapped(upright)[names] if upside_down else names
            names = swapped(sideways)[names] if mirrored else names
            yield source, names
            yield source, opposite[names]


def _completions(
    digits: np.ndarray, pairs: list[tuple[tuple[int, int], tuple[int, int]]]
) -> Iterator[dict[tuple[int, int], int]]:
    """All ways to fill a Futoshiki grid, as sets of one digit (bits) per cell; PuzzleError after GUESSES guesses."""
    n = len(digits)
    everything = (1 << n) - 1
    start = {(r, c): 1 << int(d) - 1 if d else everything for (r, c), d in np.ndenumerate(digits)}
    lines = [[(r, c) for c in range(n)] for r in range(n)]
    lines += [[(r, c) for r in range(n)] for c in range(n)]
    stack, guesses = [start], 0
    while stack:
        options = stack.pop()
        if not _propagate(options, pairs, lines, everything):
            continue
        open_ = [cell for cell, bits in options.items() if bits & (bits - 1)]
        if not open_:
            yield options
            continue
        guesses += 1
        if guesses > GUESSES:
            raise PuzzleError(f"too many possibilities to check: undecided after {GUESSES} guesses")
        cell = min(open_, key=lambda at: options[at].bit_count())
        stack += [options | {cell: 1 << d} for d in range(n) if options[cell] >> d & 1]


def _propagate(
    options: dict[tuple[int, int], int],
    pairs: list[tuple[tuple[int, int], tuple[int, int]]],
    lines: list[list[tuple[int, int]]],
    everything: int,
) -> bool:
    """Remove what a sign, or a digit's only place in a line, rules out; False for a contradiction."""
    before = None
    while before != options:
        before = dict(options)
        for small, large in pairs:
            options[small] &= (1 << options[large].bit_length() - 1) - 1 if options[large] else 0
            lowest = options[small] & -options[small]
            options[large] &= ~(2 * lowest - 1) if lowest else 0
        for line in lines:
            once = twice = fixed = 0
            for cell in line:
                bits = options[cell]
                twice |= once & bits
                once |= bits
                if not bits & (bits - 1):
                    if fixed & bits:
                        return False
                    fixed |= bits
            if once != everything:
                return False
            for cell in line:
                bits = options[cell]
                if bits & (bits - 1):
                    alone = bits & ~twice
                    options[cell] = alone if alone else bits & ~fixed
        if not all(options.values()):
            return False
    return True
