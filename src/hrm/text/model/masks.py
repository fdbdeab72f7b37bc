"""Attention masks: causal text, prefixes that see themselves, documents packed into one row, padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.cache_utils import Cache


def prefix_blocks(token_types: Int[Tensor, "b p"]) -> Int[Tensor, "b p"]:
    """A number for each run of ones, -1 elsewhere: each is a prefix of its own, so that no turn sees a later one."""
    ones = token_types == 1
    starts = ones & ~torch.nn.functional.pad(ones, (1, 0))[:, :-1]
    return torch.where(ones, starts.long().cumsum(1), -1)


def documents(position_ids: Int[Tensor, "b p"]) -> Int[Tensor, "b p"] | None:
    """The document of each position in packed rows, where positions restart at 0; None if each row is one document."""
    begins = torch.nn.functional.pad(position_ids.diff(dim=1) != 1, (1, 0))
    return begins.long().cumsum(1) if bool(begins.any()) else None


def visible(
    length: int,
    past: int,
    keys: int,
    device: torch.device,
    padding: Bool[Tensor, "b k"] | None = None,
    blocks: Int[Tensor, "b p"] | None = None,
    packed: Int[Tensor, "b p"] | None = None,
) -> Bool[Tensor, "#b 1 p kk"]:
    """Which of `keys` positions each of `length` new ones after `past` old ones may look at. `padding` is false for
    padding among the keys; `blocks` and `packed` number the new positions. A padded one sees itself, so that attention
    has something to normalise."""
    new = torch.arange(past, past + length, device=device)[:, None]
    old = torch.arange(keys, device=device)[None]
    allowed = (old <= new)[None]
    edges = (past, keys - past - length)
    if blocks is not None:
        together = (blocks[:, :, None] == blocks[:, None]) & (blocks >= 0)[:, None]
        allowed = allowed | torch.nn.functional.pad(together, edges, value=False)
    if packed is not None:
        allowed = allowed & torch.nn.functional.pad(packed[:, :, None] == packed[:, None], edges, value=True)
    if padding is not None:
        padding = torch.nn.functional.pad(padding, (0, keys - padding.shape[1]), value=True)
        allowed = (allowed & padding[:, None]) | (old == new)[None]
    return allowed[:, None]


Mask = Tensor | dict[str, Tensor] | None


class Visibility(NamedTuple):
    """Which tokens see which in a forward pass: plainly causal, or by a mask."""

    causal: bool
    mask: Tensor | None = None
    """[b, 1, p, k] if not plainly causal; None if every new token may look at everything."""
    blocks: Tensor | None = None
    """The prefix blocks [b, p] that the mask was made from."""
    padding: Tensor | None = None
    """[b, k]: false for padding."""


def whole(attention_mask: Mask) -> bool:
    """Whether the mask is a complete 4D mask, as `generate` makes it for caches of fixed size."""
    return isinstance(attention_mask, dict) or (attention_mask is not None and attention_mask.ndim == 4)


def visibility(
    x: Tensor, attention_mask: Mask, blocks: Tensor | None, position_ids: Tensor | None, past: int, cache: Cache | None
) -> Visibility:
    """Which tokens see which: `x` [b, p, d] are new ones after `past` old ones, `blocks` [b, p] their prefix blocks."""
    length = x.shape[1]
    if whole(attention_mask):
        mask = next(iter(attention_mask.values())) if isinstance(attention_mask, dict) else attention_mask
        return Visibility(False, mask if mask is None or mask.dtype == torch.bool else mask == 0)
    assert not isinstance(attention_mask, dict)
    padding = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.bool()
    packed = None
    if position_ids is not None and attention_mask is None and cache is None:
        packed = documents(position_ids)
    keys = past + length
    if cache is not None and cache.is_compileable:
        keys = cache.get_mask_sizes(length, 0)[0]
    if blocks is None and padding is None and packed is None and keys == past + length and not past and length > 1:
        return Visibility(True)
    mask = None
    if length > 1 or padding is not None or keys > past + length:
        mask = visible(length, past, keys, x.device, padding, blocks, packed)
    return Visibility(False, mask, blocks, padding)
