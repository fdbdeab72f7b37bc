"""The loss of tokens, a part of them at a time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hrm.core.kernels import at_least_float32

_AT_ONCE = 1 << 21
"""Logits that are widened at a time: few enough to stay in a CPU's cache."""


class _TokenLoss(torch.autograd.Function):
    """Cross-entropy of logits [n, v] some rows at a time, so that no copy of all of them in float32 is ever made."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, label_smoothing: float, z_loss: float) -> Tensor:
        losses, scales = [], []
        rows = max(1, _AT_ONCE // logits.shape[1])
        for some, wanted in zip(logits.split(rows), targets.split(rows), strict=True):
            wide = at_least_float32(some)
            scale = torch.logsumexp(wide, dim=-1)
            loss = scale - (1 - label_smoothing) * wide.gather(1, wanted.clamp(min=0)[:, None])[:, 0]
            if label_smoothing:
                loss = loss - label_smoothing * wide.mean(-1)
            if z_loss:
                loss = loss + z_loss * scale.square()
            losses.append(loss.masked_fill(wanted == -100, 0.0))
            scales.append(scale)
        ctx.save_for_backward(logits, targets, torch.cat(scales))
        ctx.settings = label_smoothing, z_loss
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets, scales = ctx.saved_tensors
        label_smoothing, z_loss = ctx.settings
        result, rows = torch.empty_like(logits), max(1, _AT_ONCE // logits.shape[1])
        parts = (t.split(rows) for t in (logits, targets, scales, grads[0], result))
        for some, wanted, scale, grad, out in zip(*parts, strict=True):
            p = (at_least_float32(some) - scale[:, None]).exp_()
            if z_loss:
                p.mul_(1 + 2 * z_loss * scale[:, None])
            if label_smoothing:
                p.sub_(label_smoothing / p.shape[1])
            p.scatter_add_(1, wanted.clamp(min=0)[:, None], p.new_full((len(p), 1), label_smoothing - 1))
            torch.mul(p, grad.masked_fill(wanted == -100, 0.0)[:, None], out=p)
            out.copy_(p)
        return result, None, None, None


def token_loss(
    logits: Float[Tensor, "b p v"], targets: Int[Tensor, "b p"], label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Float[Tensor, "b p"]:
    """Cross-entropy of every position in nats, 0 where the target is -100; `z_loss` weighs the squared log-sum-exp."""
    losses = _TokenLoss.apply(logits.flatten(0, 1), targets.flatten(), label_smoothing, z_loss)
    return losses.view(targets.shape)  # type: ignore[union-attr]
