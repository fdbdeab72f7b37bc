"""`hrm solve`: one puzzle, files, standard input, and what each prints."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.puzzles.solving import Answer
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.puzzles.solving.small import questions, run_folder, solver


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(run_folder(tmp_path_factory.mktemp("runs") / "tiny"))


@pytest.fixture(scope="module")
def answers() -> list[Answer]:
    return list(solver().solve_many(questions(30)))


@pytest.fixture(scope="module")
def solved(answers: list[Answer]) -> Answer:
    return next(answer for answer in answers if answer.status == "solved")


@pytest.fixture(scope="module")
def unsolved(answers: list[Answer]) -> Answer:
    return next(answer for answer in answers if answer.status == "unsolved")


def lines(answers: list[Answer]) -> list[str]:
    return [answer.answer or answer.status for answer in answers]


def test_a_pipe_gets_the_answer_and_nothing_else(
    run: str, solved: Answer, unsolved: Answer, capsys: pytest.CaptureFixture[str]
):
    assert main(["solve", run, solved.question]) == 0
    assert capsys.readouterr() == (f"{solved.answer}\n", "")
    assert main(["solve", run, unsolved.question]) == 0
    assert capsys.readouterr() == ("unsolved\n", "")


def test_a_wrong_puzzle_is_one_sentence_and_exit_code_2(run: str, capsys: pytest.CaptureFixture[str]):
    assert main(["solve", run, "11.." + "." * 12]) == 2
    assert capsys.readouterr().err.startswith("hrm solve: invalid: contradicting clues: 1 twice in a row")
    assert main(["solve", run, "11" + "." * 13 + "2"]) == 2
    assert "file" not in capsys.readouterr().err
    assert main(["solve", run, "puzzels.txt"]) == 2
    assert capsys.readouterr().err.endswith("nor is there a file of that name\n")
    assert main(["solve", run, str(Path(run).parent)]) == 2
    assert "is a folder: give a file of puzzles" in capsys.readouterr().err
    assert main(["solve", run, "." * 16, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["reason"] == "several solutions"


def test_json_is_the_whole_answer(run: str, solved: Answer, capsys: pytest.CaptureFixture[str]):
    assert main(["solve", run, solved.question, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {**solved.to_dict(), "confidence": pytest.approx(solved.confidence)}


def test_a_terminal_gets_the_grid_and_a_sentence(
    run: str, solved: Answer, unsolved: Answer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["solve", run, solved.question]) == 0
    assert capsys.readouterr().out == f"{solved.answer}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for answer, words in ((solved, "solved after"), (unsolved, "--guesses may help")):
        assert main(["solve", run, answer.question]) == 0
        shown = capsys.readouterr().out
        assert "┌" in shown and words in shown and "confidence" in shown


def test_watch_shows_every_segment(run: str, unsolved: Answer, capsys: pytest.CaptureFixture[str]):
    assert main(["solve", run, unsolved.question, "--watch", "--max-segments", "3", "--restarts", "1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("wrong cells") == 6 and shown.endswith("unsolved\n")
    assert main(["solve", run, unsolved.question, "--watch", "--json"]) == 2


def test_a_file_is_answered_line_by_line_and_a_broken_line_is_named(
    run: str, answers: list[Answer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "puzzles.txt"
    texts = [answer.question for answer in answers]
    file.write_bytes("\n".join([*texts[:2], "", "12x", *texts[2:]]).encode() + b"\n\xff\xfe\n")
    assert main(["solve", run, str(file), "--batch-size", "4"]) == 0
    out, err = capsys.readouterr()
    expected = lines(answers)
    assert out.splitlines()[:2] == expected[:2] and out.splitlines()[3:-1] == expected[2:]
    assert out.splitlines()[2].startswith("invalid: line 4: expected 16 characters")
    assert out.splitlines()[-1].startswith(f"invalid: line {len(texts) + 3}: ")
    assert err.startswith("32 puzzles: ") and "2 invalid" in err


@pytest.mark.parametrize("name", ["puzzles.csv", "puzzles.csv.gz", "puzzles.txt"])
def test_a_csv_is_read_by_its_question_column(
    run: str, answers: list[Answer], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows = ["source,question,answer", *(f'here,"{answer.question}",none' for answer in answers), "short"]
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt", encoding="utf-8-sig") as file:
        file.write("\n".join(rows))
    assert main(["solve", run, str(tmp_path / name), "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(f["line"], f["answer"] or f["status"]) for f in found[:-1]] == list(enumerate(lines(answers), 2))
    assert (found[-1]["line"], found[-1]["status"]) == (len(answers) + 2, "invalid")


def test_a_csv_without_questions_is_refused(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x.csv").write_text("riddle,answer\n1,2\n")
    assert main(["solve", run, str(tmp_path / "x.csv")]) == 2
    said = capsys.readouterr().err
    assert "no column 'question'" in said and "'riddle', 'answer'" in said


def test_standard_input_is_answered_while_it_is_read(
    run: str, answers: list[Answer], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(answer.question + "\n" for answer in answers)))
    assert main(["solve", run, "-"]) == 0
    assert capsys.readouterr().out.splitlines() == lines(answers)

    def questions_then_failure():
        yield answers[0].question + "\n"
        raise UserError("read too early")

    monkeypatch.setattr(sys, "stdin", questions_then_failure())
    assert main(["solve", run, "-", "--batch-size", "1"]) == 2
    assert capsys.readouterr().out == lines(answers)[0] + "\n"


FOUR = Sudoku(2, 2)


def drawn(text: str) -> str:
    """A 4x4 grid with borders."""
    rows = [f"| {text[i]} {text[i + 1]} | {text[i + 2]} {text[i + 3]} |" for i in range(0, 16, 4)]
    rule = "+-----+-----+"
    return "\n".join([rule, *rows[:2], rule, *rows[2:], rule])


@pytest.mark.parametrize("piped", [False, True])
def test_grids_of_a_file_are_answered_in_rows_and_named_by_their_lines(
    piped: bool,
    run: str,
    answers: list[Answer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    file = tmp_path / "puzzles.txt"
    parts = [f"Grid {i:02}\n{drawn(answer.question)}" for i, answer in enumerate(answers[:5])]
    file.write_text("\n".join([*parts, "Grid 99", *drawn(answers[0].question).splitlines()[:3]]) + "\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(file.read_bytes()))))  # type: ignore[arg-type]
    assert main(["solve", run, "-" if piped else str(file)]) == 0
    out, err = capsys.readouterr()
    shown = out.strip().replace("\n\n", "\n").split("\n")
    wanted = [
        line
        for answer in answers[:5]
        for line in ([answer.answer[i : i + 4] for i in range(0, 16, 4)] if answer.answer else ["unsolved"])
    ]
    assert shown[:-1] == wanted and shown[-1].startswith("invalid: line 43: ") and err.startswith("6 puzzles: ")


def test_one_puzzle_is_answered_in_the_form_in_which_it_was_drawn(
    run: str, solved: Answer, capsys: pytest.CaptureFixture[str]
):
    assert main(["solve", run, drawn(solved.question)]) == 0
    assert capsys.readouterr().out == drawn(solved.answer or "") + "\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hello\nworld\n", "the first, line 1: expected 16 characters for 4x4, got 5"),
        ("11..............\n", "the first, line 1: contradicting clues"),
        ("", "no line that could be one"),
        ("# remarks\n\n# alone\n", "no line that could be one"),
        ("puzzle\n12\n", "the first, line 2: expected 16"),
    ],
)
def test_a_file_without_one_valid_puzzle_is_exit_code_2(
    content: str, words: str, run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "none.txt").write_text(content)
    assert main(["solve", run, str(tmp_path / "none.txt")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("hrm solve: nothing in ") and "none.txt was a valid puzzle" in said and words in said


def test_progress_is_shown_before_the_first_answer_and_never_on_standard_output(
    run: str, answers: list[Answer], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "puzzles.txt").write_text("".join(answer.question + "\n" for answer in answers))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["solve", run, str(tmp_path / "puzzles.txt")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == lines(answers)
    assert err.index("loading the model") < err.index("puzzles")


def test_lists_and_arrays_are_solved_like_their_text(solved: Answer):
    solver_ = solver()
    grid = FOUR.parse(solved.question).astype(int).reshape(4, 4) - 1
    for question in (grid, grid.tolist(), grid.ravel(), [[cell or None for cell in row] for row in grid.tolist()]):
        answer = solver_.solve(question)
        assert answer.status == "solved" and "".join((answer.answer or "").split()) == solved.answer
    assert solver_.solve({"a": 1}).reason == "a question is text, a list or an array, not 'dict'"  # type: ignore[arg-type]
    assert [answer.status for answer in solver_.solve_many(np.stack([grid, grid]))] == ["solved"] * 2
