"""One update of Adam-atan2 and of sparse sign-SGD, number by number."""

from __future__ import annotations

import math
from collections.abc import Sequence


def adam_atan2(p: float, grads: Sequence[float], lr: float, b1: float, b2: float, decay: float) -> float:
    """`p` after one update per gradient: p *= 1 - lr*decay; p -= lr / (1-b1^t) * atan2(m, sqrt(v) / sqrt(1-b2^t))."""
    m = v = 0.0
    for t, g in enumerate(grads, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        p = p * (1 - lr * decay)
        p = p - lr / (1 - b1**t) * math.atan2(m, math.sqrt(v) / math.sqrt(1 - b2**t))
    return p


def sign_sgd(
    table: Sequence[Sequence[float]], ids: Sequence[int], grads: Sequence[Sequence[float]], lr: float, decay: float
) -> list[list[float]]:
    """Rows that occur in `ids` move by the sign of their summed gradient; the others, and their decay, rest."""
    result = [list(row) for row in table]
    for row in set(ids):
        for j, value in enumerate(table[row]):
            g = sum(grad[j] for i, grad in zip(ids, grads, strict=True) if i == row)
            result[row][j] = value * (1 - lr * decay) - lr * ((g > 0) - (g < 0))
    return result
