"""The losses of a segment in float64: stablemax, the two Q targets, and their sum."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORE = -100


def log_stablemax(x: Tensor) -> Tensor:
    """log(s / sum s) with s = x + 1 for x >= 0 and 1 / (1 - x) below."""
    x = x.double()
    s = torch.where(x < 0, 1 / (1 - x), x + 1)
    return torch.log(s / s.sum(-1, keepdim=True))


def token_loss(log_p: Tensor, labels: Tensor) -> Tensor:
    """Puzzle by puzzle: the mean of -log p over the labelled tokens."""
    losses = []
    for row, label in zip(log_p, labels, strict=True):
        picked = [-row[i, int(t)] for i, t in enumerate(label) if t != IGNORE]
        losses.append(torch.stack(picked).mean() if picked else row.sum() * 0)
    return torch.stack(losses)


def halt_target(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where every labelled token is right."""
    right = [
        all(int(p) == int(t) for p, t in zip(a, b, strict=True) if t != IGNORE)
        for a, b in zip(logits.argmax(-1), labels, strict=True)
    ]
    return torch.tensor(right).double()


def continue_target(next_q: Tensor, last: Tensor) -> Tensor:
    """sigmoid(q_halt') where this segment was the last, sigmoid(max(q_halt', q_continue')) elsewhere."""
    values = [q[0] if end else max(q[0], q[1]) for q, end in zip(next_q.double(), last, strict=True)]
    return torch.sigmoid(torch.stack(values))


def cross_entropy(q: Tensor, target: Tensor) -> Tensor:
    """-t log sigmoid(q) - (1 - t) log(1 - sigmoid(q)), one value per puzzle."""
    p = torch.sigmoid(q.double())
    return -target * torch.log(p) - (1 - target) * torch.log(1 - p)


def total(
    logits: Tensor, q: Tensor, labels: Tensor, g_continue: Tensor | None, softmax: bool = False, weight: float = 0.5
) -> Tensor:
    """Summed over puzzles: token loss + weight * (BCE(q_halt, G_halt) + BCE(q_continue, G_continue))."""
    log_p = torch.log_softmax(logits.double(), -1) if softmax else log_stablemax(logits)
    halting = cross_entropy(q[:, 0], halt_target(logits, labels))
    if g_continue is not None:
        halting = halting + cross_entropy(q[:, 1], g_continue)
    return (token_loss(log_p, labels) + weight * halting).sum()
