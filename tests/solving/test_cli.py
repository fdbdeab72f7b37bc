"""`hrm solve`: one puzzle, files, standard input, and what each prints."""

from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.config import UserError
from hrm.solving import Answer
from tests.solving.small import questions, run_folder, solver


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
    assert main(["solve", run, "puzzels.txt"]) == 2
    assert capsys.readouterr().err.endswith("nor is there a file of that name\n")
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
