"""Files of puzzles are recognised whatever their form, by every reader; damaged ones end in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.puzzles.data import check, infer, read
from hrm.puzzles.data.puzzle_file import rows, text_of
from hrm.puzzles.tasks import PuzzleError, Task, build
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.puzzles.tasks.forms import FORMS, sadman

NINE, FOUR = Sudoku(3, 3), Sudoku(2, 2)
EASY = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
SMALL, SMALL_SOLVED = ".4.....1.2..3...", "1432234142133124"
ZEROS = EASY.replace(".", "0")
DRAWN = "\n".join(EASY[i : i + 9] for i in range(0, 81, 9)) + "\n"


def cells(text: str) -> list[list[str]]:
    return [list(text[i : i + 9]) for i in range(0, 81, 9)]


def opensudoku(*games: str) -> str:
    inner = "".join(f"  <game data={quoteattr(data)} />\n" for data in games)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<opensudoku>\n  <name>Easy</name>\n{inner}</opensudoku>\n'


def with_notes(version: int) -> str:
    """A game in progress: a value, notes and whether it may be changed for each cell."""
    notes = {1: ["-"], 3: ["0"], 4: ["0", "0"]}[version]
    parts = []
    for clue, right in zip(EASY, SOLVED, strict=True):
        parts += [right if clue == "." and right == "4" else clue.replace(".", "0"), *notes, str(int(clue == "."))]
    return f"version: {version}\n" + "|".join(parts) + "|"


CSVS = {
    "quizzes": f"quizzes,solutions\n{ZEROS},{SOLVED}\n",
    "kaggle": f"id,puzzle,solution,clues,difficulty\n1,{EASY},{SOLVED},30,2.2\n",
    "semicolons": f"source;question;answer\nx;{EASY};{SOLVED}\n",
    "tabs": f"Puzzle\tSolution\n{EASY}\t{SOLVED}\n",
    "bars": f"puzzle|solution\n{EASY}|{SOLVED}\n",
    "capitals": f'"Question" , "Answer"\n{EASY},{SOLVED}\n',
    "excel": f"sep=;\npuzzle;solution\n{EASY};{SOLVED}\n",
    "words": f"puzzle,solution,difficulty\n{EASY},{SOLVED},hard\n",
    "no answers": f"id,puzzle\n7,{EASY}\n",
    "no header": f"{EASY},{SOLVED}\n",
    "numbered": f"1,{EASY},{SOLVED}\n",
    "rows": "\n".join(",".join(row) for row in cells(ZEROS)) + "\n",
}


@pytest.mark.parametrize("name", CSVS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_columns_and_encodings_are_recognised(name: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(CSVS[name].replace("\n", "\r\n").encode(encoding))
    puzzles = read(tmp_path / "a.csv", NINE)
    assert [NINE.format(t) for t in (puzzles.inputs[0], puzzles.labels[0])] == [EASY, SOLVED]
    assert (puzzles.ratings is None) == (name != "kaggle") and infer(tmp_path / "a.csv").box == (3, 3)
    assert check(tmp_path / "a.csv", NINE) == []


def test_decimal_ratings_are_kept_and_written_again(tmp_path: Path) -> None:
    lines = [f"{SMALL},{SMALL_SOLVED},{rating}" for rating in ("2.2", "3", "")]
    (tmp_path / "a.csv").write_text("question,answer,rating\n" + "\n".join(lines) + "\n")
    ratings = read(tmp_path / "a.csv", FOUR).ratings
    assert ratings is not None and ratings.tolist() == [2.2, 3.0, 0.0]
    assert main(["data", "build", "--convert", str(tmp_path / "a.csv"), "--out", str(tmp_path / "b.csv")]) == 0
    again = (tmp_path / "b.csv").read_text().splitlines()
    assert again[1].endswith(",2.2")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_a_file_in_any_form_is_checked_shown_converted_and_measured_by_its_answers(
    form, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"puzzles{'.sdk' if form is sadman else '.txt'}"
    file.write_text(form(cells(EASY), 3, 3), encoding="utf-8")
    assert infer(file).kind == "sudoku" and infer(file).box == (3, 3)
    assert main(["data", "check", str(file)]) == 0
    assert main(["data", "show", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["question"], shown["answer"]) == (EASY, SOLVED)
    assert main(["data", "build", "--convert", str(file), "--out", str(tmp_path / "b.csv.gz")]) == 0
    assert NINE.format(read(tmp_path / "b.csv.gz", NINE).inputs[0]) == EASY


@pytest.mark.parametrize("data", [EASY, ZEROS, *map(with_notes, (1, 3, 4))], ids=["dots", "zeros", "v1", "v3", "v4"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_games_of_opensudoku_are_read(data: str, encoding: str, tmp_path: Path) -> None:
    file = tmp_path / "easy.opensudoku"
    file.write_bytes(opensudoku(data, ZEROS).replace("\n  <game", "\n <game", 1).encode(encoding))
    with text_of(file) as lines:
        found = list(rows(lines, file, NINE))
    assert [NINE.format(NINE.parse(row.question)) for row in found] == [EASY, EASY]
    assert [row.line for row in found] == [4, 5]
    assert infer(file).box == (3, 3) and len(read(file, NINE).inputs) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "1"><!ENTITY b "&a;&a;">]><opensudoku/>', "document type"),
        ('<?xml version="1.0"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><opensudoku>&x;</opensudoku>', "document type"),
        ("<opensudoku><game data='1", "no sound XML"),
        ("<opensudoku></opensudoku></a>", "no sound XML"),
        ("<?xml version='1.0'?><svg><g/></svg>", "no <game data=...> of OpenSudoku, but g, svg"),
        ("<opensudoku>" + "<a>" * 10_000, "no sound XML"),
    ],
)
def test_xml_that_is_damaged_or_could_grow_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=rf"a\.xml.*{words}"):
        read(tmp_path / "a.xml", NINE)


def test_unknown_columns_are_named_with_what_is_known(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("riddle,remark\n1,2\n")
    with pytest.raises(UserError, match=r"no column 'question' \(nor puzzle, .*'riddle', 'remark'"):
        read(tmp_path / "a.csv", NINE)
    (tmp_path / "b.csv").write_text("question\n1 2 3 4\n")
    with pytest.raises(UserError, match="no column 'answer'"):
        read(tmp_path / "b.csv", Grid(2, 2, vocabulary=9))


def test_puzzles_of_a_file_without_answers_that_have_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"# two\n{EASY}\n{'.' * 81}\n{EASY[:-1]}\n{'3' + EASY[1:]}\n")
    found = check(tmp_path / "a.txt", NINE)
    assert [problem.split(": ")[0][-6:] for problem in found] == ["line 3", "line 4", "line 5"]
    assert "several solutions" in found[0] and "got 80" in found[1] and "3 twice" in found[2]
    with pytest.raises(UserError, match=r"a\.txt line 3"):
        read(tmp_path / "a.txt", NINE)


def test_the_size_of_what_is_written_row_by_row_is_inferred(tmp_path: Path) -> None:
    for box in ((2, 2), (2, 3), (3, 4), (4, 4)):
        task = Sudoku(*box)
        puzzle = build_question(task)
        lines = [puzzle[i : i + task.n] for i in range(0, task.n**2, task.n)]
        (tmp_path / "a.txt").write_text("Number one\n" + "\n".join(lines) + "\n\nNumber two\n" + "\n".join(lines))
        assert infer(tmp_path / "a.txt").box == box
        (tmp_path / "a.txt").write_text(f"{puzzle}\n" * 3)
        assert infer(tmp_path / "a.txt").box == box
    maze = "####\n#S #\n#G #\n####\n#  #\n"
    (tmp_path / "m.txt").write_text(f"; two mazes\n{maze}\n{maze}")
    assert (infer(tmp_path / "m.txt").kind, infer(tmp_path / "m.txt").size) == ("maze", (5, 4))
    assert len(read(tmp_path / "m.txt", Maze(5, 4, 1)).inputs) == 2
    (tmp_path / "m.csv").write_text(f'puzzle\n"{maze.strip()}"\n')
    assert infer(tmp_path / "m.csv").size == (5, 4)
    (tmp_path / "late.csv").write_text(f"\n\nsep=;\npuzzle;solution\n{EASY};{SOLVED}\n")
    assert infer(tmp_path / "late.csv").box == (3, 3) and len(read(tmp_path / "late.csv", NINE).inputs) == 1
    (tmp_path / "none.txt").write_text("hello\nworld\n")
    with pytest.raises(UserError, match=r"none\.txt.*say which with --task"):
        infer(tmp_path / "none.txt")


def build_question(task: Sudoku) -> str:
    """A grid with the first row filled in, which is enough to tell its size."""
    return task.vocabulary[2:] + "." * (task.n**2 - task.n)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_file_holds_is_read_or_refused_in_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    pieces = [
        DRAWN.encode(),
        ZEROS.encode(),
        opensudoku(EASY).encode(),
        b"puzzle,solution\n",
        SOLVED.encode(),
        b"Grid 1\n",
    ]
    content = data.draw(st.lists(st.sampled_from(pieces) | st.binary(max_size=30), max_size=6))
    blob = bytearray(b"\n".join(content))
    for at in data.draw(st.lists(st.integers(0, max(0, len(blob) - 1)), max_size=3)):
        if blob:
            blob[at] = data.draw(st.integers(0, 255))
    name = data.draw(st.sampled_from(["a.txt", "a.csv", "a.csv.gz", "a.sdk", "a.opensudoku", "a.json"]))
    packed = name.endswith(".gz") and data.draw(st.booleans())
    (tmp_path / name).write_bytes(gzip.compress(blob) if packed else bytes(blob))
    tasks: list[Task] = [NINE, FOUR, Maze(3, 3, 1), Grid(2, 2, vocabulary=12)]
    task = data.draw(st.sampled_from(tasks))
    try:
        read(tmp_path / name, task)
    except UserError as error:
        assert name in str(error) and "\n" not in str(error) and len(str(error)) < 700
    for problem in check(tmp_path / name, task):
        assert name in problem
    try:
        build(infer(tmp_path / name))
    except UserError as error:
        assert name in str(error)


def test_puzzles_that_are_read_keep_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"Grid 01\n{DRAWN}Grid 02\n{DRAWN}\n; end\n")
    with text_of(tmp_path / "a.txt") as lines:
        assert [row.line for row in rows(lines, "a.txt", NINE)] == [2, 12]
    inputs = read(tmp_path / "a.txt", NINE).inputs
    assert np.array_equal(inputs[0], inputs[1])


@pytest.mark.parametrize("task", [NINE, Maze(9, 9, 1), Grid(9, 9, 12)], ids=lambda task: task.name)
def test_a_line_longer_than_any_grid_is_invalid_before_it_is_looked_at(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "1" * (task.longest + 1)
    looked_at: list[int] = []
    form, parse = type(task.form), type(task).parse
    for name in ("whole", "row", "note"):
        method = getattr(form, name)
        monkeypatch.setattr(form, name, lambda self, line, old=method: looked_at.append(len(line)) or old(self, line))
    monkeypatch.setattr(type(task), "parse", lambda self, line: looked_at.append(len(line)) or parse(self, line))
    (row,) = rows([text], "x.txt", task)
    assert row.line == 1 and row.question == text
    with pytest.raises(PuzzleError, match=r"expected 81 cells, 9 rows of 9, got 1[\d,]+ characters"):
        task.parse_bounded(row.question)
    with pytest.raises(UserError, match="no column 'question'"):
        list(rows([text], "x.csv", task))
    assert max(looked_at, default=0) <= task.longest


def test_what_stands_around_a_line_that_is_too_long_is_read() -> None:
    found = list(rows([EASY + "\n", "1" * 100_000 + "\n", *DRAWN.splitlines(keepends=True)], "x.txt", NINE))
    assert [(row.line, len(row.question)) for row in found] == [(1, 81), (2, 100_000), (3, 89)]


@pytest.mark.parametrize("header", ["question,question,answer", "Answer,question, answer ", "rating,quiz,rating"])
def test_a_column_that_is_there_twice_is_named(header: str, tmp_path: Path) -> None:
    name = header.split(",")[0].lower()
    (tmp_path / "x.csv").write_text(f"{header}\n{SMALL},{SMALL},{SMALL}\n")
    for reader in (infer, lambda path: read(path, FOUR)):
        with pytest.raises(UserError, match=f"x.csv has the column '{name}' twice: rename or remove one of them"):
            reader(tmp_path / "x.csv")


def test_a_column_that_is_not_read_may_be_there_twice() -> None:
    (row,) = rows(["note,question,note\n", f"a,{SMALL},b\n"], "x.csv", FOUR)
    assert row.question == SMALL
