"""CSV files come back as they were written, and every fault names file and line."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from hrm.files.reading import UserError
from hrm.puzzles.data import PuzzleSet, read, write, write_csv
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.data import hrm_data
from tests.puzzles.data.examples import puzzle_sets, same_puzzles

FOUR = Sudoku(2, 2)
HEADER = "source,question,answer,rating\n"
GOOD = "x,.4.....1.2..3...,1432234142133124,3\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(puzzle_sets())
def test_puzzles_come_back_from_a_csv_file(tmp_path: Path, case: tuple[Task, PuzzleSet]) -> None:
    task, puzzles = case
    for name in ("a.csv", "a.csv.gz"):
        write_csv(tmp_path / name, task, puzzles)
        again = read(str(tmp_path / name), task)
        assert same_puzzles(again, puzzles) and again.source == str(tmp_path / name)
        if puzzles.ratings is None:
            assert again.ratings is None
        else:
            assert again.ratings is not None and np.array_equal(again.ratings, puzzles.ratings)


def test_equal_puzzles_give_equal_bytes(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(HEADER + GOOD)
    puzzles = read(tmp_path / "in.csv", FOUR)
    for name in ("a.csv.gz", "b.csv.gz"):
        write_csv(tmp_path / name, FOUR, puzzles)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    write_csv(tmp_path / "out.csv", FOUR, puzzles)
    assert (tmp_path / "out.csv").read_text() == (HEADER + GOOD).replace("x,", "in.csv,")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv.gz", "b.csv.gz", "in.csv", "out.csv"]


def test_test_puzzles_go_beside_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(HEADER + GOOD)
    puzzles = read(tmp_path / "in.csv", FOUR)
    assert write(tmp_path / "x.csv.gz", FOUR, puzzles, puzzles) == [tmp_path / "x.csv.gz", tmp_path / "x_test.csv.gz"]
    assert same_puzzles(read(tmp_path / "x_test.csv.gz", FOUR), puzzles)


def test_columns_may_come_in_any_order_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffanswer,question\n\n1432234142133124,.4.....1.2..3...\n", encoding="utf-8")
    puzzles = read(tmp_path / "a.csv", FOUR)
    assert FOUR.format(puzzles.inputs[0]) == ".4.....1.2..3..." and puzzles.ratings is None


def test_spaces_and_line_breaks_of_a_maze_are_kept(tmp_path: Path) -> None:
    maze = Maze(2, 3, min_path=1)
    (tmp_path / "a.csv").write_text('source,question,answer,rating\nx,  S# G,ooS# G,1\nx,"  S\n# G",  S# G,1\n')
    assert [maze.format(q) for q in read(tmp_path / "a.csv", maze).inputs] == ["  S# G", "  S# G"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + GOOD + "x,.4.....1.2..3..,1432234142133124,3\n", r"line 3: question: expected 16 characters.*got 15"),
        (HEADER + GOOD + "x,.4.....1.2..3....,1432234142133124,3\n", r"line 3: question: expected 16 .* got 17"),
        (HEADER + GOOD + "x,.4.....1.2..3..7,1432234142133124,3\n", r"line 3: question: '7' at row 4, column 4"),
        (HEADER + GOOD + "x,.4.....1.2..3..é,1432234142133124,3\n", r"line 3: question: '.' at row 4, column 4"),
        (HEADER + GOOD + "x,.4.....1.2..3...,,3\n", "line 3: answer: expected 16"),
        (HEADER + GOOD + GOOD.replace(",3", ",hard"), "line 3: rating 'hard'"),
        (HEADER + GOOD + GOOD.replace(",3", "," + "9" * 30), "line 3: rating '999"),
        (HEADER + GOOD + "x,.4.....1.2..3...\n", "line 3: 2 columns instead of the header's 4"),
        (HEADER, "holds no sudoku puzzle"),
        ("", "line 1: there is no column 'question'"),
        ("riddle;result\n", "line 1: there is no column 'question'.*'riddle', 'result'"),
        (HEADER + 'x,"unclosed', "after line 1"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.csv.*" + message):
        read(tmp_path / "bad.csv", FOUR)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\xff\xfe\n")
    (tmp_path / "plain.csv.gz").write_text(HEADER + GOOD)
    packed = gzip.compress((HEADER + GOOD * 50).encode())
    (tmp_path / "cut.csv.gz").write_bytes(packed[:-12])
    (tmp_path / "puzzles.txt").write_text("no puzzle at all")
    for name in ("latin.csv", "plain.csv.gz", "cut.csv.gz", "puzzles.txt", "missing.csv"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            read(tmp_path / name, FOUR)


def test_published_files_are_read() -> None:
    nine, maze = Sudoku(3, 3), Maze(30, 30, min_path=110)
    extreme = read(hrm_data() / "sudoku" / "sudoku_extreme_1k_train.csv", nine)
    assert extreme.inputs.shape == (1000, 81) and extreme.inputs.dtype == np.uint8
    assert nine.format(extreme.inputs[0]).startswith("...7.2..5....95.8")
    assert extreme.ratings is not None and extreme.ratings[1] == 9
    hard = read(hrm_data() / "maze" / "maze_30x30_hard_train.csv.gz", maze)
    assert hard.inputs.shape == (1000, 900) and set(np.unique(hard.inputs)) == {1, 2, 3, 4}
