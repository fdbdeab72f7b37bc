"""Accuracy against compute: the curves are what solving again with those settings would give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hrm.cli.main import main
from hrm.puzzles.config import Strategy
from hrm.puzzles.data import write_csv
from hrm.puzzles.measuring import evaluate
from hrm.puzzles.measuring.sweep import Curve, SegmentReadouts, depth_curves, sweep, warnings_of
from tests.puzzles.measuring.test_accuracy import puzzle_set
from tests.puzzles.solving.small import SUDOKU, run_folder, solver


@pytest.fixture(scope="module")
def swept() -> dict[str, Curve]:
    result = sweep(solver(), puzzle_set(), Strategy(max_segments=6, restarts=2))
    return {curve.name: curve for curve in result.curves}


def points(curve: Curve) -> Iterator[tuple[int, float, float]]:
    return zip(curve.effort, curve.mean_segments, curve.accuracy, strict=True)


def test_each_point_is_what_solving_with_that_effort_gives(swept: dict[str, Curve]):
    by_verifier = swept["the verifier stops"]
    for d, segments, accuracy in points(by_verifier):
        result = evaluate(solver(), puzzle_set(), max_segments=d)
        assert (accuracy, segments) == pytest.approx((result["solved"] / result["n"], result["mean_segments"]))
    for attempts, segments, accuracy in points(swept["further attempts"]):
        result = evaluate(solver(), puzzle_set(), max_segments=6, restarts=attempts - 1)
        assert (accuracy, segments) == pytest.approx((result["solved"] / result["n"], result["mean_segments"]))
    for d, segments, accuracy in points(swept["the Q head halts"]):
        result = evaluate(solver(), puzzle_set(), max_segments=d, stop=("q",))
        assert (accuracy, segments) == pytest.approx((result["exact_accuracy"], result["mean_segments"]))
    for d, accuracy in zip(
        swept["every puzzle to the end"].effort, swept["every puzzle to the end"].accuracy, strict=True
    ):
        assert accuracy == pytest.approx(evaluate(solver(), puzzle_set(), max_segments=d, stop=())["exact_accuracy"])


def test_random_halting_keeps_the_depths_and_forgets_the_puzzles():
    right = np.array([[True, True, True], [False, False, True]])
    halts = np.array([[True, False, False], [False, False, True]])
    curves = {curve.name: curve for curve in depth_curves(SegmentReadouts(right, right, halts), verifies=False)}
    assert curves["the Q head halts"].accuracy[-1] == 1 and curves["the Q head halts"].mean_segments[-1] == 2
    at_random = curves["halting at random, same depths"]
    assert at_random.mean_segments[-1] == 2 and at_random.accuracy[-1] == (0.5 + 1) / 2
    assert "the verifier stops" not in curves


def test_a_model_that_gets_worse_is_named():
    [warning] = warnings_of(Curve("", [1, 16, 64], [1, 16, 64], [0.2, 0.6, 0.5]))
    assert "60.00% after 16 segments, 50.00% after 64" in warning
    assert warnings_of(Curve("", [1, 16, 64], [1, 16, 64], [0.2, 0.6, 0.6])) == []


def test_eval_writes_the_sweep_as_json_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    run, data = run_folder(tmp_path / "run"), tmp_path / "x.csv"
    write_csv(data, SUDOKU, puzzle_set(12))
    flags = ["--data", str(data), "--max-segments", "4", "--restarts", "1"]
    assert main(["eval", str(run), *flags, "--sweep", str(tmp_path / "swept")]) == 0
    out = capsys.readouterr().out
    result = json.loads((tmp_path / "swept.json").read_text())
    assert "the verifier stops" in out and len(result["curves"]) == 5 and result["restarts"] == 1
    assert (tmp_path / "swept.png").read_bytes().startswith(b"\x89PNG")
    assert main(["eval", str(run), *flags, "--sweep", str(tmp_path / "no" / "where")]) == 2
    assert "--sweep" in capsys.readouterr().err
