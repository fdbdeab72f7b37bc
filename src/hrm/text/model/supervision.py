"""Deep supervision: the loss of every segment's tokens and of the Q head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hrm.core.kernels import at_least_float32
from hrm.files.reading import UserError
from hrm.text.model.budget import Budget
from hrm.text.model.causal import HRMForCausalLM
from hrm.text.model.configuration import HRMConfig
from hrm.text.model.loss import token_loss
from hrm.text.model.thought import Thought


class TokenObjective:
    """What the tokens of a batch learn: here the next token, with equal weights."""

    def __init__(self, config: HRMConfig) -> None:
        self.config = config

    def losses(self, logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], live: Tensor) -> Float[Tensor, " n"]:
        """The losses in nats of the live tokens, row after row; `live` [b, p] says which they are."""
        return token_loss(logits[None], targets[None], self.config.label_smoothing, self.config.z_loss)[0]

    def weights(self, chosen: Tensor | None) -> Float[Tensor, " n"] | None:
        """The weight of each chosen token; None if all count the same."""
        return None


def supervision(
    model: HRMForCausalLM,
    thought: Thought,
    budget: Budget,
    targets: Int[Tensor, "b p"],
    count: Tensor | int,
    draws: Float[Tensor, "2 b p"],
    objective: TokenObjective | None = None,
    agree: Callable[[bool], bool] = bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """After each segment its loss, and the token losses [b, p] without history (deep supervision). States pass on
    without gradient, so each loss can be back-propagated before the next is computed; where the gradient is to go
    through all segments (`gradient="whole"`) there is one loss, that of all, after the last. `draws` are uniforms in
    [0, 1) for `exploration`; `agree` tells whether any process has live tokens left, as all must take the same
    segments."""
    # A halted token counts with its last loss in all remaining segments. This is added at once: the states learn from
    # it once, the output layer with the full weight. With q_target="improvement" the gain of one more segment is known
    # a segment later, and only for tokens that continued: it teaches the Q head alone, and `right` the states as well.
    config, labelled = model.config, targets != -100
    explores, least = draws[0] < config.exploration, 2 + (draws[1] * max(1, budget.max_segments - 1)).long()
    learns_q = config.q_weight > 0 and budget.max_segments > 1
    objective = objective or TokenObjective(config)
    plain = torch.zeros(targets.shape, device=targets.device, dtype=at_least_float32(thought.x).dtype)
    before: tuple[Tensor, Tensor] | None = None
    whole, last = config.gradient == "whole", config.supervise == "last"
    together: list[Tensor] = []
    if budget.halting == "q" and (whole or last):
        raise UserError("gradient 'whole' and supervise 'last' need every segment: use halting='fixed'")

    def q_loss(z: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
        q = model.q_head(z)
        value = q[..., 0] - q[..., 1] if budget.q_continue else q[..., 0]
        each = F.binary_cross_entropy_with_logits(value, wanted, reduction="none")
        return config.q_weight * (each * counted).sum() / count

    for segment in range(budget.max_segments):
        if segment and not whole:
            thought.detach()
        live = thought.live
        if not agree(thought.all_live or bool(live.any())):
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
        # With a large vocabulary the output layer is most of the work, so only live tokens pass through it.
        chosen = None if thought.all_live else live
        some, wanted, share = (chosen_of(t, chosen) for t in (z, targets, times))
        if stop is not None:
            some = some.detach() + (some - some.detach()) / share[:, None].to(some.dtype)
        logits = model.lm_head(some)
        thought.logits = logits.view(*targets.shape, -1) if chosen is None else None
        losses, weights = objective.losses(logits, wanted, live), objective.weights(chosen)
        counts = share if weights is None else share * weights
        final = segment + 1 == budget.max_segments
        loss = (losses * counts).sum() / count * (budget.max_segments * final if last else 1)
        found = losses.detach()
        plain = found.view(targets.shape) if chosen is None else plain.masked_scatter(live, found)
        if learns_q and config.q_target == "right":
            right = (logits.detach().argmax(-1) == wanted).to(found.dtype)
            loss = loss + q_loss(chosen_of(z, chosen), right, chosen_of(counted, chosen))
        elif learns_q:
            now = z.detach()
            if before is not None:
                loss = loss + q_loss(before[0], (before[1] - plain < config.q_gamma).to(plain.dtype), counted)
            if final:
                loss = loss + q_loss(now, torch.ones_like(counted), counted)
            before = now, plain
        loss = loss / budget.max_segments
        if whole:
            together.append(loss)
            loss = torch.stack(together).sum() if final else torch.zeros_like(loss)
        yield loss, plain
        if stop is not None:
            thought.halt(stop)


def chosen_of(t: Tensor, chosen: Tensor | None) -> Tensor:
    """The chosen tokens of [b, p, ...] as [n, ...], row after row; all if `chosen` is None."""
    return t.flatten(0, 1) if chosen is None else t[chosen]


def supervised_loss(
    model: HRMForCausalLM, thought: Thought, budget: Budget, targets: Int[Tensor, "b p"], items: Any = None
) -> Tensor:
    """The losses of all segments as one graph: mean token loss plus the Q head's; `items` counts labels."""
    count = (targets != -100).sum() if items is None else items
    draws = torch.rand(2, *targets.shape, device=targets.device)
    return torch.stack([loss for loss, _ in supervision(model, thought, budget, targets, count, draws)]).sum()
