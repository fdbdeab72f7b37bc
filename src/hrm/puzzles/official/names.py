"""The official names of our tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from hrm.files.reading import UserError

T = TypeVar("T")

PREFIX = "_orig_mod.model.inner."
"""What the official training programs, which compile the model inside its loss, put before every name."""

_PARTS = (
    ("embed_tokens.weight", "embed_tokens.embedding_weight"), ("embed_positions.weight", "embed_pos.embedding_weight"),
    ("task_embedding.weight", "puzzle_emb.weights"), ("z_h_init", "H_init"), ("z_l_init", "L_init"),
    ("recurrence.fast.", "L_level."), ("recurrence.slow.", "H_level."), (".mixer.qkv.", ".self_attn.qkv_proj."),
    (".mixer.out.", ".self_attn.o_proj."), (".mixer.", ".mlp_t."), (".gate_up.", ".gate_up_proj."),
    (".down.", ".down_proj."),
)  # fmt: skip


def official(name: str) -> str:
    """The official name, without prefix, of one of our tensors; rows of fused matrices are in the same order."""
    if name == "head.weight":
        return "lm_head.weight"
    for mine, theirs in _PARTS:
        name = name.replace(mine, theirs)
    return name


def bare(tensors: Mapping[str, T], where: str) -> dict[str, T]:
    """The same tensors without the wrappers' prefixes; UserError where two names become one."""
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        short = re.sub(r"^((_orig_mod|module|model|inner)\.)*", "", name)
        if short in found:
            raise UserError(f"{where} holds '{short}' twice, once as '{name}'")
        found[short] = tensor
    return found
