"""The losses of text under plain `transformers.Trainer`: every segment's tokens, and the Q head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hrm.models.layers import at_least_float32
from hrm.models.text.halting import Budget

if TYPE_CHECKING:
    from hrm.models.text.modeling import HRMForCausalLM, Thought


def token_loss(
    logits: Float[Tensor, "b p v"], targets: Int[Tensor, "b p"], label_smoothing: float = 0.0, z_loss: float = 0.0
) -> Float[Tensor, "b p"]:
    """Cross-entropy of every position in nats, 0 where the target is -100; `z_loss` weighs the squared log-sum-exp."""
    wide = at_least_float32(logits).flatten(0, 1)
    flat = targets.flatten()
    losses = F.cross_entropy(wide, flat, reduction="none", ignore_index=-100, label_smoothing=label_smoothing)
    if z_loss:
        losses = losses + z_loss * torch.logsumexp(wide, dim=-1).square() * (flat != -100)
    return losses.view(targets.shape)


def halt_targets(
    kind: str,
    losses: Float[Tensor, "b p"],
    deeper: Float[Tensor, "b p"] | None,
    logits: Float[Tensor, "b p v"],
    targets: Int[Tensor, "b p"],
    gamma: float,
) -> Float[Tensor, "b p"]:
    """What P(halt) is trained towards: deeper lowers this token's loss by less than `gamma`, or argmax is right."""
    if kind == "right":
        return (logits.argmax(-1) == targets).to(losses.dtype)
    return torch.ones_like(losses) if deeper is None else (losses - deeper < gamma).to(losses.dtype)


def supervised_loss(
    model: HRMForCausalLM, thought: Thought, budget: Budget, targets: Int[Tensor, "b p"], items: Any = None
) -> Tensor:
    """Mean over the segments of the token loss, plus the weighted loss of the Q head (deep supervision in one graph).

    States pass from segment to segment without gradient. Tokens halt as they would when asked, except that a share
    of them, `exploration`, goes on to a random depth; a halted token counts with its last loss.
    """
    config, labelled = model.config, targets != -100
    count = labelled.sum() if items is None else items
    explores = torch.rand(targets.shape, device=targets.device) < config.exploration
    least = torch.randint(2, max(3, budget.max_segments + 1), targets.shape, device=targets.device)
    total = torch.zeros((), device=targets.device)
    before: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    q_loss = torch.zeros((), device=targets.device)
    learns_q = config.q_weight > 0 and budget.max_segments > 1

    def add_q(state: tuple[Tensor, Tensor, Tensor, Tensor], deeper: Tensor | None) -> Tensor:
        q, losses, logits, counted = state
        wanted = halt_targets(config.q_target, losses, deeper, logits, targets, config.q_gamma)
        value = q[..., 0] - q[..., 1] if budget.q_continue else q[..., 0]
        return (F.binary_cross_entropy_with_logits(value, wanted, reduction="none") * counted).sum() / count

    for _ in range(budget.max_segments):
        if thought.segment:
            thought.carry, thought.exited = thought.carry.detach(), thought.exited.detach()
            if thought.kept is not None:
                thought.kept.detach()
        live = thought.live
        model.model.segment(thought, budget.schedule)
        logits = model.lm_head(thought.exited.z_h)
        losses = token_loss(logits, targets, config.label_smoothing, config.z_loss)
        total = total + losses.sum() / count
        if learns_q:
            q, plain = model.model.q_head(thought.exited.z_h), losses.detach()
            if before is not None:
                q_loss = q_loss + add_q(before, plain)
            before = q, plain, logits.detach(), (labelled & live).to(losses.dtype)
        if budget.halting == "q":
            with torch.no_grad():
                stop = budget.probability(model.model.q_head(thought.exited.z_h)) > budget.threshold
            thought.halt(stop & ~(explores & (thought.segment < least)))
    if learns_q and before is not None:
        q_loss = q_loss + add_q(before, None)
    return (total + config.q_weight * q_loss) / budget.max_segments
