"""With one state per candidate and the group mixer, the model has the symmetries of the puzzle exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hrm.puzzles.model import Board, PuzzleModel
from tests.core import small

BOX_ROWS, BOX_COLUMNS = 2, 3
SIDE = BOX_ROWS * BOX_COLUMNS
SYMBOLS = (2, SIDE)


def equivariant(**changes: Any) -> PuzzleModel:
    board = Board(SIDE * SIDE, SIDE + 2, SYMBOLS, small.sudoku_groups(BOX_ROWS, BOX_COLUMNS))
    settings: dict[str, Any] = {
        "dim": 16, "mixer": "groups", "tokens": "candidates", "positions": "none", "q_from": "mean", "task_positions": 0
    }  # fmt: skip
    return small.model(on=board, **(settings | changes)).eval()


def puzzles(rows: int = 3) -> Tensor:
    """Random tokens: blanks (1) and digits."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, SIDE + 2, (rows, SIDE * SIDE), generator=generator)


def answers(model: PuzzleModel, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and q after two segments."""
    ids = torch.zeros(len(inputs), dtype=torch.long)
    with torch.no_grad():
        carry, _ = model.segment(model.initial_carry(inputs, ids), inputs, ids)
        _, readout = model.segment(carry, inputs, ids)
    return readout.logits, readout.q


def line_permutation(rng: np.random.Generator, bands: int, size: int) -> np.ndarray:
    """A permutation of rows (or columns) that moves whole bands and lines within them."""
    return np.concatenate([band * size + rng.permutation(size) for band in rng.permutation(bands)])


@pytest.mark.parametrize("seed", range(3))
def test_permuting_digits_permutes_the_logits(seed: int) -> None:
    model, inputs = equivariant(), puzzles()
    first, count = SYMBOLS
    tokens = np.arange(SIDE + 2)
    tokens[first : first + count] = first + np.random.default_rng(seed).permutation(count)
    relabel = torch.from_numpy(tokens)
    logits, q = answers(model, inputs)
    other_logits, other_q = answers(model, relabel[inputs])
    torch.testing.assert_close(other_logits[..., relabel], logits, atol=2e-6, rtol=0)
    torch.testing.assert_close(other_q, q, atol=2e-6, rtol=0)


@pytest.mark.parametrize("seed", range(3))
def test_permuting_rows_and_columns_permutes_the_logits(seed: int) -> None:
    model, inputs = equivariant(), puzzles()
    rng = np.random.default_rng(seed)
    rows, columns = (
        line_permutation(rng, SIDE // BOX_ROWS, BOX_ROWS),
        line_permutation(rng, SIDE // BOX_COLUMNS, BOX_COLUMNS),
    )
    move = torch.from_numpy((rows[:, None] * SIDE + columns).ravel())
    logits, q = answers(model, inputs)
    other_logits, other_q = answers(model, inputs[:, move])
    torch.testing.assert_close(other_logits, logits[:, move], atol=2e-6, rtol=0)
    torch.testing.assert_close(other_q, q, atol=2e-6, rtol=0)


def test_cells_that_share_no_group_are_told_apart() -> None:
    """A permutation that tears boxes apart is no symmetry, and the model notices."""
    model, inputs = equivariant(), puzzles()
    swap = np.arange(SIDE)
    swap[[0, BOX_ROWS]] = swap[[BOX_ROWS, 0]]
    move = torch.from_numpy((swap[:, None] * SIDE + np.arange(SIDE)).ravel())
    assert not torch.allclose(answers(model, inputs[:, move])[0], answers(model, inputs)[0][:, move], atol=1e-3)


def test_tokens_that_no_answer_holds_are_never_chosen() -> None:
    logits, _ = answers(equivariant(), puzzles())
    first, count = SYMBOLS
    best = logits.argmax(-1)
    assert ((best >= first) & (best < first + count)).all()
