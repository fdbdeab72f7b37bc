"""Schedules, slots, horizons and the carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hrm.core.layers import Context
from hrm.core.recurrence import Carry, Schedule
from hrm.puzzles.model import PuzzleModel
from tests.core import small
from tests.reference import horizons

counts = st.integers(1, 5)


class Cache:
    """Notes the slot of every use and returns what it got."""

    def __init__(self) -> None:
        self.slots: list[int] = []

    def update(self, keys: Tensor, values: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        self.slots.append(slot)
        return keys, values


@given(h=counts, l=counts, n=counts)
def test_slots_follow_the_published_formula(h: int, l: int, n: int) -> None:  # noqa: E741
    visits = Schedule(h, l).visits(n, n)
    assert len(visits) == h * (l + 1)
    slots = [visit.slot + layer for visit in visits for layer in range(n)]
    formula = []
    for cycle in range(h):
        formula += [(cycle * (l + 1) + step) * n + layer for step in range(l) for layer in range(n)]
        formula += [(cycle * (l + 1) + l) * n + layer for layer in range(n)]
    assert slots == formula == list(range(n * h * (l + 1)))
    assert [visit.role for visit in visits] == (["L"] * l + ["H"]) * h


@given(h=counts, l=counts, fast=counts, slow=counts, first=st.integers(0, 100))
def test_every_layer_of_every_visit_has_a_slot_of_its_own(h: int, l: int, fast: int, slow: int, first: int) -> None:  # noqa: E741
    visits = Schedule(h, l).visits(fast, slow, first)
    slots = [visit.slot + layer for visit in visits for layer in range(fast if visit.role == "L" else slow)]
    assert slots == list(range(first, first + h * (l * fast + slow)))


def test_attention_writes_to_the_slots_of_the_schedule() -> None:
    model = small.model(fast_layers=2, slow_layers=1, h_cycles=2, l_cycles=3, positions="none")
    cache = Cache()
    state = torch.zeros(1, model.positions, model.arch.dim)
    model.recurrence(Carry(state, state), state, Context(keys_values=cache), first_slot=50)
    assert cache.slots == list(range(50, 50 + 2 * (3 * 2 + 1)))


HORIZONS: dict[str, Any] = {
    "last_step": horizons.last_step,
    "last_cycle": horizons.last_cycle,
    **{f"trailing({k})": lambda n, t, k=k: horizons.trailing(k, n, t) for k in (2, 3, 5, 9)},
    **{
        f"per_cycle({steps})": lambda n, t, steps=steps: horizons.per_cycle(steps, n, t)
        for steps in ([1], [2], [1, 2], [2, 1, 2])
    },
}


@contextmanager
def gradient_visits(model: PuzzleModel) -> Iterator[set[tuple[str, int]]]:
    """Collect the visits of the two stacks that run with gradient, each role numbered from 0."""
    found: set[tuple[str, int]] = set()
    seen = {"L": 0, "H": 0}
    shared = model.recurrence.slow is None
    order = [visit.role for visit in model.recurrence.schedule.visits(1, 1)]

    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        role = order[sum(seen.values())] if shared else "H" if module is model.recurrence.slow else "L"
        if torch.is_grad_enabled():
            found.add((role, seen[role]))
        seen[role] += 1

    handles = [stack.register_forward_hook(note) for stack in (model.recurrence.fast, model.recurrence.slow) if stack]
    yield found
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("shared", [False, True], ids=["two stacks", "one stack"])
@pytest.mark.parametrize(("h", "l"), [(1, 2), (2, 2), (3, 2), (2, 4)])
@pytest.mark.parametrize("text", HORIZONS)
def test_exactly_the_visits_of_the_horizon_run_with_gradient(text: str, h: int, l: int, shared: bool) -> None:  # noqa: E741
    if text.startswith("per_cycle") and text.count(",") >= h:
        pytest.skip("a list longer than the cycles is refused by the configuration")
    model = small.model(fast_layers=1, slow_layers=1, shared=shared, h_cycles=h, l_cycles=l, horizon=text)
    with gradient_visits(model) as found:
        small.readout(model)
    assert found == HORIZONS[text](h, l)


@pytest.mark.parametrize("text", HORIZONS)
def test_gradients_equal_those_of_a_loop_cut_by_hand(text: str) -> None:
    h, l = 3, 2  # noqa: E741
    model = small.model(fast_layers=1, slow_layers=1, h_cycles=h, l_cycles=l, horizon=text)
    inputs, ids = small.batch()

    def gradients(z: Tensor) -> list[Tensor]:
        model.zero_grad()
        z.square().mul(torch.linspace(0, 1, z.numel()).view_as(z)).sum().backward()
        return [p.grad.clone() for p in model.recurrence.parameters() if p.grad is not None]

    carry = model.initial_carry(inputs, ids)
    mine = gradients(model.segment(carry, inputs, ids)[0].z_h)
    context = Context(rope=(model.rope_cos, model.rope_sin))
    slow = model.recurrence.slow
    assert slow is not None
    z_h, _ = horizons.segment(
        lambda z: model.recurrence.fast(z, context), lambda z: slow(z, context), *carry, model.embed(inputs, ids),
        h, l, HORIZONS[text](h, l),
    )  # fmt: skip
    for a, b in zip(mine, gradients(z_h), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_has_gradient_under_no_grad() -> None:
    model = small.model(horizon="last_cycle")
    with torch.no_grad(), gradient_visits(model) as found:
        assert not small.readout(model).logits.requires_grad
    assert not found


@pytest.mark.parametrize("schedule", [Schedule(1, 1), Schedule(3, 1), Schedule(2, 4)])
@pytest.mark.parametrize("horizon", ["last_step", "last_cycle", "trailing(3)", "per_cycle([1, 2])"])
def test_a_schedule_given_at_call_time_equals_a_model_built_with_it(schedule: Schedule, horizon: str) -> None:
    if horizon.startswith("per_cycle") and schedule.h_cycles < 2:
        pytest.skip("a list longer than the cycles is refused by the configuration")
    model = small.model(horizon=horizon)
    built = small.model(horizon=horizon, h_cycles=schedule.h_cycles, l_cycles=schedule.l_cycles)
    built.load_state_dict(model.state_dict())
    mine, theirs = small.readout(model, schedule), small.readout(built)
    assert torch.equal(mine.logits, theirs.logits) and torch.equal(mine.q, theirs.q)
    for readout in (mine, theirs):
        readout.logits.sum().backward()
    for (name, a), b in zip(model.named_parameters(), built.parameters(), strict=True):
        if a.grad is not None or b.grad is not None:
            assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad), name


def test_detach_keeps_the_values_and_cuts_the_history() -> None:
    model = small.model()
    inputs, ids = small.batch()
    carry, _ = model.segment(model.initial_carry(inputs, ids), inputs, ids)
    cut = carry.detach()
    assert carry.z_h.requires_grad and carry.z_l.requires_grad
    assert not cut.z_h.requires_grad and not cut.z_l.requires_grad
    assert torch.equal(cut.z_h, carry.z_h) and torch.equal(cut.z_l, carry.z_l)


def test_rows_are_independent_and_selecting_commutes_with_a_segment() -> None:
    model = small.model().eval()
    inputs, ids = small.batch(rows=5)
    carry = model.segment(model.initial_carry(inputs, ids), inputs, ids)[0].detach()
    index = torch.tensor([3, 0])
    mask = torch.tensor([True, False, False, True, False])
    by_mask, by_index = carry.select(mask), carry.select(index)
    assert torch.equal(by_mask.z_h, by_index.z_h[[1, 0]]) and torch.equal(by_mask.z_l, by_index.z_l[[1, 0]])
    whole, readout = model.segment(carry, inputs, ids)
    part, part_readout = model.segment(by_index, inputs[index], ids[index])
    torch.testing.assert_close(part.z_h, whole.select(index).z_h)
    torch.testing.assert_close(part.z_l, whole.select(index).z_l)
    torch.testing.assert_close(part_readout.logits, readout.logits[index])


def test_where_takes_the_marked_rows_from_the_other_carry() -> None:
    old, new = (Carry(torch.full((3, 2, 1), v), torch.full((3, 2, 1), -v)) for v in (1.0, 2.0))
    mixed = old.where(torch.tensor([False, True, False]), new)
    assert mixed.z_h[:, 0, 0].tolist() == [1, 2, 1] and mixed.z_l[:, 1, 0].tolist() == [-1, -2, -1]


def test_the_carry_keeps_its_shape_and_starts_alike_in_every_row_and_position() -> None:
    model = small.model()
    inputs, ids = small.batch()
    carry = model.initial_carry(inputs, ids)
    assert carry.z_h.shape == (4, small.CELLS + 1, 32)
    assert (carry.z_h == model.z_h_init).all() and (carry.z_l == model.z_l_init).all()
    assert model.segment(carry, inputs, ids)[0].z_l.shape == carry.z_l.shape


def test_without_hierarchy_every_block_is_visited_once() -> None:
    model = small.model(hierarchy=False, fast_layers=2, slow_layers=3)
    assert model.recurrence.slow is None and len(model.recurrence.fast.layers) == 5
    with gradient_visits(model) as found:
        small.readout(model)
    assert found == {("H", 0)}


@pytest.mark.parametrize("changes", [{}, {"shared": True, "horizon": "last_cycle"}, {"hierarchy": False}], ids=str)
def test_recomputed_activations_give_identical_gradients(changes: dict[str, Any]) -> None:
    model = small.model(**changes)
    grads = []
    for recompute in (False, True):
        for stack in (model.recurrence.fast, model.recurrence.slow):
            if stack is not None:
                stack.recompute = recompute
        model.zero_grad()
        small.readout(model).logits.square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name
