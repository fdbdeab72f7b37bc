"""Dropout and sampled depths while training; neither exists when the model is used."""

from __future__ import annotations

import pytest
import torch

from hrm.files.reading import UserError
from hrm.text.model import Budget
from tests.text.model import small


def test_dropout_is_off_where_the_model_is_used_and_on_where_it_learns() -> None:
    model, plain, ids = small.model(dropout=0.5), small.model(), small.tokens()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)
        assert torch.equal(model.train()(ids).logits, plain(ids).logits), "without gradient nothing learns"
    losses = {float(each(ids, labels=ids).loss.detach()) for each in (model, model, plain.train(), plain)}
    assert len(losses) == 3


@pytest.mark.parametrize("form", ["original", "hrm_text", "one stack"])
def test_all_visits_and_segments_leave_out_the_same(form: str) -> None:
    model, ids = small.model(dropout=0.5, halting="fixed", **small.FORMS[form]).train(), small.tokens()
    thought = model.begin(input_ids=ids)
    x = thought.x
    model.segment(thought)
    assert thought.drop is not None
    first = {part: mask.clone() for part, mask in thought.drop._masks.items()}
    stacks = {model.recurrence.fast, model.recurrence.slow or model.recurrence.fast}
    assert len(first) == 1 + 2 * sum(len(stack.layers) for stack in stacks)
    for mask in first.values():
        assert set(mask.unique().tolist()) == {0.0, 2.0}
    thought.detach()
    model.segment(thought)
    assert torch.equal(thought.x, x)
    assert all(torch.equal(thought.drop._masks[part], mask) for part, mask in first.items())


def test_recomputed_activations_leave_out_the_same() -> None:
    ids, grads = small.tokens(), []
    for enabled in (False, True):
        model = small.model(horizon="last_cycle", dropout=0.3).train()
        if enabled:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        model(ids, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_is_a_share() -> None:
    for dropout in (-0.1, 1.0):
        with pytest.raises(UserError, match="dropout"):
            small.config(dropout=dropout)


@pytest.mark.slow
def test_sampled_depths_are_all_depths_up_to_the_budget() -> None:
    model, ids = small.model(depth_sampling=True, halting="fixed").train(), small.tokens()
    plain = small.model(halting="fixed").train()
    expected = {round(float(plain(ids, labels=ids, max_segments=k).loss.detach()), 9) for k in (1, 2, 3)}
    torch.manual_seed(0)
    assert {round(float(model(ids, labels=ids).loss.detach()), 9) for _ in range(30)} == expected
    with torch.no_grad():
        assert int(model.eval()(ids).depth.max()) == 3
    budget = Budget.of(small.config(min_segments=2))
    assert [budget.sampled(draw).max_segments for draw in (0.0, 0.5, 0.99)] == [1, 2, 3]
    assert budget.sampled(0.0).min_segments == 1
