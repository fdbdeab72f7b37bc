"""The lattice of candidates: which symbols each cell may still hold, and what the rules alone say of that.

A state of a puzzle is one bit per (cell, symbol), as in lattice deduction (arXiv 2605.08605). Symbols exclude each
other: in every group of cells each may stand once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hrm.core.layers import PackedGroups

LEAST = 64
"""Padded lengths are multiples of this, and of more where they are longer: an eighth at most is padding."""


def lifted(groups: np.ndarray, symbols: int) -> np.ndarray:
    """[partitions + 1, cells * symbols] group of each candidate: the same symbol in a row, column or box, and last the
    symbols of one cell."""
    cells, each = np.arange(groups.shape[1]), np.arange(symbols)
    rows = [(row.astype(np.int64)[:, None] * symbols + each).ravel() for row in groups]
    return np.stack([*rows, np.repeat(cells, symbols)])


@dataclass(frozen=True, eq=False)
class Packed:
    """The candidates of several puzzles that a model computes, in one row: those possible that still exclude others."""

    alive: Bool[Tensor, "b p"]
    pinned: Bool[Tensor, "b p"]
    """Alone in their cell."""
    rows: Int[Tensor, " n"]
    places: Int[Tensor, " n"]
    groups: PackedGroups


class Lattice(nn.Module):
    """The candidates of a board, and the groups in which they exclude each other."""

    def __init__(self, groups: np.ndarray, cells: int, first: int, symbols: int) -> None:
        """`groups` [partitions, cells]; the token of a symbol is `first` or one of the next."""
        super().__init__()
        self.cells, self.first, self.symbols = cells, first, symbols
        labels = lifted(groups, symbols)
        counts = labels.max(axis=1) + 1
        self.sizes = tuple(labels.shape[1] // int(count) for count in counts)
        self.counts_of: Tensor
        self.group_of: Tensor
        self.register_buffer("counts_of", torch.from_numpy(counts), persistent=False)
        self.register_buffer("group_of", torch.from_numpy(labels.T.copy()), persistent=False)
        # A partition whose groups lie inside those of another one adds no rule.
        ruling = [i for i in range(len(labels)) if not any(_refines(labels, i, j) for j in range(len(labels)))]
        self.full = [labels.shape[1] // int(counts[i]) == symbols for i in ruling]
        """Which of the ruling partitions have groups that hold every symbol once; a cell holds one of all symbols."""
        self.ruling = len(ruling)
        label = np.stack([labels[i] for i in ruling], 1)
        label += np.cumsum([0, *(counts[i] for i in ruling[:-1])])
        needs = np.concatenate([np.full(counts[i], full) for i, full in zip(ruling, self.full, strict=True)])
        member = np.zeros((len(label), len(needs)), np.float32)
        np.put_along_axis(member, label, 1, 1)
        self.label: Tensor
        self.needs: Tensor
        self.member: Tensor
        self.register_buffer("label", torch.from_numpy(label), persistent=False)
        self.register_buffer("needs", torch.from_numpy(needs), persistent=False)
        self.register_buffer("member", torch.from_numpy(member), persistent=False)

    def start(self, questions: Int[Tensor, "b c"]) -> Bool[Tensor, "b p"]:
        """Givens are pinned, in other cells every symbol is possible."""
        own = torch.arange(self.first, self.first + self.symbols, device=questions.device)
        cells = questions[..., None]
        given = (cells >= self.first) & (cells < self.first + self.symbols)
        return (~given | (cells == own)).flatten(1)

    def by_cell(self, candidates: Tensor) -> Tensor:
        """[b, p] as [b, cells, symbols]."""
        return candidates.unflatten(1, (self.cells, self.symbols))

    def pinned(self, alive: Bool[Tensor, "b p"]) -> Bool[Tensor, "b p"]:
        """Those that are alone in their cell."""
        cells = self.by_cell(alive)
        return (cells & (cells.sum(2, keepdim=True) == 1)).flatten(1)

    def counts(self, candidates: Bool[Tensor, "b p"]) -> Float[Tensor, "b g"]:
        """How many of them there are in each group of the ruling partitions; one product is faster than sums."""
        return candidates.to(self.member.dtype) @ self.member

    def contradicted(self, alive: Bool[Tensor, "b p"], pinned: Bool[Tensor, "b p"]) -> Bool[Tensor, " b"]:
        """Whether the rules refuse a state: a cell without candidates, a symbol without a place in a group that needs
        it, or one that is pinned twice in a group."""
        places, taken = self.counts(torch.cat((alive, pinned))).chunk(2)
        return (((places == 0) & self.needs) | (taken > 1)).any(1)

    def finished(self, pinned: Bool[Tensor, "b p"]) -> Bool[Tensor, " b"]:
        """Whether every cell is pinned."""
        return self.by_cell(pinned).any(2).all(1)

    def tokens(self, scores: Float[Tensor, "b p"]) -> Int[Tensor, "b c"]:
        """The symbol with the highest score in each cell."""
        return self.by_cell(scores).argmax(2) + self.first

    def only(self, tokens: Int[Tensor, "b c"]) -> Bool[Tensor, "b p"]:
        """The state in which these symbols are pinned and nothing else is possible."""
        return nn.functional.one_hot(tokens - self.first, self.symbols).bool().flatten(1)

    def pack(self, alive: Bool[Tensor, "b p"], padded: bool = False) -> Packed:
        """What there is to compute: a candidate that is alone in all its groups says nothing to any other. With some
        padding the lengths recur: a CPU takes milliseconds to prepare the products of a new one."""
        alone = (self.counts(alive) == 1)[:, self.label].all(2)
        rows, places = (alive & ~alone).nonzero(as_tuple=True)
        many = self.counts_of * len(alive)
        counts = many.tolist()
        group_of = self.group_of[places] + rows[:, None] * self.counts_of + (many.cumsum(0) - many)
        if padded:
            step = max(LEAST, 1 << len(rows).bit_length() >> 4)
            group_of = nn.functional.pad(group_of, (0, 0, 0, -len(rows) % step), value=sum(counts))
            counts[-1] += 1
        groups = PackedGroups(group_of, tuple(counts), self.sizes)
        return Packed(alive, self.pinned(alive), rows, places, groups)


def _refines(labels: np.ndarray, inner: int, outer: int) -> bool:
    """Whether every group of one partition lies inside a group of another one, of two equal ones the later."""
    pairs = np.unique(labels[[inner, outer]], axis=1).shape[1]
    inside = pairs == labels[inner].max() + 1
    return inner != outer and inside and (labels[outer].max() < labels[inner].max() or outer < inner)
