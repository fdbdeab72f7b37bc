"""Puzzles of one kind: how to make, augment, verify and draw them. A task never knows what a hidden state is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig

if TYPE_CHECKING:
    from rich.console import RenderableType


class PuzzleError(ValueError):
    """Why a question is invalid, as one clause that can follow "invalid: "."""


class Puzzle(NamedTuple):
    """A question with its answer; both are token arrays of length height*width."""

    question: np.ndarray
    answer: np.ndarray
    rating: int = 0


class View(Protocol):
    """One puzzle seen in another, equally good way."""

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """The tokens [cells] of a question as seen."""
        ...

    def undo(self, array: np.ndarray) -> np.ndarray:
        """What was seen, tokens [cells] or scores [cells, vocabulary], as it was asked."""
        ...


class Symmetry(NamedTuple):
    """A view that moves cells and renames tokens: seen[i] = symbols[asked[source[i]]]."""

    source: np.ndarray
    """[cells]"""
    symbols: np.ndarray
    """[vocabulary]"""

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """The tokens [cells] as seen."""
        return self.symbols[tokens[self.source]].astype(tokens.dtype)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Tokens [cells] or scores [cells, vocabulary] as asked."""
        asked = np.empty_like(array)
        asked[self.source] = np.argsort(self.symbols)[array] if array.ndim == 1 else array[:, self.symbols]
        return asked


class Task(Protocol):
    """What the rest of the package knows about a kind of puzzle. Token 0 is padding."""

    name: str
    shape: tuple[int, int]
    """Rows and columns."""
    vocabulary: str
    """The character of each token; index 0 stands for padding."""
    symbols: range
    """Tokens that an answer cell may hold; Sudoku: the digits."""
    groups: np.ndarray
    """[partitions, cells] integer label of each cell's group: rows, columns, boxes."""
    uniforms: int
    """Random numbers that `augment` consumes per puzzle."""
    verifies: bool
    """False where no rule tells a right answer from a wrong one (ARC); then nothing is ever `solved`."""

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] uint8 of a question or answer; PuzzleError for a wrong length or character."""
        ...

    def format(self, tokens: np.ndarray) -> str:
        """The text form that `parse` reads."""
        ...

    def check(self, question: np.ndarray) -> None:
        """PuzzleError with the reason unless the question is well-posed (uses the search solver)."""
        ...

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether the answer is right, judged by the rules alone, never by a label."""
        ...

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """A new well-posed puzzle."""
        ...

    def augment(
        self, questions: np.ndarray, answers: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply one random symmetry per row to [rows, cells] arrays; `uniforms` is [rows, self.uniforms] in [0, 1)."""
        ...

    def view(self, uniforms: np.ndarray) -> View:
        """The symmetry that `augment` would apply to one puzzle for these [self.uniforms] numbers."""
        ...

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The same bytes for every symmetric variant of a puzzle, different bytes for different classes."""
        ...

    def draw(
        self, question: np.ndarray, answer: np.ndarray | None = None, marked: Sequence[int] = ()
    ) -> RenderableType:
        """A rich renderable of the grid: givens, the answer's cells, and `marked` cells shown as wrong."""
        ...


@runtime_checkable
class Copied(Protocol):
    """A task that is shown as augmented copies with a task embedding each (ARC), instead of being augmented."""

    copies: int

    def show(
        self, questions: np.ndarray, answers: np.ndarray, task_ids: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs [rows, cells] as random copies with their ids; `uniforms` is [rows, 4] in [0, 1)."""
        ...


@runtime_checkable
class Solved(Protocol):
    """A task whose answers can be found by search: files of questions alone will do for it."""

    def solution(self, question: np.ndarray) -> np.ndarray:
        """The answer, of several the one that `generate` would give; PuzzleError unless the question is well-posed."""
        ...


def build(config: TaskConfig) -> Task:
    """The task a configuration names; UserError for impossible settings."""
    from hrm.puzzles.tasks.arc import Arc
    from hrm.puzzles.tasks.grid import Grid
    from hrm.puzzles.tasks.maze import Maze
    from hrm.puzzles.tasks.sudoku import Sudoku

    if config.kind == "sudoku":
        return Sudoku(*config.box, extra_clues=config.extra_clues)
    if config.kind == "maze":
        return Maze(*config.size, min_path=config.min_path)
    if config.kind == "grid":
        return Grid(*config.size, vocabulary=config.vocabulary)
    if config.kind == "gym":
        from hrm.puzzles.tasks import gym

        return gym.make(config.gym, config.gym_options)
    if config.kind == "arc":
        copies, translate = (config.copies, config.translate) if config.augment else (1, 0.0)
        return Arc(config.size[0], copies, config.dihedral, config.colours, translate)
    raise UserError(f"unknown task kind '{config.kind}' (--task.kind): use sudoku, maze, arc or grid")
