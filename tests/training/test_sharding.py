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
from tests.training.test_processes import assert_close, assert_same_turns, in_turns, pytestmark, several  # noqa: F401

FSDP = ("--train.parallel", "fsdp")


PLAIN, HALF = "of fixed depth", "in bfloat16"
FORMS = {
    PLAIN: (),
    "that halts, with a tied output layer": (
        "--arch.tied", "--halting.exit-threshold", "0.0067", "--halting.exploration", "0", "--halting.kind", "q",
        "--train.checkpoint-activations",
    ),
    "in parts, clipped": ("--train.accumulate", "2", "--optim.clip", "0.5"),
    HALF: ("--train.precision", "bfloat16"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that several processes train, in one start."""
    folder = tmp_path_factory.mktemp("sharding")
    changes: dict[str, Any] = {
        "optim": {"name": "adam_atan2", "ema": 0.9, "clip": 1.0, "task_lr": 1e-3},
        "train": {
            "steps": 20, "log_every": 1, "checkpoint_every": 8, "eval_every": 8, "keep": 9, "device": "cpu",
        },
        "task": {"holdout": 10},
    }  # fmt: skip
    one = small.train(folder / "puzzles-one", config(**changes))
    puzzles = {name: small.command(folder / f"puzzles-{name}", config(**changes)) for name in ("two", "four", "turns")}
    commands = [
        (2, [*puzzles["two"], *FSDP, "--train.reshard"]),
        (4, [*puzzles["four"], *FSDP]),
        (2, ["train", "--resume", str(small.cut(one, folder / "puzzles-one-two", 8)), "--train.steps", "12", *FSDP]),
        *in_turns([*puzzles["turns"], *FSDP, "--train.reshard"], folder / "puzzles-turns"),
    ]
    (folder / "poem.txt").write_text("the fox sees the hen\nthe hen sees the fox\n" * 40)
    for form, flags in FORMS.items():
        text = ["train", *small.LONG_TEXT, "--data", str(folder / "poem.txt"), *flags]
        text += () if form == PLAIN else ("--train.steps", "8")
        assert hrm([*text, "--out", str(folder / f"{form}-one")]) == 0
        commands.append((2, [*text, "--out", str(folder / f"{form}-two"), *FSDP]))
    text = ["train", *small.LONG_TEXT, "--data", str(folder / "poem.txt")]
    half = small.cut(Run.open(folder / f"{PLAIN}-one", TextConfig), folder / f"{PLAIN}-one-two", 8)
    commands += [
        (2, ["train", "--resume", str(half), "--train.steps", "12", *FSDP]),
        (4, [*text, "--out", str(folder / f"{PLAIN}-four"), *FSDP]),
        *in_turns([*text, "--out", str(folder / f"{PLAIN}-turns"), *FSDP], folder / f"{PLAIN}-turns"),
    ]
    beside = [*text, "--out", str(folder / f"{PLAIN}-beside"), *FSDP, "--train.async-checkpoints"]
    several(*commands, (2, beside))
    return folder


def test_puzzles_train_alike_and_checkpoints_are_exchangeable(folder: Path, tmp_path: Path) -> None:
    one, two, four, mixed, turns = (
        Run.open(folder / f"puzzles-{name}", Config) for name in ("one", "two", "four", "one-two", "turns")
    )
    assert_close(one, two)
    assert_close(one, four)
    assert_close(one, mixed, steps=12)
    assert_same_turns(one, two, turns)
    whole = ("--train.parallel", "ddp", "--train.no-reshard", "--train.steps", "12")
    assert_close(one, small.resume(small.cut(two, tmp_path / "two-one", 8), *whole), steps=12)


@pytest.mark.parametrize("form", FORMS)
def test_text_trains_alike(folder: Path, form: str) -> None:
    one, two = (Run.open(folder / f"{form}-{name}", TextConfig) for name in ("one", "two"))
    assert_close(one, two, 0.02 if form == HALF else 1e-6, 20 if form == PLAIN else 8)


def test_text_checkpoints_are_exchangeable(folder: Path) -> None:
    one, two, four, mixed, turns = (
        Run.open(folder / f"{PLAIN}-{name}", TextConfig) for name in ("one", "two", "four", "one-two", "turns")
    )
    assert_close(one, four)
    assert_close(one, mixed, steps=12)
    assert_same_turns(one, two, turns)


def test_checkpoints_written_beside_the_steps_are_the_same_to_the_bit(folder: Path) -> None:
    two, beside = (Run.open(folder / f"{PLAIN}-{name}", TextConfig) for name in ("two", "beside"))
    for step in (8, 16, 20):
        small.assert_same(two, beside, step)
