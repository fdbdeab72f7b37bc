"""Questions at the edges: one segment, one puzzle, and a run with hostile names in its folder of answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.report.story import figures_of, story

RUNS = Path(__file__).parents[1] / "golden/runs"
ONE = ["--limit", "1", "--segments", "1"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on puzzles that may be written into."""
    return Path(shutil.copytree(RUNS / "puzzles", tmp_path / "run"))


@pytest.mark.parametrize("kind", ["puzzles", "text"])
@pytest.mark.parametrize("question", ["paths", "halting", "ablate"])
def test_one_segment_of_one_is_enough(kind: str, question: str, tmp_path: Path) -> None:
    assert main(["analyze", question, str(RUNS / kind), *ONE, "--out", str(tmp_path)]) == 0


def test_one_puzzle_shows_no_loss_larger_than_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "ablate", str(RUNS / "text"), *ONE, "--out", str(tmp_path)]) == 0
    assert "loses by, most first" not in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")
def test_names_in_a_run_are_replaced_and_never_followed(run: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("precious")
    (run / "analysis").mkdir()
    (run / "analysis/training.json").symlink_to(kept)
    os.mkfifo(run / "analysis/training.svg")
    assert main(["analyze", "training", str(run)]) == 0
    assert kept.read_text() == "precious" and (run / "analysis/training.svg").is_file()


@pytest.mark.skipif(os.name == "nt", reason="links of POSIX")
def test_an_answer_leaves_no_run_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (run / "analysis").symlink_to(tmp_path / "elsewhere")
    assert main(["analyze", "training", str(run)]) == 2
    (run / "analysis").unlink()
    (run / "analysis").write_text("")
    assert main(["analyze", "training", str(run)]) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_figure_that_breaks_its_reader_is_passed_over(tmp_path: Path) -> None:
    good = '{"title": "half of a character \\ud800", "says": []}'
    for name, content in {"deep": "[" * 100_000, "list": "[]", "good": good}.items():
        (tmp_path / f"{name}.json").write_text(content)
        (tmp_path / f"{name}.svg").write_text("<svg/>")
    (found,) = figures_of(tmp_path)
    assert found.question == "good" and found.title.encode()


@pytest.mark.parametrize("content", ["[1]", '{"exact_accuracy": 1}', '{"n": "x"}', '{"training_seconds": [1]}'])
def test_a_damaged_result_is_named(content: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "result.json").write_text(content)
    assert main(["report", str(run), "--no-samples", "--out", str(run.parent / "a.html")]) == 2
    assert "result.json is damaged" in capsys.readouterr().err


def test_a_report_says_what_it_cannot_sample(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = str(run.parent / "a.html")
    assert main(["report", str(run), "--device", "nonsense", "--out", page]) == 2
    shutil.rmtree(run / "checkpoints")
    assert main(["report", str(run), "--out", page]) == 0
    assert "no samples of run" in capsys.readouterr().err


def test_the_last_book_of_a_learner_is_sampled() -> None:
    from hrm.report.samples import samples

    assert story(RUNS / "learner").family == "learner" and samples(RUNS / "learner", "cpu")


def test_metrics_that_cannot_be_drawn_are_left_out(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 0, "seconds": 1e308}\n{"step": 2, "loss": 1e300}\n')
    assert main(["analyze", "training", str(run)]) == 0
