"""What a training on text would cost, counted on the meta device: shapes without numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hrm.files.reading import UserError
from hrm.text.config import TextConfig
from hrm.text.load import configure
from hrm.text.model import HRMConfig, HRMForCausalLM


def count(shape: HRMConfig, length: int, **request: Any) -> tuple[int, int]:
    """Parameters, and FLOPs of training on one row at full depth or as requested: 2 per multiply-add, torch's count."""
    with torch.device("meta"):
        model = HRMForCausalLM(shape).train()
        ids = torch.zeros(1, length, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        with counter:
            model(input_ids=ids, labels=ids, halting="fixed", **request).loss.backward()
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def plan(config: TextConfig) -> dict[str, Any]:
    """Parameters, FLOPs of an update at full depth, bytes of keys per token."""
    folder = next(
        (p for p in (Path(config.model) / "model", Path(config.model)) if (p / "config.json").is_file()), None
    )
    shape = configure(HRMConfig.from_pretrained(folder) if folder else config.model, config.settings, None)
    length, batch = config.text.length, config.train.batch_size
    if length > shape.max_position_embeddings:
        raise UserError(f"--text.length {length} is longer than the model's {shape.max_position_embeddings} positions")
    parameters, flops = count(shape, length)
    width = 2 if config.train.precision != "float32" else 4
    slots = shape.slots().count(shape.max_segments)
    return {
        "parameters": parameters,
        "steps": config.train.steps,
        "tokens_per_step": batch * length,
        "flops_per_step": flops * batch,
        "key_value_bytes_per_token": 2 * slots * (shape.num_key_value_heads or 1) * shape.head_dim * width,
    }


def describe(figures: dict[str, Any]) -> str:
    """The plan for people."""
    return (
        f"parameters        {figures['parameters']:,}\n"
        f"steps             {figures['steps']:,} of {figures['tokens_per_step']:,} tokens\n"
        f"FLOPs per step    {figures['flops_per_step']:.3e}\n"
        f"FLOPs in all      {figures['flops_per_step'] * figures['steps']:.3e}\n"
        f"keys and values   {figures['key_value_bytes_per_token']:,} bytes per token at full depth"
    )
