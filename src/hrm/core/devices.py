"""Devices and precisions by the names that flags give them."""

from __future__ import annotations

from contextlib import suppress

import torch

from hrm.files.reading import UserError, shown


def device_of(name: str | None) -> torch.device:
    """A device by its name; the accelerator at hand for "auto" or None, else the CPU. UserError for one not here."""
    here = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if name in (None, "auto"):
        return here
    # Torch knows many more names, such as meta, and nothing here can run on those.
    if name.partition(":")[0] in ("cpu", here.type):
        with suppress(RuntimeError, AssertionError, NotImplementedError):
            return torch.empty(0, device=name).device
    raise not_available("--device", name, here)


def not_available(flag: str, name: str, here: torch.device) -> UserError:
    """The error for a device that a flag names and this machine lacks; `here` is what it has."""
    return UserError(f"{flag} {shown([name])} is not available here: use {here.type} or auto")


def dtype_of(name: str) -> torch.dtype:
    """A precision by its name; UserError for an unknown one."""
    if name not in ("float32", "bfloat16", "float16", "float64"):
        raise UserError(f"unknown precision '{name}' (--precision): use float32, bfloat16 or float16")
    return getattr(torch, name)


def named(dtype: torch.dtype) -> str:
    """The name of a precision."""
    return str(dtype).removeprefix("torch.")
