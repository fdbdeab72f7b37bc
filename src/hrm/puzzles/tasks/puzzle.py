"""What tasks are about: a puzzle, one of its symmetric views, and why a question is invalid."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class PuzzleError(ValueError):
    """Why a question is invalid, as one clause that can follow "invalid: "."""


class Puzzle(NamedTuple):
    """A question with its answer; both are token arrays of length height*width."""

    question: np.ndarray
    answer: np.ndarray
    rating: int = 0


class Symmetry(NamedTuple):
    """A view that moves cells and renames tokens: seen[i] = symbols[asked[source[i]]]."""

    source: np.ndarray
    """[cells]"""
    symbols: np.ndarray
    """[vocabulary]"""

    def apply(self, tokens: np.ndarray) -> np.ndarray:
        """The tokens [cells] of a question as seen."""
        return self.symbols[tokens[self.source]].astype(tokens.dtype)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """What was seen, tokens [cells] or scores [cells, vocabulary], as it was asked."""
        asked = np.empty_like(array)
        asked[self.source] = np.argsort(self.symbols)[array] if array.ndim == 1 else array[:, self.symbols]
        return asked
