"""What is looked into: a model that thinks in segments and something it thinks about, the same for both families."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hrm.core.halting import wants_to_halt
from hrm.core.kernels import at_least_float32
from hrm.core.recurrence import Carry, Schedule
from hrm.files.npy import IGNORE
from hrm.files.records import Json
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.measuring import is_right
from hrm.puzzles.model import PuzzleModel
from hrm.puzzles.solving import Solver
from hrm.runs import Run
from hrm.text.data import Tokens
from hrm.text.load import TextModel
from hrm.text.model import HRMForCausalLM

LOGITS = 1 << 22
"""Most logits in memory at once."""


class Batch(NamedTuple):
    """Some puzzles, or windows of a text."""

    first: int
    """The number of the first one."""
    inputs: Tensor
    """[b, p] tokens."""
    labels: Tensor
    """[b, p], -100 where nothing counts."""
    more: dict[str, Tensor]
    """What else the model reads."""


class Reading(NamedTuple):
    """What a model says after a segment; [b, p] each, and losses are 0 where nothing counts."""

    segment: int
    best: Tensor
    """The likeliest token."""
    probability: Tensor
    entropy: Tensor
    """Nats."""
    loss: Tensor
    """Nats."""
    right: Tensor
    """Whether the likeliest is the label; False where nothing counts."""
    halt: Tensor
    """P(halt) by the Q head: [b, 1] for puzzles, where it means that the whole answer is right, [b, p] for text."""
    stops: Tensor
    """Of the same shape: whether the Q head would end it here."""
    carry: Carry
    """[b, front + p, dim]"""


class Subject(Protocol):
    """A model with puzzles or a text, and how it thinks about them."""

    family: Literal["puzzle", "text"]
    name: str
    model: Any
    """PuzzleModel or HRMForCausalLM."""
    schedule: Schedule
    max_segments: int
    front: int
    """Positions of the states before those of the tokens."""
    count: int
    """Puzzles, or about how many windows."""

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """The first `limit` puzzles or windows, `size` at a time; the same ones in every call."""
        ...

    def think(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> Iterator[Reading]:
        """Readings after every segment, from fresh states; nothing halts."""
        ...

    def untrained(self, seed: int = 0) -> Subject:
        """The same with fresh weights."""
        ...

    def about(self) -> Json:
        """Of which model and data a figure is."""
        ...


class Puzzles:
    """A solver's model and puzzles with answers."""

    family: Literal["puzzle", "text"] = "puzzle"

    def __init__(self, solver: Solver, puzzles: PuzzleSet, run: Run[Any] | None = None) -> None:
        self.solver, self.puzzles, self.run = solver, puzzles, run
        self.model: Any = solver.model
        self.task, self.name = solver.task, solver.checkpoint
        self.schedule, self.max_segments = self.model.recurrence.schedule, solver.max_segments
        self.front, self.count = self.model.arch.task_positions, len(puzzles.inputs)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        device = self.model.z_h_init.device
        for first in range(0, min(limit or self.count, self.count), size):
            rows = slice(first, min(first + size, limit or self.count))
            arrays = (self.puzzles.inputs[rows], self.puzzles.labels[rows], self.puzzles.task_ids[rows])
            inputs, labels, ids = (torch.from_numpy(np.asarray(a, np.int64)).to(device) for a in arrays)
            labels = torch.where(labels == IGNORE, -100, labels)
            yield Batch(first, inputs, labels, {"task_ids": ids})

    @torch.no_grad()
    def think(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> Iterator[Reading]:
        ids = batch.more["task_ids"]
        carry = self.model.initial_carry(batch.inputs, ids)
        for segment in range(1, segments + 1):
            carry, readout = self.model.segment(carry, batch.inputs, ids, schedule)
            halt, stops = readout.q[:, :1].sigmoid(), wants_to_halt(readout.q, self.solver.q_continue)[:, None]
            yield Reading(segment, *_scores(readout.logits, batch.labels), halt, stops, carry)

    def solved(self, batch: Batch, reading: Reading) -> np.ndarray:
        """[b] whether each readout is right: equal to the label, in a maze a shortest path."""
        columns = (batch.inputs, batch.labels, reading.best)
        rows = zip(*(column.cpu().numpy() for column in columns), strict=True)
        return np.array([is_right(self.task, *row) for row in rows], bool)

    def untrained(self, seed: int = 0) -> Puzzles:
        other = copy.copy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = PuzzleModel(self.model.arch, self.model.board).eval().to(self.model.z_h_init.device)
        fresh.dtype = self.model.dtype
        other.model, other.name = fresh, f"{self.name}, untrained"
        return other

    def about(self) -> Json:
        return {
            "family": self.family, "model": self.name, "task": self.task.name, "data": self.puzzles.source,
            "parameters": sum(p.numel() for p in self.model.parameters()), "schedule": list(self.schedule),
            "max_segments": self.max_segments,
        }  # fmt: skip


class Text:
    """A causal model and packed text."""

    family: Literal["puzzle", "text"] = "text"

    def __init__(self, loaded: TextModel, packed: Tokens, length: int, source: str) -> None:
        self.loaded, self.packed, self.length, self.source = loaded, packed, length, source
        self.model: Any = loaded.model
        self.tokenizer, self.run, self.name = loaded.tokenizer, loaded.run, loaded.name
        budget = self.model.budget()
        self.schedule, self.max_segments, self.front = budget.schedule, budget.max_segments, 0
        self.count = max(1, -(-packed.count // length))

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        first, wanted = 0, min(limit or self.count, self.count)
        for batch in self.packed.windows(self.length, None, size, max(1, self.count // wanted)):
            columns = (*batch, batch.token_types)
            ids, labels, positions, types = (
                torch.from_numpy(column)[: wanted - first].to(self.model.device) for column in columns
            )
            yield Batch(first, ids, labels, {"position_ids": positions, "token_type_ids": types})
            first += len(ids)
            if first >= wanted:
                return

    @torch.no_grad()
    def think(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> Iterator[Reading]:
        model = self.model
        how: Any = {"max_segments": segments, "halting": "fixed"}
        budget = model.budget(**how)
        if schedule is not None:
            budget = budget._replace(schedule=schedule)
        thought = model.begin(input_ids=batch.inputs, **batch.more, budget=budget)  # type: ignore[arg-type]
        for segment in range(1, segments + 1):
            model.segment(thought, budget.schedule)
            z = thought.exited.z_h
            pieces = zip(z.flatten(0, 1).split(self._rows), batch.labels.flatten().split(self._rows), strict=True)
            scores = [_scores(model.lm_head(some), labels) for some, labels in pieces]
            best, probability, entropy, loss, right = (
                torch.cat(column).view(batch.labels.shape) for column in zip(*scores, strict=True)
            )
            halt = budget.probability(model.q_head(z))
            stops = halt > budget.exit_threshold
            yield Reading(segment, best, probability, entropy, loss, right, halt, stops, thought.exited)

    def untrained(self, seed: int = 0) -> Text:
        other = copy.copy(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = HRMForCausalLM(self.model.config).eval().to(self.model.device)
        if self.model.dtype.is_floating_point:
            fresh = fresh.to(self.model.dtype)
        fresh.model.compute_dtype = self.model.model.compute_dtype
        other.model, other.name = fresh, f"{self.name}, untrained"
        return other

    def about(self) -> Json:
        return {
            "family": self.family, "model": self.name, "data": self.source, "length": self.length,
            "parameters": self.model.num_parameters(), "schedule": list(self.schedule),
            "max_segments": self.max_segments,
        }  # fmt: skip

    @property
    def _rows(self) -> int:
        return max(1, LOGITS // self.model.config.vocab_size)


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of logits [..., v] and labels [...]: the likeliest token, its probability, entropy, loss, and whether it is
    right."""
    logs = at_least_float32(logits).log_softmax(-1)
    top, best = logs.max(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    counted = labels != -100
    loss = -logs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * counted
    return best, top.exp(), entropy, loss, (best == labels) & counted
