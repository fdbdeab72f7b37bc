"""A growing cache of keys and values, with one cache layer for every slot in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from hrm.core.recurrence import Carry

if TYPE_CHECKING:
    from hrm.text.model.thought import Thought


class GrowingLayer(CacheLayerMixin):
    """Keys and values of one slot, in buffers that are allocated ahead and doubled when full."""

    is_croppable = True

    def __init__(self, room: int = 256) -> None:
        # The base class's __init__ is not called: it sets keys and values, which are properties here.
        self.room, self.length, self.is_initialized = room, 0, False

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        """[b, heads, length, e]."""
        return self._k[:, :, : self.length] if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        """[b, heads, length, e]."""
        return self._v[:, :, : self.length] if self.is_initialized else None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate buffers for keys and values of this shape [b, heads, p, e]."""
        room = max(self.room, key_states.shape[2])
        self._k, self._v = (t.new_empty(*t.shape[:2], room, t.shape[3]) for t in (key_states, value_states))
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def reserve(self, length: int) -> tuple[Tensor, Tensor]:
        """The buffers of keys and values, with room for `length` positions."""
        if length > self._k.shape[2]:
            self._map(lambda t: torch.cat((t, t.new_empty(*t.shape[:2], max(length, t.shape[2]), t.shape[3])), dim=2))
        return self._k, self._v

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [b, heads, p, e]; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        keys, values = self.reserve(end)
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def shorten(self, length: int) -> None:
        """Drop all but the first `length` positions."""
        self.length = min(self.length, length)

    def reset(self) -> None:
        """Forget everything."""
        self.length, self.is_initialized = 0, False

    def get_seq_length(self) -> int:
        """Positions held."""
        return self.length

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that `query_length` new positions will see, and where they begin."""
        return self.length + query_length, 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._map(lambda t: t[indices.to(t.device)])

    reorder_cache = batch_select_indices  # type: ignore[assignment]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._map(lambda t: t.repeat_interleave(repeats, dim=0))

    def offload(self) -> None:
        """Not supported: use transformers' offloaded cache."""
        raise NotImplementedError("this cache stays on its device: use cache_implementation='offloaded'")

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        if self.is_initialized:
            self._k, self._v = function(self._k), function(self._v)


class HRMCache(Cache):
    """A cache of every slot in use. Slots of depths that no token has reached yet are empty, or lag behind. It keeps
    the schedule and rule under which it was filled, because another one would read wrong keys."""

    def __init__(self, room: int = 256) -> None:
        super().__init__(layers=[])
        self.room = room
        self.key: str | None = None
        """`Budget.key` of the requests that filled it."""
        self.carry: Carry | None = None
        """The last token's state, [b, 1, d] each, for `state="carry"`."""
        self.thought: Thought | None = None
        """All tokens so far, since lagging ones may have to run deeper (rule `backfill`)."""

    def layer(self, slot: int) -> GrowingLayer:
        """The keys and values of a slot."""
        while len(self.layers) <= slot:
            self.layers.append(GrowingLayer(self.room))
        return self.layers[slot]  # type: ignore[return-value]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append to a slot; return all its keys and values."""
        return self.layer(layer_idx).update(key_states, value_states)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -`tokens_to_remove` positions, also where slots lag behind."""
        length = self.get_seq_length() + tokens_to_remove
        for layer in self.layers:
            layer.shorten(length)  # type: ignore[union-attr]
        if tokens_to_remove:
            self.carry = None
        if self.thought is not None:
            self.thought.shorten(length)

    def reset(self) -> None:
        """Forget everything."""
        self.layers, self.key, self.carry, self.thought = [], None, None, None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._map_states(lambda t: t[indices.to(t.device)])

    reorder_cache = batch_select_indices  # type: ignore[assignment]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)
        self._map_states(lambda t: t.repeat_interleave(repeats, dim=0))

    def bytes_per_token(self) -> float:
        """Bytes of keys and values held per position and row."""
        kept = (t for layer in self.layers for t in (layer.keys, layer.values) if t is not None)
        held = sum(t.numel() * t.element_size() for t in kept)
        rows = self.layers[0].keys.shape[0] if self.layers else 0  # type: ignore[union-attr]
        return held / max(1, rows * self.get_seq_length())

    def _map_states(self, function: Callable[[Tensor], Tensor]) -> None:
        if self.carry is not None:
            self.carry = Carry(*map(function, self.carry))
        if self.thought is not None:
            self.thought.map(function)
