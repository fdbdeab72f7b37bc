"""A segment of HRM (arXiv 2506.21734), of TRM (arXiv 2510.04871) and of a plain Transformer, and their readout."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.reference.blocks import post_norm
from tests.reference.net import Net


def embed(net: Net, inputs: Tensor, ids: Tensor, front: int) -> Tensor:
    """x = sqrt(d) * [task embedding, padded to `front` positions ; tokens]; learned positions enter over sqrt(2)."""
    tokens = net["embed_tokens"][inputs]
    width = tokens.shape[-1]
    if front:
        padded = torch.zeros(len(ids), front * width, dtype=torch.float64)
        padded[:, :width] = net["task_embedding"][ids]
        tokens = torch.cat((padded.view(len(ids), front, width), tokens), 1)
    if "embed_positions" in net:
        tokens = (tokens + net["embed_positions"]) / math.sqrt(2)
    return math.sqrt(width) * tokens


def start(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """Initial z_h and z_l: one fixed vector each at every position."""
    return torch.zeros_like(x) + net["z_h_init"], torch.zeros_like(x) + net["z_l_init"]


def hrm_segment(
    net: Net, z_h: Tensor, z_l: Tensor, x: Tensor, cycles: int, steps: int, heads: int, base: float | None = 1e4
) -> tuple[Tensor, Tensor]:
    """N cycles of T steps, all but the last step of L and the last update of H without gradient."""

    def fast(z: Tensor) -> Tensor:
        for layer in net["fast"]:
            z = post_norm(z, layer, heads, base)
        return z

    def slow(z: Tensor) -> Tensor:
        for layer in net["slow"]:
            z = post_norm(z, layer, heads, base)
        return z

    with torch.no_grad():
        for i in range(1, cycles * steps):
            z_l = fast(z_l + z_h + x)
            if i % steps == 0:
                z_h = slow(z_h + z_l)
    z_l = fast(z_l + z_h + x)
    z_h = slow(z_h + z_l)
    return z_h, z_l


def trm_segment(
    net: Net, y: Tensor, z: Tensor, x: Tensor, cycles: int, steps: int, heads: int, base: float | None
) -> tuple[Tensor, Tensor]:
    """Latent recursion: n times z = net(x + y + z), then y = net(y + z); all but the last round without gradient."""

    def apply(state: Tensor) -> Tensor:
        for layer in net["fast"]:
            state = post_norm(state, layer, heads, base)
        return state

    def recursion(y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(steps):
            z = apply(x + y + z)
        return apply(y + z), z

    with torch.no_grad():
        for _ in range(cycles - 1):
            y, z = recursion(y, z)
    return recursion(y, z)


def transformer(net: Net, x: Tensor, heads: int, base: float | None) -> Tensor:
    """The plain baseline: every block once."""
    for layer in net["fast"]:
        x = post_norm(x, layer, heads, base)
    return x


def readout(net: Net, z_h: Tensor, front: int) -> tuple[Tensor, Tensor]:
    """Logits of the grid's cells, and (q_halt, q_continue) read from the first position."""
    return z_h[:, front:] @ net.get("head", net["embed_tokens"]).T, z_h[:, 0] @ net["q_head"].T + net["q_head.bias"]
