"""Dynamic batches: after each segment finished puzzles leave their slots and waiting ones enter.

Nothing here knows a task or a label: a verdict is a function of the question and the readout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hrm.models.puzzle import PuzzleModel
from hrm.models.recurrence import Carry

LOOK_AHEAD = 8
"""How many batches' worth of puzzles may be under way or wait for an earlier result, when results come in order."""

NOISE = 0.5
"""Noise of a restart, as a share of the initial state's scale. The network knows that state: random states in its place
solved fewer (6x6 Sudoku, two half-trained models, six restarts: 25 -> 29 % and 81 -> 89 %, this way 61 % and 97 %)."""


class Job(NamedTuple):
    """A question [cells] for the model, and the id of its task embedding."""

    question: np.ndarray
    task_id: int = 0


class Segment(NamedTuple):
    """One puzzle after one segment: what an observer sees."""

    question: np.ndarray
    readout: np.ndarray
    segment: int
    """Counted from 1 at each start."""
    restart: int
    q: tuple[float, ...]
    """Values of halting and of going on."""
    residual: float
    """Relative change of the slow state, |z_h - z_h'| / |z_h'| with z_h' one segment earlier."""
    probabilities: np.ndarray
    """[cells, vocabulary] softmax of the readout's scores."""


class Outcome(NamedTuple):
    """How a puzzle ended: its last readout [cells], whether that was accepted, and what it cost over all starts."""

    readout: np.ndarray
    accepted: bool
    segments: int
    restarts: int
    q: tuple[float, ...]


@dataclass(frozen=True)
class Rules:
    """When a puzzle leaves, and what happens to one that was not accepted.

    Without `halt` a puzzle leaves once `verify` accepts its readout. With `halt` (of q [rows, 2], a mask [rows]) it
    leaves when the model says so, and is accepted if `verify`, where there is one, agrees. After `max_segments` it
    leaves in any case; unaccepted ones begin again from other initial states, at most `restarts` times.
    """

    max_segments: int
    restarts: int = 0
    seed: int = 0
    verify: Callable[[np.ndarray, np.ndarray], bool] | None = None
    halt: Callable[[Tensor], Tensor] | None = None


@dataclass
class _Row:
    """A slot of the batch."""

    index: int
    job: Job
    restart: int = 0
    spent: int = 0
    """Segments of earlier starts."""
    segments: int = 0
    """Segments of this start."""
    readout: np.ndarray | None = None


def solve(
    model: PuzzleModel,
    jobs: Iterable[Job | None],
    rules: Rules,
    slots: int = 64,
    ordered: bool = True,
    observe: Callable[[int, Segment], None] | None = None,
) -> Iterator[tuple[int, Outcome | None]]:
    """Yield (place in `jobs`, outcome) in the order of `jobs` or as completed; None passes through as None.

    Memory is constant: `jobs` is read only as slots become free, and at most LOOK_AHEAD * slots puzzles ahead of the
    oldest result still to come. `observe` is called for every puzzle after every segment.
    """
    source = enumerate(jobs)
    batch = _Batch(model, rules)
    finished: dict[int, Outcome | None] = {}
    pulled = emitted = 0

    def ready() -> Iterator[tuple[int, Outcome | None]]:
        nonlocal emitted
        while finished and (not ordered or emitted in finished):
            index = emitted if ordered else next(iter(finished))
            emitted += 1
            yield index, finished.pop(index)

    while True:
        entering: list[_Row] = []
        while len(batch.rows) + len(entering) < slots and pulled - emitted < LOOK_AHEAD * slots:
            index, job = next(source, (-1, None))
            if index < 0:
                break
            pulled += 1
            if job is None:
                finished[index] = None
                yield from ready()
            else:
                entering.append(_Row(index, job))
        batch.enter(entering)
        if not batch.rows:
            return
        for row, outcome in batch.advance(observe):
            finished[row.index] = outcome
        yield from ready()


class _Batch:
    """The puzzles under way: row i of every tensor belongs to `rows[i]`."""

    def __init__(self, model: PuzzleModel, rules: Rules) -> None:
        self.model, self.rules = model, rules
        self.device = model.z_h_init.device
        self.rows: list[_Row] = []
        self.carry: Carry
        self.questions: Tensor
        self.task_ids: Tensor

    # Not in inference mode: the model's low-precision copies of its weights, made here, must stay fit for training.
    @torch.no_grad()
    def enter(self, rows: list[_Row]) -> None:
        """Give slots and fresh states to puzzles that arrive or begin again."""
        if not rows:
            return
        questions = torch.from_numpy(np.stack([row.job.question for row in rows]).astype(np.int64)).to(self.device)
        task_ids = torch.tensor([row.job.task_id for row in rows], device=self.device)
        carry = self.model.initial_carry(questions, task_ids)
        if any(row.restart for row in rows):
            carry = _shaken(carry, rows, self.rules.seed)
        if self.rows:
            questions, task_ids = torch.cat((self.questions, questions)), torch.cat((self.task_ids, task_ids))
            carry = Carry(*(torch.cat(pair) for pair in zip(self.carry, carry, strict=True)))
        self.rows, self.questions, self.task_ids, self.carry = self.rows + rows, questions, task_ids, carry

    @torch.inference_mode()
    def advance(self, observe: Callable[[int, Segment], None] | None) -> list[tuple[_Row, Outcome]]:
        """Run one segment on every row; return the puzzles that are done and free their slots."""
        rules, rows = self.rules, self.rows
        before = self.carry.z_h
        self.carry, readout = self.model.segment(self.carry, self.questions, self.task_ids)
        tokens = readout.logits.argmax(-1).cpu().numpy()
        q = readout.q.tolist()
        halts = None if rules.halt is None else rules.halt(readout.q).tolist()
        if observe is not None:
            old, new = before.float().flatten(1), self.carry.z_h.float().flatten(1)
            change = ((new - old).norm(dim=1) / old.norm(dim=1)).tolist()
            shares = readout.logits.float().softmax(-1).cpu().numpy()
            for i, row in enumerate(rows):
                numbers = row.segments + 1, row.restart, tuple(q[i]), change[i]
                observe(row.index, Segment(row.job.question, tokens[i], *numbers, shares[i]))

        done, again, stay = [], [], []
        for i, row in enumerate(rows):
            changed = row.readout is None or not np.array_equal(row.readout, tokens[i])
            row.readout, row.segments = tokens[i], row.segments + 1
            if halts is None:
                # An unchanged readout has been refused before.
                accepted = changed and self._verified(row)
                leaves = accepted or row.segments >= rules.max_segments
            else:
                leaves = halts[i] or row.segments >= rules.max_segments
                accepted = leaves and self._verified(row)
            if not leaves:
                stay.append(i)
            elif accepted or row.restart >= rules.restarts:
                done.append((row, Outcome(tokens[i], accepted, row.spent + row.segments, row.restart, tuple(q[i]))))
            else:
                again.append(_Row(row.index, row.job, row.restart + 1, row.spent + row.segments))
        if len(stay) < len(rows):
            index = torch.tensor(stay, dtype=torch.long, device=self.device)
            self.rows = [rows[i] for i in stay]
            self.carry = self.carry.select(index)
            self.questions, self.task_ids = self.questions[index], self.task_ids[index]
        self.enter(again)
        return done

    def _verified(self, row: _Row) -> bool:
        assert row.readout is not None
        return self.rules.verify is None or self.rules.verify(row.job.question, row.readout)


def _shaken(carry: Carry, rows: list[_Row], seed: int) -> Carry:
    """The initial states, with noise added in the rows that begin again."""
    states = torch.stack(carry).clone()
    for i, row in enumerate(rows):
        if row.restart:
            noise = _noise(tuple(states.shape[2:]), seed, row).to(states.device, states.dtype)
            states[:, i] += NOISE * noise * states[:, i].square().mean((1, 2), keepdim=True).sqrt()
    return Carry(*states)


def _noise(shape: tuple[int, ...], seed: int, row: _Row) -> Tensor:
    """Two truncated normal states of mean square 1, a function of (seed, question, restart) and nothing else."""
    # So neither the batch size nor the order of the puzzles can change an answer.
    key = hashlib.sha256(f"{seed} {row.restart} ".encode() + row.job.question.astype("<i4").tobytes()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little"))
    noise = nn.init.trunc_normal_(torch.empty(2, *shape), generator=generator)
    return noise / noise.square().mean().sqrt()
