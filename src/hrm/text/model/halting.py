"""When a token of text halts: criteria that look only at the token's own states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hrm.core.halting import QHead
from hrm.core.kernels import at_least_float32
from hrm.text.model.budget import Budget
from hrm.text.model.selection import picks
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
    return stops_of([thought], [before], budget, q_head, head)[0]


def stops_of(
    thoughts: Sequence[Thought],
    before: Sequence[Float[Tensor, "b p d"]],
    budget: Budget,
    q_head: QHead,
    head: Callable[[Tensor], Tensor] | None,
) -> list[Bool[Tensor, "b p"]]:
    """`stops` of several thoughts under one budget: what reads their states is one product for all of them."""
    cost = 2 * sum(p.numel() for p in (head if isinstance(head, nn.Module) else q_head).parameters())
    asked = [thought.live if not thought.all_live and picks(thought.live, cost) else None for thought in thoughts]
    states = [_of(thought.exited.z_h, some) for thought, some in zip(thoughts, asked, strict=True)]
    sizes, chosen = [len(each) for each in states], _whole(states)
    confidence = None
    if budget.halting == "q":
        wants = budget.probability(q_head(chosen)) > budget.exit_threshold
    elif budget.halting == "change":
        old = torch.cat([_of(each, some) for each, some in zip(before, asked, strict=True)])
        change = torch.linalg.vector_norm(at_least_float32(chosen - old), dim=-1)
        wants = change < budget.exit_threshold * torch.linalg.vector_norm(at_least_float32(chosen), dim=-1)
    elif budget.halting in ("kl", "readout"):
        assert head is not None
        new = torch.log_softmax(at_least_float32(head(chosen)), dim=-1)
        if budget.limit > budget.max_segments:
            confidence = new.amax(-1).exp()
        wants = _settled(thoughts, asked, new, sizes, budget)
    else:  # of a second look alone
        wants = torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device)
    if confidence is None and budget.limit > budget.max_segments:
        assert head is not None
        confidence = torch.softmax(at_least_float32(head(chosen)), dim=-1).amax(-1)
    unsure = [None] * len(sizes) if confidence is None else (confidence < budget.retry_confidence).split(sizes)
    found = []
    for thought, some, own, doubt in zip(thoughts, asked, wants.split(sizes), unsure, strict=True):
        depth = thought.segment
        if depth < budget.min_segments or (depth == 1 and budget.halting == "change"):
            own = torch.zeros_like(own)
        if depth >= budget.max_segments:
            own = torch.ones_like(own)
        stop = _spread(own, some, thought.live) & thought.live
        if doubt is not None and depth < budget.limit:
            again = stop & _spread(doubt, some, thought.live)
            stop, thought.retried = stop & ~again, thought.retried | again
        found.append(stop)
    return found


def _of(t: Tensor, some: Tensor | None) -> Tensor:
    """The asked tokens of [b, p, ...], flat."""
    return t.flatten(0, 1) if some is None else t[some]


def _spread(flat: Tensor, some: Tensor | None, live: Tensor) -> Tensor:
    """What was found for the asked tokens at their places [b, p]."""
    if some is None:
        return flat.view(live.shape)
    return torch.zeros_like(live).masked_scatter(some, flat)


def _settled(
    thoughts: Sequence[Thought], asked: Sequence[Tensor | None], new: Tensor, sizes: list[int], budget: Budget
) -> Bool[Tensor, " n"]:
    """Which of the asked tokens a prediction `new` [n, v] and that of the segment before call settled."""
    parts, olds = new.split(sizes), list[Tensor | None]()
    for thought, some, own in zip(thoughts, asked, parts, strict=True):
        old = None
        if thought.previous is not None:
            was, old = thought.previous
            # Of all tokens or of those that were live, those that are asked: with more halted, fewer may be.
            old = old[_of(thought.live, was)] if some is not None else old
        thought.previous = some, own
        olds.append(old)
    known = [old for old in olds if old is not None]
    if len(known) in (0, len(olds)):
        return _says(new, _whole(known) if known else None, budget)
    # Those that have just begun as one, then the others as one.
    order = sorted(range(len(olds)), key=lambda i: olds[i] is not None)
    ordered, begun = [parts[i] for i in order], len(olds) - len(known)
    said = _says(_whole(ordered[:begun]), None, budget), _says(_whole(ordered[begun:]), _whole(known), budget)
    told = dict(zip(order, torch.cat(said).split([sizes[i] for i in order]), strict=True))
    return torch.cat([told[i] for i in range(len(olds))])


def _whole(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts[1:] else parts[0]


def _says(new: Tensor, old: Tensor | None, budget: Budget) -> Bool[Tensor, " n"]:
    if budget.halting == "readout":
        return settled(new, old, budget.readout) > budget.exit_threshold
    if old is None:
        return torch.zeros(len(new), dtype=torch.bool, device=new.device)
    return divergence(new, old) < budget.exit_threshold


def divergence(new: Float[Tensor, "n v"], old: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """KL(new || old) in nats, given log-probabilities."""
    return (new.exp() * (new - old)).sum(-1)


def signs(new: Float[Tensor, "n v"], old: Float[Tensor, "n v"] | None) -> Float[Tensor, "n k"]:
    """What tells whether a prediction is settled, given log-probabilities after a segment and the one before: a 1, its
    entropy in nats, and where there is one before, KL(new || old) in nats and whether the likeliest token stayed."""
    columns = _signs(new, old)
    return torch.stack([torch.ones_like(columns[0]), *columns], dim=-1)


def _signs(new: Tensor, old: Tensor | None) -> list[Tensor]:
    p = new.exp()
    entropy = -torch.linalg.vecdot(p, new)
    if old is None:
        return [entropy]
    return [entropy, -entropy - torch.linalg.vecdot(p, old), (new.argmax(-1) == old.argmax(-1)).to(new.dtype)]


def settled(
    new: Float[Tensor, "n v"], old: Float[Tensor, "n v"] | None, readout: Sequence[float]
) -> Float[Tensor, " n"]:
    """The probability that deeper thought changes no likeliest token. A readout begins with the weights for the first
    segment, where there are two signs."""
    columns = _signs(new, old)
    bias, *weights = readout[:FIRST] if old is None else readout[FIRST:]
    return torch.sigmoid(sum((w * each for w, each in zip(weights, columns, strict=True)), start=bias))  # type: ignore[arg-type]
