"""ARC: coloured grids of up to 30x30 on a square board, and the copies of a task that each have an embedding."""

from __future__ import annotations

import json
from typing import Self

import numpy as np

from hrm.files.npy import IGNORE
from hrm.files.reading import UserError, quoted, reason
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks.puzzle import Puzzle, PuzzleError
from hrm.puzzles.tasks.task import Task

PAD, END, BLACK = 0, 1, 2
"""Tokens: padding, the marker behind the last row and column, and the first of ten colours."""
COLOURS = 10
LARGEST = 30
"""Rows and columns of the largest grid of a task."""
PALETTE = ("#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00", "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25")
"""The usual colours of ARC's pictures."""


class Arc(Task):
    """Grids on a board of `side` x `side` tokens; every task has `copies`, of which number 0 is the task itself."""

    name = "arc"
    embedded = True

    def __init__(
        self, side: int, copies: int = 1, dihedral: bool = True, colours: bool = True, translate: float = 0.0
    ) -> None:
        if not 1 <= side <= LARGEST:
            raise UserError(f"ARC's grids have 1 to {LARGEST} rows (--task.size), not {side}")
        super().__init__(side, side, "?|0123456789")
        self.copies, self.dihedral, self.colours, self.translate = copies, dihedral, colours, translate

    @classmethod
    def of(cls, config: TaskConfig) -> Self:
        """A board of the size of the settings, with their copies."""
        copies, translate = (config.copies, config.translate) if config.augment else (1, 0.0)
        return cls(config.size[0], copies, config.dihedral, config.colours, translate)

    # Grids and boards

    def encode(self, grid: np.ndarray, row: int = 0, column: int = 0) -> np.ndarray:
        """Tokens [cells] uint8 of a grid of colours with its first cell at (row, column); UserError if too large."""
        side = self.shape[0]
        bottom, right = row + grid.shape[0], column + grid.shape[1]
        if max(bottom, right) > side:
            rows, columns = grid.shape
            raise UserError(f"a grid of {rows}x{columns} is larger than the board (--task.size {side} {side})")
        board = np.zeros(self.shape, np.uint8)
        board[row:bottom, column:right] = grid + BLACK
        board[bottom : bottom + 1, column:right] = END
        board[row:bottom, right : right + 1] = END
        return board.ravel()

    def decode(self, tokens: np.ndarray) -> np.ndarray:
        """The largest grid of colours in the board's first corner; it has no cells where a model left none."""
        board = tokens.reshape(self.shape)
        # How far the colours reach in each row, and in all rows above it.
        reach = np.minimum.accumulate(np.cumprod(board >= BLACK, axis=1).sum(axis=1))
        rows = int(np.argmax(reach * np.arange(1, len(reach) + 1))) + 1
        columns = int(reach[rows - 1])
        return (board[: rows if columns else 0, :columns] - BLACK).astype(np.uint8)

    # Copies

    def row(self, number: int, copy: int = 0) -> int:
        """The task id, a row of the embedding table, of a copy of the task with this number; 0 is the blank id."""
        return 1 + number * self.copies + copy

    def seen(self, grid: np.ndarray, task_id: int) -> np.ndarray:
        """A grid as the copy with this task id shows it."""
        symmetry, colours = self._copy(task_id)
        return _turned(colours[grid], symmetry)

    def unseen(self, grid: np.ndarray, task_id: int) -> np.ndarray:
        """A grid of a copy as the task itself has it."""
        symmetry, colours = self._copy(task_id)
        return np.argsort(colours).astype(np.uint8)[_turned_back(grid, symmetry)]

    def show(
        self, questions: np.ndarray, answers: np.ndarray, task_ids: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs [rows, cells] of whole tasks, whose ids are given, as random copies at random places, with their ids.
        `uniforms` is [rows, 4] in [0, 1): copy, whether to move, rows and columns. Input and output move together."""
        shown_questions, shown_answers, ids = np.empty_like(questions), np.empty_like(answers), task_ids.copy()
        for i, (copy, moves, down, right) in enumerate(uniforms):
            ids[i] += int(copy * self.copies)
            pair = [self.seen(self.decode(tokens), int(ids[i])) for tokens in (questions[i], answers[i])]
            place = (0, 0)
            if moves < self.translate:
                room = self.shape[0] + 1 - np.max([grid.shape for grid in pair], axis=0)
                place = int(down * room[0]), int(right * room[1])
            shown_questions[i] = self.encode(pair[0], *place)
            shown_answers[i] = labels_of(self.encode(pair[1], *place))
        return shown_questions, shown_answers, ids

    def _copy(self, task_id: int) -> tuple[int, np.ndarray]:
        """The symmetry and the new name of each colour in a copy, which its number and the task's alone decide."""
        number, copy = divmod(task_id - 1, self.copies)
        colours = np.arange(COLOURS, dtype=np.uint8)
        if copy and self.colours:
            # Black stays, because it is the background of most tasks.
            bits = np.random.Philox(key=np.array([number, copy], np.uint64))
            colours[1:] = np.argsort(np.random.Generator(bits).random(COLOURS - 1)) + 1
        return (copy % 8 if self.dihedral else 0), colours

    # What every task has

    @property
    def form(self) -> None:
        """A text form of its own: grids in JSON, each on a line."""

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] of a grid in JSON, such as [[0, 1], [2, 3]]."""
        try:
            return self.encode(grid_of(json.loads(text)))
        except UserError as error:
            raise PuzzleError(str(error)) from None
        except (ValueError, RecursionError) as error:
            raise PuzzleError(f"{reason(error)}; a grid is written [[0, 1], [2, 3]]") from None

    def format(self, tokens: np.ndarray) -> str:
        """The board's grid in JSON."""
        return json.dumps(self.decode(tokens).tolist())

    def check(self, question: np.ndarray) -> None:
        """PuzzleError: a grid alone does not say which task it belongs to."""
        raise PuzzleError("a grid of ARC is no question without its task: use `hrm arc eval RUN --data FILE`")

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """UserError: people make ARC's tasks."""
        raise UserError("nothing makes ARC tasks: give training tasks with --data, tasks to answer with --validation")

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The same bytes for a pair however it is turned, mirrored and recoloured, black apart."""
        return canonical(self.decode(puzzle.question), self.decode(puzzle.answer))

    def paint(self, token: int, given: bool, wrong: bool) -> tuple[str, str]:
        """Two characters on the cell's colour; a wrong cell of the board holds '!'."""
        colour = token >= BLACK
        sign = (self.vocabulary[token] if colour else " ") + ("!" if wrong else " ")
        return sign, f"white on {PALETTE[token - BLACK]}" if colour else ""


def labels_of(tokens: np.ndarray) -> np.ndarray:
    """An answer's tokens as labels int8: padding does not count."""
    return np.where(tokens == PAD, np.int8(IGNORE), tokens.astype(np.int8))


def grid_of(value: object) -> np.ndarray:
    """A grid [rows, columns] uint8 from lists of numbers; ValueError says what is wrong."""
    if not isinstance(value, list) or not value or not all(isinstance(row, list) and row for row in value):
        raise ValueError("not a list of rows, each a list of colours")
    for i, row in enumerate(value, 1):
        if len(row) != len(value[0]):
            raise ValueError(f"row {i} has {len(row)} cells, row 1 has {len(value[0])}")
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLOURS:
                raise ValueError(f"row {i} holds {quoted(cell)}, which is not a colour from 0 to {COLOURS - 1}")
    if max(len(value), len(value[0])) > LARGEST:
        raise ValueError(f"{len(value)}x{len(value[0])} is larger than {LARGEST}x{LARGEST}")
    return np.array(value, np.uint8)


def canonical(*grids: np.ndarray) -> bytes:
    """The same bytes for grids that are turned, mirrored and recoloured together, black apart."""
    return min(_named([_turned(grid, symmetry) for grid in grids]) for symmetry in range(8))


def _named(grids: list[np.ndarray]) -> bytes:
    """Shapes and cells, colours numbered as they turn up."""
    cells = np.concatenate([grid.ravel() for grid in grids])
    names = np.zeros(COLOURS, np.uint8)
    found, first = np.unique(cells, return_index=True)
    order = found[np.argsort(first)]
    order = order[order > 0]
    names[order] = np.arange(1, len(order) + 1)
    return str([grid.shape for grid in grids]).encode() + names[cells].tobytes()


def _turned(grid: np.ndarray, symmetry: int) -> np.ndarray:
    """One of the eight symmetries of a square: transposed (4), then mirrored upside down (2) and sideways (1)."""
    grid = grid.T if symmetry & 4 else grid
    return grid[:: -1 if symmetry & 2 else 1, :: -1 if symmetry & 1 else 1]


def _turned_back(grid: np.ndarray, symmetry: int) -> np.ndarray:
    grid = grid[:: -1 if symmetry & 2 else 1, :: -1 if symmetry & 1 else 1]
    return grid.T if symmetry & 4 else grid
