"""Low-precision forward passes with float32 weights, and torch.compile."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from hrm.core.kernels import rms_norm
from hrm.puzzles.model import PuzzleModel
from hrm.training.config import OptimConfig
from hrm.training.optim import build_optimizers
from tests import forks
from tests.core import small

HALF = [torch.bfloat16, torch.float16]
VARIANTS: dict[str, dict[str, Any]] = {
    "HRM": {},
    "TRM": {"shared": True, "horizon": "last_cycle"},
    "MLP mixing": {"shared": True, "mixer": "mlp", "positions": "none"},
    "learned, tied": {"positions": "learned", "tied": True},
    "HRM-Text": {"norm": "pre", "gate": True, "join": "first_state", "attention": "causal"},
    "groups": {
        "mixer": "groups", "positions": "none", "tokens": "candidates", "task_positions": 0, "q_from": "mean",
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_half_precision_stays_close_to_float32_and_its_gradients_reach_the_weights(
    changes: dict[str, Any], dtype: torch.dtype
) -> None:
    model = small.model(**changes)
    results = []
    for used in (torch.float32, dtype):
        model.dtype = used
        model.zero_grad()
        readout = small.readout(model)
        assert readout.logits.dtype == used and readout.q.dtype == torch.float32
        readout.logits.float().square().mean().backward()
        results.append((readout, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (exact, wanted), (rounded, found) = results
    allowed = {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]
    assert (rounded.logits.float() - exact.logits).abs().max().item() < allowed * exact.logits.std().item() * 3
    assert (rounded.q - exact.q).abs().max().item() < 3 * allowed
    assert found.keys() == wanted.keys()
    for name, grad in found.items():
        assert grad.dtype == torch.float32, name
        cosine = torch.cosine_similarity(grad.flatten(), wanted[name].flatten(), 0)
        assert not wanted[name].any() or cosine > 0.97, f"{name}: {cosine}"


@pytest.mark.parametrize("name", ["adam_atan2", "adamw", "muon"])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_forward_pass_follows_every_step_of_the_optimizer(dtype: torch.dtype, name: Any) -> None:
    model = small.model()
    model.dtype = dtype
    optimizers = build_optimizers(model, OptimConfig(name=name, lr=1e-2))
    for _ in range(2):
        small.readout(model).logits.float().square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    fresh = small.model(seed=7)
    fresh.load_state_dict(model.state_dict())
    fresh.dtype = dtype
    assert torch.equal(small.readout(model).logits, small.readout(fresh).logits)


def replaced(model: PuzzleModel, how: str) -> None:
    """Put other weights into the model in one of the ways people do."""
    other = small.model(seed=7)
    if how == "load_state_dict":
        model.load_state_dict(other.state_dict())
    elif how == "assign":
        model.load_state_dict(other.state_dict(), assign=True)
    else:
        for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
            mine.data = theirs.data
        for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
            mine.data = theirs.data


@pytest.mark.parametrize("how", ["load_state_dict", "assign", "data"])
def test_the_forward_pass_follows_weights_that_are_replaced(how: str) -> None:
    model = small.model()
    model.dtype = torch.bfloat16
    small.readout(model)
    replaced(model, how)
    fresh = small.model(seed=7)
    fresh.dtype = torch.bfloat16
    assert torch.equal(small.readout(model).logits, small.readout(fresh).logits)


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_training_can_follow_a_first_use_without_gradient(
    dtype: torch.dtype, first: type[AbstractContextManager[None]]
) -> None:
    grads = []
    for mode in (nullcontext, first):
        model = small.model()
        model.dtype = dtype
        with mode():
            small.readout(model)
        if model.task_embedding is not None:
            model.task_embedding.used.clear()
        small.readout(model).logits.float().sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_changing_the_precision_back_and_forth_changes_nothing() -> None:
    model = small.model()
    before = small.readout(model).logits
    model.dtype = torch.bfloat16
    small.readout(model)
    model.dtype = torch.float32
    assert torch.equal(small.readout(model).logits, before)


COMPILED = """
import torch
from tests.core import small
torch.set_num_threads(1)
results = []
for compiled in (False, True):
    model = small.model(fast_layers=1, slow_layers=1)
    names = list(model.state_dict())
    if compiled:
        model.compile_stacks()
    assert list(model.state_dict()) == names
    logits = small.readout(model, segments=2).logits
    logits.square().mean().backward()
    results.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
for eager, fast in zip(*results, strict=True):
    torch.testing.assert_close(eager, fast, atol=1e-5, rtol=1e-5)
"""


@pytest.mark.slow
def test_compiled_stacks_give_the_same_values_and_gradients(tmp_path: Path) -> None:
    """In a process of its own, where no shape checks stand in the compiler's way."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")):
        pytest.skip("torch.compile needs a C++ compiler on this machine")
    forks.run(COMPILED, tmp_path)


@pytest.mark.parametrize("dim", [-1, -2])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_the_short_rms_norm_has_the_gradient_of_the_formula(dtype: torch.dtype, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(3, 5, 16, generator=generator).to(dtype) for _ in range(2))
    exact = x.double().requires_grad_()
    (exact * torch.rsqrt(exact.square().mean(dim, keepdim=True) + 1e-5)).backward(grad.double())
    ours = x.clone().requires_grad_()
    rms_norm(ours, 1e-5, dim).backward(grad)
    assert exact.grad is not None and ours.grad is not None
    assert (ours.grad.double() - exact.grad).norm() < 0.01 * exact.grad.norm()
