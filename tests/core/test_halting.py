"""When a puzzle leaves its slot, and what the Q values are trained towards."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hrm.core.arch import HaltingConfig
from hrm.core.halting import continue_target, halted, wants_to_halt
from tests.reference import losses

NEVER = torch.tensor([[0.99, 0.5]])


def q(halt: float, proceed: float) -> torch.Tensor:
    return torch.tensor([[float(halt), float(proceed)]])


@pytest.mark.parametrize(
    ("halt", "proceed", "hrm", "trm"),
    [(1, 2, False, True), (2, 1, True, True), (-1, -2, True, False), (-2, -1, False, False)],
)
def test_hrm_compares_the_two_values_and_trm_asks_for_even_odds(
    halt: float, proceed: float, hrm: bool, trm: bool
) -> None:
    assert wants_to_halt(q(halt, proceed), q_continue=True).tolist() == [hrm]
    assert wants_to_halt(q(halt, proceed), q_continue=False).tolist() == [trm]


def test_a_puzzle_halts_at_the_longest_even_if_it_wants_to_go_on() -> None:
    config = HaltingConfig(max_segments=3)
    for segments, expected in ((2, False), (3, True), (4, True)):
        assert halted(q(-9, 9), torch.tensor([segments]), NEVER, config).tolist() == [expected]


def test_exploration_sets_a_minimum_drawn_evenly_from_two_to_the_longest() -> None:
    config = HaltingConfig(max_segments=5, exploration=0.4)
    n = 10_000
    first, second = np.meshgrid((np.arange(100) + 0.5) / 100, (np.arange(100) + 0.5) / 100)
    uniforms = torch.from_numpy(np.stack([first.ravel(), second.ravel()], 1)).float()
    wants = torch.tensor([[1.0, 0.0]]).expand(n, 2)
    share = [halted(wants, torch.full((n,), m), uniforms, config).float().mean().item() for m in range(1, 6)]
    # P(M_min <= m): 0.6 do not explore, and each of 2, 3, 4, 5 is the minimum of 0.1.
    assert share == pytest.approx([0.6, 0.7, 0.8, 0.9, 1.0], abs=1e-3)


def test_the_largest_uniform_below_one_stays_within_the_longest() -> None:
    largest = torch.full((1, 2), 1.0 - 2**-24)
    config = HaltingConfig(max_segments=7, exploration=1.0)
    assert halted(q(1, 0), torch.tensor([7]), largest, config).tolist() == [True]
    assert halted(q(1, 0), torch.tensor([6]), largest, config).tolist() == [False]


def test_the_target_of_going_on_is_the_next_best_value() -> None:
    next_q = torch.tensor([[1.0, 3.0], [3.0, 1.0], [1.0, 3.0], [-4.0, -5.0]])
    last = torch.tensor([False, False, True, False])
    found = continue_target(next_q, last)
    torch.testing.assert_close(found, torch.sigmoid(torch.tensor([3.0, 3.0, 1.0, -4.0])))
    torch.testing.assert_close(found.double(), losses.continue_target(next_q, last))
