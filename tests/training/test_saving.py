"""Checkpoints that are written beside the steps: the same ones, whole or absent, and what fails is said."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.puzzles.config import Config
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint, durable
from tests.training import small

SETTINGS = small.config(task={"holdout": 10}, optim={"ema": 0.9}, train={"checkpoint_every": 5, "eval_every": 10})
BESIDE = small.config(
    task={"holdout": 10}, optim={"ema": 0.9}, train={"checkpoint_every": 5, "eval_every": 10, "async_checkpoints": True}
)


def test_they_are_the_same_to_the_bit(tmp_path: Path) -> None:
    straight, beside = small.train(tmp_path / "straight", SETTINGS), small.train(tmp_path / "beside", BESIDE)
    steps = [[checkpoint.step_of(path) for path in checkpoint.complete(run.checkpoints)] for run in (straight, beside)]
    assert steps[0] == steps[1] and len(steps[0]) >= 3
    for step in steps[0]:
        small.assert_same(straight, beside, step)
    (half, half_beside) = (small.cut(run, tmp_path / f"half-{run.path.name}", 20) for run in (straight, beside))
    small.assert_same(small.resume(half), small.resume(half_beside), 30)


def test_the_steps_go_on_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved, write, step = threading.Condition(), Trainer.write, Trainer.step

    def slow(self: Trainer, directory: Path, number: int, *given: Any) -> None:
        with moved:
            after = moved.wait_for(lambda: self.step_number > number or number == 12, 60)
        assert after, f"no step was done while the checkpoint of step {number} was being written"
        write(self, directory, number, *given)

    def stepped(self: Trainer) -> None:
        with moved:
            step(self)
            moved.notify_all()

    monkeypatch.setattr(Trainer, "write", slow)
    monkeypatch.setattr(Trainer, "step", stepped)
    run = small.train(
        tmp_path / "run", small.config(train={"steps": 12, "checkpoint_every": 5, "async_checkpoints": True})
    )
    assert [checkpoint.step_of(path) for path in checkpoint.complete(run.checkpoints)] == [5, 10, 12]


def test_a_write_that_fails_is_said_and_the_last_whole_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flush = durable.flush

    def full(path: Path) -> None:
        if "step_00000010" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        flush(path)

    monkeypatch.setattr(durable, "flush", full)
    assert hrm(small.command(tmp_path / "run", BESIDE)) != 0
    said = capsys.readouterr().err
    assert "the checkpoint of step 10 could not be saved" in said and "the checkpoint of step 5 is intact" in said
    left = [path.name for path in Run.open(tmp_path / "run", Config).checkpoints.iterdir()]
    assert left == ["step_00000005"]
