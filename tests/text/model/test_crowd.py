"""Thoughts of different lengths, depths and segments, computed together: each as it would be alone."""

from __future__ import annotations

import pytest
import torch

from hrm.text.model import HRMCache, HRMForCausalLM
from hrm.text.model.halting import stops
from hrm.text.model.thought import Thought
from tests.text.model.small import FORMS, model, tokens

RULES = {
    "fixed": {"halting": "fixed"},
    "last exited": {"halting": "q", "halting_rule": "last_exited"},
    "backfill": {"halting": "q", "halting_rule": "backfill"},
    "change": {"halting": "change", "exit_threshold": 0.5},
    "prediction": {"halting": "kl", "exit_threshold": 0.01},
    "readout": {"halting": "readout"},
    "second look": {"halting": "q", "retry_confidence": 0.5, "retry_segments": 2},
    "carried state": {"halting": "fixed", "state": "carry"},
}
PROMPTS = [tokens(1, length, seed=length)[:, :length] for length in (1, 4, 9)]


def together(net: HRMForCausalLM, thoughts: list[Thought], budgets: list) -> None:
    """Segments of all thoughts, each with its own budget, until none has live tokens; some begin later."""
    live = list(zip(thoughts, budgets, strict=True))
    while live:
        before = [thought.exited.z_h for thought, _ in live]
        net.segments([thought for thought, _ in live], live[0][1].schedule)
        left = []
        for (thought, budget), old in zip(live, before, strict=True):
            if budget.adaptive:
                thought.halt(stops(thought, old, budget, net.q_head, net.lm_head))
            over = not thought.live.any() if budget.adaptive else thought.segment == budget.max_segments
            left += [] if over else [(thought, budget)]
        live = left


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", ["fixed", "last exited", "backfill"])
def test_every_form_computes_a_crowd_as_each_alone(form: str, rule: str) -> None:
    _same(model(**FORMS[form]), [RULES[rule]] * 3)


@pytest.mark.parametrize("rule", RULES)
def test_every_way_of_halting_is_that_of_each_alone(rule: str) -> None:
    _same(model(), [RULES[rule]] * 3)


def test_different_depths_and_ways_of_halting_share_a_segment() -> None:
    _same(model(), [{"halting": "fixed", "max_segments": 1}, RULES["last exited"], RULES["backfill"]])


def test_a_prefix_sees_itself_in_a_crowd_too() -> None:
    _same(model(prefix_lm=True), [RULES["fixed"]] * 3)


def _same(net: HRMForCausalLM, requests: list[dict]) -> None:
    """Reads three prompts and then two more tokens of each, alone and together, and compares the states, depths and all
    that the caches hold."""
    budgets = [net.budget(**request) for request in requests]
    alone, crowd = [HRMCache() for _ in PROMPTS], [HRMCache() for _ in PROMPTS]
    with torch.inference_mode():
        for step in range(3):
            texts = PROMPTS if step == 0 else [torch.full((1, 1), 7 + step)] * 3
            thoughts = []
            for ids, budget, mine, theirs in zip(texts, budgets, alone, crowd, strict=True):
                types = torch.ones_like(ids) if net.config.prefix_lm and step == 0 else None
                known = {"input_ids": ids, "token_type_ids": types, "budget": budget}
                net.think(single := net.begin(past_key_values=mine, **known), budget)
                mine.carry = type(single.exited)(*(z[:, -1:] for z in single.exited))
                thoughts.append((single, net.begin(past_key_values=theirs, **known)))
            together(net, [both for _, both in thoughts], budgets)
            for (single, both), theirs in zip(thoughts, crowd, strict=True):
                theirs.carry = type(both.exited)(*(z[:, -1:] for z in both.exited))
                torch.testing.assert_close(both.exited, single.exited, rtol=1e-10, atol=1e-10)
                assert torch.equal(both.depth, single.depth)
    for mine, theirs in zip(alone, crowd, strict=True):
        assert len(mine.layers) == len(theirs.layers)
        for a, b in zip(mine.layers, theirs.layers, strict=True):
            torch.testing.assert_close((a.keys, a.values), (b.keys, b.values), rtol=1e-10, atol=1e-10)
