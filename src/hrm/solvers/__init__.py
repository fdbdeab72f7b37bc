"""Trained solvers that come with the package, each a run folder: `hrm solve sudoku PUZZLE`."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).parent


def names() -> list[str]:
    """The solvers there are."""
    return sorted(folder.parent.name for folder in HOME.glob("*/run.json"))


def find(name: str | Path) -> Path:
    """The folder of that name if there is one, else the solver of that name, else the name as it is."""
    path = Path(name)
    return HOME / path.name if not path.exists() and str(name) in names() else path
