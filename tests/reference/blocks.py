"""One block: RMSNorm, rotary attention, SwiGLU, MLP mixing; post-norm (HRM, TRM) and pre-norm (HRM-Text)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Layer = dict[str, Tensor]


def rms(x: Tensor, eps: float = 1e-5, axis: int = -1) -> Tensor:
    return x / torch.sqrt((x * x).mean(axis, keepdim=True) + eps)


def turn(x: Tensor, base: float) -> Tensor:
    """Rotary embedding of [b, p, e]: the complex number x_j + i x_(j + e/2) turns by the angle p / base^(2j/e)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] / base ** (
        torch.arange(half, dtype=torch.float64) / half
    )
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def attend(
    x: Tensor, layer: Layer, heads: int, base: float | None, causal: bool = False, gated: bool = False
) -> Tensor:
    """Softmax attention head by head; rows of qkv are q | k | v, and | gate if it is gated.

    Fewer key and value heads are shared by neighbours.
    """
    width = layer["mixer.out"].shape[1] // heads
    kv_heads = (layer["mixer.qkv"].shape[0] // width - heads - (heads if gated else 0)) // 2
    parts = (x @ layer["mixer.qkv"].T).split(width, dim=-1)
    outputs = []
    for head in range(heads):
        shared = head * kv_heads // heads
        q, k, v = parts[head], parts[heads + shared], parts[heads + kv_heads + shared]
        if base is not None:
            q, k = turn(q, base), turn(k, base)
        scores = q @ k.transpose(1, 2) / math.sqrt(width)
        if causal:
            later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        outputs.append(scores.softmax(-1) @ v)
    mixed = torch.cat(outputs, -1)
    if gated:
        mixed = mixed / (1 + torch.exp(-torch.cat(parts[-heads:], -1)))
    return mixed @ layer["mixer.out"].T


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    inner = down.shape[1]
    gate, up = x @ gate_up[:inner].T, x @ gate_up[inner:].T
    return (gate / (1 + torch.exp(-gate)) * up) @ down.T


def post_norm(x: Tensor, layer: Layer, heads: int, base: float | None, causal: bool = False) -> Tensor:
    """h = rms(h + mix(h)); h = rms(h + swiglu(h)); MLP mixing works on, and norms over, the position axis."""
    if "mixer.gate_up" in layer:
        turned = x.transpose(1, 2)
        x = rms(turned + swiglu(turned, layer["mixer.gate_up"], layer["mixer.down"])).transpose(1, 2)
    else:
        x = rms(x + attend(x, layer, heads, base, causal))
    return rms(x + swiglu(x, layer["mlp.gate_up"], layer["mlp.down"]))


def pre_norm(x: Tensor, layer: Layer, heads: int, base: float | None, causal: bool, eps: float) -> Tensor:
    x = x + attend(rms(x, eps), layer, heads, base, causal, gated=True)
    return x + swiglu(rms(x, eps), layer["mlp.gate_up"], layer["mlp.down"])
