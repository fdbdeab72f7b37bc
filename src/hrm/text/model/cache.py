"""Where keys and values live: slots of visits, what a deeper token reads of a halted one, and a cache that grows."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from hrm.core.recurrence import Carry, Schedule

if TYPE_CHECKING:
    from hrm.text.model.configuration import HRMConfig


class Slots(NamedTuple):
    """Which keys and values the layers of a segment's visits write and read."""

    homes: tuple[int, ...]
    """Of every layer of every visit, in order."""
    first: tuple[bool, ...]
    """Whether it writes its home; a later visit of a shared home reads."""
    share_segments: bool

    @property
    def size(self) -> int:
        """Homes of one segment."""
        return max(self.homes) + 1

    @property
    def shared(self) -> bool:
        """Whether any visit reads what an earlier one wrote."""
        return self.share_segments or not all(self.first)

    def count(self, segments: int) -> int:
        """Homes of that many segments."""
        return self.size if self.share_segments else self.size * segments


def slots_of(config: HRMConfig, schedule: Schedule) -> Slots:
    """The slots of a segment under a schedule; without sharing, one per layer of every visit as in `hrm_text`."""
    n_fast = config.fast_layers + (0 if config.hierarchy else config.slow_layers)
    n_slow = n_fast if config.shared or not config.hierarchy else config.slow_layers
    return _slots(n_fast, n_slow, schedule, config.share_cycles, config.share_segments)


@lru_cache
def _slots(n_fast: int, n_slow: int, schedule: Schedule, share_cycles: bool, share_segments: bool) -> Slots:
    homes: list[int] = []
    first: list[bool] = []
    known: dict[tuple[str, int], int] = {}
    size = 0
    for visit in schedule.visits(n_fast, n_slow):
        for layer in range(n_fast if visit.role == "L" else n_slow):
            home = known.get((visit.role, layer)) if share_cycles else None
            first.append(home is None)
            homes.append(size if home is None else home)
            known[visit.role, layer] = homes[-1]
            size += home is None
    return Slots(tuple(homes), tuple(first), share_segments)


class Grown(CacheLayerMixin):
    """Keys and values of one slot in room that is allocated ahead and doubled when it is full."""

    is_croppable = True

    def __init__(self, room: int = 256) -> None:
        # Not the base class's: it sets keys and values, which follow from the room and the length here.
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
        """Allocate room like these keys and values [b, heads, p, e]."""
        room = max(self.room, key_states.shape[2])
        self._k, self._v = (t.new_empty(*t.shape[:2], room, t.shape[3]) for t in (key_states, value_states))
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True

    def reserve(self, length: int) -> tuple[Tensor, Tensor]:
        """The buffers of keys and values, with room for so many positions."""
        if length > self._k.shape[2]:
            self._map(lambda t: torch.cat((t, t.new_empty(*t.shape[:2], max(length, t.shape[2]), t.shape[3])), dim=2))
        return self._k, self._v

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [b, heads, p, e]; return all that there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        keys, values = self.reserve(end)
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.length = end
        return keys[:, :, :end], values[:, :, :end]

    def shorten(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        self.length = min(self.length, length)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -`tokens_to_remove` positions."""
        self.shorten(self.length + tokens_to_remove)

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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the rows in another order."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._map(lambda t: t[indices.to(t.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._map(lambda t: t.repeat_interleave(repeats, dim=0))

    def offload(self) -> None:
        """Not supported: use transformers' offloaded cache."""
        raise NotImplementedError("this cache stays on its device: use cache_implementation='offloaded'")

    def _map(self, function: Any) -> None:
        if self.is_initialized:
            self._k, self._v = function(self._k), function(self._v)


class HRMCache(Cache):
    """A cache of every slot in use. Slots of depths that no token has reached yet hold nothing, or lag behind.

    It remembers under which schedule and rule it was filled, because others would read wrong keys.
    """

    def __init__(self, room: int = 256) -> None:
        super().__init__(layers=[])
        self.room = room
        self.key: Any = None
        """What it was filled under."""
        self.carry: Carry | None = None
        """The last token's state, [b, 1, d] each."""
        self.thought: Any = None
        """All tokens so far, where lagging ones may have to run deeper (rule `backfill`)."""

    def layer(self, slot: int) -> Grown:
        """The keys and values of a slot."""
        while len(self.layers) <= slot:
            self.layers.append(Grown(self.room))
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

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Put the rows in another order."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._map_states(lambda t: t[indices.to(t.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)
        self._map_states(lambda t: t.repeat_interleave(repeats, dim=0))

    def bytes_per_token(self) -> float:
        """Bytes of keys and values held per position and row."""
        held = sum(
            t.numel() * t.element_size() for layer in self.layers for t in (layer.keys, layer.values) if t is not None
        )  # type: ignore[union-attr]
        rows = 0 if not self.layers else self.layers[0].keys.shape[0]  # type: ignore[union-attr]
        return held / max(1, rows * self.get_seq_length())

    def _map_states(self, function: Any) -> None:
        if self.carry is not None:
            self.carry = Carry(*map(function, self.carry))
        if self.thought is not None:
            self.thought.map(function)


class Picked(NamedTuple):
    """Some tokens of a batch in a rectangle: rows [b'] and columns [b', p']; short rows repeat a token."""

    rows: Tensor
    columns: Tensor
    places: Tensor
    """[b' * p']: where they are among all tokens, row after row."""
    real: Tensor
    """[n]: which of these are no repetitions."""

    def of(self, t: Tensor) -> Tensor:
        """The tokens of a tensor [b, p, ...]."""
        return t.flatten(0, 1).index_select(0, self.places).unflatten(0, self.columns.shape)

    def into(self, t: Tensor, new: Tensor) -> Tensor:
        """A copy of [b, p, ...] with new values [b', p', ...] for the tokens."""
        values = new.flatten(0, 1).index_select(0, self.real).to(t.dtype)
        return t.flatten(0, 1).index_copy(0, self.places[self.real], values).view(t.shape)


class Kept:
    """The keys and values of one forward pass: what attention sees of caches, sharing and halting."""

    def __init__(self, slots: Slots, cache: Cache | None, last_exited: bool) -> None:
        self.slots, self.cache, self.last_exited = slots, cache, last_exited
        self.past = 0
        """Positions that the slots of the running segment hold from before."""
        self.fills = False
        """Whether lagging tokens are run later (rule `backfill`)."""
        self.live: Tensor | None = None
        """[b, p]: the tokens that make new keys and values; the others keep their last (training)."""
        self.picked: Picked | None = None
        """The same, where only the live tokens are computed."""
        self._whole: dict[int, tuple[Tensor, Tensor]] = {}
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: dict[int, tuple[tuple[Tensor, Tensor] | None, Tensor | None, Picked | None]] = {}

    def update(self, keys: Tensor, values: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """Keep new keys and values [b, heads, p, e] in a slot; return all that this visit may look at."""
        home, where, again = self._place(slot)
        grad = torch.is_grad_enabled()
        # Recomputed activations come here a second time, when later segments have replaced what this one read.
        seen = self._seen.get(slot) if grad else None
        old, live, picked = seen or ((self._whole if again else self._own).get(home), self.live, self.picked)
        if grad:
            self._seen[slot] = old, live, picked
        if again:
            assert old is not None
            return self._again(old, live, picked, keys, values)
        if self.last_exited:
            keys, values = self._merge(old, live, picked, keys, values)
            if seen is None:
                self._own[home] = keys, values
        if self.cache is not None:
            if isinstance(self.cache, HRMCache):
                self._catch_up(self.cache, where)
            keys, values = self.cache.update(keys, values, where)
        if self.slots.shared and seen is None:
            self._whole[home] = keys, values
        return _rows(picked, keys, values)

    def detach(self) -> None:
        """Cut the history of what later segments read."""
        for kept in (self._whole, self._own):
            kept.update({home: (keys.detach(), values.detach()) for home, (keys, values) in kept.items()})

    def forget(self) -> None:
        """Drop what recomputation in a backward pass would need: that pass is over."""
        self._seen.clear()

    def places(self, slot: int, layers: int) -> list[tuple[Tensor, Tensor, bool]]:
        """Buffers with room for one new token and whether it is written there, for the layers of a visit.

        For code that writes by itself, into a cache of ours that holds other tokens; `placed` has to follow.
        """
        assert isinstance(self.cache, HRMCache)
        found = []
        for at in range(slot, slot + layers):
            _, where, again = self._place(at)
            if not again:
                self._catch_up(self.cache, where)
            found.append((*self.cache.layer(where).reserve(self.past + 1), not again))
        return found

    def placed(self, slot: int, layers: int) -> None:
        """Count the new token that was written where `places` said."""
        assert isinstance(self.cache, HRMCache)
        for at in range(slot, slot + layers):
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
        """Write the last keys and values into the slots of segments that no token of this pass has reached.

        A cache of transformers needs that; ours lets them lag and copies them when a deeper token comes.
        """
        if self.cache is None or isinstance(self.cache, HRMCache) or self.slots.share_segments:
            return
        for segment in range(done, segments):
            for home, (keys, values) in self._own.items():
                self.cache.update(keys, values, segment * self.slots.size + home)

    def _place(self, slot: int) -> tuple[int, int, bool]:
        """Home in its segment and slot of the cache, and whether the slot is only read: an earlier one has written."""
        slots = self.slots
        segment, visit = divmod(slot, len(slots.homes))
        home = slots.homes[visit]
        again = not slots.first[visit] or bool(segment and slots.share_segments)
        return home, home if slots.share_segments else segment * slots.size + home, again

    def _catch_up(self, cache: HRMCache, slot: int) -> None:
        """Give a slot the tokens that halted before its segment: their last keys and values are one segment below."""
        layer = cache.layer(slot)
        if layer.length < self.past:
            below = cache.layer(slot - self.slots.size)
            layer.update(
                below.keys[:, :, layer.length : self.past],  # type: ignore[index]
                below.values[:, :, layer.length : self.past],  # type: ignore[index]
            )

    def _again(
        self, old: tuple[Tensor, Tensor], live: Tensor | None, picked: Picked | None, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        if keys.requires_grad and not old[0].requires_grad and (picked is not None or keys.shape == old[0].shape):
            # The first visit ran without gradient. At the fixed point its keys are those of this visit, and so is
            # their gradient: the step that HRM's one-step gradient takes for the states.
            steps = keys - keys.detach(), values - values.detach()
            if picked is not None:
                steps = tuple(_into(picked, torch.zeros_like(t), step) for t, step in zip(old, steps, strict=True))
            elif live is not None:
                steps = steps[0] * live[:, None, :, None], steps[1] * live[:, None, :, None]
            old = old[0] + steps[0], old[1] + steps[1]
        return _rows(picked, *old)

    def _merge(
        self,
        old: tuple[Tensor, Tensor] | None,
        live: Tensor | None,
        picked: Picked | None,
        keys: Tensor,
        values: Tensor,
    ) -> tuple[Tensor, Tensor]:
        if old is None or (picked is None and live is None):
            return keys, values
        if picked is not None:
            return _into(picked, old[0], keys), _into(picked, old[1], values)
        assert live is not None
        share = live[:, None, :, None]
        return torch.where(share, keys, old[0]), torch.where(share, values, old[1])


def _into(picked: Picked, t: Tensor, new: Tensor) -> Tensor:
    """`Picked.into` of keys or values [b, heads, p, e]."""
    return picked.into(t.transpose(1, 2), new.transpose(1, 2)).transpose(1, 2)


def _rows(picked: Picked | None, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The keys and values [b, heads, p, e] of the rows that are computed."""
    if picked is None or len(picked.rows) == len(keys):
        return keys, values
    return keys[picked.rows], values[picked.rows]
