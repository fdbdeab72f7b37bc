"""Datasets whose scorer compares with a stored answer: nothing verifies theirs, and they are called `answered`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from hrm.puzzles.tasks.board import BLANK, OUTSIDE
from hrm.puzzles.tasks.gym.dataset import Dataset, Entry, Number


class Survo(Dataset):
    """Place the numbers of the last row into the blanks, so that each row and column sums to its last number. Several
    fillings may be right; the scorer wants the stored one. A number's token is the number itself."""

    dataset = "survo"
    defaults: ClassVar[Mapping[str, Number]] = {
        "min_board_size": 4, "max_board_size": 5, "min_empty": 3, "max_empty": 5, "min_num": 1, "max_num": 9
    }  # fmt: skip

    def __init__(self, options: Mapping[str, Number]):
        self.side = int(options["max_board_size"])
        largest = int((self.side - 1) ** 2 * options["max_num"])
        width = max(self.side, options["max_empty"])
        super().__init__(options, self.side + 1, width, [*map(str, range(1, largest + 1)), BLANK, OUTSIDE])
        self.symbols = range(1, largest + 1)

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        facts, question = entry["metadata"], self.empty()
        n, candidates = facts["board_size"], sorted(facts["candidate_numbers"])
        question[-1, : len(candidates)] = candidates
        answer, puzzle = question.copy(), np.array(facts["puzzle"])
        question[:n, :n], answer[:n, :n] = np.where(puzzle == 0, self.blank, puzzle), facts["solution"]
        return question, answer

    def inner(self, board: np.ndarray) -> np.ndarray:
        return board[: self.side, : self.side]


class ModuloGrid(Dataset):
    """Fill the holes of a pattern that a formula modulo a number makes."""

    dataset = "modulo_grid"
    defaults: ClassVar[Mapping[str, Number]] = {
        "size_x": 20, "size_y": 20, "max_divisor": 20, "max_target": 20, "max_holes": 1
    }  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {**Dataset.aliases, "\u2754": BLANK, "\u274c": "0", "\u2705": "1"}

    def __init__(self, options: Mapping[str, Number]):
        super().__init__(options, options["size_y"], options["size_x"], [OUTSIDE, BLANK, "0", "1"])

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        texts = entry["question"].split("\n\n", 1)[1], entry["answer"]
        question, answer = (self.parse(text).reshape(self.shape) for text in texts)
        return question, answer


class ComputedAnswer(Dataset):
    """A question without blanks, to which the answer is another grid of the same cells."""

    def allowed(self) -> np.ndarray:
        return super().allowed() & (np.arange(len(self.names)) != self.blank)

    def corner(self, values: ArrayLike) -> np.ndarray:
        """A board with these numbers in the top left corner."""
        board, grid = self.empty(), self.numbers(values)
        board[: grid.shape[0], : grid.shape[1]] = grid
        return board


class GameOfLife(ComputedAnswer):
    """The board after some steps of Conway's Game of Life; opposite edges touch."""

    dataset = "game_of_life"
    defaults: ClassVar[Mapping[str, Number]] = {
        "grid_size_x": 10, "grid_size_y": 10, "filled_cells": 10, "simulation_steps": 1
    }  # fmt: skip

    def __init__(self, options: Mapping[str, Number]):
        super().__init__(options, options["grid_size_x"], options["grid_size_y"], [OUTSIDE, BLANK, "0", "1"])
        self.turn()

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        board = entry["question"].rsplit("\n\n", 1)[1].rstrip(".")
        return self.corner(json.loads(board)), self.corner(json.loads(entry["answer"]))


class BinaryMatrix(ComputedAnswer):
    """The distance of every cell to the nearest 0, in steps to neighbours."""

    dataset = "binary_matrix"
    defaults: ClassVar[Mapping[str, Number]] = {"min_n": 3, "max_n": 10, "p_zero": 0.25}

    def __init__(self, options: Mapping[str, Number]):
        n = int(options["max_n"])
        super().__init__(options, n, n, [OUTSIDE, BLANK, *map(str, range(max(2, 2 * n - 1)))])
        if options["min_n"] == n:  # every puzzle fills the board
            self.turn()

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        return self.corner(entry["metadata"]["matrix"]), self.corner(entry["metadata"]["solution"])


class RotateMatrix(ComputedAnswer):
    """Turn a square by as many quarters, clockwise, as the last row says."""

    dataset = "rotate_matrix"
    defaults: ClassVar[Mapping[str, Number]] = {"min_n": 2, "max_n": 10, "min_rotations": 0, "max_rotations": 10}

    def __init__(self, options: Mapping[str, Number]):
        largest = int(max(9, options["max_rotations"]))
        super().__init__(
            options, options["max_n"] + 1, options["max_n"], [OUTSIDE, BLANK, *map(str, range(largest + 1))]
        )

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        facts = entry["metadata"]
        question, answer = self.corner(facts["matrix"]), self.corner(facts["solution"])
        question[-1, 0] = answer[-1, 0] = self.numbers(facts["num_rotations"])
        return question, answer

    def inner(self, board: np.ndarray) -> np.ndarray:
        return board[:-1]


class SpiralMatrix(ComputedAnswer):
    """The cells in the order of a spiral, written row by row into the same square."""

    dataset = "spiral_matrix"
    defaults: ClassVar[Mapping[str, Number]] = {"min_n": 2, "max_n": 10}

    def __init__(self, options: Mapping[str, Number]):
        super().__init__(options, options["max_n"], options["max_n"], [OUTSIDE, BLANK, *map(str, range(10))])

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        facts = entry["metadata"]
        return self.corner(facts["matrix"]), self.corner(np.array(facts["solution"]).reshape(facts["n"], facts["n"]))


class Arc1D(Dataset):
    """Find the rule in pairs of rows, input above output, and apply it to the last input."""

    dataset = "arc_1d"
    defaults: ClassVar[Mapping[str, Number]] = {"min_size": 10, "max_size": 30, "num_train": 3}

    def __init__(self, options: Mapping[str, Number]):
        rows = 2 * options["num_train"] + 2
        super().__init__(options, rows, options["max_size"], [OUTSIDE, BLANK, *map(str, range(10))])

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        facts, answer = entry["metadata"], self.empty()
        pairs = [*facts["train_examples"], facts["test_example"]]
        answer[:, : facts["size"]] = self.numbers([pair[side] for pair in pairs for side in ("input", "output")])
        question = answer.copy()
        question[-1, : facts["size"]] = self.blank
        return question, answer
