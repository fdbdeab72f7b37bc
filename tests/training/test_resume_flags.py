"""Flags given with --resume apply from there on and are recorded, or are refused and leave no trace."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hrm.cli.main import main as hrm
from hrm.puzzles import data
from hrm.puzzles.config import Config
from hrm.runs import Run
from tests.training import small
from tests.training.small import cut, resume


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small.train(tmp_path_factory.mktemp("flags") / "run")


@pytest.fixture
def half(straight: Run, tmp_path: Path) -> Path:
    """The run as it was at step 15."""
    return cut(straight, tmp_path / "half", 15)


@pytest.mark.slow
def test_a_new_learning_rate_applies_and_is_recorded(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = resume(half, "--optim.lr", "5e-4", "--train.log-every", "1")
    assert "optim.lr 0.001 -> 0.0005" in capsys.readouterr().err
    assert (run.config.optim.lr, run.config.train.log_every) == (5e-4, 1)
    events = [record for record in run.records() if record.get("event") == "resumed"]
    assert [event["changed"] for event in events] == [{"optim.lr": [1e-3, 5e-4], "train.log_every": [4, 1]}]
    rates = {record["step"]: record["lr"] for record in run.records() if "lr" in record}
    assert all(rate == (1e-3 if step <= 15 else 5e-4) for step, rate in rates.items() if step >= 4)
    assert set(range(16, 31)) <= rates.keys()


def test_averaging_can_be_switched_on_and_off_in_a_resumed_run(half: Path) -> None:
    run = resume(half, "--optim.ema", "0.9", "--train.steps", "20")
    groups = small.state(run, 20)[0]
    assert groups["ema"].keys() == groups["weights"].keys() - {"z_h_init", "z_l_init"}
    assert (groups["ema"]["head.weight"] != groups["weights"]["head.weight"]).any()
    run = resume(half, "--optim.ema", "0", "--train.steps", "25")
    assert "ema" not in small.state(run, 25)[0]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--arch.dim", "32"), "--arch.dim cannot change when a run is resumed (it was 16)"),
        (("--task.no-augment",), "--task.augment cannot change"),
        (("--seed", "7"), "--seed cannot change"),
        (("--optim.name", "muon"), "--optim.name cannot change"),
        (("--validation", "other.csv"), "other.csv"),
        (("--train.batch-size", "16"), "--train.batch-size is 16: resume with the batch size it was started with"),
        (("--train.device", "cuda", "--optim.lr", "1"), "--train.device cuda is not available here"),
        (("--train.accumulate", "3"), "--train.accumulate 3 does not divide"),
        (("--out", "elsewhere"), "--out"),
    ],
)
def test_what_cannot_change_is_refused_in_one_sentence_and_leaves_the_run_as_it_was(
    half: Path, flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = {name: (half / name).read_bytes() for name in ("config.yaml", "metrics.jsonl")}
    assert hrm(["train", "--resume", str(half), *flags]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hrm train:")]
    assert len(error) == 1 and words in error[0]
    assert {name: (half / name).read_bytes() for name in before} == before


def test_resume_takes_no_preset_and_needs_a_run(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hrm(["train", "sudoku-4x4", "--resume", str(half)]) == 2
    assert "already has its settings: leave out 'sudoku-4x4'" in capsys.readouterr().err
    assert hrm(["train", "--resume", str(half.with_name("hlaf"))]) == 2
    assert f"did you mean {half}" in capsys.readouterr().err


@pytest.mark.slow
def test_an_existing_run_is_replaced_only_when_asked(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = small.command(half, small.config(train={"steps": 5}))
    assert hrm(again) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert Run.open(half, Config).config.train.steps == 30
    assert hrm([*again, "--overwrite"]) == 0
    assert small.metrics(Run.open(half, Config))[-1]["step"] == 5


@pytest.mark.slow
def test_data_that_moved_can_be_named_anew_and_data_that_changed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "puzzles.csv"
    data.write_csv(file, small.SUDOKU, small.puzzles())
    straight = small.train(tmp_path / "straight", small.config(data=str(file)))
    half = cut(straight, tmp_path / "half", 15)
    moved = Path(shutil.move(file, tmp_path / "moved.csv"))
    assert hrm(["train", "--resume", str(half)]) == 2
    assert f"there is no file or folder {file}" in capsys.readouterr().err
    resumed = resume(half, "--data", str(moved))
    assert resumed.config.data == str(moved)
    small.assert_same(straight, resumed, 30)
    moved.write_text("".join(moved.read_text().splitlines(keepends=True)[:-1]))
    assert hrm(["train", "--resume", str(half)]) == 2
    assert "has changed since the run" in capsys.readouterr().err


def test_the_model_of_a_text_run_is_not_changed_by_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "poem.txt").write_text("the fox sees the hen\n" * 80)
    run = str(tmp_path / "run")
    begun = ["train", *small.TEXT, "--train.steps", "2", "--data", str(tmp_path / "poem.txt"), "--out", run]
    assert hrm(begun) == 0
    assert hrm(["train", "--resume", run, "--arch.dim=32"]) == 2
    assert (
        "--arch.dim cannot change when a run is resumed (it was 16): start a new run, with --model RUN"
        in capsys.readouterr().err
    )
