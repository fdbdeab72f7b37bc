"""What lies in a run is what was written, or a training does not go on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hrm.cli.main import main as hrm
from hrm.puzzles.config import Config
from hrm.runs import Run
from hrm.text.learning.learner import Learner
from tests.text.learning.test_learner import config as tiny
from tests.text.learning.test_learner import first, second
from tests.training.small import config, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps its puzzles."""
    return train(tmp_path_factory.mktemp("run") / "run", config(optim={"warmup_steps": 0}, train={"steps": 2})).path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What is said by a command that ends with exit code 2."""
    capsys.readouterr()
    assert hrm(list(args)) == 2
    return capsys.readouterr().err


def test_changed_labels_are_refused_before_a_step_and_found_by_the_check(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hrm(["data", "check", str(run)]) == 0
    file = run / "data" / "train" / "all__labels.npy"
    labels = np.load(file)
    np.save(file, np.where(labels == 2, 3, labels))
    before = (run / "metrics.jsonl").read_bytes()
    for command in (["train", "--resume", str(run), "--train.steps", "3"], ["data", "check", str(run)]):
        assert f"{file} has changed since it was written" in refused(capsys, *command)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_sizes_missing_files_and_new_parts_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run / "data"
    with (data / "train" / "all__inputs.npy").open("ab") as file:
        file.write(b"x")
    (data / "train" / "all__group_indices.npy").unlink()
    shutil.copytree(data / "train", data / "more")
    said = refused(capsys, "data", "check", str(run))
    assert "all__inputs.npy has" in said and "all__group_indices.npy cannot be read (No such file" in said
    assert f"{data / 'more' / 'dataset.json'} was not there when the run began" in said


@pytest.mark.parametrize("listed", [5, [], {"../x": {"bytes": 1, "sha256": "0"}}, {"x": 5}, {"x": {"bytes": "1"}}])
def test_a_list_that_is_none_is_not_believed(run: Path, listed: object) -> None:
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"data": listed}))
    assert [problem for problem in Run.open(run, Config).data_problems() if "run.json does not say" in problem]


def test_a_run_of_an_old_version_goes_on_without_a_list(run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    del facts["data"]
    (run / "run.json").write_text(json.dumps(facts))
    assert hrm(["train", "--resume", str(run), "--train.steps", "3"]) == 0


@pytest.mark.slow
def test_a_learner_compares_its_books_before_it_reads_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    learner = Learner.create(run, tiny())
    learner.learn(first(tmp_path, 100))
    learner.close()
    assert hrm(["data", "check", str(run)]) == 0
    [file] = run.glob("books/*/validation/tokens.bin")
    content = file.read_bytes()
    file.write_bytes(content[:-2] + b"\2\0" if content[-2:] != b"\2\0" else content[:-2] + b"\3\0")
    for command in (["learn", str(run), str(second(tmp_path, 100))], ["data", "check", str(run)]):
        assert f"{file} has changed since it was written" in refused(capsys, *command)
    file.write_bytes(content)
    index = file.with_name("index.json")
    index.write_text(index.read_text() + "\n")
    assert f"{index} has changed" in refused(capsys, "learn", str(run), str(second(tmp_path, 100)))


def test_new_folders_lie_apart_from_what_is_read(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, text = run / "data", tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("The quick brown fox. " * 100)
    flags = ("--task.box", "2", "2")
    for command in (
        ("train", "sudoku-4x4", "--data", str(data), "--out", str(data / "run"), *flags),
        ("train", "sudoku-4x4", "--data", str(data), "--out", str(run), "--overwrite", *flags),
        ("train", "text-char", "--data", str(text), "--out", str(text / "run")),
        ("data", "pack", str(text), "--out", str(text / "packed")),
        ("data", "tokenizer", str(text), "--out", str(text / "tokenizer")),
        ("data", "build", "--convert", str(data), "--out", str(data / "again")),
        ("convert", str(run), str(run / "out"), "--to", "hrm"),
    ):
        assert "which is read" in refused(capsys, *command), command
    assert Run.open(run, Config).path == run and sorted(p.name for p in text.iterdir()) == ["a.txt"]


def test_a_folder_that_is_no_data_set_is_not_replaced_by_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, build = tmp_path / "mine", ("data", "build", "--convert", str(run / "data"), "--overwrite", "--out")
    (mine / "train").mkdir(parents=True)
    (mine / "train" / "notes.txt").write_text("mine")
    assert "is no dataset folder" in refused(capsys, *build, str(mine))
    assert (mine / "train" / "notes.txt").read_text() == "mine"
    for _ in range(2):
        assert hrm([*build, str(tmp_path / "new")]) == 0
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["identifiers.json", "train"]
