"""Rotary positions, also scaled ones."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hrm.text.model.configuration import HRMConfig


class Rotary:
    """Cosines and signed sines of positions, scaled as `rope_parameters` say. The constants are no buffers, so that a
    model cast to bfloat16 keeps exact angles."""

    def __init__(self, config: HRMConfig) -> None:
        self.config = config
        self._at: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, positions: Int[Tensor, "#b p"]) -> tuple[Tensor, Tensor]:
        """Angles [b, p, head_dim] of positions, in float32."""
        if (device := positions.device) not in self._at:
            self._at[device] = self._constants(device)
        frequencies, scale, sign = self._at[device]
        angles = positions[..., None] * frequencies
        return angles.cos() * scale, angles.sin() * sign

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        parameters, width = self.config.rope_parameters or {}, self.config.head_dim
        kind, scale = parameters.get("rope_type", "default"), 1.0
        with torch.device(device), torch.inference_mode(False):
            if kind == "default":
                base = parameters.get("rope_theta", 10000.0)
                half = 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
            else:
                half, scale = ROPE_INIT_FUNCTIONS[kind](self.config, device)
            ones = torch.ones(width // 2)
            return torch.cat((half, half)), torch.tensor(scale), torch.cat((-ones, ones)) * scale
