"""The losses against the published equations in float64, and their options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hrm.core.arch import HaltingConfig
from hrm.puzzles.config import LossConfig
from hrm.puzzles.model import Readout
from hrm.puzzles.training.objective import IGNORE, accuracy, objective, stablemax_logits, token_losses
from tests.reference import losses


def example(rows: int = 6, cells: int = 9, vocabulary: int = 5) -> tuple[Tensor, Tensor]:
    """Logits, and labels of which some are ignored and one puzzle's are right."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, cells, vocabulary, generator=generator) * 3
    labels = torch.randint(0, vocabulary, (rows, cells), generator=generator)
    labels[0] = logits[0].argmax(-1)
    labels[0, 0] = labels[1, 3:] = IGNORE
    return logits, labels


def test_stablemax_equals_float64_on_ordinary_logits() -> None:
    x = torch.linspace(-60, 60, 20_001).reshape(-1, 3)
    mine = stablemax_logits(x).log_softmax(-1)
    assert (mine.double() - losses.log_stablemax(x)).abs().max().item() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_stablemax_and_its_gradient_stay_finite_at_the_largest_numbers(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor(
        [[largest, -largest, 0.0], [-largest, -largest, -largest], [0.0, -0.0, 1e-7]], dtype=dtype
    ).requires_grad_()
    result = stablemax_logits(x).log_softmax(-1)
    result.sum().backward()
    assert result.dtype == torch.float32
    assert result.isfinite().all() and x.grad is not None and x.grad.isfinite().all()


def test_the_gradient_of_stablemax_is_right_on_both_sides_and_at_zero() -> None:
    x = torch.tensor([-3.0, -1e-3, 0.0, 1e-3, 3.0], requires_grad=True)
    stablemax_logits(x).sum().backward()
    # d log s: 1 / (1 + x) from zero on, 1 / (1 - x) below.
    torch.testing.assert_close(x.grad, 1 / (1 + x.detach().abs()))


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_token_losses_are_means_over_the_labelled_tokens_of_each_puzzle(kind: Any) -> None:
    logits, labels = example()
    log_p = torch.log_softmax(logits.double(), -1) if kind == "softmax" else losses.log_stablemax(logits)
    mine = token_losses(logits, labels, LossConfig(kind=kind))
    torch.testing.assert_close(mine.double(), losses.token_loss(log_p, labels), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_label_smoothing_spreads_its_share_over_the_whole_vocabulary(kind: Any) -> None:
    logits, labels = example()
    log_p = torch.log_softmax(logits.double(), -1) if kind == "softmax" else losses.log_stablemax(logits)
    share = 0.2
    # Cross-entropy with (1 - s) on the label and s / V everywhere.
    uniform = log_p.mean(-1, keepdim=True).expand_as(log_p)
    expected = losses.token_loss((1 - share) * log_p + share * uniform, labels)
    mine = token_losses(logits, labels, LossConfig(kind=kind, label_smoothing=share))
    torch.testing.assert_close(mine.double(), expected, atol=1e-6, rtol=1e-6)


def test_z_loss_adds_the_squared_log_normaliser_of_labelled_tokens() -> None:
    logits, labels = example()
    plain = token_losses(logits, labels, LossConfig(kind="softmax"))
    extra = token_losses(logits, labels, LossConfig(kind="softmax", z_loss=0.1)) - plain
    squares = logits.double().exp().sum(-1).log().square()
    expected = [0.1 * row[label != IGNORE].mean() for row, label in zip(squares, labels, strict=True)]
    torch.testing.assert_close(extra.double(), torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 0.05])
@pytest.mark.parametrize("with_continue", [True, False], ids=["q_continue", "halt only"])
def test_the_objective_sums_token_and_halting_losses_over_puzzles(with_continue: bool, weight: float) -> None:
    logits, labels = example()
    generator = torch.Generator().manual_seed(3)
    q, next_q = (torch.randn(len(labels), 2, generator=generator) * 4 for _ in range(2))
    target = losses.continue_target(next_q, torch.tensor([True, False] * 3)) if with_continue else None
    halting = HaltingConfig(weight=weight)
    result = objective(Readout(logits, q), labels, None if target is None else target.float(), LossConfig(), halting)
    expected = losses.total(logits, q, labels, target, weight=weight)
    torch.testing.assert_close(result.total.double(), expected, atol=0, rtol=1e-6)
    parts = result.token + weight * (result.halt + result.continue_)
    torch.testing.assert_close(parts, result.total)
    assert bool(result.continue_ > 0) == with_continue
    assert torch.equal(result.correct.double(), losses.halt_target(logits, labels))


def test_a_puzzle_counts_as_right_only_with_all_its_labelled_tokens_right() -> None:
    logits, labels = example()
    correct, share = accuracy(logits, labels)
    assert correct.tolist() == [True, *[False] * 5]
    assert share[0].item() == 1
    guesses = logits.argmax(-1)
    assert share[1].item() == pytest.approx((guesses[1, :3] == labels[1, :3]).float().mean().item())


def test_a_puzzle_without_labels_adds_no_token_loss_and_is_never_right() -> None:
    logits, labels = example()
    labels[2] = IGNORE
    logits = logits.requires_grad_()
    result = objective(Readout(logits, torch.zeros(6, 2)), labels, None, LossConfig(), HaltingConfig())
    result.total.backward()
    assert logits.grad is not None and not logits.grad[2].any() and logits.grad.isfinite().all()
    assert not result.correct[2] and result.tokens_right[2].item() == 0


def test_halting_values_learn_but_their_targets_do_not() -> None:
    logits, labels = example()
    q, target = torch.zeros(6, 2, requires_grad=True), torch.full((6,), 0.3)
    result = objective(Readout(logits, q), labels, target, LossConfig(), HaltingConfig())
    result.total.backward()
    # The gradient of BCE at q = 0 is sigmoid(0) - target.
    expected = 0.5 * (0.5 - torch.stack([result.correct.float(), target], 1))
    torch.testing.assert_close(q.grad, expected)
