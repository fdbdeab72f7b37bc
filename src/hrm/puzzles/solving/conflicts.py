"""Which cells of a readout break a rule that can be seen from the grid alone, without a label and without search."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from hrm.puzzles.tasks import Task


def conflicts(task: Task, question: np.ndarray, answer: np.ndarray) -> list[int]:
    """Cells of `answer` [cells] that contradict the question or one another; none where the task has no rules."""
    rule = rule_of(task)
    return [] if rule is None else np.flatnonzero(rule(question, answer)).tolist()


def rule_of(task: Task) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
    """Finds the cells [cells] bool of (question, answer) that break a rule, or None where no rule can be seen.

    A task of one's own that verifies may say it in a method `conflicts`.
    """
    if task.name in _KNOWN:
        return partial(_KNOWN[task.name], task)
    return getattr(task, "conflicts", None) if task.verifies else None


def _sudoku(task: Task, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """No digit at all, a given that changed, or a digit that its row, column or box holds twice."""
    digits = task.symbols
    wrong = (answer < digits.start) | (answer >= digits.stop) | ((question >= digits.start) & (question != answer))
    for labels in task.groups:
        place = labels * len(task.vocabulary) + answer
        wrong |= np.bincount(place)[place] > 1
    return wrong


def _maze(task: Task, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """A wall or an end that changed, a mark without two marked neighbours, or an end without exactly one."""
    free, start, goal, path = (task.vocabulary.index(character) for character in " SGo")
    changed = (answer != question) & ~((question == free) & (answer == path))
    marked = np.isin(answer, (start, goal, path)).reshape(task.shape)
    edge = np.pad(marked, 1).astype(int)
    near = (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]).ravel()
    return changed | ((answer == path) & (near != 2)) | (np.isin(answer, (start, goal)) & (near != 1))


_KNOWN = {"sudoku": _sudoku, "maze": _maze}
