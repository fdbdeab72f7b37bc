"""The probe on a causal model: the same states as the equations, as the hidden states, and as the cache gives."""

from __future__ import annotations

import torch

from hrm.core.probe import Motion, Probe, States, probing
from tests.text.model import small


def test_it_sees_the_hidden_states() -> None:
    model, states = small.model(), States()
    with probing(model, Probe(states)), torch.no_grad():
        out = model(small.tokens(), halting="fixed", output_hidden_states=True)
    assert len(out.hidden_states) == 1 + len(states.kept)
    assert all(torch.equal(kept, z) for (_, kept), z in zip(states.kept, out.hidden_states[1:], strict=True))
    assert [moment.segment for moment, _ in states.kept] == [1] * 6 + [2] * 6 + [3] * 6
    assert model.model.probe is None


def test_a_halted_token_shows_where_it_halted_and_is_not_counted() -> None:
    model, states, motion = small.model(), States(), Motion()
    ids = small.tokens()
    with probing(model, Probe(states, motion)), torch.no_grad():
        out = model(ids, halting="q", use_cache=False)
    assert 1 <= int(out.depth.min()) < int(out.depth.max())
    ends = [z for moment, z in states.kept if moment.visit.role == "H" and moment.visit.cycle == 1]
    for row, column in ((row, column) for row in range(len(ids)) for column in range(ids.shape[1])):
        depth = int(out.depth[row, column])
        for segment in range(depth, len(ends)):
            assert torch.equal(ends[segment][row, column], ends[depth - 1][row, column])
    counted = {moment.segment: float(sums[0]) for moment, sums in motion.sums.items()}
    assert counted == {segment: float((out.depth >= segment).sum()) for segment in counted}


def test_token_by_token_it_sees_what_it_sees_of_the_whole_text() -> None:
    model, ids = small.model(), small.tokens()
    whole, single = States(), []
    with torch.no_grad():
        with probing(model, Probe(whole)):
            model(ids, halting="fixed", use_cache=False)
        cache = None
        for place in range(ids.shape[1]):
            one = States()
            with probing(model, Probe(one)):
                cache = model(
                    ids[:, place : place + 1], halting="fixed", past_key_values=cache, use_cache=True
                ).past_key_values
            single.append([z for _, z in one.kept])
    for visit, (_, z) in enumerate(whole.kept):
        joined = torch.cat([states[visit] for states in single], dim=1)
        torch.testing.assert_close(joined, z, rtol=1e-10, atol=1e-10)


def test_it_watches_a_model_that_writes() -> None:
    model, motion = small.model(dtype=torch.float32), Motion()
    with probing(model, Probe(motion)):
        model.generate(small.tokens(1, 4), max_new_tokens=3, do_sample=False, halting="fixed", pad_token_id=0)
    assert {float(sums[0]) for sums in motion.sums.values()} == {4.0 + 2}
