"""Official checkpoints with random weights, written from the facts of the format and not by the package."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

HRM = "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1"
TRM = "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1"


def settings(name: str = HRM, **arch: Any) -> dict[str, Any]:
    """The content of an all_config.yaml for a small model."""
    values: dict[str, Any] = {
        "name": name,
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "halt_exploration_prob": 0.1,
        "halt_max_steps": 16,
        "H_cycles": 2,
        "L_cycles": 2,
        "H_layers": 2,
        "L_layers": 1,
        "hidden_size": 32,
        "num_heads": 4,
        "expansion": 4,
        "puzzle_emb_ndim": 32,
        "pos_encodings": "rope",
        "forward_dtype": "float32",
    }
    trm = {"H_layers": 0, "L_layers": 2, "mlp_t": False, "puzzle_emb_len": 3, "no_ACT_continue": True}
    return {
        "arch": values | (trm if name == TRM else {}) | arch,
        **({"data_paths": ["data/sudoku"], "evaluators": []} if name == TRM else {"data_path": "data/sudoku"}),
        "global_batch_size": 384,
        "epochs": 20000,
        "eval_interval": 2000,
        "checkpoint_every_eval": True,
        "lr": 7e-5,
        "lr_min_ratio": 1.0,
        "lr_warmup_steps": 2000,
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 1.0,
        "puzzle_emb_lr": 7e-5,
        "puzzle_emb_weight_decay": 1.0,
        "seed": 3,
        "project_name": "Sudoku ACT-torch",
        "checkpoint_path": "checkpoints/somewhere",
    }


def state(
    tree: dict[str, Any], cells: int = 81, vocabulary: int = 11, ids: int = 2, seed: int = 0
) -> dict[str, Tensor]:
    """Every tensor of the model by its official name without prefix, halved so that the model is not chaotic."""
    arch = tree["arch"]
    dim, trm = arch["hidden_size"], arch["name"] == TRM
    front = arch["puzzle_emb_len"] if trm else math.ceil(arch["puzzle_emb_ndim"] / dim)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def add(name: str, *shape: int, std: float | None = None, dtype: torch.dtype = torch.float32) -> None:
        scale = 0.5 * shape[-1] ** -0.5 if std is None else std
        tensors[name] = (torch.randn(shape, generator=generator) * scale).to(dtype)

    def swiglu(name: str, width: int) -> None:
        inner = math.ceil(round(arch["expansion"] * width * 2 / 3) / 256) * 256
        add(f"{name}.gate_up_proj.weight", 2 * inner, width)
        add(f"{name}.down_proj.weight", width, inner)

    dtype = getattr(torch, arch["forward_dtype"])
    add("H_init", dim, std=1.0, dtype=dtype)
    add("L_init", dim, std=1.0, dtype=dtype)
    add("embed_tokens.embedding_weight", vocabulary, dim, std=dim**-0.5)
    add("lm_head.weight", vocabulary, dim)
    add("q_head.weight", 2, dim)
    add("q_head.bias", 2, std=1.0)
    if arch["puzzle_emb_ndim"]:
        add("puzzle_emb.weights", ids, dim, std=0.1)
    if arch["pos_encodings"] == "learned":
        add("embed_pos.embedding_weight", cells + front, dim, std=dim**-0.5)
    for level, layers in (("L_level", arch["L_layers"]), ("H_level", 0 if trm else arch["H_layers"])):
        for i in range(layers):
            layer = f"{level}.layers.{i}"
            if arch.get("mlp_t"):
                swiglu(f"{layer}.mlp_t", cells + front)
            else:
                add(f"{layer}.self_attn.qkv_proj.weight", 3 * dim, dim)
                add(f"{layer}.self_attn.o_proj.weight", dim, dim)
            swiglu(f"{layer}.mlp", dim)
    return tensors


def write(
    folder: Path,
    tree: dict[str, Any],
    tensors: dict[str, Tensor],
    prefix: str = "_orig_mod.model.inner.",
    step: int = 26041,
) -> Path:
    """Save settings and state dict as the official programs do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "all_config.yaml").write_text(yaml.dump(tree))
    torch.save({prefix + name: tensor for name, tensor in tensors.items()}, folder / f"step_{step}")
    return folder
