"""Initial weights, norms and the number of parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hrm.core.arch import ArchConfig
from hrm.core.kernels import rms_norm
from hrm.core.layers import Context, ConvSwiGLU, Linear, SwiGLU, rotary_angles, rotate, truncated_normal_
from hrm.puzzles.model import Board, PuzzleModel
from tests.core import small
from tests.reference import blocks

# What a cut at two standard deviations leaves of a normal's standard deviation: scipy.stats.truncnorm(-2, 2).std().
CUT_STD = 0.8796256610342398


def test_the_default_model_has_the_published_number_of_parameters() -> None:
    board = Board(cells=81, vocabulary=11, symbols=(2, 9), groups=small.sudoku_groups(3, 3))
    with torch.device("meta"):
        model = PuzzleModel(ArchConfig(), board)
    assert sum(p.numel() for p in model.parameters()) == 27_275_266


def test_truncated_normal_has_the_wanted_deviation_and_its_bounds() -> None:
    torch.manual_seed(0)
    sample = truncated_normal_(torch.empty(1_000_000), 0.3)
    assert sample.std().item() == pytest.approx(0.3, rel=3e-3)
    assert sample.mean().item() == pytest.approx(0, abs=1e-3)
    bound = 2 * 0.3 / CUT_STD
    assert sample.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert sample.abs().max().item() <= bound * (1 + 1e-6)


def test_linear_layers_start_as_truncated_lecun_normal() -> None:
    torch.manual_seed(0)
    weight = Linear(400, 500).weight
    assert weight.shape == (500, 400)
    assert weight.std().item() == pytest.approx(400**-0.5, rel=1e-2)
    assert weight.abs().max().item() <= 2 * 400**-0.5 / CUT_STD * (1 + 1e-6)


def test_embeddings_initial_states_and_q_head_start_as_published() -> None:
    torch.manual_seed(0)
    model = PuzzleModel(
        small.arch(dim=256, positions="learned"), small.board(cells=400, groups=np.zeros((3, 400), int))
    )
    assert model.embed_positions is not None and model.task_embedding is not None
    for table in (model.embed_tokens, model.embed_positions):
        assert table.weight.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.05)
    assert not model.task_embedding.weight.any()
    assert not model.q_head.weight.any()
    assert model.q_head.bias is not None and model.q_head.bias.tolist() == [-5.0, -5.0]
    for state in (model.z_h_init, model.z_l_init):
        assert state.std().item() == pytest.approx(1, rel=0.15)
    names = dict(model.named_parameters())
    assert "z_h_init" not in names and "z_l_init" not in names
    assert {"z_h_init", "z_l_init", "task_embedding.weight"} <= model.state_dict().keys()


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_is_computed_in_float32_and_keeps_the_dtype(dtype: torch.dtype, axis: int) -> None:
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)) * 300
    result = rms_norm(x.to(dtype), 1e-5, axis)
    assert result.dtype == dtype
    expected = blocks.rms(x.to(dtype).double(), axis=axis)
    torch.testing.assert_close(result.double(), expected, atol=2 * torch.finfo(dtype).eps, rtol=torch.finfo(dtype).eps)


def test_rotation_keeps_lengths_and_depends_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    cos, sin = rotary_angles(900, 8, 1e4)
    turned_q, turned_k = (rotate(v.expand(1, 900, 1, 8).contiguous(), cos, sin)[0, :, 0] for v in (q, k))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(900))
    near, far = turned_q[3] @ turned_k[10], turned_q[883] @ turned_k[890]
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)


def test_the_bounded_unit_follows_its_formula_and_stays_bounded() -> None:
    torch.manual_seed(0)
    layer = SwiGLU(12, small.arch(unit="bounded", expansion_multiple=8)).double()
    z = torch.randn(5, 7, 12, dtype=torch.float64)
    gate, up = (z @ layer.gate_up.weight.T).chunk(2, -1)
    product = gate * up
    normed = product / (product.square().mean(-1, keepdim=True) + layer.eps).sqrt()
    expected = (1 / (1 + torch.exp(-gate)) * normed) @ layer.down.weight.T
    assert torch.allclose(layer(z, Context(), 0), expected, atol=1e-12)
    bound = torch.linalg.matrix_norm(layer.down.weight, 2) * layer.down.weight.shape[1] ** 0.5
    assert (layer(1e6 * z, Context(), 0).norm(dim=-1) <= bound).all()
    assert (SwiGLU(12, small.arch(expansion_multiple=8)).double()(1e6 * z, Context(), 0).norm(dim=-1) > 1e6).all()


def test_the_convolution_adds_the_position_before() -> None:
    torch.manual_seed(0)
    layer = ConvSwiGLU(12, small.arch(unit="conv", expansion_multiple=8)).double()
    z = torch.randn(5, 7, 12, dtype=torch.float64)
    gate, up = (z @ layer.gate_up.weight.T).chunk(2, -1)
    h = gate / (1 + torch.exp(-gate)) * up
    mixed = h * layer.kernel.weight[:, 1]
    mixed[:, 1:] += h[:, :-1] * layer.kernel.weight[:, 0]
    expected = (mixed / (1 + torch.exp(-mixed))) @ layer.down.weight.T
    assert torch.allclose(layer(z, Context(), 0), expected, atol=1e-12)


def test_a_puzzle_model_with_convolutions_learns_in_every_weight() -> None:
    model = small.model(unit="conv")
    inputs, ids = small.batch()
    _, readout = model.segment(model.initial_carry(inputs, ids), inputs, ids)
    readout.logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n.startswith("recurrence."))


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
def test_the_bounded_unit_changes_no_parameter(mixer: str) -> None:
    changes = {"mixer": mixer, "positions": "none" if mixer == "mlp" else "rope", "shared": True}
    plain, bounded = (PuzzleModel(small.arch(**changes, unit=unit), small.board()) for unit in ("swiglu", "bounded"))
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (plain, bounded)]
    assert shapes[0] == shapes[1]
