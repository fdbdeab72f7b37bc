"""Drawing while solving, in a terminal and elsewhere."""

from __future__ import annotations

import io
import re

from hrm.console import Console
from hrm.puzzles.pictures.watch import watching
from tests.puzzles.solving.small import questions, solver


def watched(**terminal: object) -> tuple[str, int]:
    """What a puzzle that stays unsolved looks like, and its number of segments."""
    text = next(a.question for a in solver().solve_many(questions(60)) if a.status == "unsolved")
    console = Console(file=io.StringIO(), width=80, **terminal)  # type: ignore[arg-type]
    with watching(solver(), console, delay=0) as watch:
        answer = solver().solve(text, observe=watch)
    return console.file.getvalue(), answer.segments  # type: ignore[attr-defined]


def test_without_a_terminal_every_segment_is_a_plain_frame():
    shown, segments = watched()
    assert "\x1b" not in shown
    assert [int(n) for n in re.findall(r"segment +(\d+)", shown)] == list(range(1, segments + 1))
    assert shown.count("confidence") == segments and "!" in shown


def test_a_terminal_is_redrawn_in_place_with_wrong_cells_in_red():
    shown, segments = watched(force_terminal=True, color_system="standard", legacy_windows=False)
    assert "\x1b[1;31m" in shown and "\x1b[1A" in shown
    assert {int(n) for n in re.findall(r"segment +(\d+)", shown)} == set(range(1, segments + 1))


def test_a_terminal_without_colour_still_marks_wrong_cells():
    shown, _ = watched(force_terminal=True, no_color=True, legacy_windows=False)
    assert "\x1b[1;31m" not in shown and "!" in shown
