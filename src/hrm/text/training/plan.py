"""What a training on text would cost, counted with tensors that have shapes and no numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.text.config import TextConfig, saved
from hrm.text.data import tokenizer_of
from hrm.text.data.hops import tokenizer_of_task
from hrm.text.load import configure
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.model.supervision import supervision
from hrm.text.training.source import in_place, made
from hrm.training.memory import Memory, training_memory

_PARTS = {"model.recurrence.fast": "fast stack", "model.recurrence.slow": "slow stack", "lm_head": "output layer"}


def count(
    shape: HRMConfig, length: int, schedule: Sequence[int] | None = None, max_segments: int | None = None
) -> tuple[int, int]:
    """Parameters, and FLOPs of training on one row at full depth or as requested: 2 per multiply-add, torch's count.

    Attention counts every pair of positions, whether or not one may see the other.
    """
    model, counter, _ = _counted(shape, length, schedule, max_segments)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops()


def _counted(
    shape: HRMConfig, length: int, schedule: Sequence[int] | None = None, max_segments: int | None = None
) -> tuple[HRMForCausalLM, FlopCounterMode, Counter[str]]:
    """A model on the meta device, the FLOPs of training it on one row, and how often each part was visited."""
    visits: Counter[str] = Counter()
    shape = copy(shape)
    shape.depth_sampling, shape.depth_mean = False, 0.0  # full depth, or what is asked for
    with torch.device("meta"):
        model = HRMForCausalLM(shape).train()
        for name in _PARTS:
            if (part := dict(model.named_modules()).get(name)) is not None:
                part.register_forward_pre_hook(lambda *_, name=name: visits.update([name]))
        ids = torch.zeros(1, length, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        with counter:
            budget = model.budget(halting="fixed", schedule=schedule, max_segments=max_segments)
            model(input_ids=ids, labels=ids, budget=budget).loss.backward()
    return model, counter, visits


@dataclass(frozen=True)
class Part(Record):
    """A part of the model: how often a token passes through it, and the FLOPs of learning from the token there."""

    name: str
    visits: int
    flops_per_token: int


@dataclass(frozen=True)
class Plan(Record):
    """What a training would cost at full depth."""

    parameters: int
    steps: int
    tokens_per_step: int
    flops_per_step: int
    """Attention counted whole, recomputed activations not."""
    key_value_bytes_per_token: int
    rows: int
    """Computed at once."""
    memory: Memory
    parts: list[Part] = field(default_factory=list)


def plan(config: TextConfig, rows: int | None = None) -> Plan:
    """The cost of a training that computes this many rows at once, by default those of a part of the batch; UserError
    for rows that the model cannot read."""
    shape, length, batch = shape_of(config), config.text.length, config.train.batch_size
    batch *= 2 if config.text.kind == "preference" else 1  # two answers to each question
    model, counter, visits = _counted(shape, length)
    width = 2 if config.train.precision != "float32" else 4
    slots = shape.slots().count(shape.max_segments)
    keys = 2 * slots * (shape.num_key_value_heads or 1) * shape.head_dim * width
    flops, known = counter.get_total_flops(), counter.get_flop_counts()
    parts = [
        Part(called, visits[name], sum(known.get(f"{type(model).__name__}.{name}", {}).values()) // length)
        for name, called in _PARTS.items()
        if visits[name]
    ]
    parameters = sum(p.numel() for p in model.parameters())
    rows = rows or -(-batch // config.train.accumulate)
    memory = memory_of(config, rows, shape)
    return Plan(parameters, config.train.steps, batch * length, flops * batch, keys, rows, memory, parts)


def memory_of(config: TextConfig, rows: int, shape: HRMConfig | None = None) -> Memory:
    """The memory of a training at full depth that computes this many rows at once."""
    shape = shape or shape_of(config)

    with torch.device("meta"):
        model = HRMForCausalLM(shape).train()
    model.compute_dtype = dtype = getattr(torch, config.train.precision)
    model.model.gradient_checkpointing = config.train.checkpoint_activations
    step = partial(_step, length=config.text.length)
    return training_memory(model, step, rows, bool(config.optim.ema), dtype, model.units())


def _step(model: HRMForCausalLM, rows: int, length: int) -> None:
    """Forward and backward passes of two segments of a batch, as the first of them has no gradients yet, and the others
    need what the second does; of all, where the gradient passes through all."""
    ids, draws = torch.zeros(rows, length, dtype=torch.long), torch.zeros(2, rows, length)
    most = model.config.max_segments
    budget = model.budget(halting="fixed", max_segments=most if model.config.gradient == "whole" else min(2, most))
    thought = model.begin(input_ids=ids, budget=budget)
    for loss, _ in supervision(model, thought, budget, ids, torch.tensor(float(ids.numel())), draws):
        if loss.requires_grad:
            loss.backward()
            thought.forget()


def shape_of(config: TextConfig) -> HRMConfig:
    """The form of a recipe's model, also before its data is there; UserError for rows that it cannot read."""
    file = saved(config.model) if config.model else None
    tokenizer = tokenizer_of(Path(config.data)) if file is None and config.data and in_place(config) else None
    if config.text.kind == "hops" and config.data:
        made(config)  # whether there are such questions
        tokenizer = tokenizer_of_task(config.data)
    shape = configure(config, tokenizer, HRMConfig.from_pretrained(file.parent) if file else None)
    length = config.text.length
    if length > shape.max_position_embeddings:
        raise UserError(f"--text.length {length} is longer than the model's {shape.max_position_embeddings} positions")
    return shape


def describe(plan: Plan) -> str:
    """The plan for people."""
    memory, gib = plan.memory, 2**30
    states, step = memory.total(0) - memory.fixed, memory.fixed + plan.rows * memory.row
    return (
        f"parameters        {plan.parameters:,}\n"
        f"steps             {plan.steps:,} of {plan.tokens_per_step:,} tokens\n"
        f"FLOPs per step    {plan.flops_per_step:.3e}\n"
        f"FLOPs in all      {plan.flops_per_step * plan.steps:.3e}\n"
        f"memory            about {memory.total(plan.rows) / gib:.2f} GiB (weights, gradients, optimizer "
        f"{states / gib:.2f}, {plan.rows:,} rows at once {step / gib:.2f})\n"
        f"keys and values   {plan.key_value_bytes_per_token:,} bytes per token at full depth"
    )
