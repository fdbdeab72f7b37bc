"""The official HRM program beside this package: scaled_dot_product_attention stands in for flash-attn."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """flash-attn's function [batch, positions, heads, dim] by torch's attention."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).contiguous()


def official_hrm(path: Path, batch_size: int) -> Any:
    """The 27M model of a clone of github.com/sapientinc/HRM, for Sudoku in bfloat16."""
    attention = types.ModuleType("flash_attn")
    attention.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    sys.modules["flash_attn"] = attention
    sys.path.insert(0, str(path))
    from models.hrm.hrm_act_v1 import HierarchicalReasoningModel_ACTV1  # type: ignore[import-not-found]

    arch = dict(
        batch_size=batch_size, seq_len=81, puzzle_emb_ndim=512, num_puzzle_identifiers=1, vocab_size=11, H_cycles=2,
        L_cycles=2, H_layers=4, L_layers=4, hidden_size=512, expansion=4, num_heads=8, pos_encodings="rope",
        halt_max_steps=16, halt_exploration_prob=0.1, forward_dtype="bfloat16",
    )  # fmt: skip
    return HierarchicalReasoningModel_ACTV1(arch)
