"""Devices and precisions by the names that flags give them."""

from __future__ import annotations

import torch

from hrm.files.reading import UserError, reason


def device_of(name: str | None) -> torch.device:
    """A device by its name; the accelerator at hand for "auto" or None, else the CPU. UserError for one not here."""
    if name in (None, "auto"):
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = reason(error)
        raise UserError(f"device '{name}' cannot be used (--device): {said}; use cpu or leave it out") from error


def dtype_of(name: str) -> torch.dtype:
    """A precision by its name; UserError for an unknown one."""
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise UserError(f"unknown precision '{name}' (--precision): use float32, bfloat16 or float16")
    return getattr(torch, name)


def named(dtype: torch.dtype) -> str:
    """The name of a precision."""
    return str(dtype).removeprefix("torch.")
