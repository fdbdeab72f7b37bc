"""Two processes train as one does: the same batches, losses and decisions."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from hrm.cli.main import main as hrm
from hrm.puzzles import data
from hrm.puzzles.config import Config
from hrm.runs import Run, checkpoint
from hrm.text.config import TextConfig
from tests.training import small
from tests.training.small import config

pytestmark = pytest.mark.slow
TWO = ("--standalone", "--nproc-per-node", "2")


def torchrun(*args: str) -> str:
    """Run `hrm` in two processes on the CPU; returns what they wrote on stderr."""
    process = small.start(*TWO, "-m", "hrm", *args, module="torch.distributed.run")
    _, shown = process.communicate(timeout=240)
    assert process.returncode == 0, shown
    return shown


def losses(run: Run[Any]) -> dict[int, dict[str, float]]:
    """What is logged at every step and has a meaning in numbers."""
    names = (
        "loss", "first_loss", "token_loss", "halt_loss", "continue_loss", "grad_norm", "exact_accuracy", "halted",
        "mean_segments", "tokens",
    )  # fmt: skip
    lines = [line for line in run.records() if "loss" in line and "event" not in line]
    return {line["step"]: {name: line[name] for name in names if name in line} for line in lines}


def assert_close(left: Run[Any], right: Run[Any]) -> None:
    one, two = losses(left), losses(right)
    assert one.keys() == two.keys()
    for step, values in one.items():
        assert two[step] == pytest.approx(values, abs=1e-6, rel=0), step


@pytest.mark.parametrize("tasks", [False, True], ids=["one task", "task embeddings"])
def test_two_processes_give_the_losses_of_one_and_their_checkpoints_are_exchangeable(
    tmp_path: Path, tasks: bool
) -> None:
    # Without an accelerator auto is the CPU, for processes that belong together as well.
    device = "cpu" if tasks else "auto"
    changes: dict[str, Any] = {
        "optim": {"name": "adamw", "ema": 0.9, "clip": 1.0, "task_lr": 1e-3},
        "train": {"steps": 12, "log_every": 1, "checkpoint_every": 6, "device": device},
        "task": {"holdout": 10},
    }
    if tasks:
        data.write_folder(tmp_path / "puzzles", small.SUDOKU, small.puzzles(task_ids=4))
        changes |= {"data": str(tmp_path / "puzzles")}
    settings = config(**changes)
    one = small.train(tmp_path / "one", settings)
    shown = torchrun(*small.command(tmp_path / "two", settings))
    two = Run.open(tmp_path / "two", Config)
    assert_close(one, two)
    assert shown.count("training puzzles,") == 1, "only the main process speaks"
    # Half by one, half by two, whichever comes first.
    torchrun("train", "--resume", str(small.cut(one, tmp_path / "one-two", 6)), "--optim.ema", "0.8")
    mixed = Run.open(tmp_path / "one-two", Config)
    assert_close(one, mixed)
    assert [record["event"] for record in mixed.records() if record.get("event") == "resumed"] == ["resumed"]
    assert_close(one, small.resume(small.cut(two, tmp_path / "two-one", 6)))


def test_two_processes_train_text_as_one_does_and_go_on_with_what_one_began(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("the fox sees the hen\nthe hen sees the fox\n" * 40)
    text = ["train", *small.TEXT, "--data", str(tmp_path / "poem.txt"), "--train.batch-size", "4"]
    assert hrm([*text, "--out", str(tmp_path / "one")]) == 0
    shown = torchrun(*text, "--out", str(tmp_path / "two"))
    assert shown.count("held out; step 0 of 4") == 1, "only the main process speaks"
    one, two = (Run.open(tmp_path / name, TextConfig) for name in ("one", "two"))
    assert_close(one, two)
    torchrun("train", "--resume", str(small.cut(one, tmp_path / "one-two", 2)), "--train.device", "cpu")
    assert_close(one, Run.open(tmp_path / "one-two", TextConfig))
    assert hrm(["train", "--resume", str(small.cut(two, tmp_path / "two-one", 2))]) == 0
    assert_close(one, Run.open(tmp_path / "two-one", TextConfig))


FAILS = """
import os, sys
from hrm.cli.main import main
from hrm.puzzles.training.trainer import Trainer
step = Trainer.step
def fails(self):
    if os.environ["RANK"] == "1" and self.step_number == 3:
        raise RuntimeError("the second process fails")
    step(self)
Trainer.step = fails
sys.exit(main(sys.argv[1:]))
"""


def test_an_error_in_one_process_ends_the_other(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    endless = config(train={"steps": 10**6, "checkpoint_every": 2})
    args = (str(tmp_path / "fails.py"), *small.command(tmp_path / "run", endless))
    process = small.start(*TWO, *args, module="torch.distributed.run")
    _, shown = process.communicate(timeout=120)
    assert process.returncode and "hrm train: the second process fails" in shown
    assert [checkpoint.step_of(path) for path in checkpoint.complete(tmp_path / "run" / "checkpoints")] == [2]


def test_two_processes_stop_together_at_a_target_a_signal_and_a_time_limit(tmp_path: Path) -> None:
    """Each process has its own clock, only the main one measures, and a signal may reach only one of them."""
    endless = {"steps": 10**6, "eval_every": 5, "checkpoint_every": 5, "log_every": 1}
    timed = config(train=endless | {"minutes": 0.02}, optim={"schedule": "cosine"})
    torchrun(*small.command(tmp_path / "timed", timed))
    assert json.loads((tmp_path / "timed" / "result.json").read_text())["state"] == "finished"

    run, settings = tmp_path / "signalled", config(task={"holdout": 10}, train=endless)
    process = small.start(*TWO, "-m", "hrm", *small.command(run, settings), "--json", module="torch.distributed.run")
    while process.poll() is None and not list((run / "checkpoints").glob("step_*")):
        time.sleep(0.05)
    [second] = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    second.terminate()
    output, shown = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert {json.loads(line)["state"] for line in output.splitlines()} == {"paused"}
    last = checkpoint.complete(run / "checkpoints")[-1]
    assert checkpoint.step_of(last) == json.loads(output.splitlines()[0])["step"]

    # The measurements are 0 until something is learned; the other process must not go on when the main one stops.
    learning = config(**small.LEARNS, train=endless | {"batch_size": 32, "target_accuracy": 0.3})
    assert "reached 30.0%" in torchrun(*small.command(tmp_path / "learning", learning))
