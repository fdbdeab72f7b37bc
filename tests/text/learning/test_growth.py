"""What growth promises: what a model says stays, what it learned is kept, and the new parts learn."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

from hrm.files.reading import UserError
from hrm.text.learning.growth import (
    SHARE,
    admit,
    carry_over,
    carry_over_average,
    grow_depth,
    grow_vocabulary,
    layers_for,
)
from hrm.text.model import HRMCache, HRMForCausalLM
from hrm.text.model.loss import token_loss
from hrm.training.optim import AdamATan2
from tests.data import hrm_data
from tests.text.model import small

OLD = small.VOCABULARY
FORMS: dict[str, dict[str, Any]] = small.FORMS | {
    "plain": {"hierarchy": False, "norm": "pre", "max_segments": 1},
    "plain post-norm": {"hierarchy": False, "max_segments": 1},
    "tied": {"norm": "pre", "tie_word_embeddings": True},
    "with a bias": {"norm": "pre", "head_bias": True},
}
FAST = ("original", "all shared", "plain post-norm", "tied")
each_form = pytest.mark.parametrize(
    "form", [form if form in FAST else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)


def model(form: str, **changes: Any) -> HRMForCausalLM:
    """A model in float64 in which every bias holds a number."""
    made = small.model(**(FORMS[form] | changes))
    if made.lm_head.bias is not None:
        torch.nn.init.normal_(made.lm_head.bias)
    return made


@torch.no_grad()
def logits(of: HRMForCausalLM, ids: Tensor | None = None, **request: Any) -> Tensor:
    return of(small.tokens() if ids is None else ids, use_cache=False, **request).logits


def deepest(of: HRMForCausalLM) -> dict[str, Any]:
    return {"schedule": (6, 4)} if of.config.hierarchy else {}


def learn(of: HRMForCausalLM, optimizer: torch.optim.Optimizer, ids: Tensor) -> float:
    """One update on all segments of these tokens."""
    loss = of.train()(ids, labels=ids).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    of.eval()
    return float(loss.detach())


def state_of(optimizer: torch.optim.Optimizer, of: HRMForCausalLM) -> dict[str, Tensor]:
    """As `Updates.pack` names it."""
    return {f"{name}.{key}": t for name, p in of.named_parameters() for key, t in optimizer.state[p].items()}


# Vocabulary


@each_form
def test_old_logits_stay_and_new_tokens_get_less_than_the_share(form: str):
    of = model(form)
    before = logits(of, **deepest(of))
    grow_vocabulary(of, OLD + 9)
    after = logits(of, **deepest(of))
    torch.testing.assert_close(after[..., :OLD], before, atol=1e-12, rtol=0)
    assert 0 < after.softmax(-1)[..., OLD:].sum(-1).max() < SHARE
    assert of.config.vocab_size == of.model.config.vocab_size == OLD + 9


@settings(max_examples=25)
@given(st.integers(1, 300), st.floats(1e-12, 1e-3), st.floats(0, 30), st.floats(0, 30), st.integers(0, 99))
def test_the_bound_holds_whatever_was_learned(new: int, share: float, scale: float, spread: float, seed: int):
    of = copy.deepcopy(_biased())
    torch.manual_seed(seed)
    torch.nn.init.normal_(of.lm_head.weight, std=scale / 32**0.5)
    torch.nn.init.normal_(of.lm_head.bias, std=spread)  # type: ignore[arg-type]
    grow_vocabulary(of, OLD + new, share=share, seed=seed)
    states = torch.nn.functional.normalize(torch.randn(200, 32, dtype=torch.float64), dim=-1) * 32**0.5
    assert of.lm_head(states).softmax(-1)[:, OLD:].sum(-1).max() <= share


@cache
def _biased() -> HRMForCausalLM:
    return model("with a bias")


def test_the_gradient_of_a_new_token_that_appears_is_all_of_it():
    of = model("with a bias")
    grow_vocabulary(of, OLD + 2)
    z = of.model(small.tokens(1, 3)).last_hidden_state
    token_loss(of.lm_head(z), torch.tensor([[4, OLD + 1, 5]])).sum().backward()
    gradient = of.lm_head.bias.grad  # type: ignore[union-attr]
    assert gradient is not None and gradient[OLD + 1] == pytest.approx(-1, abs=1e-6)
    assert 0 < gradient[OLD] < 1e-8


@pytest.mark.slow
def test_what_is_greedily_written_stays():
    for form in ("original", "all shared"):
        of, ids = model(form), small.tokens()
        before = of.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
        grow_vocabulary(of, OLD + 5)
        grow_depth(of)
        assert torch.equal(of.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0), before)


def test_growing_to_the_same_size_changes_nothing_and_shrinking_is_refused():
    of = model("original")
    head = of.lm_head
    grow_vocabulary(of, OLD)
    assert of.lm_head is head and not of.config.head_bias
    with pytest.raises(UserError, match="50 tokens cannot become one of 49"):
        grow_vocabulary(of, OLD - 1)


def test_tied_rows_stay_tied():
    of = model("tied")
    grow_vocabulary(of, OLD + 3)
    assert of.lm_head.weight is of.model.embed_tokens.weight and len(of.lm_head.weight) == OLD + 3


def test_new_rows_are_near_the_mean_and_differ():
    of = small.model(dtype=torch.float32, norm="pre")
    rows = of.lm_head.weight.detach().mean(0)
    grow_vocabulary(of, OLD + 4)
    new, embedded = of.lm_head.weight[OLD:].detach(), of.model.embed_tokens.weight.detach()
    torch.testing.assert_close((new - rows).norm(dim=1), torch.full((4,), 32**-0.5))
    assert torch.pdist(new).min() > 0.01 and torch.pdist(embedded[OLD:]).min() > 0.1
    assert float(embedded[OLD:].std()) == pytest.approx(float(embedded[:OLD].std()), rel=0.2)


def test_a_model_that_was_used_in_bfloat16_grows():
    of = small.model(dtype=torch.float32, norm="pre")
    of.model.compute_dtype = torch.bfloat16
    before = logits(of)
    grow_vocabulary(of, OLD + 4)
    grow_depth(of)
    torch.testing.assert_close(logits(of)[..., :OLD], before, atol=1e-6, rtol=0)


# Depth


@each_form
def test_logits_stay_to_the_last_bit_when_layers_are_added(form: str):
    of = model(form)
    before = logits(of, **deepest(of))
    grow_depth(of, fast=2, slow=1)
    # Also post-norm: grown blocks only shorten, because the eps of a second norm would show after so many visits.
    assert torch.equal(logits(of, **deepest(of)), before)
    sizes = [len(s.layers) for s in (of.model.recurrence.fast, of.model.recurrence.slow) if s is not None]
    assert sizes == ([6] if not of.config.hierarchy else [5] if of.config.shared else [4, 2])


@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 20)), min_size=1, max_size=3))
def test_growing_again_and_again(steps: list[tuple[int, int, int]]):
    of = copy.deepcopy(_original())
    before = logits(of)
    for fast, slow, new in steps:
        if fast + slow:
            grow_depth(of, fast, slow)
        grow_vocabulary(of, of.config.vocab_size + new)
    torch.testing.assert_close(logits(of)[..., :OLD], before, atol=1e-12, rtol=0)
    drawn = [p for name, p in of.named_parameters() if "fast" in name and name.endswith("gate_up.weight")]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


@cache
def _original() -> HRMForCausalLM:
    return model("original")


def test_no_growth_is_refused():
    for fast, slow in ((0, 0), (-1, 2)):
        with pytest.raises(UserError, match="no growth"):
            grow_depth(model("original"), fast, slow)


def test_growth_is_a_function_of_the_seed_and_leaves_other_random_numbers_alone():
    a, b, c = (model("original") for _ in range(3))
    torch.manual_seed(5)
    wanted = torch.rand(3)
    for of, seed in ((a, 1), (b, 1), (c, 2)):
        torch.manual_seed(5)
        grow_vocabulary(of, OLD + 2, seed=seed)
        grow_depth(of, seed=seed)
        assert torch.equal(torch.rand(3), wanted)
    same = [torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)]
    other = [torch.equal(x, y) for x, y in zip(a.state_dict().values(), c.state_dict().values(), strict=True)]
    assert all(same) and not all(other)


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, (1, 0)), (1, (1, 0)), (2, (1, 1)), (3, (2, 1)), (4, (3, 1)), (6, (4, 2))]
)
def test_layers_come_nearest_to_the_parameters_asked_for(count: int, wanted: tuple[int, int]):
    of = model("original")
    block = sum(p.numel() for p in of.model.recurrence.fast.layers[0].parameters())
    before = sum(p.numel() for p in of.parameters())
    for asked in (count * block - block // 3, count * block + block // 3):
        assert layers_for(of, asked) == wanted
    grow_depth(of, *wanted)
    assert sum(p.numel() for p in of.parameters()) == before + sum(wanted) * block


# Both


@pytest.mark.slow
@each_form
def test_token_by_token_still_equals_all_at_once(form: str):
    of = model(form)
    grow_vocabulary(of, OLD + 5)
    grow_depth(of)
    _disturb(of)
    ids = small.tokens()
    ids[:, ::3] = OLD + 1
    halting = (
        {"halting": "q"},
        {"halting": "q", "halting_rule": "backfill"},
        {"halting": "kl", "exit_threshold": 0.05},
    )[list(FORMS).index(form) % 3]
    for request in ({}, halting) if of.config.hierarchy else ({},):
        with torch.no_grad():
            at_once, cache = of(ids, use_cache=False, **request), HRMCache(room=4)
            parts = [
                of(part, past_key_values=cache, use_cache=True, **request) for part in ids.split([1, 3, 1, 7], dim=1)
            ]
        assert torch.equal(torch.cat([part.depth for part in parts], dim=1), at_once.depth)
        torch.testing.assert_close(torch.cat([part.logits for part in parts], dim=1), at_once.logits, atol=1e-9, rtol=0)


def _disturb(of: HRMForCausalLM) -> None:
    """As after learning: no matrix is zero any more."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in of.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)


@each_form
def test_every_new_parameter_learns(form: str):
    of = model(form, head_bias=True)
    grow_vocabulary(of, OLD + 2)
    grow_depth(of)
    before = {name: p.detach().clone() for name, p in of.named_parameters()}
    ids = small.tokens()
    ids[:, 3] = OLD
    ids[:, 5] = OLD + 1
    optimizer = AdamW(of.parameters(), lr=1e-2)
    losses = [learn(of, optimizer, ids) for _ in range(3)]
    assert losses[-1] < losses[0]
    still = [name for name, p in of.named_parameters() if torch.equal(p, before[name]) and "q_head" not in name]
    assert not still
    for rows in (of.model.embed_tokens.weight, of.lm_head.weight, of.lm_head.bias):
        name = next(name for name, p in of.named_parameters() if p is rows)
        assert rows is not None and bool((rows[OLD:] != before[name][OLD:]).any(-1).all())


@each_form
def test_a_grown_model_saved_and_loaded_says_the_same(form: str, tmp_path: Path):
    of = model(form)
    grow_vocabulary(of, OLD + 5)
    grow_depth(of)
    grow_depth(of, 1, 1)
    _disturb(of)
    of.save_pretrained(tmp_path)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(logits(again), logits(of)) and again.config.vocab_size == OLD + 5
    assert not form.startswith("tied") or again.lm_head.weight is again.model.embed_tokens.weight


@pytest.mark.parametrize("make", [AdamW, AdamATan2, lambda p, lr: AdamW(p, lr=lr, amsgrad=True)])
@pytest.mark.parametrize("form", ["original", "tied", "with a bias"])
def test_the_optimizer_goes_on_where_it_was(form: str, make: Any):
    ungrown, ids = model(form), small.tokens()
    optimizer = make(ungrown.parameters(), lr=1e-2)
    for _ in range(2):
        learn(ungrown, optimizer, ids)
    old, of = state_of(optimizer, ungrown), copy.deepcopy(ungrown)
    old = {name: tensor.clone() for name, tensor in old.items()}
    grow_vocabulary(of, OLD + 3)
    grow_depth(of)
    state = carry_over(old, of)
    assert state.keys() == old.keys()
    for name, tensor in state.items():
        if not old[name].ndim:
            assert tensor == 2
            continue
        count = len(old[name])
        assert tensor.shape == of.get_parameter(name.rpartition(".")[0]).shape
        assert torch.equal(tensor[:count], old[name]) and not tensor[count:].any()
    grown = make(of.parameters(), lr=1e-2)
    for name, p in of.named_parameters():
        mine = {key.rpartition(".")[2]: t for key, t in state.items() if key.rpartition(".")[0] == name}
        if mine:
            grown.state[p] = mine
    learn(of, grown, ids)
    learn(ungrown, optimizer, ids)
    for name, wanted in ungrown.named_parameters():
        # Growth changes no gradient either, so the next update is the one that would have been made.
        torch.testing.assert_close(of.get_parameter(name)[: len(wanted)], wanted, atol=1e-6, rtol=0)


def test_the_state_of_another_model_is_refused():
    of = model("original")
    for name, tensor in (
        ("lm_head.weight.exp_avg", torch.zeros(OLD, 31)),
        ("gone.exp_avg", torch.zeros(2)),
        ("gone.step", torch.tensor(1.0)),
    ):
        with pytest.raises(UserError, match="fits nothing"):
            carry_over({name: tensor}, of)


def test_averaged_weights_grow_with_the_model():
    of = model("with a bias")
    average = {name: p.detach() * 0.9 for name, p in of.named_parameters()}
    averaged = copy.deepcopy(of)
    averaged.load_state_dict(average, strict=False)
    before = logits(averaged)
    grow_vocabulary(of, OLD + 3)
    grow_depth(of)
    of.load_state_dict(carry_over_average(average, of), strict=False)
    after = logits(of)
    torch.testing.assert_close(after[..., :OLD], before, atol=1e-12, rtol=0)
    assert after.softmax(-1)[..., OLD:].sum() < 1e-6


# Real text


@cache
def _alice() -> tuple[HRMForCausalLM, Tensor]:
    """A small model that has read some of a book, and held-out rows of it."""
    text = (hrm_data() / "text/alice.txt").read_text("utf-8-sig")
    letters = {c: i for i, c in enumerate(dict.fromkeys(text))}
    data = torch.tensor([letters[c] for c in text])
    of = small.model(dtype=torch.float32, vocab_size=len(letters), max_segments=1)
    optimizer, generator = AdamW(of.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
    for _ in range(60):
        starts = torch.randint(len(data) - 10_000, (8,), generator=generator)
        learn(of, optimizer, torch.stack([data[s : s + 48] for s in starts]))
    return of, data[-2_400:].view(-1, 80)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [(2, 2), (6, 4)])
def test_the_loss_of_old_text_does_not_jump(schedule: tuple[int, int]):
    read, held_out = _alice()
    of, targets = copy.deepcopy(read), held_out[:, 1:]

    def loss() -> float:
        return token_loss(logits(of, held_out, schedule=schedule)[:, :-1], targets).double().mean().item()

    before = loss()
    assert before < 3.2 or schedule != (2, 2)  # it has learned something
    grow_vocabulary(of, of.config.vocab_size + 40)
    assert loss() == pytest.approx(before, rel=1e-6)
    grow_depth(of)
    assert loss() == pytest.approx(before, rel=1e-6)


@pytest.mark.slow
def test_admitted_tokens_get_the_part_of_their_frequency_asked_for():
    read, held_out = _alice()
    of, old = copy.deepcopy(read), read.config.vocab_size
    grow_vocabulary(of, old + 3)
    ids, targets = held_out[:, :-1].clone(), held_out[:, 1:].clone()
    targets[:, 7], targets[::10, 9], targets[:, :2] = old, old + 1, -100
    before = of.lm_head.bias.detach().clone()  # type: ignore[union-attr]
    admit(of, ids, targets, old, part=0.5)
    counted = targets != -100
    share = logits(of, ids).softmax(-1)[counted].mean(0)[old:]
    frequency = torch.bincount(targets[counted], minlength=old + 3)[old:] / counted.sum()
    torch.testing.assert_close(share[:2], 0.5 * frequency[:2], rtol=0.1, atol=0)
    assert torch.equal(of.lm_head.bias[:old], before[:old]) and of.lm_head.bias[-1] == before[-1]  # type: ignore[index]
