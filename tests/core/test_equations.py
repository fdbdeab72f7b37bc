"""Forward pass and gradients of the models against the equations restated in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hrm.core.arch import HaltingConfig
from hrm.core.halting import continue_target
from hrm.puzzles.config import LossConfig
from hrm.puzzles.model import PuzzleModel, Readout
from hrm.puzzles.training.objective import objective
from tests.core import small
from tests.reference import losses, puzzles
from tests.reference.horizons import per_cycle, trailing
from tests.reference.net import Net, leaves, net_of
from tests.reference.text import text_logits

SEGMENTS = 3
TRM: dict[str, Any] = {
    "shared": True, "fast_layers": 2, "horizon": "last_cycle", "h_cycles": 3, "l_cycles": 4, "task_positions": 5,
}  # fmt: skip
VARIANTS = {
    "HRM, rotary": {},
    "HRM, learned positions": {"positions": "learned", "h_cycles": 3, "l_cycles": 1},
    "HRM, no task embedding": {"task_positions": 0, "slow_layers": 1, "h_cycles": 1, "l_cycles": 3},
    "HRM, shared key and value heads": {"kv_heads": 2},
    "HRM, no positions": {"positions": "none"},
    "HRM, one table for input and output": {"tied": True},
    "TRM, attention": TRM,
    "TRM, MLP mixing": {**TRM, "mixer": "mlp", "positions": "none"},
    "plain Transformer": {"hierarchy": False},
}


def reference(model: PuzzleModel, segments: int) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    """Float64 leaves, and logits, q and the next segment's q after some segments."""
    arch = model.arch
    weights = leaves(model.state_dict())
    net = net_of(weights)
    inputs, ids = small.batch()
    x = puzzles.embed(net, inputs, ids, arch.task_positions)
    base = arch.rope_base if arch.positions == "rope" else None
    z_h, z_l = puzzles.start(net, x)

    def segment(z_h: Tensor, z_l: Tensor) -> tuple[Tensor, Tensor]:
        if not arch.hierarchy:
            return puzzles.transformer(net, x, arch.heads, base), z_l
        form = puzzles.trm_segment if arch.shared else puzzles.hrm_segment
        return form(net, z_h, z_l, x, arch.h_cycles, arch.l_cycles, arch.heads, base)

    for _ in range(segments):
        z_h, z_l = segment(z_h.detach(), z_l.detach())
    logits, q = puzzles.readout(net, z_h, arch.task_positions)
    with torch.no_grad():
        next_q = puzzles.readout(net, segment(z_h, z_l)[0], arch.task_positions)[1]
    return weights, logits, q, next_q


def ours(model: PuzzleModel, segments: int) -> tuple[Readout, Tensor]:
    """The readout after some segments and the q of the next."""
    inputs, ids = small.batch()
    carry = model.initial_carry(inputs, ids)
    for number in range(segments):
        # Only the last segment is compared: task embeddings collect the rows of every forward pass.
        with torch.set_grad_enabled(number == segments - 1):
            carry, readout = model.segment(carry.detach() if model.arch.hierarchy else carry, inputs, ids)
    with torch.no_grad():
        return readout, model.segment(carry, inputs, ids)[1].q


def gradients(model: PuzzleModel) -> dict[str, Tensor]:
    """Every parameter's gradient, and the task embeddings' summed by id."""
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    if model.task_embedding is not None:
        table = torch.zeros_like(model.task_embedding.weight)
        for ids, rows in model.task_embedding.used:
            if rows.grad is not None:
                table.index_add_(0, ids, rows.grad)
        found["task_embedding.weight"] = table
    return found


def assert_close(mine: Tensor, reference: Tensor, tolerance: float, name: str = "") -> None:
    difference = (mine.double() - reference).abs().max().item()
    assert difference <= tolerance, f"{name} differs by {difference:.1e}"


@pytest.mark.parametrize("segments", [1, SEGMENTS])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_and_q_values_equal_the_published_equations(changes: dict[str, Any], segments: int) -> None:
    model = small.model(**changes)
    if not model.arch.hierarchy and segments > 1:
        segments = 1  # a single visit without carry
    readout, next_q = ours(model, segments)
    _, logits, q, reference_next_q = reference(model, segments)
    assert_close(readout.logits, logits, 2e-6, "logits")
    assert_close(readout.q, q, 2e-6, "q")
    if model.arch.hierarchy:
        assert_close(next_q, reference_next_q, 2e-6, "next q")


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_loss_q_targets_and_gradients_equal_the_published_equations(changes: dict[str, Any], kind: Any) -> None:
    model = small.model(**changes)
    segments = 2 if model.arch.hierarchy else 1
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(2, small.VOCABULARY, (4, small.CELLS), generator=generator)
    labels[0, :7] = losses.IGNORE
    readout, next_q = ours(model, segments)
    labels[1] = readout.logits[1].argmax(-1)  # one solved puzzle, so that both halting targets occur
    weights, logits, q, reference_next_q = reference(model, segments)
    target = reference_target = None
    if model.arch.hierarchy and not model.arch.shared:
        last = torch.tensor([False, True, False, True])
        target = continue_target(next_q, last)
        reference_target = losses.continue_target(reference_next_q, last)
        assert_close(target, reference_target, 1e-6, "target of q_continue")

    result = objective(readout, labels, target, LossConfig(kind=kind), HaltingConfig())
    assert torch.equal(result.correct.double(), losses.halt_target(logits, labels))
    expected = losses.total(logits, q, labels, reference_target, softmax=kind == "softmax")
    assert_close(result.total, expected, 1e-6 * expected.item(), "loss")
    (result.total / len(labels)).backward()
    (expected / len(labels)).backward()
    found = gradients(model)
    for name, leaf in weights.items():
        wanted = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if name in found:
            assert_close(found[name], wanted, 2e-6, name)
        else:
            assert name.endswith("_init") or not wanted.any(), f"{name} has no gradient"


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize(
    ("horizon", "kept"), [("trailing(4)", trailing(4, 3, 2)), ("per_cycle([1, 2])", per_cycle([1, 2], 3, 2))], ids=str
)
def test_pre_norm_gated_blocks_that_start_from_the_input_equal_hrm_text(horizon: str, kept: Any, causal: bool) -> None:
    model = small.model(
        norm="pre", norm_eps=1e-6, gate=True, join="first_state", attention="causal" if causal else "bidirectional",
        task_positions=0, h_cycles=3, l_cycles=2, horizon=horizon,
    )  # fmt: skip
    inputs, ids = small.batch()
    weights = leaves(model.state_dict())
    net: Net = net_of(weights)
    expected = text_logits(net, puzzles.embed(net, inputs, ids, 0), 3, 2, model.arch.heads, causal, kept)
    readout = model.segment(model.initial_carry(inputs, ids), inputs, ids)[1]
    assert_close(readout.logits, expected, 2e-6, "logits")
    readout.logits.square().mean().backward()
    expected.square().mean().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("q_head"):
            assert parameter.grad is not None, name
            assert_close(parameter.grad, weights[name].grad, 1e-6, name)  # type: ignore[arg-type]


def test_a_cycle_is_readable_as_the_same_weights_with_fewer_cycles() -> None:
    """hrm_text: k cycles in one segment equal k segments of one cycle, since the input enters only once."""
    model = small.model(norm="pre", join="first_state", task_positions=0, h_cycles=1, l_cycles=2)
    deep = small.model(norm="pre", join="first_state", task_positions=0, h_cycles=3, l_cycles=2)
    deep.load_state_dict(model.state_dict())
    assert torch.equal(small.readout(model, segments=3).logits, small.readout(deep).logits)
