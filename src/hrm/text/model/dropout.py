"""Dropout for states that pass through the same blocks many times."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Drop = Callable[[Tensor, nn.Module], Tensor]
"""A function of (addition to the state, module) that drops some of the addition."""


class Dropout:
    """Dropout whose masks are drawn once and serve every visit and segment of a forward pass."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._masks: dict[nn.Module, Tensor] = {}

    def __call__(self, new: Tensor, part: nn.Module) -> Tensor:
        """Drop some of what a module adds to the state and scale up the rest."""
        if part not in self._masks:
            self._masks[part] = torch.empty_like(new).bernoulli_(1 - self.rate).div_(1 - self.rate)
        return new * self._masks[part]

    def of(self, select: Callable[[Tensor], Tensor]) -> Drop:
        """The same masks for selected tokens."""
        return lambda new, part: new * select(self._masks[part])
