"""A model that knows nothing and kills all the same: it is contradicted, goes back, decides, and finds the answer."""

from __future__ import annotations

from functools import cache

import torch

from hrm.core.arch import ArchConfig
from hrm.puzzles.config import DeductionConfig
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.solving import Solver
from tests.puzzles.pictures.observed import Solving, watched
from tests.puzzles.solving.small import SUDOKU

ARCH = ArchConfig(
    dim=16, shared=True, fast_layers=1, h_cycles=1, l_cycles=1, horizon="last_cycle", mixer="groups",
    tokens="candidates", deduces=True, positions="none", task_positions=0, q_from="mean", expansion_multiple=16,
)  # fmt: skip


@cache
def solver() -> Solver:
    """For 4x4 Sudoku, with a threshold at which true candidates die too."""
    torch.manual_seed(0)
    model = PuzzleModel(ARCH, board_of(SUDOKU)).eval()
    return Solver(model, SUDOKU, q_continue=False, deduction=DeductionConfig(segments=2, kill=0.3))


@cache
def deduced() -> Solving:
    """A 4x4 Sudoku with all that was seen of it."""
    return watched(solver(), "2..14..232.41.2.")
