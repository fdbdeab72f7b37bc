"""`hrm chat --batch`: one answer for each line, on its own; mistakes before anything is loaded."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hrm.cli.main import main
from tests.text.chat.small import saved, session

FLAGS = ["--max-new-tokens", "9", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"))


@pytest.mark.slow
def test_each_line_gets_an_answer_of_its_own(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "prompts.txt"
    file.write_text("the cat\n\nthe dog\nthe cat\n", "utf-8")
    capsys.readouterr()
    assert main(["chat", str(folder), "--batch", str(file), "--json", *FLAGS]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["line"], row["prompt"]) for row in rows] == [(1, "the cat"), (3, "the dog"), (4, "the cat")]
    assert rows[0]["text"] == rows[2]["text"] and all(len(row["tokens"]) == 9 for row in rows)
    assert rows[0].keys() >= {"mode", "text", "end", "depth", "confidence", "entropy", "seconds", "notices"}
    assert main(["generate", str(folder), "the cat", *FLAGS]) == 0
    assert capsys.readouterr().out == rows[0]["text"] + "\n"


def test_answers_of_a_batch_are_apart_and_nothing_is_said_of_going_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sat on the mat. the dog sat\nthe cat\n"))
    assert main(["chat", str(folder), "--batch", "-", *FLAGS, "--json"]) == 0
    printed = capsys.readouterr()
    first, second = (json.loads(line)["text"] for line in printed.out.splitlines())
    assert "tokens are forgotten: 24 tokens fit into the memory" in printed.err
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat sat on the mat. the dog sat\nthe cat\n"))
    assert main(["chat", str(folder), "--batch", "-", *FLAGS]) == 0
    assert capsys.readouterr().out == f"{first}\n\n{second}\n"


def test_a_seed_and_a_mode_decide(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    texts = []
    for more in ([], [], ["--seed", "1"], ["--mode", "fast"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
        assert main(["chat", str(folder), "--batch", "-", *FLAGS, *more]) == 0
        texts.append(capsys.readouterr().out.splitlines()[-1])
    assert texts[0] == texts[1] and len(set(texts)) == 3


@pytest.mark.slow
def test_a_batch_can_go_on_from_a_saved_talk(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    talk = session()
    talk.answer("the mat")
    talk.conversation.save(tmp_path / "talk.json")
    (tmp_path / "prompts.txt").write_text("the cat\nthe cat\n", "utf-8")
    given = ["chat", str(folder), "--batch", str(tmp_path / "prompts.txt"), *FLAGS, "--json"]
    assert main([*given, "--load", str(tmp_path / "talk.json")]) == 0
    first, again = (json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()[-2:])
    assert main(given) == 0
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])["text"]
    assert first == again != alone


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "a talk needs a terminal: answer the lines of a file with --batch FILE"),
        (["--json"], "--json prints the answers of a batch"),
        (["--batch", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--batch", "-", "--stop", "unlimited"], "--stop unlimited writes until Ctrl-C"),
        (["--batch", "-", "--temperature", "0"], "--temperature must be"),
        (["--batch", "-", "--mode", "slow"], "--mode must be one of fast, normal, deep, extreme, auto, not 'slow'"),
        (["--batch", "-", "--memory", "999"], "--memory 999 must be between 2 and 24"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
):
    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
    assert main(["chat", str(folder), *flags]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("hrm chat: ") and words in err
