"""Weights split over processes (FSDP2) train as whole ones do, and any number of processes goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.puzzles.config import Config
from hrm.runs import Run
from hrm.text.config import TextConfig
from tests.training import small
from tests.training.small import config
from tests.training.test_processes import assert_close, pytestmark, torchrun  # noqa: F401

FSDP = ("--train.parallel", "fsdp")


FORMS = {
    "of fixed depth": (),
    "that halts, with a tied output layer": (
        "--arch.tied", "--halting.exit-threshold", "0.0067", "--halting.exploration", "0", "--halting.kind", "q",
        "--train.checkpoint-activations",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes train, in one start."""
    folder = tmp_path_factory.mktemp("sharding")
    changes: dict[str, Any] = {
        "optim": {"name": "adam_atan2", "ema": 0.9, "clip": 1.0, "task_lr": 1e-3},
        "train": {"steps": 8, "log_every": 1, "checkpoint_every": 4, "eval_every": 4, "device": "cpu"},
        "task": {"holdout": 10},
    }
    one = small.train(folder / "puzzles-one", config(**changes))
    commands = [
        [*small.command(folder / "puzzles-two", config(**changes)), *FSDP, "--train.reshard"],
        ["train", "--resume", str(small.cut(one, folder / "puzzles-one-two", 4)), *FSDP],
    ]
    (folder / "poem.txt").write_text("the fox sees the hen\nthe hen sees the fox\n" * 40)
    for form, flags in FORMS.items():
        text = ["train", *small.TEXT, "--data", str(folder / "poem.txt"), "--train.batch-size", "4", *flags]
        assert hrm([*text, "--out", str(folder / f"{form}-one")]) == 0
        commands.append([*text, "--out", str(folder / f"{form}-two"), *FSDP])
    half = small.cut(Run.open(folder / "of fixed depth-one", TextConfig), folder / "one-two", 2)
    commands.append(["train", "--resume", str(half), *FSDP])
    torchrun(*commands)
    return folder


def test_puzzles_train_alike_and_checkpoints_are_exchangeable(folder: Path, tmp_path: Path) -> None:
    one, two, mixed = (Run.open(folder / f"puzzles-{name}", Config) for name in ("one", "two", "one-two"))
    assert_close(one, two)
    assert_close(one, mixed)
    whole = ("--train.parallel", "ddp", "--train.no-reshard")
    assert_close(one, small.resume(small.cut(two, tmp_path / "two-one", 4), *whole))


@pytest.mark.parametrize("form", FORMS)
def test_text_trains_alike_and_checkpoints_are_exchangeable(folder: Path, tmp_path: Path, form: str) -> None:
    one, two = (Run.open(folder / f"{form}-{name}", TextConfig) for name in ("one", "two"))
    assert_close(one, two)
    if FORMS[form]:
        return
    assert_close(one, Run.open(folder / "one-two", TextConfig))
    assert hrm(["train", "--resume", str(small.cut(two, tmp_path / "two-one", 2)), "--train.parallel", "ddp"]) == 0
    assert_close(one, Run.open(tmp_path / "two-one", TextConfig))
