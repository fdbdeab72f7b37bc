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
from tests.training.test_processes import assert_close, torchrun

pytestmark = pytest.mark.slow
FSDP = ("--train.parallel", "fsdp")


def test_puzzles_train_alike_and_checkpoints_are_exchangeable(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "optim": {"name": "adam_atan2", "ema": 0.9, "clip": 1.0, "task_lr": 1e-3},
        "train": {"steps": 8, "log_every": 1, "checkpoint_every": 4, "eval_every": 4, "device": "cpu"},
        "task": {"holdout": 10},
    }
    settings = config(**changes)
    one = small.train(tmp_path / "one", settings)
    torchrun(*small.command(tmp_path / "two", settings), *FSDP, "--train.reshard")
    two = Run.open(tmp_path / "two", Config)
    assert_close(one, two)
    torchrun("train", "--resume", str(small.cut(one, tmp_path / "one-two", 4)), *FSDP)
    assert_close(one, Run.open(tmp_path / "one-two", Config))
    assert_close(
        one, small.resume(small.cut(two, tmp_path / "two-one", 4), "--train.parallel", "ddp", "--train.no-reshard")
    )


@pytest.mark.parametrize("form", ["of fixed depth", "that halts, with a tied output layer"])
def test_text_trains_alike_and_checkpoints_are_exchangeable(tmp_path: Path, form: str) -> None:
    (tmp_path / "poem.txt").write_text("the fox sees the hen\nthe hen sees the fox\n" * 40)
    text = ["train", *small.TEXT, "--data", str(tmp_path / "poem.txt"), "--train.batch-size", "4"]
    if "halts" in form:
        text += [
            "--arch.tied",
            "--halting.exit-threshold",
            "0.0067",
            "--halting.exploration",
            "0",
            "--halting.kind",
            "q",
            "--train.checkpoint-activations",
        ]
    assert hrm([*text, "--out", str(tmp_path / "one")]) == 0
    torchrun(*text, "--out", str(tmp_path / "two"), *FSDP)
    one, two = (Run.open(tmp_path / name, TextConfig) for name in ("one", "two"))
    assert_close(one, two)
    if "halts" in form:
        return
    torchrun("train", "--resume", str(small.cut(one, tmp_path / "one-two", 2)), *FSDP)
    assert_close(one, Run.open(tmp_path / "one-two", TextConfig))
    assert hrm(["train", "--resume", str(small.cut(two, tmp_path / "two-one", 2)), "--train.parallel", "ddp"]) == 0
    assert_close(one, Run.open(tmp_path / "two-one", TextConfig))
