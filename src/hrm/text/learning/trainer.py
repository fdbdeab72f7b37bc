"""One update of a learner: rows of the book and rows of the memory, at a random depth."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from hrm.core.recurrence import Schedule
from hrm.files.reading import reading
from hrm.files.records import Json
from hrm.text.config import LearnConfig
from hrm.text.data import Packed
from hrm.text.learned import Book
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Budget
from hrm.text.model.supervision import supervision
from hrm.text.training.replay import ReplayObjective
from hrm.training.config import OptimConfig, TrainConfig
from hrm.training.randomness import uniforms
from hrm.training.trainer import BaseTrainer
from hrm.training.updates import Updates

if TYPE_CHECKING:
    from hrm.text.learning.learner import Learner

MODES = (((1, 1), 0.35), ((2, 2), 0.4), ((3, 2), 0.15), ((6, 4), 0.1))
"""Schedules of a segment, h_cycles x l_cycles, and the share of updates with each."""
_EDGES = np.cumsum([share for _, share in MODES[:-1]])
EACH = 1.5
"""The weight of an old book relative to the new one."""
DEEP = 0.2
"""Share of the updates with all segments, in which the Q head learns; the others have one."""
_EXPLORATION, _MODE, _REPLAY = 1, 2, 3


def visits(schedule: tuple[int, int]) -> int:
    """Visits of a stack in a segment."""
    return schedule[0] * (schedule[1] + 1)


def work(segments: int) -> float:
    """Visits of an update on average, where deep ones have this many segments."""
    deep = {(2, 2): 1 + DEEP * (segments - 1)}
    return sum(share * visits(schedule) * deep.get(schedule, 1) for schedule, share in MODES)


def train_config(config: LearnConfig, steps: int) -> TrainConfig:
    """The loop's settings for a book of this many updates."""
    return TrainConfig(
        steps=steps, batch_size=config.batch_size, precision=config.precision, device=config.device,
        log_every=config.log_every, checkpoint_every=config.checkpoint_every,
    )  # fmt: skip


def row_weights(new: int, old: int, others: int, recall: float) -> Tensor:
    """The weight of each row: an old book counts 1.5 times as much as the new one, all of them at most `recall`."""
    share = min(EACH * others, recall)
    each = torch.tensor([1 / new, share / old]) * (new + old) / (1 + share)
    return each.repeat_interleave(torch.tensor([new, old]))


class BookBatch(NamedTuple):
    """Rows of the book, then of the memory, and the budget with which they are learned."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    """[rows, length] each."""
    explore: Tensor
    """Uniforms [2, rows, length]."""
    taught: Tensor | None
    """Probabilities [old rows, length, v] of all next tokens."""
    weights: Tensor | None
    budget: Budget


class BookTrainer(BaseTrainer[HRMForCausalLM, BookBatch]):
    """Holds everything that changes while a learner reads a book; step numbers are those of the book."""

    names = ("new", "old")

    def __init__(self, learner: Learner, book: Book, training: Packed, steps: int) -> None:
        config = learner.config
        self.config, self.memory, self.training, self.number = config, learner.memory, training, book.number
        self.others = len(learner.books) - 1
        self.begins = learner.step_number - book.step
        """Updates of the learner that do not belong to this book."""
        train, model = train_config(config, steps), learner.model
        super().__init__(model, _updates(learner, train), train, config.seed, learner.accelerator)
        self.step_number = book.step

    @property
    def positions(self) -> int:
        return self.config.length

    def draw(self) -> BookBatch:
        """The rows of a step, from the book and from the memory."""
        config, device, length, size = self.config, self.accelerator.device, self.config.length, len(self.rows)
        number = self.begins + self.step_number  # counted over all books
        batch = self.training.batch(self.seed * 1000 + self.number, self.step_number, self.rows, size, length)
        ids, labels, positions = (np.asarray(array) for array in batch)
        rng = np.random.default_rng([self.seed, _REPLAY, number])
        old = self.memory.rows(round(config.replay * size), length, rng, self.number)
        taught = weights = None
        if old is not None:
            own = np.broadcast_to(np.arange(length), old.ids.shape)
            pairs = ((ids, old.ids), (labels, old.labels), (positions, own))
            ids, labels, positions = map(np.concatenate, pairs)
            taught = old.taught
            weights = row_weights(size, len(old.ids), self.others, config.recall).to(device)
        tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (ids, labels, positions)]
        draws = uniforms(self.seed, _EXPLORATION, number, 1, 2 * ids.size)[0].reshape(2, *ids.shape)
        explore = torch.from_numpy(draws.astype(np.float32)).to(device)
        return BookBatch(*tensors, explore, taught, weights, self._budget(number))  # type: ignore[call-arg]

    def _budget(self, number: int) -> Budget:
        own = self.model.config
        if self.progress < own.late:
            return self.model.budget(halting="fixed").once()
        draw = uniforms(self.seed, _MODE, number, 1, 2)[0]
        schedule = Schedule(*MODES[int(np.searchsorted(_EDGES, draw[0]))][0])
        if not own.hierarchy:  # a plain Transformer is visited once
            schedule = own.schedule
        segments = own.max_segments if draw[1] < DEEP and schedule == (2, 2) else 1
        return self.model.budget(halting="fixed", max_segments=segments, schedule=tuple(schedule))

    def compute(self, drawn: BookBatch) -> None:
        """Gradients of an update; adds the nats a character of book and memory to `window`."""
        losses = self._think(drawn)
        self.memory.pull(self.model)
        sums, counts = losses.cpu().double().sum(1), (drawn.labels != -100).sum(1).clamp(min=1).cpu()
        per_row, size = (sums / counts).tolist(), len(self.rows)
        new, old = float(np.mean(per_row[:size])), float(np.mean(per_row[size:])) if per_row[size:] else math.nan
        self.window += torch.tensor([new, old], dtype=self.wide).to(self.window)

    def _think(self, drawn: BookBatch) -> Tensor:
        """Forward and backward, segment by segment; the losses [rows, length] after the last."""
        thought = self.model.begin(input_ids=drawn.ids, position_ids=drawn.positions, budget=drawn.budget)
        count = (drawn.labels != -100).sum()
        losses: Tensor | None = None
        objective = None if drawn.taught is None else ReplayObjective(self.model.config, drawn.taught, drawn.weights)
        for loss, each in supervision(self.model, thought, drawn.budget, drawn.labels, count, drawn.explore, objective):
            if loss.requires_grad:
                loss.backward()
                thought.forget()
            losses = each if losses is None else losses
        assert losses is not None
        return losses

    def batch_of(self, drawn: BookBatch) -> dict[str, Tensor]:
        return {"inputs": drawn.ids, "labels": drawn.labels}

    def try_out(self, rows: int) -> None:
        """In one segment."""
        ids = torch.zeros(rows, self.config.length, dtype=torch.long, device=self.accelerator.device)
        explore = torch.zeros(2, *ids.shape, device=ids.device)
        positions = torch.arange(self.config.length, device=ids.device).expand_as(ids)
        budget = self.model.budget(halting="fixed", max_segments=1)
        self._think(BookBatch(ids, ids, positions, explore, None, None, budget))

    def means(self, sums: dict[str, float], steps: int) -> Json:
        """Bits a character; `replayed_bits` is None where there was nothing to repeat."""
        scale = self.training.count / self.training.characters / math.log(2)  # from nats a token
        bits, replayed = (sums[name] / steps * scale for name in self.names)
        return {"bits": bits, "replayed_bits": None if math.isnan(replayed) else replayed}

    def describe(self, metrics: Json) -> str:
        return f"{metrics['bits']:.2f} bits"


def _updates(learner: Learner, train: TrainConfig) -> Updates:
    """The optimizer of a book: warm-up, cosine, a slower rate for embeddings; moments continue from the last book."""
    config, model = learner.config, learner.model
    optim = OptimConfig(
        name="adamw", lr=config.lr, weight_decay=config.weight_decay, warmup_steps=round(config.warmup * train.steps),
        schedule="cosine", min_ratio=0.05, clip=1.0,
    )  # fmt: skip
    slow = [p for name, p in model.named_parameters() if "embed_tokens" in name or name.startswith("lm_head")]
    taken = {id(p) for p in slow}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [{"params": rest, "lr": config.lr}, {"params": slow, "lr": config.embedding_lr}]
    adamw = AdamW(groups, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    updates = Updates(model, optim, train, learner.accelerator, optimizers=[adamw])
    if learner.optimizer:
        with reading(learner.run.checkpoints, "use another checkpoint"):
            updates.unpack({"optimizer": learner.optimizer}, learner.counters)
    return updates
