"""The line that a terminal shows while a model trains keeps what matters most, however narrow it is."""

from __future__ import annotations

import io
from typing import Any

import pytest
from accelerate import Accelerator

from hrm.training.config import TrainConfig
from hrm.training.loop import Pace
from hrm.training.progress import Reporter, fitting
from tests.training import small

METRICS: dict[str, Any] = {
    "step": 1200, "loss": 0.123456, "grad_norm": 0.5, "steps_per_second": 0.125, "memory_gib": 3.5, "seconds": 9600.0,
    "exact_accuracy": 0.5, "mean_segments": 3.25, "puzzles_per_second": 12.0, "halted": 7,
}  # fmt: skip


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_time_left_is_seen_at_every_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    reporter = Reporter(TrainConfig(), Accelerator(cpu=True))
    drawn = reporter.bar.console
    drawn.file, drawn.width, reporter.live = io.StringIO(), width, True
    details = small.trainer().describe(METRICS)
    reporter.show(METRICS, 26041, 1200 / 26041, 198_728.0, details)
    with drawn.capture() as capture:
        drawn.print(reporter.bar.get_renderable())
    [line] = capture.get().rstrip("\n").split("\n")
    assert "step 1200/26041" in line and "left 55:12:08" in line and "…" not in line
    assert ("loss 0.1235" in line) == (width >= 80) and ("GiB" in line) == (width == 200)


def test_what_has_no_room_is_left_out_from_the_end() -> None:
    parts = ["step 1/2", "left 1:00", "loss 1"]
    assert [fitting(parts, width) for width in (4, 18, 19, 99)] == [
        "step", "step 1/2", "step 1/2  left 1:00", "step 1/2  left 1:00  loss 1"
    ]  # fmt: skip


def test_nothing_is_claimed_of_puzzles_of_which_none_has_halted() -> None:
    assert small.trainer().describe({**METRICS, "halted": 0, "exact_accuracy": 0.0}) == "exact -  segments -"


def test_the_time_left_counts_measuring_and_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 1.0, 1.0, 4.0, 4.0, 6.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    pace = Pace()
    for name in ("update", "update", "measuring"):
        with pace.part(name):
            pass
    assert pace.left({"update": 10, "measuring": 2, "saving": 5}) == 10 * 2 + 2 * 2
    assert pace.spent() == 10
