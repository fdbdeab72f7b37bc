"""A result as lines of a name and its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hrm.files.records import Json


def lines(result: Json, is_share: Callable[[str], bool], width: int = 20) -> str:
    """One line per value: shares and their intervals in percent, other numbers with two decimals."""
    return "\n".join(
        f"{name.replace('_', ' '):<{width}}{_shown(name, value, is_share)}" for name, value in result.items()
    )


def _shown(name: str, value: Any, is_share: Callable[[str], bool]) -> str:
    if name.endswith("_interval"):
        return f"{value[0]:.2%} to {value[1]:.2%}"
    if is_share(name):
        return f"{value:.2%}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
