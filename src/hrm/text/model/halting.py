"""When a token of text halts: criteria that look only at the token's own states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hrm.core.halting import QHead
from hrm.core.kernels import at_least_float32
from hrm.text.model.budget import Budget
from hrm.text.model.thought import Thought


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
    elif budget.halting == "kl":
        assert head is not None
        new = torch.log_softmax(at_least_float32(head(chosen)), dim=-1)
        confidence = new.amax(-1).exp()
        if thought.previous is not None:
            was_live, old = thought.previous
            wants = (new.exp() * (new - old[live[was_live]])).sum(-1) < budget.exit_threshold
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
