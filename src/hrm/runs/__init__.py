"""The run folder that a training writes and every other verb reads."""

from hrm.runs.folder import Run

__all__ = ["Run"]
