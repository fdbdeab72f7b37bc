"""The weights of a model as the reference equations want them: nested, in float64, every tensor a leaf."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Net = dict[str, Any]


def leaves(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float64 copies that collect gradients, under the same names."""
    return {name: tensor.detach().double().requires_grad_() for name, tensor in weights.items()}


def net_of(named: Mapping[str, Tensor]) -> Net:
    """Arrange tensors under this package's names: stacks become lists of layers, the rest keeps a short name."""
    net: Net = {"fast": [], "slow": []}
    for name, tensor in named.items():
        match = re.fullmatch(r"recurrence\.(fast|slow)\.layers\.(\d+)\.(.+)\.weight", name)
        if match is None:
            net[name.removesuffix(".weight")] = tensor
            continue
        stack, index = net[match[1]], int(match[2])
        stack.extend({} for _ in range(index + 1 - len(stack)))
        stack[index][match[3]] = tensor
    return net


def official_net_of(named: Mapping[str, Tensor]) -> Net:
    """Arrange tensors under the official names of HRM and TRM (without a prefix) in the same way."""
    short = {
        "embed_tokens.embedding_weight": "embed_tokens",
        "embed_pos.embedding_weight": "embed_positions",
        "lm_head.weight": "head",
        "q_head.weight": "q_head",
        "q_head.bias": "q_head.bias",
        "puzzle_emb.weights": "task_embedding",
        "H_init": "z_h_init",
        "L_init": "z_l_init",
    }
    parts = {
        "self_attn.qkv_proj": "mixer.qkv",
        "self_attn.o_proj": "mixer.out",
        "mlp_t.gate_up_proj": "mixer.gate_up",
        "mlp_t.down_proj": "mixer.down",
        "mlp.gate_up_proj": "mlp.gate_up",
        "mlp.down_proj": "mlp.down",
    }
    net: Net = {"fast": [], "slow": []}
    for name, tensor in named.items():
        tensor = tensor.to(torch.float64)
        if name in short:
            net[short[name]] = tensor
            continue
        level, _, index, part = name.removesuffix(".weight").split(".", 3)
        stack = net[{"L_level": "fast", "H_level": "slow"}[level]]
        stack.extend({} for _ in range(int(index) + 1 - len(stack)))
        stack[int(index)][parts[part]] = tensor
    return net
