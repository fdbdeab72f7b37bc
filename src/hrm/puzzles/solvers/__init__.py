"""Trained solvers that come with the package, each a run folder: `hrm solve sudoku PUZZLE`."""

from __future__ import annotations

from pathlib import Path

from hrm.puzzles.config import Strategy

HOME = Path(__file__).parent
STRATEGIES = {
    HOME / "sudoku": Strategy(max_segments=20_000),
    HOME / "maze": Strategy(max_segments=10_000, restarts=7, views=8),
}
"""What each tries with a puzzle unless told otherwise: seconds for the hardest that are solved."""


def names() -> list[str]:
    """The solvers there are."""
    return sorted(folder.parent.name for folder in HOME.glob("*/run.json"))


def find(name: str | Path) -> Path:
    """The folder of that name if there is one, else the solver of that name, else the name as it is."""
    path = Path(name)
    return HOME / path.name if not path.exists() and str(name) in names() else path
