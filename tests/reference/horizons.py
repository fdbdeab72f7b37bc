"""Which visits of a segment get gradient, by counting, and a segment that follows such a list literally."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Visits = set[tuple[str, int]]
"""("L", number of the step in the segment) and ("H", number of the update), from 0."""


def last_step(cycles: int, steps: int) -> Visits:
    return {("L", cycles * steps - 1), ("H", cycles - 1)}


def last_cycle(cycles: int, steps: int) -> Visits:
    return {("L", cycles * steps - 1 - i) for i in range(steps)} | {("H", cycles - 1)}


def trailing(k: int, cycles: int, steps: int) -> Visits:
    """k passes: H_bp = min(N, k-1) updates of H from the end, L_bp = k - H_bp steps of L from the end."""
    slow = min(cycles, k - 1)
    fast = min(cycles * steps, k - slow)
    return {("H", cycles - 1 - i) for i in range(slow)} | {("L", cycles * steps - 1 - i) for i in range(fast)}


def per_cycle(counts: list[int], cycles: int, steps: int) -> Visits:
    """Every update of H, and of cycle h the last counts[h] steps of L; the list is filled up with 1 on the left."""
    counts = [1] * (cycles - len(counts)) + counts
    return {("H", h) for h in range(cycles)} | {
        ("L", (h + 1) * steps - 1 - i) for h in range(cycles) for i in range(counts[h])
    }


def segment(
    fast: Callable[[Tensor], Tensor],
    slow: Callable[[Tensor], Tensor],
    z_h: Tensor,
    z_l: Tensor,
    x: Tensor | float,
    cycles: int,
    steps: int,
    kept: Visits,
) -> tuple[Tensor, Tensor]:
    """z_l = L(z_l + z_h + x) and z_h = H(z_h + z_l) in order; the result of a visit outside `kept` is cut off."""
    for cycle in range(cycles):
        for step in range(steps):
            z_l = fast(z_l + z_h + x)
            z_l = z_l if ("L", cycle * steps + step) in kept else z_l.detach()
        z_h = slow(z_h + z_l)
        z_h = z_h if ("H", cycle) in kept else z_h.detach()
    return torch.as_tensor(z_h), torch.as_tensor(z_l)
