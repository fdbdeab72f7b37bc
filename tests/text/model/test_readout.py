"""What halting by a readout promises: the formula, and that it needs what it looks at and changes no training."""

from __future__ import annotations

import pytest
import torch

from hrm.files.reading import UserError
from hrm.text.model import HRMConfig, HRMForCausalLM
from tests.text.model import small

THRESHOLD = 0.5


@torch.no_grad()
def by_hand(model: HRMForCausalLM) -> torch.Tensor:
    """P(settled) after each segment [segments, b, p], from whole forward passes at fixed depth."""
    found, old = [], None
    b1, e1, b, e, k, a = small.READOUT
    for depth in (1, 2, 3):
        p = model(small.tokens(), max_segments=depth, halting="fixed").logits.softmax(-1)
        entropy = torch.distributions.Categorical(p).entropy()
        if old is None:
            score = b1 + e1 * entropy
        else:
            change = (p * (p / old).log()).sum(-1)
            score = b + e * entropy + k * change + a * (p.argmax(-1) == old.argmax(-1))
        found.append(1 / (1 + (-score).exp()))
        old = p
    return torch.stack(found)


@pytest.mark.parametrize("form", ["original", "hrm_text"])
def test_a_token_halts_where_the_formula_says(form: str) -> None:
    model = small.model(**small.FORMS[form])
    stops = by_hand(model) > THRESHOLD
    stops[-1] = True
    with torch.no_grad():
        # Under this rule a token's states are those of fixed depth, whatever halts before it.
        depth = model(
            small.tokens(), halting="readout", halting_rule="backfill", exit_threshold=THRESHOLD, use_cache=False
        ).depth
    assert torch.equal(depth, stops.int().argmax(0) + 1)
    assert depth.unique().tolist() == [1, 2, 3]


def test_a_model_that_was_never_calibrated_is_refused_in_a_sentence() -> None:
    plain = small.model(readout=())
    for ask in (lambda: plain(small.tokens(), halting="readout"), lambda: small.config(halting="readout", readout=())):
        with pytest.raises(UserError, match="hrm calibrate"):
            ask()
    with pytest.raises(UserError, match="no output layer"):
        small.model().model(small.tokens(), halting="readout")


def test_a_readout_survives_saving(tmp_path) -> None:
    config = small.config(halting="readout")
    config.save_pretrained(tmp_path)
    assert HRMConfig.from_pretrained(tmp_path).readout == small.READOUT


@pytest.mark.parametrize("form", ["original", "all shared"])
def test_training_is_that_of_fixed_depth(form: str) -> None:
    found = []
    for halting in ("fixed", "readout"):
        model = small.model(halting=halting, **small.FORMS[form]).train()
        torch.manual_seed(0)
        loss = model(small.tokens(), labels=small.tokens()).loss
        loss.backward()
        found.append((loss, *(p.grad for p in model.parameters())))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
