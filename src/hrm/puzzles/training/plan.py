"""What a training would cost, found by running one step on the meta device: shapes without numbers.

What a model that deduces computes depends on the numbers: one empty grid is run on the CPU, and counted for every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hrm.files.records import Record
from hrm.puzzles.config import Config
from hrm.puzzles.model import Board, PuzzleModel

# Bytes per parameter: weight, gradient, two moments (one for Muon's matrices, counted as two).
_TRAINING_BYTES = 16


@dataclass(frozen=True)
class Plan(Record):
    """What a training would cost."""

    parameters: int
    task_embedding_parameters: int
    steps: int
    flops_per_step: int
    """2 per multiply-add, counted by torch."""
    memory: dict[str, int]
    """Bytes by what holds them."""


def plan(config: Config, board: Board) -> Plan:
    """The cost of a training on boards of this size."""
    deduces = config.arch.deduces
    device = "cpu" if deduces else "meta"
    with torch.device(device):
        model = PuzzleModel(config.arch, board).to(device)
        model.dtype = getattr(torch, config.train.precision)
        if config.train.checkpoint_activations:
            model.recompute_activations()
        rows = max(1, config.train.batch_size // config.train.accumulate)
        rows, times = (1, rows) if deduces else (rows, 1)
        inputs = torch.ones(rows, board.cells, dtype=torch.long)
        ids = torch.zeros(rows, dtype=torch.long)
    saved = 0
    seen: set[int] = set()

    def measure(tensor: Tensor) -> Tensor:
        nonlocal saved
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage._cdata not in seen:
            seen.add(storage._cdata)
            saved += tensor.numel() * tensor.element_size()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(measure, lambda tensor: tensor):
        carry = model.initial_carry(inputs, ids)
        if model.lattice is None:
            carry, readout = model.segment(carry, inputs, ids)
        else:
            start = model.lattice.pack(model.lattice.start(inputs))
            carry, (*_, readout) = model.deduce(carry, start, config.deduction.segments)
        (readout.logits.float().sum() + readout.q.sum()).backward()
        if config.halting.q_continue:
            with torch.no_grad():
                model.segment(carry.detach(), inputs, ids)
    parameters = sum(p.numel() for p in model.parameters())
    weights = parameters * (_TRAINING_BYTES + (4 if config.optim.ema else 0))
    width = torch.finfo(model.dtype).bits // 8
    memory = {
        "weights_gradients_optimizer": weights + (parameters * width if width < 4 else 0),
        "carry": 2 * config.train.batch_size * model.positions * config.arch.dim * width,
        "activations": saved * times,
    }
    embedding = 0 if model.task_embedding is None else model.task_embedding.weight.numel()
    flops = counter.get_total_flops() * times * config.train.accumulate
    return Plan(parameters, embedding, config.train.steps, flops, memory)


def describe(plan: Plan) -> str:
    """The plan for people."""
    parts = ", ".join(f"{name.replace('_', ' ')} {size / 2**30:.2f}" for name, size in plan.memory.items())
    return (
        f"parameters        {plan.parameters:,}\n"
        f"steps             {plan.steps:,}\n"
        f"FLOPs per step    {plan.flops_per_step:.3e}\n"
        f"FLOPs in all      {plan.flops_per_step * plan.steps:.3e}\n"
        f"memory            about {sum(plan.memory.values()) / 2**30:.2f} GiB ({parts})"
    )
