"""When a token of text halts: criteria that look only at the token's own states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hrm.core.halting import QHead
from hrm.core.kernels import at_least_float32
from hrm.text.model.budget import Budget
from hrm.text.model.thought import Thought

FIRST = 2
"""Numbers of a readout that are for the first segment."""


def stops(
    thought: Thought,
    before: Float[Tensor, "b p d"],
    budget: Budget,
    q_head: QHead,
    head: Callable[[Tensor], Tensor] | None,
) -> Bool[Tensor, "b p"]:
    """Which live tokens halt after this segment [b, p]; `before` are the states before it."""
    live, z = thought.live, thought.exited.z_h
    chosen, depth = z[live], thought.segment
    confidence = None
    wants = torch.zeros(len(chosen), dtype=torch.bool, device=z.device)
    if budget.halting == "q":
        wants = budget.probability(q_head(chosen)) > budget.exit_threshold
    elif budget.halting == "change":
        change = torch.linalg.vector_norm(at_least_float32(chosen - before[live]), dim=-1)
        size = torch.linalg.vector_norm(at_least_float32(chosen), dim=-1)
        wants = (change < budget.exit_threshold * size) & (depth > 1)
    elif budget.halting in ("kl", "readout"):
        assert head is not None
        new = torch.log_softmax(at_least_float32(head(chosen)), dim=-1)
        confidence = new.amax(-1).exp()
        old = None if thought.previous is None else thought.previous[1][live[thought.previous[0]]]
        if budget.halting == "readout":
            wants = settled(signs(new, old), budget.readout) > budget.exit_threshold
        elif old is not None:
            wants = divergence(new, old) < budget.exit_threshold
        thought.previous = live, new
    wants = wants & (depth >= budget.min_segments) | (depth >= budget.max_segments)
    if budget.limit > budget.max_segments:
        assert head is not None
        if confidence is None:
            confidence = torch.softmax(at_least_float32(head(chosen)), dim=-1).amax(-1)
        again = wants & (confidence < budget.retry_confidence) & (depth < budget.limit)
        wants = wants & ~again
        retried = thought.retried.clone()
        retried[live] = retried[live] | again
        thought.retried = retried
    stop = torch.zeros_like(live)
    stop[live] = wants
    return stop


def divergence(new: Float[Tensor, "n v"], old: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """KL(new || old) in nats, given log-probabilities."""
    return (new.exp() * (new - old)).sum(-1)


def signs(new: Float[Tensor, "n v"], old: Float[Tensor, "n v"] | None) -> Float[Tensor, "n k"]:
    """What tells whether a prediction is settled, given log-probabilities after a segment and the one before: a 1, its
    entropy in nats, and where there is one before, KL(new || old) in nats and whether the likeliest token stayed."""
    columns = [torch.ones_like(new[:, 0]), -(new.exp() * new).sum(-1)]
    if old is not None:
        columns += [divergence(new, old), (new.argmax(-1) == old.argmax(-1)).to(new.dtype)]
    return torch.stack(columns, dim=-1)


def settled(signs: Float[Tensor, "*b k"], readout: Sequence[float]) -> Float[Tensor, "*b"]:
    """The probability that deeper thought changes no likeliest token. A readout begins with the weights for the first
    segment, where there are two signs."""
    weights = readout[:FIRST] if signs.shape[-1] == FIRST else readout[FIRST:]
    return torch.sigmoid(signs @ torch.tensor(weights, dtype=signs.dtype, device=signs.device))
