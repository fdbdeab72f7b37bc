"""`hrm analyze text` from files and from models to table, JSON and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrm.cli.main import main
from tests.text.quality.test_scale import prose


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a reference, two texts and a saved character model that knows nothing."""
    from hrm.text.data import make_tokenizer
    from tests.text.model.small import model

    folder = tmp_path_factory.mktemp("texts")
    (folder / "book.txt").write_text(prose(800), "utf-8")
    (folder / "good.txt").write_text(prose(200, seed=1), "utf-8")
    (folder / "loop.txt").write_text("Tan hes tot. " * 800, "utf-8")
    tokenizer = make_tokenizer("char", [prose(800)])
    made = model(vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=tokenizer.eos_token_id)
    made.float().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")


def analyze(*args: str) -> int:
    return main(["analyze", "text", *args, "--reference", "book.txt"])


def test_texts_are_compared_in_one_table_that_fits_the_terminal(capsys: pytest.CaptureFixture[str]):
    assert analyze("good.txt", "loop.txt") == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    good, loop = (line for line in out.splitlines() if line.startswith(("good.txt ", "loop.txt ")))
    assert float(good.split()[1]) > 90 > 60 > float(loop.split()[1])
    assert "loop.txt: 100% has stood in it before" in out and "good.txt:" not in out
    assert "the held-out half of book.txt, in blocks of 1,000 characters" in out


def test_a_single_text_shows_every_measure_beside_the_ends(capsys: pytest.CaptureFixture[str]):
    assert analyze("good.txt") == 0
    out = capsys.readouterr().out
    assert "sentence lengths" in out and "tells nothing here" in out and "shuffled" in out


@pytest.mark.slow
def test_json_and_picture_hold_the_comparison(place: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    assert analyze("good.txt", "loop.txt", "--json-file", "result.json", "--plot", "result.png") == 0
    capsys.readouterr()
    result = json.loads((place / "result.json").read_text("utf-8"))
    good, loop = result["texts"]
    assert good["name"] == "good.txt" and good["overall"]["low"] < good["overall"]["score"] <= good["overall"]["high"]
    assert set(good["measures"]["trigrams"]) == {"definition", "value", "natural", "shuffled", "score", "low", "high"}
    assert loop["flags"] == ["repeats"] and good["copied"] < 0.1
    assert (place / "result.png").read_bytes().startswith(b"\x89PNG")
    assert analyze("good.txt", "loop.txt", "--json") == 0
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.slow
def test_a_model_writes_at_every_depth_the_same_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hrm.text.quality.writing._ROW", 50)
    flags = ["--characters", "800", "--block", "200", "--max-segments", "1", "2", "--json"]
    assert analyze("model", "good.txt", *flags, "--save", "written") == 0
    first = capsys.readouterr().out
    one, two, good = json.loads(first)["texts"]
    assert [one["name"], two["name"]] == ["model, 1 segment", "model, 2 segments"]
    assert one["characters"] == two["characters"] == 800 and one["overall"]["score"] < 60 < good["overall"]["score"]
    written = (place / "written/model-1-segment.txt").read_text("utf-8")
    assert len(written) == 800 and written != (place / "written/model-2-segments.txt").read_text("utf-8")
    assert analyze("model", "good.txt", *flags) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "nothing to judge"),
        (("missing.txt",), "missing.txt"),
        (("empty.txt",), "empty.txt is empty"),
        (("binary.txt",), "binary.txt is not a text"),
        (("short.txt",), "short.txt has 11 characters, too few to judge"),
        (("good.txt", "--training", "empty.txt"), "empty.txt is empty"),
        (("good.txt", "--block", "10"), "--block must be"),
        (("good.txt", "--block", "5000"), "book.txt has"),
        (("good.txt", "--plot", "no/where.png"), "--plot no/where.png"),
        (("model", "--max-segments", "0"), "--max-segments"),
        (("model", "--characters", "2000"), "--characters 2000 is too little"),
        (("good.txt", "--baselines", "ngram", "--characters", "50"), "--characters 50 is too little"),
        (("model", "--temperature", "0"), "--temperature"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    place: Path, args: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
):
    (place / "empty.txt").write_text("")
    (place / "short.txt").write_text("Only short.")
    (place / "binary.txt").write_bytes(bytes(range(256)) * 40)
    assert analyze(*args) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1] and error[-1].startswith("hrm analyze: ")


def test_baselines_write_and_the_cloze_is_beside_the_scale(place: Path, capsys: pytest.CaptureFixture[str]):
    assert analyze("good.txt", "--baselines", "ngram", "--cloze", "--characters", "5000") == 0
    out = capsys.readouterr().out
    assert out.count("n-gram, order ") == 2 and "its words shuffled" in out and "guesses each word from" in out
    assert analyze("good.txt", "--baselines", "ngram", "--cloze", "--characters", "5000", "--json") == 0
    chain, good = json.loads(capsys.readouterr().out)["texts"]
    assert chain["name"].startswith("n-gram, order ") and chain["characters"] == 5000
    assert set(good["cloze"]) == {"words", "order", "top_1", "top_5", "log_probability", "overall"}
    assert analyze("good.txt", "--json") == 0
    assert "cloze" not in json.loads(capsys.readouterr().out)["texts"][0]


@pytest.mark.slow
def test_any_causal_model_writes_without_segments(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from tests.text.measuring.small import saved_gpt2

    monkeypatch.setattr("hrm.text.quality.writing._ROW", 100)
    folder = str(saved_gpt2(tmp_path / "gpt2"))
    assert analyze(folder, "--characters", "800", "--block", "200", "--json") == 0
    first = capsys.readouterr().out
    (found,) = json.loads(first)["texts"]
    assert found["name"] == "gpt2" and found["characters"] == 800
    assert analyze(folder, "--characters", "800", "--block", "200", "--json") == 0
    assert capsys.readouterr().out == first
    assert analyze(folder, "--max-segments", "2") == 2 and "has no segments" in capsys.readouterr().err


@pytest.mark.slow
def test_a_plain_transformer_learns_by_the_recipe_of_the_run(
    tmp_path: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from hrm.runs import Run
    from hrm.text.config import TextConfig
    from hrm.text.quality.twin import recipe
    from tests.training import small

    monkeypatch.setattr("hrm.text.quality.writing._ROW", 100)
    run = str(tmp_path / "run")
    assert main(["train", *small.TEXT, "--data", "book.txt", "--out", run]) == 0
    twin = recipe(Run.open(run, TextConfig), place / "good.txt")
    assert (twin.arch.hierarchy, twin.halting.max_segments, twin.train.steps) == (False, 1, 4)
    assert (twin.arch.fast_layers, twin.arch.slow_layers, twin.train.batch_size) == (1, 1, 2)
    capsys.readouterr()
    assert analyze(run, "--baselines", "transformer", "--characters", "800", "--block", "200", "--json") == 0
    out, said = capsys.readouterr()
    plain, own = json.loads(out)["texts"]
    assert (plain["name"], own["name"]) == ("plain Transformer", "run") and plain["characters"] == 800
    assert "trained the plain Transformer: 128 tokens in 4 steps" in said
    assert analyze("good.txt", "--baselines", "transformer") == 2
    assert "--baselines transformer needs a run" in capsys.readouterr().err
