"""The keys and values of one forward pass. Attention sees caches, shared keys and halted tokens only through them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from hrm.text.model.cache import HRMCache
from hrm.text.model.selection import AllTokens
from hrm.text.model.slots import Slots

Pair = tuple[Tensor, Tensor]


class KeyValueStore:
    """Keys and values [b, heads, p, e] by slot: those of this pass and, with a cache, those before it. `last_exited`:
    halted tokens keep their last ones. `fills`: their deeper ones are computed when first needed (rule `backfill`)."""

    def __init__(self, slots: Slots, cache: Cache | None, past: int, last_exited: bool, fills: bool) -> None:
        self.slots, self.cache, self.last_exited, self.fills = slots, cache, last_exited, fills
        self.past = past
        """Positions that the slots of the current segment held before this pass."""
        self.selection = AllTokens()
        """Which tokens the current segment computes."""
        self._whole: dict[int, Pair] = {}
        self._own: dict[int, Pair] = {}
        self._seen: dict[int, tuple[Pair | None, AllTokens]] = {}

    @property
    def lags(self) -> bool:
        """Whether slots may lack tokens that a deeper segment must compute first: HRMCache under `backfill`."""
        return self.fills and isinstance(self.cache, HRMCache)

    def enter(self, segment: int) -> int:
        """Begin a segment; returns the column of the first token that it must compute."""
        if not self.lags:
            return 0
        self.past = self.cache.layer(segment * self.slots.size).length  # type: ignore[union-attr]
        return self.past

    def update(self, keys: Tensor, values: Tensor, slot: int) -> Pair:
        """Store new keys and values [b, heads, p, e] in a slot; return all that this visit may look at."""
        home, where, again = self._place(slot)
        grad = torch.is_grad_enabled()
        # Activation checkpointing calls this a second time, in the backward pass. By then later segments have replaced
        # what this one read, so the first call records it.
        seen = self._seen.get(slot) if grad else None
        old, selection = seen or ((self._whole if again else self._own).get(home), self.selection)
        if grad:
            self._seen[slot] = old, selection
        if again:
            assert old is not None
            return _again(old, selection, keys, values)
        if self.last_exited:
            if old is not None:
                keys, values = selection.renew(old[0], keys), selection.renew(old[1], values)
            if seen is None:
                self._own[home] = keys, values
        if self.cache is not None:
            if isinstance(self.cache, HRMCache):
                self._catch_up(self.cache, where)
            keys, values = self.cache.update(keys, values, where)
        if self.slots.shared and seen is None:
            self._whole[home] = keys, values
        return selection.rows(keys), selection.rows(values)

    def detach(self) -> None:
        """Detach what later segments read, so that a backward pass ends at the segment boundary."""
        for kept in (self._whole, self._own):
            kept.update({home: (keys.detach(), values.detach()) for home, (keys, values) in kept.items()})

    def forget(self) -> None:
        """Drop what only activation checkpointing needs, once the backward pass is over."""
        self._seen.clear()

    def places(self, slot: int, slots: int) -> list[tuple[Tensor, Tensor, bool]]:
        """For each slot of a visit: the buffers of keys and values, and whether the new token is written there. It is
        for compiled code, which writes into an HRMCache by itself; call `placed` afterwards."""
        assert isinstance(self.cache, HRMCache)
        found = []
        for at in range(slot, slot + slots):
            _, where, again = self._place(at)
            if not again:
                self._catch_up(self.cache, where)
            found.append((*self.cache.layer(where).reserve(self.past + 1), not again))
        return found

    def placed(self, slot: int, slots: int) -> None:
        """Record that the new token was written into the buffers of `places`."""
        assert isinstance(self.cache, HRMCache)
        for at in range(slot, slot + slots):
            home, where, again = self._place(at)
            if again:
                continue
            layer = self.cache.layer(where)
            layer.length = self.past + 1
            if self.slots.shared:
                self._whole[home] = layer.keys, layer.values  # type: ignore[assignment]
            if self.last_exited:
                self._own[home] = layer.keys[:, :, self.past :], layer.values[:, :, self.past :]  # type: ignore[index]

    def fill(self, done: int, segments: int) -> None:
        """Copy the last keys and values into the slots of segments that no token of this pass has reached: a cache of
        transformers needs all slots to be equally long. HRMCache lets deep ones lag and copies on demand."""
        if self.cache is None or isinstance(self.cache, HRMCache) or self.slots.share_segments:
            return
        for segment in range(done, segments):
            for home, (keys, values) in self._own.items():
                self.cache.update(keys, values, segment * self.slots.size + home)

    def _place(self, slot: int) -> tuple[int, int, bool]:
        """The home in its segment, the slot in the cache, and whether an earlier visit has written it, so that it is
        only read."""
        slots = self.slots
        segment, visit = divmod(slot, len(slots.homes))
        home = slots.homes[visit]
        again = not slots.first[visit] or bool(segment and slots.share_segments)
        return home, home if slots.share_segments else segment * slots.size + home, again

    def _catch_up(self, cache: HRMCache, slot: int) -> None:
        """Copy the tokens that halted before this slot's segment: their last keys and values are one segment below."""
        layer = cache.layer(slot)
        if layer.length < self.past:
            below = cache.layer(slot - self.slots.size)
            layer.update(*(t[:, :, layer.length : self.past] for t in (below.keys, below.values)))  # type: ignore[index]


def _again(old: Pair, selection: AllTokens, keys: Tensor, values: Tensor) -> Pair:
    """The keys and values of an earlier visit, for a visit that shares them."""
    if keys.requires_grad and not old[0].requires_grad and selection.same_tokens(old[0], keys):
        # The first visit ran without gradient, so its keys carry none. At a fixed point they equal the keys of this
        # visit, so this visit's gradient stands in for theirs: HRM's one-step gradient, applied to keys. `x -
        # x.detach()` is zero, so the values stay the same.
        steps = keys - keys.detach(), values - values.detach()
        old = old[0] + selection.step(old[0], steps[0]), old[1] + selection.step(old[1], steps[1])
    return selection.rows(old[0]), selection.rows(old[1])
