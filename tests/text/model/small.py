"""Small models of text for the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hrm.text.model import HRMConfig, HRMForCausalLM

VOCABULARY = 50

FORMS: dict[str, dict[str, Any]] = {
    "original": {},
    "hrm_text": {"norm": "pre", "gate": True, "join": "first_state", "h_cycles": 1},
    "grouped": {"norm": "pre", "gate": True, "num_key_value_heads": 2},
    "one stack": {"shared": True},
    "shared cycles": {"norm": "pre", "num_key_value_heads": 2, "share_cycles": True},
    "shared segments": {"norm": "pre", "share_segments": True},
    "convolution": {"unit": "conv", "norm": "pre"},
    "all shared": {"norm": "pre", "gate": True, "share_cycles": True, "share_segments": True},
}
"""The forms a model with segments can have."""
READOUT = (34.7, -10.0, 35.2, -10.0, -4.0, 1.5)
"""A readout after which such tokens halt at different depths above 0.5."""


def config(**changes: Any) -> HRMConfig:
    values: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "fast_layers": 2, "slow_layers": 1,
        "intermediate_size": 48, "max_segments": 3, "readout": READOUT,
    }  # fmt: skip
    return HRMConfig(**(values | changes))


def model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> HRMForCausalLM:
    """A model whose Q head gives the tokens different depths."""
    torch.manual_seed(seed)
    made = HRMForCausalLM(config(**changes)).to(dtype=dtype).eval()
    with torch.no_grad():
        made.model.q_head.weight.normal_(std=0.3)
        made.model.q_head.bias.zero_()  # type: ignore[union-attr]
    return made


def tokens(rows: int = 2, length: int = 12, seed: int = 1) -> Tensor:
    """Random tokens [rows, length]; 0 is left to padding."""
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
