"""What is looked into: a model that thinks in segments and something it thinks about, the same for both families."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from hrm.puzzles.model import PuzzleModel, Readout
from hrm.puzzles.solving import Solver
from hrm.runs import Run
from hrm.text.data import Tokens
from hrm.text.load import TextModel
from hrm.text.measuring.subject import LOGITS
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Budget
from hrm.text.model.halting import stops
from hrm.text.model.thought import Thought


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


class Thinking(Protocol):
    """A batch that is being thought about, a segment at a time."""

    @property
    def carry(self) -> Carry:
        """The states from which the next segment starts; they may be changed."""
        ...

    @carry.setter
    def carry(self, states: Carry) -> None: ...

    def segment(self, schedule: Schedule | None = None) -> Reading:
        """Think one segment; nothing halts."""
        ...

    def copy(self) -> Thinking:
        """The same, to continue from here in another way."""
        ...


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

    def begin(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> Thinking:
        """The same, for those who change the states or the schedule on the way."""
        ...

    def untrained(self, seed: int = 0) -> Subject:
        """The same with fresh weights."""
        ...

    def about(self) -> Json:
        """Of which model and data a figure is."""
        ...


def called(subject: Subject) -> str:
    """The name of its run's or model's folder."""
    parts = [part for part in subject.name.replace("\\", "/").split("/") if part] or ["model"]
    return parts[parts.index("checkpoints") - 1] if "checkpoints" in parts[1:] else parts[-1]


def same_data(one: Subject, other: Subject) -> bool:
    """Whether two subjects think about the same."""
    if one.count != other.count:
        return False
    if isinstance(one, Puzzles) and isinstance(other, Puzzles):
        return np.array_equal(one.puzzles.inputs, other.puzzles.inputs)
    a, b = (next(subject.batches(1, 1)).inputs.cpu() for subject in (one, other))
    return torch.equal(a, b)


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

    def think(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> Iterator[Reading]:
        thinking = self.begin(batch, segments, schedule)
        for _ in range(segments):
            yield thinking.segment()

    @torch.no_grad()
    def begin(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> PuzzleThinking:
        carry = self.model.initial_carry(batch.inputs, batch.more["task_ids"])
        return PuzzleThinking(self, batch, schedule, carry)

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

    def think(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> Iterator[Reading]:
        thinking = self.begin(batch, segments, schedule)
        for _ in range(segments):
            yield thinking.segment()

    @torch.no_grad()
    def begin(self, batch: Batch, segments: int, schedule: Schedule | None = None) -> TextThinking:
        how: Any = {"max_segments": segments, "halting": "fixed"}
        budget = self.model.budget(**how)
        if schedule is not None:
            budget = budget._replace(schedule=schedule)
        thought = self.model.begin(input_ids=batch.inputs, **batch.more, budget=budget)  # type: ignore[arg-type]
        return TextThinking(self, batch, budget, thought)

    @torch.no_grad()
    def halt(self, batch: Batch, segments: int, halting: str | None = None) -> Iterator[Reading]:
        """Readings while tokens halt, by the model's own rule or this one; a halted token stays as it was, and `stops`
        says which have. After segment m they are those of the model that may take m at most."""
        budget = self.model.budget(max_segments=segments, halting=halting, retry_confidence=0.0)
        thought = self.model.begin(input_ids=batch.inputs, **batch.more, budget=budget)  # type: ignore[arg-type]
        thinking, reading = TextThinking(self, batch, budget, thought), None
        for segment in range(1, segments + 1):
            if reading is None or bool(thought.live.any()):
                before = thought.exited.z_h
                reading = thinking.segment()
                thought.halt(stops(thought, before, budget, self.model.q_head, self.model.lm_head))
            yield reading._replace(segment=segment, stops=~thought.live)

    def scores(self, z_h: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """What the head says of slow states [b, p, dim]; few logits are in memory at once."""
        size = max(1, LOGITS // self.model.config.vocab_size)
        pieces = zip(z_h.flatten(0, 1).split(size), labels.flatten().split(size), strict=True)
        found = [_scores(self.model.lm_head(some), wanted) for some, wanted in pieces]
        return tuple(torch.cat(column).view(labels.shape) for column in zip(*found, strict=True))

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


@dataclass
class PuzzleThinking:
    """Puzzles between two segments."""

    subject: Puzzles
    batch: Batch
    schedule: Schedule | None
    carry: Carry
    done: int = 0
    readout: Readout | None = None
    """Of the last segment."""

    @torch.no_grad()
    def segment(self, schedule: Schedule | None = None) -> Reading:
        batch, subject = self.batch, self.subject
        ids, schedule = batch.more["task_ids"], schedule or self.schedule
        self.carry, readout = subject.model.segment(self.carry, batch.inputs, ids, schedule)
        self.done, self.readout = self.done + 1, readout
        halt, stops = readout.q[:, :1].sigmoid(), wants_to_halt(readout.q, subject.solver.q_continue)[:, None]
        return Reading(self.done, *_scores(readout.logits, batch.labels), halt, stops, self.carry)

    def copy(self) -> PuzzleThinking:
        return replace(self)


@dataclass
class TextThinking:
    """Windows of a text between two segments."""

    subject: Text
    batch: Batch
    budget: Budget
    thought: Thought

    @property
    def carry(self) -> Carry:
        return self.thought.carry

    @carry.setter
    def carry(self, states: Carry) -> None:
        self.thought.carry = states

    @torch.no_grad()
    def segment(self, schedule: Schedule | None = None) -> Reading:
        subject, thought, budget = self.subject, self.thought, self.budget
        subject.model.segment(thought, schedule or budget.schedule)
        states = thought.exited
        best, probability, entropy, loss, right = subject.scores(states.z_h, self.batch.labels)
        halt = budget.probability(subject.model.q_head(states.z_h))
        wants = halt > budget.exit_threshold
        return Reading(thought.segment, best, probability, entropy, loss, right, halt, wants, states)

    def copy(self) -> TextThinking:
        keys_values = copy.deepcopy(
            self.thought.keys_values
        )  # a segment writes into them where attention slots are shared
        return replace(self, thought=replace(self.thought, keys_values=keys_values))


def _scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of logits [..., v] and labels [...]: the likeliest token, its probability, entropy, loss, and whether it is
    right."""
    logs = at_least_float32(logits).log_softmax(-1)
    top, best = logs.max(-1)
    entropy = -(logs.exp() * logs).sum(-1)
    counted = labels != -100
    loss = -logs.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * counted
    return best, top.exp(), entropy, loss, (best == labels) & counted
