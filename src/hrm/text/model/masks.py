"""Who sees whom: causal text, prefixes that see themselves, documents packed into one row, padding."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def prefix_blocks(token_types: Int[Tensor, "b p"]) -> Int[Tensor, "b p"]:
    """A number for each run of ones, -1 elsewhere: a prefix is a run, so that no turn leaks into one before it."""
    ones = token_types == 1
    starts = ones & ~torch.nn.functional.pad(ones, (1, 0))[:, :-1]
    return torch.where(ones, starts.long().cumsum(1), -1)


def documents(position_ids: Int[Tensor, "b p"]) -> Int[Tensor, "b p"] | None:
    """The document of each position in packed rows, where positions begin anew; None if each row is one document."""
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
    """Which of `keys` positions each of `length` new ones after `past` old ones may look at.

    `padding` is false for padding among the keys; `blocks` and `packed` number the new positions.
    A padded position sees itself, so that attention has something to normalise.
    """
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
