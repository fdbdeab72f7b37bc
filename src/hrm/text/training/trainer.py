"""Training on text: fresh states for every batch, a loss and a backward pass after each segment, then one update."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hrm.files.records import Json
from hrm.text.config import TextConfig
from hrm.text.data import Batch
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Budget
from hrm.text.model.supervision import supervision
from hrm.training.randomness import uniforms
from hrm.training.trainer import BaseTrainer, anyone, split
from hrm.training.updates import Updates

_EXPLORATION, _DEPTH = 4, 5


class Rows(Protocol):
    """A source of rows of tokens."""

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch: ...


class TrainingBatch(NamedTuple):
    """A batch on its device, with the random numbers of its step."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    types: Tensor
    """[rows, length] each."""
    explore: Tensor
    """Uniforms [2, rows, length]."""
    count: Tensor
    """Labels of all processes."""
    budget: Budget


class TextTrainer(BaseTrainer[HRMForCausalLM, TrainingBatch]):
    """Holds everything that changes while a model of text is trained; `step` does all segments of one batch."""

    names = ("loss", "first_loss", "token_loss", "segments", "tokens")
    rate = ("tokens", "tokens_per_second")

    def __init__(self, config: TextConfig, model: HRMForCausalLM, data: Rows, accelerator: Accelerator) -> None:
        self.config, self.data = config, data
        model = model.to(accelerator.device).train()
        model.compute_dtype = getattr(torch, config.train.precision)
        self.only_q = config.train.learn == "q"
        if self.only_q:
            model.requires_grad_(False).q_head.requires_grad_(True)
            model.config.dropout = 0.0  # the Q head speaks of the model as it is used
        if config.train.checkpoint_activations:
            model.model.gradient_checkpointing = True
        if config.train.compile:
            model.compile_stacks()
        measured = split(model, config.train, accelerator)
        updates = Updates(model, config.optim, config.train, accelerator)
        super().__init__(model, updates, config.train, config.seed, accelerator, measured)
        # Sharded weights are fetched by all at once: every process computes all its tokens in every segment.
        model.model.gathers = not self.sharded

    @property
    def positions(self) -> int:
        return self.config.text.length

    def draw(self) -> TrainingBatch:
        """The batch of the step."""
        size, length, mine, device = self.train.batch_size, self.config.text.length, self.rows, self.accelerator.device
        tensors = self._tensors(mine)
        draws = uniforms(self.seed, _EXPLORATION, self.step_number, size, 2 * length)[mine.start : mine.stop]
        draws = draws.reshape(len(mine), 2, length).transpose(1, 0, 2).astype(np.float32)
        explore = torch.from_numpy(np.ascontiguousarray(draws)).to(device)
        count = (tensors[1] != -100).sum()
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count, "sum")  # type: ignore[assignment]
        # To speak of every depth, the Q head has to have seen all tokens there.
        budget = self.model.budget(halting="fixed") if self.only_q else self.model.budget().learning()
        if not self.only_q:
            budget = self._deep(budget)
        return TrainingBatch(*tensors, explore, count, budget)  # type: ignore[call-arg]

    def _deep(self, budget: Budget) -> Budget:
        """The budget of the step: each stack visited once at first, or a random number of segments."""
        config = self.model.config
        if self.progress < config.late:
            return budget.once()
        if budget.max_segments == 1 or not (config.depth_sampling or config.depth_mean):
            return budget
        draw = uniforms(self.seed, _DEPTH, self.step_number, 1, 1)[0, 0]
        return budget.poisson(draw, config.depth_mean) if config.depth_mean else budget.sampled(draw)

    def compute(self, drawn: TrainingBatch) -> None:
        """Forward and backward passes of all segments of the batch."""
        part = -(-len(self.rows) // self.train.accumulate)
        *rows, explore, count, budget = drawn
        for some in zip(*(t.split(part) for t in rows), explore.split(part, dim=1), strict=True):
            self._think(TrainingBatch(*some, count, budget))  # type: ignore[call-arg]

    def batch_of(self, drawn: TrainingBatch) -> dict[str, Tensor]:
        return {"inputs": drawn.ids, "labels": drawn.labels}

    def _think(self, part: TrainingBatch) -> None:
        """Forward, loss and backward for some rows, segment by segment."""
        ids, labels, positions, types, draws, count, budget = part
        thought = self.model.begin(input_ids=ids, position_ids=positions, token_type_ids=types, budget=budget)
        counted = labels != -100
        total, first, last, carries = 0.0, None, None, [thought.carry]
        agree = partial(anyone, accelerator=self.accelerator) if self.sharded else bool
        for loss, each in supervision(self.model, thought, budget, labels, count, draws, agree=agree):
            if loss.requires_grad:
                (loss * self.updates.loss_scale).backward()
                thought.forget()
            total = total + loss.detach().to(self.wide)
            first, last = (each if first is None else first), each
            if self.logged:
                carries = [carries[-1], thought.carry.detach()]
        if len(carries) == 2:
            self.note_residuals(carries[0], carries[1], counted)
        assert first is not None and last is not None
        sums = (total * count, first.sum(), last.sum(), thought.depth[counted].sum(), counted.sum())
        self.window += torch.stack([torch.as_tensor(value).detach().to(self.window) for value in sums])

    def try_out(self, rows: int) -> None:
        tensors, device = self._tensors(range(rows)), self.accelerator.device
        draws, count = torch.zeros(2, *tensors[0].shape, device=device), (tensors[1] != -100).sum().clamp(min=1)
        self._think(TrainingBatch(*tensors, draws, count, self.model.budget().learning()))  # type: ignore[call-arg]

    def _tensors(self, rows: range) -> list[Tensor]:
        """Ids, labels, positions and types of some of the rows of the step."""
        batch = self.data.batch(self.seed, self.step_number, rows, self.train.batch_size, self.config.text.length)
        return [torch.from_numpy(array).to(self.accelerator.device) for array in (*batch, batch.token_types)]

    def means(self, sums: dict[str, float], steps: int) -> Json:
        """Of the tokens."""
        tokens = max(1.0, sums["tokens"])
        losses = {name: sums[name] / tokens for name in self.names[:3]}
        losses["perplexity"] = math.exp(min(700.0, losses["token_loss"]))
        return {**losses, "mean_segments": sums["segments"] / tokens, "tokens": int(sums["tokens"])}

    def describe(self, metrics: Json) -> str:
        """Losses in nats per token, after the first and the last segment."""
        return (
            f"nats {metrics['first_loss']:.3f} > {metrics['token_loss']:.3f}  ppl {metrics['perplexity']:.4g}  "
            f"depth {metrics['mean_segments']:.1f}  {metrics['tokens_per_second']:.0f} tokens/s"
        )
