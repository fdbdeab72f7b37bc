"""A step may take minutes: that is said before the start, and a signal in its middle is answered at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from hrm.cli.main import main as hrm
from hrm.core import kernels
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint
from hrm.settings import load_preset
from hrm.text.config import TextConfig
from hrm.text.training.trainer import TextTrainer
from hrm.training import long_steps
from hrm.training.interrupt import Abandoned, Interrupt
from tests.training import small

WITH_PARTS = small.config(
    train={"accumulate": 2, "steps": 8, "log_every": 3, "checkpoint_every": 8}, optim={"ema": 0.9}
)


def once(number: int, step: Callable[[], bool]) -> Callable[[], None]:
    """A function that sends this process a signal at one of its calls for which `step()` is true."""
    left = [number]

    def maybe() -> None:
        if step():
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGINT)

    return maybe


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C alone")
@pytest.mark.parametrize("where", ["between parts", "in the backward pass"])
def test_a_step_that_is_given_up_leaves_everything_as_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    straight = small.train(tmp_path / "straight", WITH_PARTS)
    seen: list[Trainer] = []
    maybe = once(1, lambda: bool(seen) and seen[-1].step_number == 5)
    with monkeypatch.context() as patch:
        segment, backward = Trainer._segment, kernels._GatedSiLU.backward

        def one_part(self: Trainer, *args: Any) -> Any:
            seen.append(self)
            result = segment(self, *args)
            if where == "between parts":
                maybe()
            return result

        def gated(*args: Any) -> Any:
            if where != "between parts":
                maybe()
            return backward(*args)

        patch.setattr(Trainer, "_segment", one_part)
        patch.setattr(kernels._GatedSiLU, "backward", staticmethod(gated))
        stopped = small.train(tmp_path / "stopped", WITH_PARTS)
    assert [checkpoint.step_of(path) for path in checkpoint.complete(stopped.checkpoints)] == [5]
    small.assert_same(straight, small.resume(stopped.path), 8)


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C alone")
def test_a_step_of_text_that_is_given_up_leaves_everything_as_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poem.txt").write_text("the fox sees the hen\n" * 80)
    flags = ("--train.accumulate", "2", "--train.log-every", "2", "--data", str(tmp_path / "poem.txt"))

    def train(name: str) -> Path:
        assert hrm(["train", *small.TEXT, *flags, "--out", str(tmp_path / name)]) == 0
        return tmp_path / name

    straight = train("straight")
    with monkeypatch.context() as patch:
        think, step = TextTrainer._think, [0]
        maybe = once(1, lambda: step[0] == 3)

        def one_part(self: TextTrainer, *args: Any) -> None:
            step[0] = self.step_number
            think(self, *args)
            maybe()

        patch.setattr(TextTrainer, "_think", one_part)
        stopped = train("stopped")
    assert checkpoint.step_of(checkpoint.complete(stopped / "checkpoints")[-1]) == 3
    assert hrm(["train", "--resume", str(stopped)]) == 0
    one, other = (Run.open(path, TextConfig) for path in (straight, stopped))
    small.assert_same(one, other, 4)  # type: ignore[arg-type]


def test_what_was_asked_for_before_is_given_up_before_it_begins() -> None:
    with Interrupt("") as interrupt:
        interrupt.asked = signal.SIGTERM
        with pytest.raises(Abandoned), interrupt.abandoning():
            raise AssertionError


def test_a_trial_leaves_nothing_behind() -> None:
    trainer = small.trainer(small.config(task={"holdout": 0}), task_ids=4)
    trainer.step()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    window, slots = trainer.window.clone(), trainer.slots
    trainer.trial(3)
    assert torch.equal(trainer.window, window) and trainer.slots is slots
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert trainer.model.task_embedding is not None and trainer.model.task_embedding.used == []


class Clock:
    """A trainer whose trials take so many seconds a row, on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, compiling: float = 0.0) -> None:
        self.now, self.seconds, self.compiling = 0.0, seconds, compiling
        self.train: Any = SimpleNamespace(compile=compiling > 0)
        monkeypatch.setattr(long_steps.time, "perf_counter", lambda: self.now)

    def trial(self, rows: int) -> None:
        self.now += rows * self.seconds + self.compiling
        self.compiling = 0.0


@pytest.mark.parametrize(("seconds", "rows"), [(0.0001, 768), (0.7, 768), (20.0, 8)])
def test_the_time_of_a_step_is_found_in_seconds(monkeypatch: pytest.MonkeyPatch, seconds: float, rows: int) -> None:
    clock = Clock(monkeypatch, seconds)
    assert long_steps.seconds_of(cast(Any, clock), rows, rows) == pytest.approx(seconds * rows)
    assert clock.now < max(3.0, 2 * seconds + 0.1)


def test_the_time_that_compiling_takes_is_not_taken_for_that_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 0.01, compiling=7.0)
    assert long_steps.seconds_of(cast(Any, clock), 32, 32) == pytest.approx(0.32)


class Says:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.expected = 0.0

    def say(self, text: str) -> None:
        self.lines.append(text)

    def begin(self, steps: int, step: int, seconds: float) -> None:
        self.expected = seconds


@pytest.mark.parametrize(("preset", "fitting"), [("sudoku-extreme", "sudoku-9x9"), ("text-80m", "text-char")])
def test_who_starts_a_training_of_days_is_told_what_fits(
    monkeypatch: pytest.MonkeyPatch, preset: str, fitting: str
) -> None:
    config = load_preset(preset, TextConfig) if preset.startswith("text") else load_preset(preset)
    says, cpu = Says(), torch.device("cpu")

    def announce(train: Any, seconds: float, device: torch.device = cpu) -> list[str]:
        says.lines.clear()
        trainer: Any = Clock(monkeypatch, seconds)
        trainer.train, trainer.step_number, trainer.rows = train, 0, range(train.batch_size)
        trainer.accelerator = SimpleNamespace(device=device)
        long_steps.announce(trainer, says, fitting)  # type: ignore[arg-type]
        return says.lines

    first, warning = announce(config.train, 10.0)
    assert "per step here" in first and ("days" in first or "years" in first)
    assert f"hrm train {fitting} is made for a CPU" in warning
    assert says.expected == pytest.approx(10 * config.train.batch_size * config.train.steps)
    assert len(announce(replace(config.train, minutes=5), 10.0)) == 1
    assert not announce(config.train, 10.0, torch.device("meta"))


def test_durations_are_said_in_one_number() -> None:
    said = [long_steps.about(seconds) for seconds in (0.0002, 0.04, 8, 480, 7200, 800_000)]
    assert said == ["0.001 s", "0.04 s", "8 s", "8 minutes", "2 hours", "9 days"]
