"""A picture of an ARC task with the model's guesses."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from hrm.puzzles.arc.files import ArcTask
from hrm.puzzles.arc.measuring import ATTEMPTS, Guess
from hrm.puzzles.tasks.arc import PALETTE

_LONGEST, _GAP, _TITLE = 120, 24, 18  # longest side of the grids of a line, space between, space for what stands above
_RIGHT, _WRONG, _TEXT = "#1a7f37", "#cf222e", "#24292f"


def picture(task: ArcTask, guesses: Sequence[Sequence[Guess]] = ()) -> str:
    """An SVG: a line per demonstration, then a line per test input with its guesses and, where known, the answer."""
    lines: list[list[tuple[str, np.ndarray | None, str]]] = []
    for number, pair in enumerate(task.train, 1):
        lines.append([(f"demonstration {number}", pair.input, _TEXT), ("output", pair.output, _TEXT)])
    for number, pair in enumerate(task.test):
        line: list[tuple[str, np.ndarray | None, str]] = [(f"test input {number + 1}", pair.input, _TEXT)]
        for rank, guess in enumerate(guesses[number][:ATTEMPTS] if guesses else (), 1):
            right = pair.output is not None and np.array_equal(guess.grid, pair.output)
            verdict = "" if pair.output is None else ", right" if right else ", wrong"
            colour = _TEXT if pair.output is None else _RIGHT if right else _WRONG
            votes = f"{guess.votes} vote{'s' if guess.votes > 1 else ''}"
            line.append((f"guess {rank}: {votes}, {guess.confidence:.0%}{verdict}", guess.grid, colour))
        if pair.output is not None:
            line.append(("answer", pair.output, _TEXT))
        lines.append(line)
    parts, width, y = [], 0.0, 2 * _GAP
    for line in lines:
        x = float(_GAP)
        # Cells of one line are equally large.
        shapes = [grid.shape for _, grid, _ in line if grid is not None]
        size = _LONGEST / max(max(shape) for shape in shapes)
        for title, grid, colour in line:
            if grid is not None:
                parts += _grid(grid, size, x, y + _TITLE, title, colour)
                x += max(size * grid.shape[1], 6.2 * len(title)) + _GAP
        width, y = max(width, x), y + _TITLE + round(size * max(rows for rows, _ in shapes)) + _GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {y}" width="{width:.0f}" height="{y}" '
        f'font-family="sans-serif" font-size="12">'
    )
    place = f'x="{_GAP}" y="{_GAP + 4}"'
    name = f'<text {place} font-size="16" font-weight="bold" fill="{_TEXT}">{escape(task.id)}</text>'
    return "\n".join([head, f'<rect width="{width:.0f}" height="{y}" fill="white"/>', name, *parts, "</svg>", ""])


def _grid(grid: np.ndarray, size: float, x: float, y: float, title: str, colour: str) -> list[str]:
    """The title and the cells; runs of one colour in a row are one rectangle."""
    rows, columns = grid.shape
    parts = [f'<text x="{x:.1f}" y="{y - 5:.1f}" fill="{colour}">{title}</text>']
    for i, row in enumerate(grid):
        ends = [*np.flatnonzero(np.diff(row)) + 1, columns]
        for start, end in zip([0, *ends], ends, strict=False):
            place = f'x="{x + start * size:.2f}" y="{y + i * size:.2f}" width="{(end - start) * size:.2f}"'
            parts.append(f'<rect {place} height="{size:.2f}" fill="{PALETTE[row[start]]}"/>')
    path = "".join(f"M{x:.2f} {y + i * size:.2f}h{columns * size:.2f}" for i in range(rows + 1))
    path += "".join(f"M{x + i * size:.2f} {y:.2f}v{rows * size:.2f}" for i in range(columns + 1))
    return [*parts, f'<path d="{path}" stroke="#8c959f" stroke-width="0.6" fill="none"/>']
