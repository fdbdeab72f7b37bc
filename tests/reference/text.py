"""HRM-Text (arXiv 2605.20613): pre-norm gated blocks, a norm at the exit, and the input as the first z_h."""

from __future__ import annotations

from torch import Tensor

from tests.reference.blocks import Layer, pre_norm, rms
from tests.reference.horizons import Visits, segment
from tests.reference.net import Net


def text_logits(
    net: Net,
    x: Tensor,
    cycles: int,
    steps: int,
    heads: int,
    causal: bool,
    kept: Visits,
    base: float = 1e4,
    eps: float = 1e-6,
) -> Tensor:
    """lm_head(z_h) after N cycles of z_l = L(z_l + z_h), z_h = H(z_h + z_l) from z_h = x."""

    def stack(layers: list[Layer], z: Tensor) -> Tensor:
        for layer in layers:
            z = pre_norm(z, layer, heads, base, causal, eps)
        return rms(z, eps)

    z_h, _ = segment(
        lambda z: stack(net["fast"], z), lambda z: stack(net["slow"], z), x, net["z_l_init"], 0.0, cycles, steps, kept
    )
    return z_h @ net["head"].T
