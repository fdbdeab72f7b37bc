"""Grid in, grid out: embeddings, the recurrence, an answer for every cell and the value of halting."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from hrm.core.arch import ArchConfig
from hrm.core.halting import QHead
from hrm.core.kernels import at_least_float32, weights
from hrm.core.layers import Context, Embedding, Linear, rotary_angles, truncated_normal_
from hrm.core.probe import Probe
from hrm.core.recurrence import Carry, Recurrence, Schedule, Stack
from hrm.puzzles.config import Config
from hrm.puzzles.lattice import Lattice, Packed, lifted


class Board(NamedTuple):
    """What a model needs to know of its task."""

    cells: int
    vocabulary: int
    symbols: tuple[int, int]
    """First token and number of tokens that an answer cell may hold."""
    groups: np.ndarray
    """[partitions, cells] label of each cell's group."""
    task_ids: int = 1
    shape: tuple[int, int] = (0, 0)
    """Rows and columns, for models that look at neighbours."""
    hints: tuple[int, int] = (0, 0)
    """How many words the model may say of a cell beside the vocabulary, and the token that they mean in an answer."""


def board_of(task: Any, task_ids: int = 1) -> Board:
    """The board of anything with a task's `shape`, `vocabulary`, `hints`, `symbols` and `groups`."""
    rows, columns = task.shape
    symbols = task.symbols.start, len(task.symbols)
    hints = len(task.hints), task.hinted
    return Board(rows * columns, len(task.vocabulary), symbols, task.groups, task_ids, (rows, columns), hints)


class Readout(NamedTuple):
    """The answer after a segment: logits [b, cells, vocabulary] and q [b, 2] (halt, continue) in float32. Where a model
    deduces, q_halt says that no true candidate is dead."""

    logits: Tensor
    q: Tensor
    keep: Tensor | None = None
    """Of a model that deduces: [b, cells * symbols] log-odds that each candidate is true."""
    said: Tensor | None = None
    """Of a model with hints: [b, cells, vocabulary + hints] logits."""


DEAD = -1e4
"""Score of what cannot be."""


class TaskEmbedding(nn.Module):
    """A zero-initialised vector per task id, kept out of the dense parameters because a batch touches few rows. In
    training the rows of the batch are a leaf of the graph, `rows`, whose gradient sign-SGD scatters into the table."""

    def __init__(self, task_ids: int, dim: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.zeros(task_ids, dim))
        self.used: list[tuple[Tensor, Tensor]] = []

    def forward(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        rows = self.weight[ids]
        if self.training and torch.is_grad_enabled():
            self.used.append((ids, rows.requires_grad_()))
        return rows


class PuzzleModel(nn.Module):
    """HRM, TRM or a plain Transformer on a grid, by its settings."""

    def __init__(self, arch: ArchConfig, board: Board) -> None:
        super().__init__()
        self.arch, self.board = arch, board
        self.dtype = torch.float32
        self.probe: Probe | None = None
        """Told the states after every visit (`hrm.core.probe.probing`)."""
        dim, std = arch.dim, arch.dim**-0.5
        self.candidates = board.symbols[1] if arch.tokens == "candidates" else 0
        self.positions = positions = board.cells * max(1, self.candidates) + arch.task_positions

        # A candidate sees its cell blank, holding its symbol, or holding another one.
        self.embed_tokens = Embedding(3 if self.candidates else board.vocabulary, dim, std)
        self.task_embedding = TaskEmbedding(board.task_ids, dim) if arch.task_positions else None
        self.embed_positions: Embedding | None = None
        if arch.positions == "learned":
            self.embed_positions = Embedding(positions, dim, std)
        elif arch.positions == "groups":
            sizes = board.groups.max(axis=1) + 1
            offsets = np.concatenate(([0], np.cumsum(sizes)[:-1]))
            self.embed_positions = Embedding(int(sizes.sum()), dim, std)
            self.group_ids: Tensor
            self.register_buffer(
                "group_ids", torch.from_numpy((board.groups + offsets[:, None]).astype(np.int64)), persistent=False
            )
        elif arch.positions == "rope":
            cos, sin = rotary_angles(positions, dim // arch.heads, arch.rope_base)
            self.rope_cos: Tensor
            self.rope_sin: Tensor
            self.register_buffer("rope_cos", cos, persistent=False)
            self.register_buffer("rope_sin", sin, persistent=False)

        self.partitions = 0
        if arch.mixer == "groups":
            self.partitions = self._register_groups(board)
        self.lattice = Lattice(board.groups, board.cells, *board.symbols) if arch.deduces else None
        self.recurrence = Recurrence(arch, positions, self.partitions)
        outputs = (2 if arch.deduces else 1) if self.candidates else board.vocabulary + board.hints[0]
        self.head = None if arch.tied else Linear(dim, outputs)
        self.q_head = QHead(dim)
        self.z_h_init: Tensor
        self.z_l_init: Tensor
        self.register_buffer("z_h_init", truncated_normal_(torch.empty(dim), 1.0))
        self.register_buffer(
            "z_l_init", truncated_normal_(torch.empty(dim), 1.0) if arch.hierarchy else torch.zeros(dim)
        )

    def embed(self, inputs: Int[Tensor, "b c"], task_ids: Int[Tensor, " b"]) -> Float[Tensor, "b p d"]:
        """x = sqrt(d) * [task embedding ; token embedding], positions added if they are learned (HRM section 2)."""
        if self.candidates:
            inputs = self._candidate_kinds(inputs)
        x = self.embed_tokens(inputs)
        if self.embed_positions is not None and self.arch.positions == "groups":
            tables = self.embed_positions(self.group_ids)
            x = (x + tables.sum(0)) / math.sqrt(1 + len(tables))
        if self.task_embedding is not None:
            front = torch.zeros(len(x), self.arch.task_positions, self.arch.dim, dtype=x.dtype, device=x.device)
            front = torch.cat((self.task_embedding(task_ids).to(x.dtype)[:, None], front[:, 1:]), dim=1)
            x = torch.cat((front, x), dim=1)
        if self.embed_positions is not None and self.arch.positions == "learned":
            x = math.sqrt(0.5) * (x + self.embed_positions.cast())
        return math.sqrt(self.arch.dim) * x

    def initial_carry(self, inputs: Shaped[Tensor, "b c"], task_ids: Int[Tensor, " b"]) -> Carry:
        """The state before the first segment: fixed vectors, or the input itself as the first slow state."""
        shape = (len(inputs), self.positions, self.arch.dim)
        z_l = self.z_l_init.to(self.dtype).expand(shape)
        if self.recurrence.first_state:
            self._refresh()
            carry = Carry(self.embed(inputs, task_ids), z_l)
        else:
            carry = Carry(self.z_h_init.to(self.dtype).expand(shape), z_l)
        if self.probe is not None:
            self.probe.begin(carry)
        return carry

    def segment(
        self, carry: Carry, inputs: Int[Tensor, "b c"], task_ids: Int[Tensor, " b"], schedule: Schedule | None = None
    ) -> tuple[Carry, Readout]:
        """One segment and its readout; the carry still holds the segment's gradient. A model that deduces begins with
        every candidate that the inputs leave."""
        if self.lattice is not None:
            carry, readouts = self.deduce(carry, self.lattice.pack(self.lattice.start(inputs)), 1, schedule)
            return carry, readouts[0]
        self._refresh()
        rope = (self.rope_cos, self.rope_sin) if self.arch.positions == "rope" else None
        groups = tuple((getattr(self, f"members_{i}"), getattr(self, f"group_of_{i}")) for i in range(self.partitions))
        context = Context(rope=rope, causal=self.arch.attention == "causal", groups=groups, shape=self.board.shape)
        x = self.embed(inputs, task_ids)
        carry = self.recurrence(carry, x, context, schedule, watch=self.probe and self.probe.see)
        z = carry.z_h
        summary = z[:, 0] if self.arch.q_from == "first" else z.mean(1)
        answers = z[:, self.arch.task_positions :]
        logits = self.head(answers) if self.head else nn.functional.linear(answers, self.embed_tokens.cast())
        if self.board.hints[0]:
            return carry, Readout(self._without_hints(logits), self.q_head(summary), said=logits)
        return carry, Readout(self._as_cells(logits) if self.candidates else logits, self.q_head(summary))

    def deduce(
        self, carry: Carry, packed: Packed, segments: int = 1, schedule: Schedule | None = None, every: bool = True
    ) -> tuple[Carry, list[Readout]]:
        """Segments with the same candidates, and a readout after each, or after the last alone; states of candidates
        not computed stay."""
        assert self.head is not None and self.lattice is not None
        self._refresh()
        here = packed.rows, packed.places
        count = torch.bincount(packed.rows, minlength=len(packed.alive)).clamp(min=1)[:, None]
        x = math.sqrt(self.arch.dim) * self.embed_tokens(packed.pinned[here].long())[None]
        context, states = Context(packed=packed.groups), Carry(carry.z_h[here][None], carry.z_l[here][None])
        size = len(packed.rows)
        if padding := len(packed.groups.each) - size:
            x, *padded = (nn.functional.pad(each, (0, 0, 0, padding)) for each in (x, *states))
            states = Carry(*padded)
        readouts = []

        def everywhere(states: Carry) -> Carry:
            return Carry(*(old.index_put(here, new[0, :size]) for old, new in zip(carry, states, strict=True)))

        probe = self.probe
        watch = None if probe is None else lambda visit, states: probe.see(visit, everywhere(states))
        for number in range(1, segments + 1):
            states = self.recurrence(states, x, context, schedule, watch=watch)
            if not every and number < segments:
                continue
            scores, z = at_least_float32(self.head(states.z_h[0]))[:size], states.z_h[0, :size]
            summary = torch.zeros(len(packed.alive), z.shape[1], dtype=scores.dtype, device=z.device)
            summary = (summary.index_add(0, packed.rows, z.to(scores.dtype)) / count).to(z.dtype)
            # What is not computed is settled for good or dead.
            keep, symbols = (
                torch.where(packed.alive, -DEAD, DEAD).to(scores.dtype).index_put(here, score)
                for score in scores.unbind(1)
            )
            readouts.append(Readout(self._as_cells(symbols[..., None]), self.q_head(summary), keep))
        return everywhere(states), readouts

    def on(self, shape: tuple[int, int]) -> PuzzleModel:
        """The same weights, not copied, on a grid of another shape; for models that look at neighbours alone."""
        assert self.arch.mixer == "neighbours"
        model = copy.copy(self)
        model.positions = cells = shape[0] * shape[1]
        model.board = self.board._replace(cells=cells, groups=np.zeros((0, cells), int), shape=shape)
        return model

    @property
    def stacks(self) -> list[Stack]:
        """The fast and the slow stack, or the one that plays both roles."""
        return [stack for stack in (self.recurrence.fast, self.recurrence.slow) if stack is not None]

    def units(self) -> list[nn.Module]:
        """What may be split over processes: the blocks, which hold nearly all weights."""
        return [layer for stack in self.stacks for layer in stack.layers]

    def compile_stacks(self) -> None:
        """torch.compile the stacks in place; names in the state dict stay."""
        for stack in self.stacks:
            stack.compile(dynamic=self.arch.deduces)

    def recompute_activations(self) -> None:
        """Keep only what enters a block, and run the block again in the backward pass."""
        for stack in self.stacks:
            stack.recompute = True

    def _register_groups(self, board: Board) -> int:
        """Buffers with the members of each group and the group of each position, without the task positions."""
        labels = board.groups.astype(np.int64)
        if self.candidates:
            labels = lifted(labels, self.candidates)
        for i, row in enumerate(labels):
            count = int(row.max()) + 1
            members = np.argsort(row, kind="stable").reshape(count, -1)
            self.register_buffer(f"members_{i}", torch.from_numpy(members), persistent=False)
            self.register_buffer(f"group_of_{i}", torch.from_numpy(row), persistent=False)
        return len(labels)

    def _candidate_kinds(self, inputs: Int[Tensor, "b c"]) -> Int[Tensor, "b p"]:
        first, count = self.board.symbols
        own = torch.arange(first, first + count, device=inputs.device)
        cells = inputs[..., None]
        given = (cells >= first) & (cells < first + count)
        return torch.where(given, torch.where(cells == own, 1, 2), 0).flatten(1)

    def _without_hints(self, logits: Float[Tensor, "b c w"]) -> Float[Tensor, "b c v"]:
        """The same distribution over the vocabulary, with the shares of all hints in those of the token they mean."""
        size, meant = self.board.vocabulary, self.board.hints[1]
        words = torch.cat((logits[..., meant : meant + 1], logits[..., size:]), dim=-1)
        return torch.cat((logits[..., :meant], words.logsumexp(-1, True), logits[..., meant + 1 : size]), dim=-1)

    def _as_cells(self, logits: Float[Tensor, "b p 1"]) -> Float[Tensor, "b c v"]:
        """Candidates as a distribution over the vocabulary; tokens that no answer holds get a very low score."""
        first, count = self.board.symbols
        scores = logits.view(len(logits), self.board.cells, count)
        return nn.functional.pad(scores, (first, self.board.vocabulary - first - count), value=DEAD)

    def _refresh(self) -> None:
        # In training every segment with a gradient follows an update, and fused optimizers change weights without a new
        # version.
        changed = self.training and torch.is_grad_enabled()
        for part in weights(self):
            part.refresh(self.dtype, changed)


def build(config: Config, board: Board) -> PuzzleModel:
    """A model whose random weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return PuzzleModel(config.arch, board)
