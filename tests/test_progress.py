"""Long jobs say how far they are, also in a file."""

from __future__ import annotations

import io

import pytest

from hrm import progress
from hrm.console import Console


def test_lines_at_the_start_and_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    console = Console(file=io.StringIO())
    with progress.counted("pack", 8, "task", console, 2) as advance:
        for _ in range(6):
            now += 7
            advance()
            advance(0)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "pack: 8 tasks, 2 done before"
    assert lines[1:] == [f"pack: {done} of 8 tasks done, {seconds} s" for done, seconds in ((4, 14), (6, 28), (8, 42))]
