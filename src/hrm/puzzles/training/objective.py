"""The losses of a segment: tokens by stablemax or softmax, and the two halting values."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hrm.core.arch import HaltingConfig
from hrm.files.npy import IGNORE
from hrm.puzzles.config import LossConfig
from hrm.puzzles.model import Readout


class Losses(NamedTuple):
    """Sums over the puzzles of a batch; `total` is what is minimised, `correct` marks the solved rows."""

    total: Tensor
    token: Tensor
    halt: Tensor
    continue_: Tensor
    correct: Tensor
    tokens_right: Tensor


def stablemax_logits(logits: Float[Tensor, "*b v"]) -> Float[Tensor, "*b v"]:
    """log s(x) with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below, so that its softmax is the stablemax. In this form
    neither branch can overflow or divide by zero, and float32 is enough (arXiv 2501.04697)."""
    logits = logits.float()
    return torch.where(logits >= 0, torch.log1p(logits.clamp(min=0)), -torch.log1p(-logits.clamp(max=0)))


def token_losses(logits: Float[Tensor, "b c v"], labels: Int[Tensor, "b c"], config: LossConfig) -> Float[Tensor, " b"]:
    """Mean cross-entropy over each puzzle's labelled tokens, plus the optional z-loss; 0 for one without labels."""
    scores = stablemax_logits(logits) if config.kind == "stablemax" else logits.float()
    flat, smoothing = (scores.flatten(0, 1), labels.flatten()), config.label_smoothing
    losses = F.cross_entropy(*flat, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing).view_as(labels)
    if config.z_loss:
        losses = losses + config.z_loss * scores.logsumexp(-1).square() * (labels != IGNORE)
    return losses.sum(1) / (labels != IGNORE).sum(1).clamp(min=1)


def accuracy(
    logits: Float[Tensor, "b c v"], labels: Int[Tensor, "b c"]
) -> tuple[Bool[Tensor, " b"], Float[Tensor, " b"]]:
    """Which puzzles are right in all labelled tokens (never one without), and each one's share of right tokens."""
    labelled = labels != IGNORE
    right = (logits.argmax(-1) == labels) & labelled
    counts = labelled.sum(1)
    return (right.sum(1) == counts) & (counts > 0), right.sum(1) / counts.clamp(min=1)


def objective(
    readout: Readout,
    labels: Int[Tensor, "b c"],
    target_continue: Float[Tensor, " b"] | None,
    loss: LossConfig,
    halting: HaltingConfig,
) -> Losses:
    """Token loss + weight * (BCE(q_halt, G_halt) + BCE(q_continue, G_continue)), summed over puzzles (HRM)."""
    correct, tokens_right = accuracy(readout.logits, labels)
    token = token_losses(readout.logits, labels, loss).sum()
    halt = F.binary_cross_entropy_with_logits(readout.q[:, 0], correct.float(), reduction="sum")
    continue_ = torch.zeros_like(halt)
    if target_continue is not None:
        continue_ = F.binary_cross_entropy_with_logits(readout.q[:, 1], target_continue, reduction="sum")
    total = token + halting.weight * (halt + continue_)
    return Losses(total, token.detach(), halt.detach(), continue_.detach(), correct, tokens_right)
