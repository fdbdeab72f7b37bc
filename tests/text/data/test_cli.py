"""`hrm data tokenizer|pack|show|check` on text."""

from __future__ import annotations

import json
from pathlib import Path

import filelock
import pytest

from hrm.cli.main import main
from hrm.text.data import Packed, make_tokenizer, open_text
from tests.text.data.texts import VERSE, lines

TALK = [{"question": f"what is {n}?", "answer": str(n)} for n in range(40)]


@pytest.fixture
def verse(tmp_path: Path) -> str:
    (tmp_path / "verse.txt").write_text(VERSE * 20)
    return str(tmp_path / "verse.txt")


def test_a_tokenizer_of_ones_own_packs_a_text(tmp_path: Path, verse: str, capsys: pytest.CaptureFixture[str]):
    own, out = tmp_path / "own", tmp_path / "packed"
    assert main(["data", "tokenizer", verse, "--vocabulary", "300", "--out", str(own), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["vocabulary"] == 300 and facts["characters_per_token"] > 1.5
    assert main(["data", "pack", verse, "--tokenizer", str(own), "--out", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    train, held = (Packed.open(out / name, make_tokenizer(out / "tokenizer")) for name in ("train", "validation"))
    assert (facts["train"]["count"], facts["validation"]["count"]) == (train.count, held.count)
    assert open_text(out, split="test").count == open_text(out, split="validation").count == held.count
    assert train.characters + held.characters == len(VERSE * 20)
    assert 0.05 < held.characters / len(VERSE * 20) < 0.2


def test_conversations_are_recognised_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, out = str(lines(tmp_path / "talk.jsonl", TALK)), tmp_path / "talk"
    assert (
        main(["data", "pack", file, "--out", str(out), "--holdout", "0.25", "--template", "Q: {question} A: {answer}"])
        == 0
    )
    assert "30 conversations" in capsys.readouterr().out
    assert main(["data", "show", str(out), "--row", "2"]) == 0
    shown = capsys.readouterr().out
    assert "document 2, 19 tokens, of which 2 count" in shown and "Q: what is 1? A: 1<|end|>" in shown
    assert main(["data", "show", str(out), "--split", "test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("Q: what is ")
    assert main(["data", "show", str(out), "--row", "99"]) == 2


def test_check_names_the_file_that_has_changed(tmp_path: Path, verse: str, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "packed"
    assert main(["data", "pack", verse, "--out", str(out)]) == 0
    assert main(["data", "check", str(out)]) == 0
    file = out / "validation" / "tokens.bin"
    file.write_bytes(b"\2\0" + file.read_bytes()[2:-2] + b"\2\0")
    assert main(["data", "check", str(out)]) == 2
    assert str(file) in capsys.readouterr().err
    file.write_bytes(file.read_bytes()[:-2])
    assert main(["data", "check", str(out), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["count"] == 1


def test_rows_of_a_fixed_length_are_written(tmp_path: Path, verse: str):
    out = tmp_path / "rows"
    assert main(["data", "pack", verse, "--out", str(out), "--rows", "1"]) == 2
    assert main(["data", "pack", verse, "--out", str(out), "--rows", "32"]) == 0
    tokenizer = make_tokenizer(out / "tokenizer")
    assert sorted(path.name for path in out.iterdir()) == ["identifiers.json", "test", "tokenizer", "train"]
    assert [open_text(out, tokenizer, split).batch(0, 0, range(2), 2, 32).labels.shape for split in ("train", "test")]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--out", "x"], "name at least one"),
        (["no.txt", "--out", "x"], "there is no file or folder no.txt"),
        (["talk.jsonl", "verse.txt", "--out", "x"], "some files hold conversations"),
        (["talk.jsonl", "--kind", "text", "--out", "x"], "talk.jsonl line 1 has no text in a field 'text'"),
        (["verse.txt", "--out", "verse.txt"], "exists"),
        (["verse.txt", "--out", "x", "--holdout", "1"], "--holdout"),
        (["broken.jsonl", "--out", "x"], "broken.jsonl line 2 is not valid JSON"),
    ],
)
def test_mistakes_end_in_a_sentence_and_leave_nothing(
    args: list[str],
    what: str,
    tmp_path: Path,
    verse: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    lines(Path("talk.jsonl"), TALK)
    Path("broken.jsonl").write_text('{"text": "a b c"}\n{"text"\n')
    before = sorted(tmp_path.iterdir())
    assert main(["data", "pack", *args]) == 2
    assert what in capsys.readouterr().err and sorted(tmp_path.iterdir()) == before


def test_a_pack_into_a_place_where_another_is_at_work_is_refused_at_once(
    tmp_path: Path, verse: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / ".tmp-packed-building").mkdir()
    with filelock.FileLock(tmp_path / ".tmp-packed-building/.lock"):
        for verb in ("pack", "tokenizer"):
            assert main(["data", verb, verse, "--out", str(tmp_path / "packed")]) == 2
            assert f"{tmp_path / 'packed'} is in use" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_a_pack_sweeps_what_a_killed_one_left_and_leaves_nothing_when_it_is_stopped(
    tmp_path: Path, verse: str, monkeypatch: pytest.MonkeyPatch
):
    left, out = tmp_path / ".tmp-packed-building", tmp_path / "packed"
    (left / "packed/train").mkdir(parents=True)
    (left / "packed/train/tokens.bin").write_bytes(b"half")

    def stopped(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Packed, "write", stopped)
        assert main(["data", "pack", verse, "--out", str(out)]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["verse.txt"]
    (left / "packed/train").mkdir(parents=True)
    assert main(["data", "pack", verse, "--out", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "verse.txt"]
    assert sorted(path.name for path in out.iterdir()) == ["tokenizer", "train", "validation"]
