"""Which tokens of a batch a segment computes, and what the others keep: states [b, p, ...] and keys [b, heads, p, e].

`AllTokens`: no token has halted. `MaskedTokens`: all are computed, and results of halted ones are discarded.
`LiveTokens`: only the live ones are computed. A segment uses one of the three wherever they differ.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from hrm.core.recurrence import Carry
from hrm.text.model.dropout import Drop, Dropout

PICKING = 20_000_000
"""FLOPs that take about as long as picking live tokens out and putting them back."""


def picks(live: Bool[Tensor, "b p"], flops: int) -> bool:
    """Whether computing the live tokens alone saves time, at these FLOPs a token."""
    return (live.numel() - int(live.sum())) * flops > PICKING


class AllTokens:
    """All tokens from column `start`, none of which has halted. Those before it have run this segment already."""

    places_from_end: Tensor | None = None
    """Where the computed tokens stand [b', p'], -1 for the last place, unless they are the last ones in order."""

    def __init__(self, start: int = 0) -> None:
        self.start = start

    def of(self, t: Tensor) -> Tensor:
        """The computed tokens of [b, p, ...]."""
        return t[:, self.start :] if self.start else t

    def visibility(self, causal: bool, mask: Tensor | None) -> tuple[bool, Tensor | None]:
        """Which keys the computed tokens see: whether plainly causal, else the mask [b, 1, p', k]."""
        return causal, mask[:, :, self.start :] if mask is not None and self.start else mask

    def dropping(self, drop: Dropout) -> Drop:
        """The same dropout for the computed tokens."""
        return drop

    def settle(self, carry: Carry, exited: Carry, new: Carry) -> tuple[Carry, Carry]:
        """The new carry and exit states of all tokens [b, p, d], given the new states of the computed ones."""
        new = self._whole(carry, new)
        return new, new

    def show(self, before: Tensor | None, new: Tensor, count: int) -> Tensor:
        """The values [b, p', ...] of the last `count` tokens; halted ones repeat those in `before`."""
        return new[:, -count:]

    def same_tokens(self, old: Tensor, new: Tensor) -> bool:
        """Whether new keys [b', heads, p', e] belong to the same tokens as the old ones, so a gradient can pass."""
        return new.shape == old.shape

    def step(self, old: Tensor, step: Tensor) -> Tensor:
        """What is added to the old keys or values: zero for halted tokens."""
        return step

    def renew(self, old: Tensor, new: Tensor) -> Tensor:
        """Keys or values: new for live tokens, old for halted ones."""
        return new

    def rows(self, t: Tensor) -> Tensor:
        """The keys or values of the computed rows."""
        return t

    def _whole(self, old: Carry, new: Carry) -> Carry:
        if not self.start:
            return new
        return Carry(*(torch.cat((a[:, : self.start], b), dim=1) for a, b in zip(old, new, strict=True)))


class MaskedTokens(AllTokens):
    """All tokens are computed, but halted ones keep their exit states. `freezes`: they keep their carry as well."""

    def __init__(self, live: Bool[Tensor, "b p"], freezes: bool, start: int = 0) -> None:
        super().__init__(start)
        self.live, self.freezes = live, freezes

    def settle(self, carry: Carry, exited: Carry, new: Carry) -> tuple[Carry, Carry]:
        """Without `freezes` (rule `backfill`) the carry of halted tokens advances, because deeper tokens need their
        keys."""
        new, chosen = self._whole(carry, new), self.live[..., None]
        exited = Carry(*(torch.where(chosen, a, b) for a, b in zip(new, exited, strict=True)))
        return exited if self.freezes else new, exited

    def show(self, before: Tensor | None, new: Tensor, count: int) -> Tensor:
        new, live = new[:, -count:], self.live[:, -count:]
        return new if before is None else torch.where(live.view(*live.shape, *[1] * (new.ndim - 2)), new, before)

    def step(self, old: Tensor, step: Tensor) -> Tensor:
        return step * self.live[:, None, :, None]

    def renew(self, old: Tensor, new: Tensor) -> Tensor:
        return torch.where(self.live[:, None, :, None], new, old)


class LiveTokens(AllTokens):
    """Only the live tokens, packed into a rectangle [b', p']; short rows repeat their last token."""

    def __init__(self, live: Bool[Tensor, "b p"]) -> None:
        super().__init__()
        counts = live.sum(1)
        self.picked = counts.nonzero()[:, 0]
        width = int(counts.max())
        columns = torch.sort((~live[self.picked]).to(torch.uint8), dim=1, stable=True).indices[:, :width]
        last = (counts[self.picked] - 1)[:, None]
        counter = torch.arange(width, device=live.device)[None]
        self.real = (counter <= last).flatten().nonzero()[:, 0]
        """Indices into the flat rectangle of all entries that are not repetitions."""
        self.columns = columns.gather(1, counter.minimum(last))
        self.places = (self.picked[:, None] * live.shape[1] + self.columns).flatten()
        """Indices of the rectangle's tokens among all tokens, flat."""
        self.batch, self.length = live.shape
        self.places_from_end = self.columns - self.length

    def of(self, t: Tensor) -> Tensor:
        if len(t) < self.batch:  # rotary angles that all rows share
            t = t.expand(self.batch, *t.shape[1:])
        return t.flatten(0, 1).index_select(0, self.places).unflatten(0, self.columns.shape)

    def into(self, t: Tensor, new: Tensor) -> Tensor:
        """A copy of [b, p, ...] with new values [b', p', ...] for the computed tokens."""
        values = new.flatten(0, 1).index_select(0, self.real).to(t.dtype)
        return t.flatten(0, 1).index_copy(0, self.places[self.real], values).view(t.shape)

    def visibility(self, causal: bool, mask: Tensor | None) -> tuple[bool, Tensor | None]:
        if mask is not None:
            return False, mask.expand(self.batch, -1, -1, -1)[self.picked[:, None], 0, self.columns][:, None]
        if not causal:
            return False, None
        return False, (torch.arange(self.length, device=self.columns.device) <= self.columns[..., None])[:, None]

    def dropping(self, drop: Dropout) -> Drop:
        return drop.of(self.of)

    def settle(self, carry: Carry, exited: Carry, new: Carry) -> tuple[Carry, Carry]:
        new = Carry(self.into(carry.z_h, new.z_h), self.into(carry.z_l, new.z_l))
        return new, new

    def show(self, before: Tensor | None, new: Tensor, count: int) -> Tensor:
        assert before is not None
        return self.into(before, new)

    def same_tokens(self, old: Tensor, new: Tensor) -> bool:
        return True

    def step(self, old: Tensor, step: Tensor) -> Tensor:
        return self.renew(torch.zeros_like(old), step)

    def renew(self, old: Tensor, new: Tensor) -> Tensor:
        return self.into(old.transpose(1, 2), new.transpose(1, 2)).transpose(1, 2)

    def rows(self, t: Tensor) -> Tensor:
        return t if len(self.picked) == len(t) else t[self.picked]
