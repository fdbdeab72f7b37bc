"""What `hrm push` makes of a run, and what it says where it cannot; nothing here reaches a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import hrm
from hrm import publishing
from hrm.cli.main import main
from hrm.puzzles import solvers
from tests.text.chat import small
from tests.text.training.test_text import book, train

SOLVER = str(solvers.find("sudoku"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.run(tmp_path_factory.mktemp("secret-place"))


class Hub:
    """What huggingface_hub would be asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []

    def __call__(self) -> Hub:
        return self

    def create_repo(self, name: str, **how: Any) -> Any:
        self.calls.append((name, how))
        return type("Repository", (), {"repo_id": name})

    def upload_folder(self, folder_path: Path, **how: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(sorted(path.name for path in folder_path.iterdir()))


@pytest.mark.slow
def test_a_dry_run_of_a_text_model_shows_a_folder_that_loads(run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "hub"
    assert main(["push", str(run), "me/x", "--licence", "MIT", "--dry-run", "--out", str(out)]) == 0
    shown, told = capsys.readouterr()
    assert "Writing" not in told
    card = (out / "README.md").read_text("utf-8")
    assert card in shown and f"{(out / 'model.safetensors').stat().st_size:,}  model.safetensors" in shown
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == ("mit", "hrm", "text-generation")
    facts = json.loads((run / "data/train/index.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert facts["sha256"]["tokens.bin"] in card and f"{result['loss']:.4f}" in card and "`book.txt`" in card
    assert (
        "licenses/MIT.html" in (out / "LICENSE").read_text()
        and "## Limits" in card
        and 'from_pretrained("me/x")' in card
    )
    for file in publishing.files(out):
        assert b"secret-place" not in file.read_bytes(), file
    loaded, mine = hrm.load(out, device="cpu"), hrm.load(run, device="cpu")
    assert (
        hrm.generate(loaded.model, loaded.tokenizer, "the").text == hrm.generate(mine.model, mine.tokenizer, "the").text
    )


@pytest.mark.slow
def test_no_place_of_this_machine_is_published(tmp_path: Path) -> None:
    tokens = str(tmp_path / "pairs")
    assert main(["data", "tokenizer", str(book(tmp_path)), "--vocabulary", "260", "--out", tokens]) == 0
    first = train(tmp_path, "first", "--text.tokenizer", tokens)
    second = train(tmp_path, "second", "--model", str(first))
    for source, words in ((first, "(pairs)"), (second, "the tokenizer of first)")):
        out = tmp_path / f"{source.name}-hub"
        assert main(["push", str(source), "me/x", "--licence", "mit", "--dry-run", "--out", str(out)]) == 0
        assert words in (out / "README.md").read_text("utf-8")
        for file in publishing.files(out):
            assert tmp_path.name.encode() not in file.read_bytes(), file


@pytest.mark.slow
def test_a_saved_folder_is_published_with_its_own_files_alone(tmp_path: Path, capsys: Any) -> None:
    source = small.saved(tmp_path / "saved")
    (source / "README.md").write_text(
        "---\nlicense: other\n---\n# Mine\n\nA model.\n\n---\n\nMore.\n\n## Use\n\nOld.\n"
    )
    (source / "notes.txt").write_text("private")
    (source / "pytorch_model.bin").write_text("pickle")
    call = ["push", str(source), "me/x", "--licence", "mine-1.0", "--licence-file", str(source / "notes.txt")]
    assert main([*call, "--dry-run", "--json"]) == 0
    names = {*json.loads(capsys.readouterr().out)["files"]}
    assert {"README.md", "LICENSE", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not {"notes.txt", "pytorch_model.bin"} & names
    assert main([*call, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "# Mine\n\nA model." in shown and "More." in shown and "Old." not in shown
    assert "license: other\nlicense_name: mine-1.0\nlicense_link: LICENSE" in shown


def test_what_is_not_of_a_saved_model_stays_here(tmp_path: Path, capsys: Any) -> None:
    source, out = small.saved(tmp_path / "saved"), tmp_path / "hub"
    code = (source / "modeling_hrm.py").read_text()
    (source / "modeling_hrm.py").write_text("secret = 1")
    (source / "optimizer.safetensors").write_bytes((source / "model.safetensors").read_bytes())
    (source / "README.md").write_text(
        "# Mine\n\nTrained on /home/alice/secret/data.txt.\nSee https://x.org/a/b and a/b/c\n"
    )
    capsys.readouterr()
    assert main(["push", str(source), "me/x", "--licence", "mit", "--dry-run", "--out", str(out)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "README.md, line 3: the path '/home/alice/secret/data.txt" in said[0]
    assert (out / "modeling_hrm.py").read_text() == code and not (out / "optimizer.safetensors").exists()


@pytest.mark.slow
def test_a_learner_is_published_with_the_names_of_its_books(tmp_path: Path, capsys: Any) -> None:
    flags = ["--arch.dim", "16", "--arch.heads", "2", "--epochs", "1", "--length", "24", "--stride", "24"]
    assert main(["learn", str(tmp_path / "run"), str(book(tmp_path)), *flags]) == 0
    assert main(["push", str(tmp_path / "run"), "me/x", "--licence", "mit", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert (
        "- `book.txt`, " in shown and "model.safetensors" in shown and str(tmp_path) not in shown.partition("me/x")[2]
    )


def test_a_model_of_puzzles_solves_from_its_published_folder(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "hub"
    assert main(["push", SOLVER, "me/sudoku", "--licence", "apache-2.0", "--dry-run", "--out", str(out)]) == 0
    assert "## Limits" in capsys.readouterr().out
    question = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    answers = [hrm.load(place, device="cpu").solve(question, max_segments=4) for place in (out, SOLVER)]
    assert str(answers[0].grid) == str(answers[1].grid) and answers[0].status == answers[1].status
    assert {path.suffix for path in publishing.files(out)} <= {".md", "", ".json", ".jsonl", ".yaml", ".safetensors"}


def test_an_upload_is_one_commit_of_the_whole_folder(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", hub)
    monkeypatch.setattr("hrm.publishing.check_access", lambda: None)
    assert main(["push", SOLVER, "me/sudoku", "--licence", "apache-2.0", "--private"]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/sudoku\n"
    assert hub.calls[0] == ("me/sudoku", {"private": True, "exist_ok": True})
    assert {"LICENSE", "README.md", "run.json", "checkpoints"} <= {*hub.calls[1]} and len(hub.calls) == 2


def test_an_upload_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub(ConnectionError("no route to host")))
    monkeypatch.setattr("hrm.publishing.check_access", lambda: None)
    call = ["push", SOLVER, "me/sudoku", "--licence", "apache-2.0", "--out", str(tmp_path / "hub")]
    assert main(call) == 2
    assert "nothing was uploaded to me/sudoku (no route to host)" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([SOLVER, "me/x"], "needs a licence, which is yours to choose"),
        ([SOLVER, "me/x", "--licence", "mti"], "no licence 'mti'; did you mean 'mit'?"),
        ([SOLVER, "me/x", "--licence", "mine"], "--licence-file"),
        ([SOLVER, "a//b", "--licence", "mit"], "'a//b' is no name of a repository"),
        ([SOLVER, "me/x", "--licence", "mit"], "HF_HUB_OFFLINE is set"),
        (["tests", "me/x", "--licence", "mit", "--dry-run"], "tests is neither a run nor a folder"),
        ([SOLVER, "me/x", "--licence", "mit", "--dry-run", "--out", "tests"], "tests exists already"),
    ],
)
def test_what_cannot_be_published_ends_in_one_sentence(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["push", *words]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_who_is_not_logged_in_is_told_how(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["push", SOLVER, "me/x", "--licence", "mit"]) == 2
    assert "log in with `hf auth login`" in capsys.readouterr().err
