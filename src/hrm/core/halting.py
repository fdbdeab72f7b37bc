"""Halting: the Q head, when to stop, and what Q is trained towards (HRM section 2, adaptive computation time)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hrm.core.arch import HaltingConfig
from hrm.core.kernels import at_least_float32
from hrm.core.layers import Linear


class QHead(Linear):
    """Values (halt, continue) of a state, float32 or wider; starts at -5 so that early training does not halt."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 2, bias=True)

    def reset_parameters(self) -> None:
        """Back to a value of -5 everywhere."""
        # The draw is overwritten below; without it, the weights drawn after this one would differ for the same seed.
        super().reset_parameters()
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, -5.0)  # type: ignore[arg-type]

    def forward(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b 2"]:
        return at_least_float32(super().forward(z))


def wants_to_halt(q: Float[Tensor, "b 2"], q_continue: bool, margin: float = 0.0) -> Bool[Tensor, " b"]:
    """Whether halting is worth more than continuing; without a Q-continue, whether it is likelier than not (TRM)."""
    return q[:, 0] > (q[:, 1] if q_continue else 0) + margin


def halted(
    q: Float[Tensor, "b 2"], segments: Int[Tensor, " b"], uniforms: Float[Tensor, "b 2"], config: HaltingConfig
) -> Bool[Tensor, " b"]:
    """Which rows halt after `segments` segments [b]; `uniforms` in [0, 1) draw the random minimum M_min."""
    longest = config.max_segments
    explores = uniforms[:, 0] < config.exploration
    minimum = torch.where(explores, 2 + (uniforms[:, 1] * (longest - 1)).long(), 1)
    stop = wants_to_halt(q, config.q_continue) & (segments >= minimum)
    return stop | (segments >= longest)


def continue_target(next_q: Float[Tensor, "b 2"], last: Bool[Tensor, " b"]) -> Float[Tensor, " b"]:
    """G_continue: the best value of the next segment; only that of halting where the next segment is the last."""
    return torch.sigmoid(torch.where(last, next_q[:, 0], next_q.max(dim=1).values))
