"""What halting promises: no future leaks, parallel == incremental, the same in any batch, for every rule and cache."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import Cache

from hrm.files.reading import UserError
from hrm.text.model import HRMCache, HRMForCausalLM, selection
from tests.text.model import small

pytestmark = pytest.mark.slow

CRITERIA: dict[str, dict[str, Any]] = {
    "fixed": {},
    "q": {"halting": "q"},
    "kl": {"halting": "kl"},
    "change": {"halting": "change"},
    "readout": {"halting": "readout"},
    "retry": {"halting": "q", "retry_confidence": 0.15, "retry_segments": 2},
}
RULES = ("last_exited", "backfill")
CACHES: dict[str, Any] = {
    "ours": lambda model: HRMCache(room=4),
    "dynamic": lambda model: DynamicCache(),
    "static": lambda model: StaticCache(model.config, max_cache_len=20),
}
EXACT: dict[str, Any] = {"atol": 1e-9, "rtol": 0}

rules = pytest.mark.parametrize("rule", RULES)


def pairs(*forms: str) -> Any:
    """Each form with each criterion; the rules take turns, so that each meets every form and every criterion."""
    cases = [
        (form, RULES[(row + column) % 2], criterion)
        for row, form in enumerate(forms)
        for column, criterion in enumerate(CRITERIA)
    ]
    return pytest.mark.parametrize(("form", "rule", "criterion"), cases)


@cache
def threshold(form: str, criterion: str) -> float:
    """One at which the depths of this form's tokens differ, found by halving."""
    model, low, high = small.model(**small.FORMS[form]), 0.0, 2.0
    for _ in range(30):
        middle = (low + high) / 2
        with torch.no_grad():
            depth = model(small.tokens(), exit_threshold=middle, **CRITERIA[criterion]).depth
        if len(depth.unique()) > 1:
            return middle
        deep = bool(depth[0, 0] > (1 if (rises := criterion in ("q", "readout")) else 2))
        low, high = (low, middle) if deep == rises else (middle, high)
    raise AssertionError("no threshold makes the depths differ")


def request_of(form: str, criterion: str, rule: str) -> dict[str, Any]:
    request = CRITERIA[criterion] | {"halting_rule": rule}
    if criterion in ("q", "kl", "change", "readout"):
        request["exit_threshold"] = threshold(form, criterion)
    return request


@torch.no_grad()
def incremental(
    model: HRMForCausalLM, ids: Tensor, request: dict[str, Any], cache: Cache, parts: list[int], **more: Any
) -> dict[str, Tensor]:
    """Logits, depths and confidences of tokens that arrive in parts."""
    outputs, start = [], 0
    mask = more.pop("attention_mask", None)
    positions = more.pop("position_ids", None)
    for part in parts:
        end = start + part
        now: dict[str, Any] = {} if mask is None else {"attention_mask": mask[:, :end]}
        now |= {} if positions is None else {"position_ids": positions[:, start:end]}
        outputs.append(model(ids[:, start:end], past_key_values=cache, use_cache=True, **now, **request, **more))
        start = end
    return {name: torch.cat([out[name] for out in outputs], dim=1) for name in ("logits", "depth", "confidence")}


def assert_same(a: Any, b: Any, rows: Any = slice(None), columns: Any = slice(None)) -> None:
    assert torch.equal(a["depth"][rows][:, columns], b["depth"][rows][:, columns])
    for name in ("logits", "confidence"):
        torch.testing.assert_close(a[name][rows][:, columns], b[name][rows][:, columns], **EXACT)


@pairs(*small.FORMS)
def test_changing_a_token_changes_nothing_before_it(form: str, rule: str, criterion: str) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens()
    request = request_of(form, criterion, rule)
    with torch.no_grad():
        before = model(ids, **request)
        for t in (1, 7):
            other = ids.clone()
            other[:, t] = ids[:, t] % 49 + 1
            after = model(other, **request)
            assert_same(before, after, columns=slice(t))
            assert not torch.allclose(before.logits[:, t], after.logits[:, t])


@pairs(*small.FORMS)
def test_token_by_token_equals_all_at_once(form: str, rule: str, criterion: str) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens()
    request = request_of(form, criterion, rule)
    with torch.no_grad():
        at_once = model(ids, use_cache=False, **request)
    if criterion not in ("fixed", "retry"):
        assert len(at_once.depth.unique()) > 1, "the depths do not differ: this test would prove nothing"
    assert_same(at_once, incremental(model, ids, request, HRMCache(room=4), [1, 1, 3, 1, 1, 3, 1, 1]))


@pytest.mark.parametrize(
    ("form", "criterion", "rule", "kind"),
    [  # any two of the four meet
        (form, ("fixed", "q", "retry")[(i + j + k) % 3], rule, kind)
        for i, form in enumerate(("grouped", "original", "all shared"))
        for j, rule in enumerate(RULES)
        for k, kind in enumerate(CACHES)
    ],
)
def test_every_cache_gives_the_same(form: str, criterion: str, rule: str, kind: str) -> None:
    model, ids = small.model(**small.FORMS[form], **CRITERIA[criterion]), small.tokens()
    request = request_of(form, criterion, rule)
    with torch.no_grad():
        at_once = model(ids, use_cache=False, **request)
    assert_same(at_once, incremental(model, ids, request, CACHES[kind](model), [4, 1, 1, 3, 1, 1, 1]))


@pairs("original", "hrm_text", "all shared")
def test_a_row_is_the_same_in_any_batch(form: str, rule: str, criterion: str) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens(rows=3, length=9)
    request = request_of(form, criterion, rule)
    together = incremental(model, ids, request, HRMCache(), [6, 1, 1, 1])
    for row in range(3):
        alone = incremental(model, ids[row : row + 1], request, HRMCache(), [6, 1, 1, 1])
        assert_same(alone, {name: t[row : row + 1] for name, t in together.items()})


@pairs("original", "hrm_text", "all shared")
def test_left_padding_changes_nothing(form: str, rule: str, criterion: str) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens(rows=2)
    request = request_of(form, criterion, rule)
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), ids), dim=1)
    mask = (torch.arange(15) >= 3).long().expand(2, -1).clone()
    mask[1, :3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        plain = model(ids, use_cache=False, **request)
        at_once = model(padded, attention_mask=mask, position_ids=positions, use_cache=False, **request)
    assert_same(plain, {n: at_once[n][:, 3:] for n in ("logits", "depth", "confidence")})
    parts = incremental(model, padded, request, HRMCache(), [9, 1, 4, 1], attention_mask=mask, position_ids=positions)
    assert_same(plain, {name: t[:, 3:] for name, t in parts.items()})


@pytest.mark.parametrize("form", small.FORMS)
def test_fixed_depth_in_float32_is_the_same_within_1e_5(form: str) -> None:
    model, ids = small.model(dtype=torch.float32, **small.FORMS[form]), small.tokens()
    with torch.no_grad():
        at_once = model(ids, use_cache=False)
    parts = incremental(model, ids, {}, HRMCache(), [4, *[1] * 8])
    torch.testing.assert_close(parts["logits"], at_once.logits, atol=1e-5, rtol=0)


@rules
def test_computing_the_live_tokens_alone_equals_computing_all(rule: str) -> None:
    """With gradient all tokens are computed and the halted ones put back."""
    model, ids = small.model(), small.tokens(rows=4)
    request = request_of("original", "q", rule)
    dense = model(ids, use_cache=False, **request)
    assert dense.logits.requires_grad
    with torch.no_grad():
        assert_same(model(ids, use_cache=False, **request), dense)


def test_halted_rows_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = small.model(halting="q"), small.tokens(rows=6, length=1)
    seen: list[int] = []
    recurrence = model.recurrence

    def note(module: Any, inputs: Any) -> None:
        seen.append(inputs[1].shape[0] * inputs[1].shape[1])

    recurrence.register_forward_pre_hook(note)
    with torch.no_grad():
        depth = model(ids).depth
    assert seen == [int((depth >= segment).sum()) for segment in range(1, int(depth.max()) + 1)]
    assert len(set(seen)) > 1


@pytest.mark.parametrize("form", list(small.FORMS))
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("halting", ["q", "kl", "readout"])
@pytest.mark.parametrize("picking", [20_000_000, 9600], ids=["never", "once some have halted"])
def test_where_picking_out_live_tokens_saves_nothing_all_are_computed_to_the_same(
    form: str, cached: bool, halting: str, picking: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = {"readout": (0.0, -1.0, 0.0, -1.0, -1.0, 1.0)}
    model, ids, seen = small.model(max_segments=4, **fitted, **small.FORMS[form]), small.tokens(rows=3), []
    levels = {"kl": 0.05, "readout": 0.03}
    with torch.no_grad():
        level = levels.get(halting, float(model(ids, max_segments=1).confidence.median()))
        half: dict[str, Any] = {"use_cache": cached, "halting": halting, "exit_threshold": level}
        picked = model(ids, **half)
        monkeypatch.setattr(selection, "PICKING", picking)
        model.recurrence.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].shape[:2]))
        whole = model(ids, **half)
    assert len(seen) == int(picked.depth.max())
    assert picking < 20_000_000 or {*seen} == {ids.shape}
    assert torch.equal(picked.depth, whole.depth)
    torch.testing.assert_close(picked.logits, whole.logits, **EXACT)
    if form == "original":
        assert int(picked.depth.min()) < int(picked.depth.max())


def test_backfill_equals_the_full_depth_model_read_at_each_tokens_depth() -> None:
    model, ids = small.model(), small.tokens()
    with torch.no_grad():
        out = model(ids, halting="q", halting_rule="backfill")
        deep = {k: model(ids, max_segments=k).logits for k in (1, 2, 3)}
    for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(12)).tolist():
        torch.testing.assert_close(out.logits[row, column], deep[int(out.depth[row, column])][row, column], **EXACT)


def test_last_exited_equals_a_plain_loop() -> None:
    """Token by token: K = where(halted, the last, the new), written out with lists."""
    model, ids = small.model(halting="q"), small.tokens(rows=1, length=7)
    with torch.no_grad():
        out = model(ids)
    inner, slots = model.model, len(model.config.schedule.visits(2, 1)) and 10
    keys_values: list[dict[int, tuple[Tensor, Tensor]]] = []
    for t in range(7):
        own: dict[int, tuple[Tensor, Tensor]] = {}

        class Lists:
            def update(self, keys: Tensor, values: Tensor, slot: int, own: Any = own) -> tuple[Tensor, Tensor]:
                own[slot] = keys, values
                past = []
                for other in keys_values:
                    known = slot
                    while known not in other:
                        known -= slots
                    past.append(other[known])
                pairs = [*past, (keys, values)]
                return torch.cat([k for k, _ in pairs], 2), torch.cat([v for _, v in pairs], 2)

        thought = inner.begin(ids[:, t : t + 1], position_ids=torch.tensor([[t]]), past_key_values=None)
        thought.mask, thought.causal, thought.keys_values = None, False, None
        carry, depth = thought.carry, 0
        from hrm.core.layers import Context

        while depth < 3:
            with torch.no_grad():
                carry = inner.recurrence(
                    carry, thought.x, Context(rope=thought.rope, keys_values=Lists()), first_slot=depth * slots
                )
                depth += 1
                if torch.sigmoid(inner.q_head(carry.z_h)[0, 0, 0]) > 0.5:
                    break
        keys_values.append(own)
        assert depth == int(out.depth[0, t])
        torch.testing.assert_close(model.lm_head(carry.z_h)[0, 0], out.logits[0, t], **EXACT)


def test_budget_and_threshold_move_the_depth() -> None:
    model, ids = small.model(halting="q", max_segments=4), small.tokens(rows=4)
    with torch.no_grad():
        never = model(ids, exit_threshold=1.0).depth
        always = model(ids, exit_threshold=0.0).depth
        least = model(ids, exit_threshold=0.0, min_segments=2).depth
        some = model(ids).depth
        small_budget = model(ids, exit_threshold=1.0, max_segments=2).depth
    assert never.eq(4).all() and always.eq(1).all() and least.eq(2).all() and small_budget.eq(2).all()
    assert 1 < some.double().mean() < 4


def test_q_continue_halts_where_halting_is_worth_more() -> None:
    model, ids = small.model(halting="q", q_continue=True, max_segments=2), small.tokens()
    with torch.no_grad():
        out = model(ids)
        first = model.model(ids, max_segments=1).last_hidden_state
    q = model.model.q_head(first)
    assert torch.equal(out.depth == 1, q[..., 0] > q[..., 1])


def test_a_second_look_goes_deeper_only_where_confidence_is_low() -> None:
    model, ids = small.model(max_segments=2), small.tokens(rows=4)
    with torch.no_grad():
        plain = model(ids)
        confidence = plain.logits.softmax(-1).amax(-1)
        bar = float(confidence.median())
        out = model(ids, retry_confidence=bar, retry_segments=3)
    assert torch.equal(out.retried, confidence < bar) or out.retried[:, 0].equal(confidence[:, 0] < bar)
    assert out.depth[~out.retried].eq(2).all() and out.depth[out.retried].gt(2).all() and out.depth.max() <= 5
    assert plain.retried is None


def test_a_cache_remembers_its_schedule() -> None:
    model, ids = small.model(), small.tokens()
    cache = HRMCache()
    with torch.no_grad():
        model(ids[:, :6], past_key_values=cache)
        with pytest.raises(UserError, match="filled under"):
            model(ids[:, 6:], past_key_values=cache, schedule=(1, 3))
        cache.reset()
        again = model(ids, past_key_values=cache, schedule=(1, 3))
    torch.testing.assert_close(again.logits, model(ids, schedule=(1, 3), use_cache=False).logits, **EXACT)


@rules
def test_a_cropped_cache_goes_on_as_if_the_rest_had_never_been(rule: str) -> None:
    model, ids = small.model(**small.FORMS["grouped"]), small.tokens()
    request = request_of("grouped", "q", rule)
    cache = HRMCache()
    incremental(model, small.tokens(seed=7), request, HRMCache(), [12])
    incremental(model, torch.cat((ids[:, :6], small.tokens(seed=7)), 1), request, cache, [6, *[1] * 5])
    cache.crop(-5)
    rest = incremental(model, ids[:, 6:], request, cache, [1] * 6)
    with torch.no_grad():
        assert_same(rest, {n: t[:, 6:] for n, t in model(ids, use_cache=False, **request).items() if n != "retried"})


@rules
def test_rows_of_a_cache_can_be_reordered(rule: str) -> None:
    model, ids = small.model(), small.tokens(rows=3)
    request, cache = request_of("original", "q", rule), HRMCache()
    incremental(model, ids[:, :6], request, cache, [3, 1, 1, 1])
    order = torch.tensor([2, 0, 0])
    cache.reorder_cache(order)  # type: ignore[arg-type]
    rest = incremental(model, ids[order][:, 6:], request, cache, [1] * 6)
    with torch.no_grad():
        whole = model(ids[order], use_cache=False, **request)
    assert_same(rest, {name: whole[name][:, 6:] for name in ("logits", "depth", "confidence")})


def test_memory_follows_the_depth_that_tokens_reach() -> None:
    model, ids = small.model(max_segments=3), small.tokens()
    sizes = []
    for threshold in (0.0, 1.0):
        cache = HRMCache()
        with torch.no_grad():
            model(ids, past_key_values=cache, halting="q", exit_threshold=threshold)
        sizes.append(cache.bytes_per_token())
    assert sizes[1] == 3 * sizes[0] == 3 * 10 * 2 * 32 * 8


def test_sharing_makes_memory_independent_of_depth_and_cycles() -> None:
    for form, slots in (("shared cycles", 3 * 3), ("shared segments", 10), ("all shared", 3)):
        model, ids = small.model(**small.FORMS[form]), small.tokens()
        cache = HRMCache()
        with torch.no_grad():
            model(ids, past_key_values=cache)
        width = 8 * (model.config.num_key_value_heads or 4)
        assert cache.bytes_per_token() == slots * 2 * width * 8 and model.config.num_hidden_layers == slots
