"""What a learner forgets, from the scores that it wrote down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrm.cli.main import main as hrm
from hrm.text.learned import Book, Score
from hrm.text.learning.forgetting import cost, draw, forgetting

SCORES = {"a": [[3.0], [2.0]], "b": [[2.5, 3.0], [2.2, 2.4]], "c": [[2.1, 2.4, 1.0]], "d": []}


def read(scores: dict[str, list[list[float]]]) -> list[Book]:
    """Books read one after another, a score after every 10 updates."""
    books, update = [], 0
    for number, (name, each) in enumerate(scores.items()):
        book = Book(
            name=name, sha256="", characters=1, epochs=1, step=0, state="finished", number=number, scores=[]
        )  # fmt: skip
        for bits in each:
            update += 10
            book.scores.append(Score(step=10, update=update, bits_per_character=bits, memory_bytes=50 * update))
        books.append(book)
    return books


def test_rises_count_from_right_after_a_book_to_the_end_and_to_the_worst_moment(tmp_path: Path) -> None:
    records = [{"step": step, "seconds": 3.0 * step} for step in range(5, 60, 5)] + [{"event": "eval", "step": 20}]
    found = forgetting(read(SCORES), records)
    assert found["books"] == ["a", "b", "c"] and found["matrix"] == [[2.0], [2.2, 2.4], [2.1, 2.4, 1.0]]
    assert found["rise"] == [pytest.approx(0.05), 0.0, None] and found["worst"] == [pytest.approx(0.25), 0.0, None]
    assert found["mean_rise"] == pytest.approx(0.025)
    assert found["updates"] == [20, 20, 10] and found["seconds"] == [60, 60, 30]
    assert cost(found, 1) == "20 updates, 1.0 min, 2.0 kB kept"
    draw(found, tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 1000


def test_a_book_that_is_read_again_counts_from_then_on() -> None:
    books = read(SCORES)
    books[0].scores.append(Score(step=10, update=60, bits_per_character=[1.5, 3.0, 1.1]))
    books[1].scores.append(Score(step=10, update=70, bits_per_character=[1.8, 2.0, 1.2]))
    found = forgetting(books)
    assert found["readings"] == ["a", "b", "c", "a", "b"] and found["books"] == ["a", "b", "c"]
    assert found["matrix"][-1] == [1.8, 2.0, 1.2]
    assert found["rise"] == [pytest.approx(0.2), None, pytest.approx(0.2)]
    assert found["updates"] == [20, 20, 10, 10, 10]


@pytest.mark.slow
def test_the_command_shows_a_learners_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("one.txt", "the cat sat on the mat. "), ("two.txt", "ein hund bellt am abend. ")):
        (tmp_path / name).write_text(text * 30)
    shape = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32"
    run, books = str(tmp_path / "run"), [str(tmp_path / name) for name in ("one.txt", "two.txt")]
    assert hrm(["learn", run, *books, "--epochs", "1", "--length", "24", *shape.split()]) == 0
    capsys.readouterr()
    assert hrm(["analyze", "forgetting", run, "--json", "--plot", str(tmp_path / "matrix.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(row) for row in found["matrix"]] == [1, 2] and (tmp_path / "matrix.png").is_file()
    assert all(kept > 0 for kept in found["memory_bytes"]) and all(count > 0 for count in found["updates"])
    assert hrm(["analyze", "forgetting", run]) == 0 and "two.txt" in capsys.readouterr().out
