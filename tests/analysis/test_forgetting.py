"""What a learner forgets, from the scores that it wrote down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrm.analysis.forgetting import draw, forgetting
from hrm.cli.main import main as hrm

SCORES = {"a": [[3.0], [2.0]], "b": [[2.5, 3.0], [2.2, 2.4]], "c": [[2.1, 2.4, 1.0]], "d": []}
BOOKS = [{"name": name, "scores": [{"bits_per_character": bits} for bits in each]} for name, each in SCORES.items()]


def test_rises_count_from_right_after_a_book_to_the_end_and_to_the_worst_moment(tmp_path: Path) -> None:
    found = forgetting(BOOKS)
    assert found["books"] == ["a", "b", "c"] and found["matrix"] == [[2.0], [2.2, 2.4], [2.1, 2.4, 1.0]]
    assert found["rise"] == pytest.approx([0.05, 0.0]) and found["worst"] == pytest.approx([0.25, 0.0])
    assert found["mean_rise"] == pytest.approx(0.025)
    draw(found, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_command_shows_a_learners_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("one.txt", "the cat sat on the mat. "), ("two.txt", "ein hund bellt am abend. ")):
        (tmp_path / name).write_text(text * 30)
    settings = ["hidden_size=16", "num_attention_heads=2", "fast_layers=1", "slow_layers=1", "intermediate_size=32"]
    run, books = str(tmp_path / "run"), [str(tmp_path / name) for name in ("one.txt", "two.txt")]
    assert hrm(["learn", run, *books, "--epochs", "1", "--length", "24", "--settings", *settings]) == 0
    capsys.readouterr()
    assert hrm(["analyze", "forgetting", run, "--json", "-", "--plot", str(tmp_path / "matrix.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(row) for row in found["matrix"]] == [1, 2] and (tmp_path / "matrix.png").is_file()
    assert hrm(["analyze", "forgetting", run]) == 0 and "two.txt" in capsys.readouterr().out
