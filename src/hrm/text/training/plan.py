"""What a training on text would cost, counted on the meta device: shapes without numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.text.config import TextConfig, saved
from hrm.text.load import configure
from hrm.text.model import HRMConfig, HRMForCausalLM


def count(
    shape: HRMConfig, length: int, schedule: Sequence[int] | None = None, max_segments: int | None = None
) -> tuple[int, int]:
    """Parameters, and FLOPs of training on one row at full depth or as requested: 2 per multiply-add, torch's count."""
    with torch.device("meta"):
        model = HRMForCausalLM(shape).train()
        ids = torch.zeros(1, length, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        with counter:
            budget = model.budget(halting="fixed", schedule=schedule, max_segments=max_segments)
            model(input_ids=ids, labels=ids, budget=budget).loss.backward()
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


@dataclass(frozen=True)
class Plan(Record):
    """What a training would cost at full depth."""

    parameters: int
    steps: int
    tokens_per_step: int
    flops_per_step: int
    key_value_bytes_per_token: int


def plan(config: TextConfig) -> Plan:
    """The cost of a training; UserError for rows that the model cannot read."""
    file = saved(config.model) if config.model else None
    shape = configure(config, None, HRMConfig.from_pretrained(file.parent) if file else None)
    length, batch = config.text.length, config.train.batch_size
    if length > shape.max_position_embeddings:
        raise UserError(f"--text.length {length} is longer than the model's {shape.max_position_embeddings} positions")
    parameters, flops = count(shape, length)
    width = 2 if config.train.precision != "float32" else 4
    slots = shape.slots().count(shape.max_segments)
    keys = 2 * slots * (shape.num_key_value_heads or 1) * shape.head_dim * width
    return Plan(parameters, config.train.steps, batch * length, flops * batch, keys)


def describe(plan: Plan) -> str:
    """The plan for people."""
    return (
        f"parameters        {plan.parameters:,}\n"
        f"steps             {plan.steps:,} of {plan.tokens_per_step:,} tokens\n"
        f"FLOPs per step    {plan.flops_per_step:.3e}\n"
        f"FLOPs in all      {plan.flops_per_step * plan.steps:.3e}\n"
        f"keys and values   {plan.key_value_bytes_per_token:,} bytes per token at full depth"
    )
