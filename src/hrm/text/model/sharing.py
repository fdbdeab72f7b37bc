"""The file beside a model's weights that lets `trust_remote_code=True` find the installed package."""

from __future__ import annotations

import os
from pathlib import Path

AUTO_MAP = {
    "AutoConfig": "modeling_hrm.HRMConfig",
    "AutoModel": "modeling_hrm.HRMModel",
    "AutoModelForCausalLM": "modeling_hrm.HRMForCausalLM",
    "AutoModelForSequenceClassification": "modeling_hrm.HRMForSequenceClassification",
}
"""The entry `auto_map` of a configuration that points to this file."""


def write_stub(folder: str | os.PathLike[str]) -> None:
    """Write the one-line `modeling_hrm.py`; transformers' own hook would copy the whole source instead."""
    names = ", ".join(sorted(name.split(".")[1] for name in AUTO_MAP.values()))
    Path(folder, "modeling_hrm.py").write_text(f"from hrm import {names}  # noqa: F401\n")
