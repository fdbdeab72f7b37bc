"""Grid tasks of Reasoning Gym as tasks here. The package itself is imported only to make puzzles.

A dataset is here when its question is one grid, with at most a few numbers that get cells of their own; when what is
asked is the same for all its puzzles; and when the answer is a grid of the same cells, or a path that can be marked on
it. Its answers are verified (`solved`) only where rules that need the question alone decide as its scorer does.
"""

from __future__ import annotations

from collections.abc import Sequence

from hrm.files.reading import UserError, nearest
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks.gym.dataset import Dataset, read_options
from hrm.puzzles.tasks.gym.known import GymMiniSudoku, GymShortestPath, GymSudoku
from hrm.puzzles.tasks.gym.ruled import Futoshiki, Kakurasu, NQueens
from hrm.puzzles.tasks.gym.unruled import Arc1D, BinaryMatrix, GameOfLife, ModuloGrid, RotateMatrix, SpiralMatrix, Survo
from hrm.puzzles.tasks.task import Task

KINDS: tuple[type[Dataset] | type[GymSudoku] | type[GymShortestPath], ...] = (
    GymSudoku, GymMiniSudoku, Futoshiki, NQueens, Kakurasu, GymShortestPath,
    Survo, ModuloGrid, Arc1D, GameOfLife, BinaryMatrix, RotateMatrix, SpiralMatrix,
)  # fmt: skip
DATASETS = {kind.dataset: kind for kind in KINDS}
"""By Reasoning Gym's name."""


def of(config: TaskConfig) -> Task:
    """The task for the settings of a run."""
    return make(config.gym, config.gym_options)


def make(name: str, options: Sequence[str] = ()) -> Task:
    """The task of a dataset with its options as NAME=VALUE pairs; UserError for one that is not here."""
    if name not in DATASETS:
        hint = nearest(name, DATASETS) or f": use {', '.join(DATASETS)}"
        raise UserError(f"no grid task of Reasoning Gym is named '{name}' (--task.gym){hint}")
    kind = DATASETS[name]
    return kind(read_options(name, kind.defaults, options))
