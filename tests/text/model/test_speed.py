"""What makes generation and training fast changes no number: packed matrices, wide attention, the loss in parts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hrm.core import layers
from hrm.text.model import loss
from hrm.text.model.loss import token_loss
from tests.text.model import small

can_pack = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="this CPU does not multiply bfloat16",
)
GREEDY: dict[str, Any] = {
    "max_new_tokens": 6,
    "do_sample": False,
    "output_logits": True,
    "return_dict_in_generate": True,
}


def logits_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    return torch.stack(model.generate(ids, **GREEDY).logits)


@can_pack
@pytest.mark.parametrize("head_bias", [False, True])
def test_packed_matrices_give_the_same_logits(monkeypatch: pytest.MonkeyPatch, head_bias: bool) -> None:
    model, ids = small.model(dtype=torch.bfloat16, head_bias=head_bias), small.tokens()
    calls = []
    pointwise = torch.ops.mkldnn._linear_pointwise
    with monkeypatch.context() as patch:
        patch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda *args: calls.append(1) or pointwise(*args))
        fast = logits_of(model, ids)
    assert calls
    with monkeypatch.context() as patch:
        patch.setattr(layers.Linear, "pack", lambda self: None)
        torch.testing.assert_close(fast, logits_of(model, ids))


@pytest.mark.slow
@can_pack
def test_packed_matrices_follow_every_change_and_leave_nothing_on_the_model(tmp_path: Path) -> None:
    model, ids = small.model(dtype=torch.bfloat16), small.tokens()
    before = logits_of(model, ids)
    assert all(part.packed is None for part in model.modules() if isinstance(part, layers.Linear))
    for _ in range(2):  # neither way tells the parameter that it has changed
        for part in model.modules():
            if isinstance(part, layers.Linear):
                part.weight.data.mul_(0.9)
        after = logits_of(model, ids)
        assert not torch.equal(after, before)
        fresh = small.model(dtype=torch.bfloat16)
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(after, logits_of(fresh, ids))
        before = after
    assert torch.equal(logits_of(copy.deepcopy(model), ids), before)
    model.save_pretrained(tmp_path)


@pytest.mark.parametrize("kv_heads", [2, 4])
@pytest.mark.parametrize("mask", ["causal", "one", "each"])
@pytest.mark.parametrize("length", [1, 12])
def test_short_attention_in_bfloat16_is_that_of_float32(kv_heads: int, mask: str, length: int) -> None:
    model = small.model(dtype=torch.float32, num_key_value_heads=kv_heads)
    attention = model.recurrence.fast.layers[0].mixer
    z = torch.randn(3, length, 32, generator=torch.Generator().manual_seed(0))
    seen = torch.rand(1 if mask == "one" else 3, 1, length, length, generator=torch.Generator().manual_seed(1)) > 0.4
    seen = seen | torch.eye(length, dtype=torch.bool)
    context = layers.Context(causal=True) if mask == "causal" and length > 1 else layers.Context(mask=seen)
    exact = attention(z, context, 0)  # type: ignore[operator]
    low = copy.deepcopy(attention).bfloat16()(z.bfloat16(), context, 0)  # type: ignore[operator]
    torch.testing.assert_close(low.float(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.01)])
def test_the_loss_in_parts_is_the_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, z_loss: float
) -> None:
    monkeypatch.setattr(loss, "_AT_ONCE", 40)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 7, 11, dtype=torch.float64, generator=random, requires_grad=True)
    targets = torch.randint(0, 11, (2, 7), generator=random)
    targets[0, 2] = targets[1, 6] = -100
    weight = torch.rand(2, 7, dtype=torch.float64, generator=random)
    flat = logits.flatten(0, 1)
    expected = F.cross_entropy(flat, targets.flatten(), reduction="none", label_smoothing=smoothing)
    expected = (expected + z_loss * flat.logsumexp(-1).square() * (targets.flatten() != -100)).view(2, 7)
    found = token_loss(logits, targets, smoothing, z_loss)
    torch.testing.assert_close(found, expected)
    (a,), (b,) = (torch.autograd.grad(each, logits, weight, retain_graph=True) for each in (found, expected))
    torch.testing.assert_close(a, b)
