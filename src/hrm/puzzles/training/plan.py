"""What a training would cost, found by running one step on the meta device: shapes without numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from hrm.puzzles.config import Config
from hrm.puzzles.model import Board, PuzzleModel

# Bytes per parameter: weight, gradient, two moments (one for Muon's matrices, counted as two).
_TRAINING_BYTES = 16


def plan(config: Config, board: Board) -> dict[str, Any]:
    """Parameters, FLOPs per update (2 per multiply-add, counted by torch) and memory in bytes by what holds it."""
    with torch.device("meta"):
        model = PuzzleModel(config.arch, board).to("meta")
        model.dtype = getattr(torch, config.train.precision)
        if config.train.checkpoint_activations:
            model.recompute_activations()
        rows = max(1, config.train.batch_size // config.train.accumulate)
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
        carry, readout = model.segment(model.initial_carry(inputs, ids), inputs, ids)
        (readout.logits.float().sum() + readout.q.sum()).backward()
        if config.halting.q_continue:
            with torch.no_grad():
                model.segment(carry.detach(), inputs, ids)
    parameters = sum(p.numel() for p in model.parameters())
    weights = parameters * (_TRAINING_BYTES + (4 if config.optim.ema else 0))
    width = torch.finfo(model.dtype).bits // 8
    return {
        "parameters": parameters,
        "task_embedding_parameters": 0 if model.task_embedding is None else model.task_embedding.weight.numel(),
        "steps": config.train.steps,
        "flops_per_step": counter.get_total_flops() * config.train.accumulate,
        "memory": {
            "weights_gradients_optimizer": weights + (parameters * width if width < 4 else 0),
            "carry": 2 * config.train.batch_size * model.positions * config.arch.dim * width,
            "activations": saved,
        },
    }


def describe(figures: dict[str, Any]) -> str:
    """The plan for people."""
    memory = figures["memory"]
    total = sum(memory.values())
    parts = ", ".join(f"{name.replace('_', ' ')} {size / 2**30:.2f}" for name, size in memory.items())
    return (
        f"parameters        {figures['parameters']:,}\n"
        f"steps             {figures['steps']:,}\n"
        f"FLOPs per step    {figures['flops_per_step']:.3e}\n"
        f"FLOPs in all      {figures['flops_per_step'] * figures['steps']:.3e}\n"
        f"memory            about {total / 2**30:.2f} GiB ({parts})"
    )
