"""Attention by other functions than torch's own, as the recurrence calls it: queries, keys, values [b, heads, p, e]."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hrm.core.kernels import at_least_float32
from hrm.text.model.masks import visible


class RecordedAttention(NamedTuple):
    """Plain attention that passes its weights [b, p, heads, k] to `note`, for `output_attentions`."""

    causal: bool
    mask: Tensor | None
    note: Callable[[Tensor], None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = _mask(self.causal, self.mask, q, k)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
        scores = q @ k.mT * q.shape[-1] ** -0.5
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        shares = torch.softmax(at_least_float32(scores), dim=-1).to(q.dtype)
        self.note(shares.transpose(1, 2))
        return shares @ v


class RegisteredAttention(NamedTuple):
    """An attention function from transformers' registry."""

    causal: bool
    mask: Tensor | None
    name: str

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from transformers.models.llama.modeling_llama import eager_attention_forward  # slow to import, and rarely used

        mask = _mask(self.causal, self.mask, q, k)
        if self.name == "eager" and mask is not None:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, torch.finfo(q.dtype).min)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(self.name, eager_attention_forward)
        # What such functions read from the layer that calls them.
        layer: Any = SimpleNamespace(num_key_value_groups=q.shape[1] // k.shape[1], is_causal=False, training=False)
        return function(layer, q, k, v, mask, scaling=q.shape[-1] ** -0.5, dropout=0.0)[0].transpose(1, 2)


def _mask(causal: bool, mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    return visible(q.shape[2], 0, k.shape[2], q.device) if mask is None and causal else mask
