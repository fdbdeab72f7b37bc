"""`hrm analyze training`: curves are those of the metrics, and damaged ones end in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.insight.training import course, training
from hrm.runs import Run
from hrm.text.config import LearnConfig


def write(run: Path, *records: object) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return run


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "copied")
    return tmp_path / "copied"


def test_curves_are_the_lines_of_the_metrics(copied: Path) -> None:
    write(
        copied,
        {"step": 10, "loss": 2.0, "seconds": 5.0},
        {"step": 20, "loss": float("nan"), "seconds": 10.0},
        {"event": "eval", "step": 20, "exact_accuracy": 0.5},
        {"event": "resumed", "from_step": 20},
        "{damaged",
        {"step": 40, "loss": 1.0, "seconds": 30.0},
        {"event": "eval", "step": 40, "exact_accuracy": 0.25},
    )
    found = course(copied)
    assert found.loss == [(10, 2.0), (40, 1.0)] and found.held_out == {"": [(20, 0.5), (40, 0.25)]}
    seconds = found.seconds([10, 20, 30, 40])
    assert seconds is not None and seconds.tolist() == [5, 10, 20, 30]
    finding = training([copied])
    assert finding.tables["last and best values"].rows == [["copied", 40, 30, 1.0, 0.25, 0.5, 20]]
    said = " ".join(finding.says)
    assert "worse than its best at step 20" in said and "1 lines of copied's metrics could not be read" in said


def test_books_of_a_learner_are_curves_and_spans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.create(tmp_path / "reader", LearnConfig(), {})
    write(
        tmp_path / "reader",
        {"step": 1, "book": "one", "bits": 5.0, "seconds": 1.0},
        {"event": "eval", "step": 2, "book": "one", "bits_per_character": {"one": 4.0}},
        {"step": 3, "book": "one", "bits": 4.0, "seconds": 2.0},
        {"step": 4, "book": "two", "bits": 4.5, "seconds": 3.0},
        {"event": "eval", "step": 5, "book": "two", "bits_per_character": {"one": 4.2, "two": 3.0}},
    )
    found = course(tmp_path / "reader")
    assert found.held_out == {"one": [(2, 4.0), (5, 4.2)], "two": [(5, 3.0)]}
    assert found.books == [("one", 1, 3), ("two", 4, 4)]
    assert main(["analyze", "training", str(tmp_path / "reader")]) == 0
    assert "reader: two" in capsys.readouterr().out


def test_what_holds_no_curve_is_said(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no curve yet"):
        training([write(copied)])
    with pytest.raises(UserError, match="damaged"):
        training([write(copied, "{", "x")])
    (copied / "metrics.jsonl").unlink()
    assert main(["analyze", "training", str(copied)]) == 2
    assert "no curve yet" in capsys.readouterr().err
    assert main(["analyze", "training", str(tmp_path / "nothing")]) == 2
    assert main(["analyze", "training"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command(run: Path, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "training", str(run), str(copied), "--out", str(copied / "pictures")]) == 0
    assert "last and best values" in capsys.readouterr().out
    assert (copied / "pictures/training.svg").is_file()
    assert main(["analyze", "training", str(copied), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["name"] == "copied"
