"""The benchmark on wrong and right puzzles, in small: nothing is called solved that breaks a rule."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from hrm.puzzles import solvers
from tests.data import hrm_data

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "soundness.py"


@pytest.mark.slow
def test_of_40_puzzles_every_bad_one_gets_its_reason_and_no_answer_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    flags = ["--data", str(hrm_data() / "sudoku"), "--puzzles", "40", "--strategies", "budget"]
    flags += ["--json", str(tmp_path / "x")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(solvers.HOME / "sudoku"), *flags])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    result = json.loads((tmp_path / "x").read_text())
    (found,) = result["strategies"].values()
    counts = found["counts"]
    assert result["n"] == 40 and result["failures"] == 0, found["examples"]
    assert counts["invalid"] == 12 and counts["invalid: several solutions"] == 8 and counts["solved"] > 8
    assert sum(1 for name in counts if name.startswith("invalid: ")) >= 4
