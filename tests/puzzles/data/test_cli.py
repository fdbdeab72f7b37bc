"""`hrm data build|check|show` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrm.cli.main import main
from hrm.puzzles.data import read
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku

FOUR = Sudoku(2, 2)


def hrm(*words: object) -> int:
    return main(["data", *map(str, words)])


def test_building_checking_and_converting_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file, back = tmp_path / "folder", tmp_path / "file.csv.gz", tmp_path / "back"
    assert hrm("build", "--box", 2, 2, "--puzzles", 40, "--test", 20, "--out", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"written": [str(folder)], "train": 40, "test": 20}
    assert hrm("check", folder) == 0
    assert "no problems" in capsys.readouterr().out
    assert hrm("build", "--convert", folder, "--out", file) == 0
    assert "40 training and 20 test puzzles" in capsys.readouterr().out
    assert hrm("check", file, "--against", tmp_path / "file_test.csv.gz") == 0
    assert hrm("build", "--convert", file, "--out", back) == 0
    for split, path in (("train", file), ("test", tmp_path / "file_test.csv.gz")):
        assert np.array_equal(read(folder, FOUR, split).inputs, read(path, FOUR).inputs)
    assert np.array_equal(read(folder, FOUR).labels, read(back, FOUR).labels)


def test_converting_can_set_whole_classes_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    assert hrm("build", "--box", 2, 3, "--puzzles", 30, "--out", file) == 0
    assert hrm("build", "--convert", file, "--test", 10, "--out", tmp_path / "d") == 0
    assert hrm("check", tmp_path / "d") == 0
    assert "20 training and 10 test" in capsys.readouterr().out
    assert hrm("build", "--convert", tmp_path / "d", "--test", 5, "--out", tmp_path / "e") == 2
    assert "has a test split already" in capsys.readouterr().err


def test_several_files_become_one_with_each_question_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [tmp_path / name for name in ("a.csv", "b.csv.gz", "c")]
    for seed, part in enumerate(parts):
        assert hrm("build", "--box", 2, 3, "--puzzles", 12, "--seed", seed, "--out", part) == 0
    capsys.readouterr()
    out = tmp_path / "mix.csv.gz"
    assert hrm("build", "--convert", *parts, parts[0], "--limit", 10, "--out", out) == 0
    said = capsys.readouterr().out
    assert "30 training and 0 test puzzles; 10 that ask the same as an earlier one left out" in said
    joined = read(out, Sudoku(2, 3))
    wanted = np.concatenate([read(part, Sudoku(2, 3)).inputs[:10] for part in parts])
    assert np.array_equal(joined.inputs, wanted) and hrm("check", out) == 0
    assert joined.ratings is not None and not joined.ratings[20:].any(), "folders hold no ratings"
    assert hrm("build", "--convert", *parts, "--test", 6, "--out", tmp_path / "split", "--json") == 0
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts["train"] + counts["test"] == 36 and counts["test"] >= 6


def test_a_folder_with_a_test_split_is_not_mixed_with_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "folder", tmp_path / "a.csv"
    assert hrm("build", "--box", 2, 2, "--puzzles", 20, "--test", 10, "--out", folder) == 0
    assert hrm("build", "--box", 2, 2, "--puzzles", 5, "--out", file) == 0
    assert hrm("build", "--convert", file, folder, "--out", tmp_path / "mix.csv") == 2
    assert f"{folder} has a test split" in capsys.readouterr().err and not (tmp_path / "mix.csv").exists()
    assert hrm("build", "--limit", 5, "--out", tmp_path / "mix.csv") == 2
    assert "--limit" in capsys.readouterr().err


def test_mazes_are_built(tmp_path: Path) -> None:
    words = ("--task", "maze", "--size", 8, 8, "--min-path", 9, "--puzzles", 3)
    assert hrm("build", *words, "--out", tmp_path / "m.csv") == 0
    puzzles = read(tmp_path / "m.csv", Maze(8, 8, min_path=9))
    assert len(puzzles.inputs) == 3 and puzzles.ratings is not None and puzzles.ratings.min() >= 9
    assert hrm("check", tmp_path / "m.csv") == 0


def test_problems_are_listed_on_stderr_and_counted_after_twenty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.csv"
    good = ".4.....1.2..3...,1432234142133124\n"
    file.write_text("question,answer\n" + good + ".4.....1.2..3...,1432234142133142\n" * 25)
    assert hrm("check", file) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert not out and len(lines) == 21 and lines[-1] == "... and 30 more"
    assert lines[0].startswith(f"{file} line 3: the answer is wrong by the rules")
    assert hrm("check", file, "--json") == 2
    report = json.loads(capsys.readouterr().out)
    assert report["count"] == len(report["problems"]) == 50 and report["problems"][0] == lines[0]


def test_puzzles_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.csv"
    file.write_text("question,answer,rating\n" + ".4.....1.2..3...,1432234142133124,3\n" * 3)
    assert hrm("show", file, "--row", 2, "--count", 5) == 0
    out = capsys.readouterr().out
    assert "puzzle 2, rating 3" in out and "puzzle 3" in out and "puzzle 1" not in out and "1 4 " in out
    assert hrm("show", file, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"row": 1, "question": ".4.....1.2..3...", "answer": "1432234142133124", "rating": 3}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "missing.csv"], "no file or folder missing.csv"),
        (["show", "a.csv", "--row", "9"], "--row must be from 1 to 1"),
        (["build", "--out", "a.csv"], "a.csv exists: choose another --out or add --overwrite"),
        (["build", "--out", "b.csv", "--puzzles", "0"], "--puzzles must be at least 1"),
        (["build", "--out", "b.csv", "--box", "1", "9"], "--box must be"),
        (["build", "--convert", "odd.csv", "--out", "b.csv"], "say which with --task and --size"),
        (["show", "a.csv", "--task", "maze"], "a.csv line 2: question: expected 900 characters"),
        (["bild"], "build"),
    ],
)
def test_mistakes_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("question,answer\n.4.....1.2..3...,1432234142133124\n")
    Path("odd.csv").write_text("question,answer\nabc,abc\n")
    assert hrm(*words) == 2
    out, err = capsys.readouterr()
    assert not out and message in err and err.count("\n") == 1
