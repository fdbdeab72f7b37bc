"""Several thoughts in one segment: their tokens lie one after another in a row, and attention keeps them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hrm.core.kernels import attention
from hrm.core.layers import Context, before
from hrm.core.recurrence import Carry
from hrm.text.model.selection import AllTokens


class Part(NamedTuple):
    """What a segment of one thought computes: states and inputs [b, p, d], and what its blocks need besides."""

    selection: AllTokens
    carry: Carry
    x: Tensor
    context: Context
    first_slot: int


class Crowd:
    """The parts of several thoughts, each of one row, as one: [1, all their tokens, d]."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.sizes = [part.x.shape[1] for part in parts]
        self.carry = Carry(*(torch.cat(states, dim=1) for states in zip(*(part.carry for part in parts), strict=True)))
        self.x = torch.cat([part.x for part in parts], dim=1)
        self._slot = 0

    def context(self) -> Context:
        """What the blocks need. It knows the crowd and not the other way round: in a circle all the keys and values
        would wait for the garbage collector."""
        ropes = [part.context.rope for part in self.parts]
        rope = tuple(torch.cat(angles, dim=1) for angles in zip(*ropes, strict=True))  # type: ignore[arg-type]
        return Context(rope, keys_values=self, attend=self._attend, back=self._back)  # type: ignore[arg-type]

    def split(self, carry: Carry) -> list[Carry]:
        """The states of each thought."""
        return [Carry(*states) for states in zip(*(z.split(self.sizes, dim=1) for z in carry), strict=True)]

    def update(self, k: Tensor, v: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """Called by a layer before `_attend`, where each thought stores its own keys and values."""
        self._slot = slot
        return k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of queries [1, heads, p, e], for each thought over its own keys and values."""
        mixed = []
        for part, *own in zip(self.parts, *(t.split(self.sizes, dim=2) for t in (q, k, v)), strict=True):
            context, (queries, keys, values) = part.context, own
            if context.keys_values is not None:
                keys, values = context.keys_values.update(keys, values, part.first_slot + self._slot)
            if context.attend is None:
                mixed.append(attention(queries, keys, values, context.causal, context.mask))
            else:
                mixed.append(context.attend(queries, keys, values))
        return torch.cat(mixed, dim=2)

    def _back(self, x: Tensor, slot: int) -> Tensor:
        parts = zip(self.parts, x.split(self.sizes, dim=1), strict=True)
        return torch.cat([before(own, part.context, part.first_slot + slot) for part, own in parts], dim=1)
