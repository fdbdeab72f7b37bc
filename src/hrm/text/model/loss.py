"""The losses of text under plain `transformers.Trainer`: every segment's tokens, and the Q head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hrm.core.kernels import at_least_float32
from hrm.core.recurrence import Schedule
from hrm.text.model.budget import Budget
from hrm.text.model.configuration import HRMConfig
from hrm.text.model.thought import Thought


@runtime_checkable
class Supervised(Protocol):
    """What supervision needs of a model."""

    @property
    def config(self) -> HRMConfig:
        """Its settings."""
        ...

    @property
    def lm_head(self) -> nn.Module:
        """The output layer."""
        ...

    @property
    def q_head(self) -> nn.Module:
        """The Q head."""
        ...

    def segment(self, thought: Thought, schedule: Schedule | None = None) -> None:
        """One segment of the live tokens."""
        ...


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


def _taught_loss(logits: Float[Tensor, "n v"], taught: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """Cross-entropy against shares of all tokens in nats; its gradient is that of the Kullback-Leibler divergence."""
    wide = at_least_float32(logits)
    return torch.logsumexp(wide, dim=-1) - (taught * wide).sum(-1)


def supervision(
    model: Supervised,
    thought: Thought,
    budget: Budget,
    targets: Int[Tensor, "b p"],
    count: Tensor | int,
    draws: Float[Tensor, "2 b p"],
    taught: Float[Tensor, "n p v"] | None = None,
    weights: Float[Tensor, " b"] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """After each segment its loss, and the token losses [b, p] without history (deep supervision).

    States pass from segment to segment without gradient, so each loss can be back-propagated before the next one is
    asked for (memory of one segment), or all can be summed. Tokens halt as they would when asked, except that a share
    of them, `exploration`, goes on to a random depth. A halted token counts with its last loss in all segments that are
    left, which is taken at once; the states learn from it once, the output layer so many times. When all have halted
    nothing follows. `draws` are uniforms in [0, 1). What one more segment brings is known a segment later and of the
    tokens that went on, so that target teaches the Q head alone, not the states it reads; the other one, `right`,
    teaches both. The last n rows learn the shares `taught` of all that may follow, where they are given, instead of
    their targets; `weights` say how much each row counts.
    """
    config, labelled = model.config, targets != -100
    explores, least = draws[0] < config.exploration, 2 + (draws[1] * max(1, budget.max_segments - 1)).long()
    learns_q = config.q_weight > 0 and budget.max_segments > 1
    told = len(targets) - (0 if taught is None else len(taught))
    plain = torch.zeros(targets.shape, device=targets.device, dtype=at_least_float32(thought.x).dtype)
    before: tuple[Tensor, Tensor] | None = None

    def q_loss(z: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
        q = model.q_head(z)
        value = q[..., 0] - q[..., 1] if budget.q_continue else q[..., 0]
        each = F.binary_cross_entropy_with_logits(value, wanted, reduction="none")
        return config.q_weight * (each * counted).sum() / count

    for segment in range(budget.max_segments):
        if segment:
            thought.detach()
        live = thought.live
        if not (thought.all_live or bool(live.any())):
            return
        counted = (labelled & live).to(torch.float32)
        model.segment(thought, budget.schedule)
        z = thought.exited.z_h
        stop, times = None, torch.ones_like(counted)
        if budget.halting == "q":
            with torch.no_grad():
                stop = budget.probability(model.q_head(z)) > budget.exit_threshold
            stop = stop & ~(explores & (thought.segment < least))
            times = times + stop * (budget.max_segments - thought.segment)
        # With a large vocabulary the output layer is most of the work: only live tokens go through it.
        chosen = None if thought.all_live else live
        some, wanted, share = (_chosen(t, chosen) for t in (z, targets, times))
        if stop is not None:
            some = some.detach() + (some - some.detach()) / share[:, None].to(some.dtype)
        logits = model.lm_head(some)
        thought.logits = logits.view(*targets.shape, -1) if chosen is None else None
        first = len(wanted) if taught is None else len(wanted) - int(live[told:].sum())
        losses = token_loss(logits[None, :first], wanted[None, :first], config.label_smoothing, config.z_loss)[0]
        if taught is not None:
            losses = torch.cat((losses, _taught_loss(logits[first:], _chosen(taught, live[told:]))))
        counts = share if weights is None else share * _chosen(weights[:, None].expand(targets.shape), chosen)
        loss = (losses * counts).sum() / count
        found = losses.detach()
        plain = found.view(targets.shape) if chosen is None else plain.masked_scatter(live, found)
        if learns_q and config.q_target == "right":
            right = (logits.detach().argmax(-1) == wanted).to(found.dtype)
            loss = loss + q_loss(_chosen(z, chosen), right, _chosen(counted, chosen))
        elif learns_q:
            now = z.detach()
            if before is not None:
                loss = loss + q_loss(before[0], (before[1] - plain < config.q_gamma).to(plain.dtype), counted)
            if segment + 1 == budget.max_segments:
                loss = loss + q_loss(now, torch.ones_like(counted), counted)
            before = now, plain
        yield loss / budget.max_segments, plain
        if stop is not None:
            thought.halt(stop)


def _chosen(t: Tensor, chosen: Tensor | None) -> Tensor:
    """The chosen tokens of [b, p, ...], row after row, or all."""
    return t.flatten(0, 1) if chosen is None else t[chosen]


def supervised_loss(
    model: Supervised, thought: Thought, budget: Budget, targets: Int[Tensor, "b p"], items: Any = None
) -> Tensor:
    """Mean over the segments of the token loss, plus the weighted loss of the Q head: `supervision` in one graph."""
    count = (targets != -100).sum() if items is None else items
    draws = torch.rand(2, *targets.shape, device=targets.device)
    return torch.stack([loss for loss, _ in supervision(model, thought, budget, targets, count, draws)]).sum()
