"""Figures that others have published, with where they stand, to be read beside those of a run."""

from __future__ import annotations

from typing import NamedTuple

from hrm.text.measuring.published import GPT2, MODELS, SOURCE


class Published(NamedTuple):
    """One figure."""

    model: str
    on: str
    """Data set and measure."""
    value: str
    source: str


HRM_PAPER, TRM_PAPER = "arXiv 2506.21734", "arXiv 2510.04871"
PUZZLES = {
    "sudoku": (
        Published("HRM, 27 M parameters", "Sudoku-Extreme, exact", "55.0%", HRM_PAPER),
        Published("TRM, 5 M parameters (MLP)", "Sudoku-Extreme, exact", "87.4%", TRM_PAPER),
    ),
    "maze": (
        Published("HRM, 27 M parameters", "Maze-Hard 30x30, exact", "74.5%", HRM_PAPER),
        Published("TRM, 7 M parameters", "Maze-Hard 30x30, exact", "85.3%", TRM_PAPER),
    ),
    "arc": (
        Published("HRM, 27 M parameters", "ARC-AGI-1, two answers", "40.3%", HRM_PAPER),
        Published("TRM, 7 M parameters", "ARC-AGI-1, two answers", "44.6%", TRM_PAPER),
        Published("HRM, 27 M parameters", "ARC-AGI-2, two answers", "5.0%", HRM_PAPER),
        Published("TRM, 7 M parameters", "ARC-AGI-2, two answers", "7.8%", TRM_PAPER),
    ),
}
"""By kind of task."""
_FORM = {"acc": ("accuracy", "{:.1%}"), "bits_per_byte": ("bits a byte", "{:.2f}"),
         "bits_per_character": ("bits a character", "{:.2f}"), "perplexity": ("perplexity a token", "{:.1f}"),
         "perplexity_per_word": ("perplexity a word", "{:.1f}")}  # fmt: skip


def text() -> list[Published]:
    """GPT-2's figures."""
    found = []
    for name, measures in GPT2.items():
        for measure, row in measures.items():
            said, form = _FORM[measure]
            for model, value in zip(MODELS, row, strict=True):
                found.append(Published(f"GPT-2 {model}, zero-shot", f"{name}, {said}", form.format(value), SOURCE))
    return found
