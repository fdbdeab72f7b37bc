"""Small models and boards for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrm.core.arch import ArchConfig
from hrm.core.recurrence import Schedule
from hrm.puzzles.model import Board, PuzzleModel, Readout

CELLS, VOCABULARY, IDS = 16, 6, 3


def sudoku_groups(box_rows: int, box_columns: int) -> np.ndarray:
    """Labels [3, cells] of the row, column and box of every cell."""
    side = box_rows * box_columns
    rows, columns = np.divmod(np.arange(side * side), side)
    return np.stack([rows, columns, rows // box_rows * box_rows + columns // box_columns])


def board(**changes: Any) -> Board:
    values: dict[str, Any] = {
        "cells": CELLS, "vocabulary": VOCABULARY, "symbols": (2, 4), "groups": sudoku_groups(2, 2), "task_ids": IDS,
    }  # fmt: skip
    return Board(**(values | changes))


def arch(**changes: Any) -> ArchConfig:
    values: dict[str, Any] = {"dim": 32, "heads": 4, "fast_layers": 2, "slow_layers": 2, "expansion_multiple": 8}
    return ArchConfig(**(values | changes))


def model(seed: int = 0, on: Board | None = None, **changes: Any) -> PuzzleModel:
    """A model in training mode in which also the parts that start at zero hold random numbers.

    The stacks are halved: freshly drawn, they are chaotic (MLP mixing most), and the smallest rounding difference grows
    with every cycle.
    """
    torch.manual_seed(seed)
    made = PuzzleModel(arch(**changes), on or board()).train()
    with torch.no_grad():
        for parameter in made.recurrence.parameters():
            parameter.mul_(0.5)
        made.q_head.weight.normal_(std=0.1)
        if made.task_embedding is not None:
            made.task_embedding.weight.normal_(std=0.1)
    return made


def batch(rows: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs [rows, cells] and task ids [rows]."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(1, VOCABULARY, (rows, CELLS), generator=generator)
    return inputs, torch.arange(rows) % IDS


def readout(of: PuzzleModel, schedule: Schedule | None = None, segments: int = 1) -> Readout:
    """The readout of `batch()` after some segments."""
    inputs, ids = batch()
    carry = of.initial_carry(inputs, ids)
    for _ in range(segments - 1):
        carry = of.segment(carry, inputs, ids, schedule)[0].detach()
    return of.segment(carry, inputs, ids, schedule)[1]
