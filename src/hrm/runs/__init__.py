"""The run folder that a training writes and every other verb reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrm.runs.folder import Run

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    # Imported on first use: refusing a folder in use need not wait for all that it imports.
    if name == "Run":
        from hrm.runs.folder import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
