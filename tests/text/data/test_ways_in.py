"""Every verb that reads texts says what it read them as, and takes --encoding."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrm.cli.main import main

BOOK = "Все счастливые семьи похожи друг на друга. Жук.\n" * 60
SHAPE = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32"
SHAPE += " --halting.max-segments 1"
TRAIN = ["--train.steps", "1", "--text.length", "16", "--train.batch-size", "2", "--optim.warmup-steps", "0"]
LEARN = ["--epochs", "1", "--length", "32", "--stride", "32", "--batch-size", "2", "--eval-characters", "64"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A book in KOI8-R, and a model of its characters."""
    from hrm.text.data import make_tokenizer
    from tests.text.model.small import model

    folder = tmp_path_factory.mktemp("texts")
    (folder / "book.txt").write_bytes(BOOK.encode("koi8-r"))
    tokenizer = make_tokenizer("char", [BOOK])
    made = model(vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id).float()
    made.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["data", "pack", "book.txt", "--out", "packed"],
        ["data", "tokenizer", "book.txt", "--kind", "char", "--out", "tokenizer"],
        ["train", "text-char", "--data", "book.txt", "--out", "run", *TRAIN, *SHAPE.split()],
        ["learn", "reader", "book.txt", *LEARN, *SHAPE.split()],
        ["eval", "model", "--data", "book.txt", "--limit", "64"],
        ["analyze", "text", "book.txt", "--reference", "book.txt", "--block", "250"],
        ["chat", "model", "--batch", "book.txt", "--max-new-tokens", "1"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_encoding_is_said_and_can_be_given(
    place: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for name in ("book.txt", "model"):
        (tmp_path / name).symlink_to(place / name)
    (tmp_path / "book.txt").unlink()
    text = {"chat": BOOK[:200], "learn": BOOK[:480], "analyze": 4 * BOOK}.get(command[0], BOOK)
    (tmp_path / "book.txt").write_bytes(text.encode("koi8-r"))
    assert main([*command, "--encoding", "klingon"]) == 2
    assert "--encoding 'klingon' is no encoding of text" in capsys.readouterr().err
    assert main(command) == 0
    err = capsys.readouterr().err
    assert err.count("book.txt is not UTF-8: read as koi8_r") == 1 and "Все счастливые" in err
    made = [path for path in tmp_path.iterdir() if path.name not in ("book.txt", "model")]
    for path in made:
        path.rename(path.with_name(f"old-{path.name}"))
    assert main([*command, "--encoding", "koi8-r"]) == 0
    assert "not UTF-8" not in capsys.readouterr().err


def test_a_book_that_is_learned_on_is_read_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from hrm.text.learning.learner import Learner

    (tmp_path / "book.txt").write_bytes(BOOK[:480].encode("cp1251"))
    book, run = str(tmp_path / "book.txt"), str(tmp_path / "reader")
    assert main(["learn", run, book, *LEARN, *SHAPE.split(), "--encoding", "iso8859-5"]) == 0
    assert main(["learn", run, book]) == 0
    assert "book.txt is learned already" in capsys.readouterr().err
    assert [entry["encoding"] for entry in Learner.open(Path(run)).books] == ["iso8859-5"]
