"""A model that looks at neighbours alone has no size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hrm.core.arch import HaltingConfig, problems
from hrm.puzzles.model import Board, PuzzleModel
from tests.core import small

VOCABULARY = 6


def of_shape(rows: int, columns: int, **changes: Any) -> PuzzleModel:
    groups = np.indices((rows, columns)).reshape(2, -1)
    board = Board(rows * columns, VOCABULARY, (1, VOCABULARY - 1), groups, shape=(rows, columns))
    settings: dict[str, Any] = {
        "dim": 16, "mixer": "neighbours", "positions": "none", "q_from": "mean", "task_positions": 0,
    }  # fmt: skip
    return small.model(on=board, **(settings | changes)).eval()


def read(model: PuzzleModel, grids: Tensor, segments: int = 2) -> Tensor:
    """Logits [rows, height, width, vocabulary] of grids [rows, height, width]."""
    inputs, ids = grids.flatten(1), torch.zeros(len(grids), dtype=torch.long)
    with torch.no_grad():
        carry = model.initial_carry(inputs, ids)
        for _ in range(segments):
            carry, readout = model.segment(carry, inputs, ids)
    return readout.logits.unflatten(1, grids.shape[1:])


def grids(rows: int, columns: int) -> Tensor:
    return torch.randint(1, VOCABULARY, (3, rows, columns), generator=torch.Generator().manual_seed(0))


def test_the_same_weights_fit_a_board_of_any_shape() -> None:
    small_one, large_one = of_shape(3, 4), of_shape(7, 5)
    large_one.load_state_dict(small_one.state_dict())
    asked = grids(7, 5)
    assert torch.equal(read(small_one.on((7, 5)), asked), read(large_one, asked))
    assert small_one.on((7, 5)).head is small_one.head
    assert small_one.board.shape == (3, 4)


def test_a_visit_carries_news_one_cell_far_and_never_around_the_edge() -> None:
    model = of_shape(9, 9, fast_layers=1, shared=True, h_cycles=1, l_cycles=2)
    before = grids(9, 9)
    after = before.clone()
    after[:, 4, 1] = 1 + after[:, 4, 1] % (VOCABULARY - 1)
    changed = (read(model, before, 1) != read(model, after, 1)).any(-1).all(0)
    rows, columns = torch.meshgrid(torch.arange(9), torch.arange(9), indexing="ij")
    assert torch.equal(changed, (rows - 4).abs() + (columns - 1).abs() <= 3)  # two steps of L, one update of H


def test_shifting_what_stands_on_an_empty_board_shifts_the_answer() -> None:
    model = of_shape(12, 12, fast_layers=1, shared=True, h_cycles=1, l_cycles=2)
    first, second = torch.ones(1, 12, 12, dtype=torch.long), torch.ones(1, 12, 12, dtype=torch.long)
    first[0, 4:6, 4:7] = second[0, 5:7, 5:8] = grids(2, 3)[0]  # further from the edge than news comes
    left, right = read(model, first, 1)[0], read(model, second, 1)[0]
    torch.testing.assert_close(left[3:7, 3:8], right[4:8, 4:9], atol=2e-6, rtol=0)


def test_each_direction_has_weights_of_its_own() -> None:
    model, asked = of_shape(5, 5), grids(5, 5)
    assert not torch.allclose(read(model, asked.flip(1)).flip(1), read(model, asked), atol=1e-3)
    assert not torch.allclose(read(model, asked.mT).transpose(1, 2), read(model, asked), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"positions": "learned"}, "--arch.positions learned"), ({"tokens": "candidates"}, "--arch.tokens candidates"),
        ({"unit": "conv"}, "--arch.unit conv"), ({"task_positions": 1}, "--arch.mixer neighbours"),
    ],
)  # fmt: skip
def test_what_ties_the_weights_to_a_size_is_refused(changes: dict[str, Any], flag: str) -> None:
    fits = {"mixer": "neighbours", "positions": "none", "task_positions": 0}
    assert not [*problems(small.arch(**fits), HaltingConfig())]
    (sentence,) = problems(small.arch(**(fits | changes)), HaltingConfig())
    assert sentence.startswith(flag) and "use" in sentence
