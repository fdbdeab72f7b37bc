"""Several processes train as one does: the same batches, losses and decisions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch

from hrm.cli.main import main as hrm
from hrm.puzzles import data
from hrm.puzzles.config import Config
from hrm.runs import Run, checkpoint
from hrm.text.config import TextConfig
from tests.training import small
from tests.training.small import config

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the trainings are forked")]
TWO = ("--standalone", "--nproc-per-node", "2", "--max-restarts")


def several(*commands: tuple[int, list[str]]) -> str:
    """Run `hrm` in so many processes with these arguments, one command after the other; what they wrote on stderr."""
    process = small.start(json.dumps(commands), module="tests.training.several")
    _, shown = process.communicate(timeout=500)
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


def assert_close(left: Run[Any], right: Run[Any], within: float = 1e-6, steps: int = 20) -> None:
    """The second run has so many steps, and the first the same, and maybe more."""
    one, two = losses(left), losses(right)
    assert sorted(two) == list(range(1, steps + 1)) and one.keys() >= two.keys()
    for step, values in two.items():
        assert values == pytest.approx(one[step], abs=within, rel=0), step


def in_turns(begin: list[str], run: Path) -> list[tuple[int, list[str]]]:
    """Commands that train twelve steps in two processes, begun anew in between, then in four, and at last in one."""
    turns = [(2, 8), (4, 10), (1, 12)]
    again = [(processes, ["train", "--resume", str(run), "--train.steps", str(end)]) for processes, end in turns]
    return [(2, [*begin, "--train.steps", "4"]), *again]


def assert_same_turns(one: Run[Any], two: Run[Any], turns: Run[Any]) -> None:
    """Where two processes began anew, they go on to the bit; four and one go on as any number does."""
    assert_close(one, turns, steps=12)
    straight, anew = losses(two), losses(turns)
    assert all(anew[step] == straight[step] for step in range(1, 9))
    (tensors, state), (others, other) = small.state(two, 8), small.state(turns, 8)
    assert state == other and tensors.keys() == others.keys()
    assert all(torch.equal(tensor, others[g][name]) for g, named in tensors.items() for name, tensor in named.items())


ENDLESS = {"steps": 10**6, "eval_every": 5, "checkpoint_every": 5, "log_every": 1}


class Trained(NamedTuple):
    """What was trained in one process, what in several, and what those wrote on stderr."""

    folder: Path
    shown: str

    def puzzles(self, name: str) -> Run[Config]:
        return Run.open(self.folder / name, Config)

    def text(self, name: str) -> Run[TextConfig]:
        return Run.open(self.folder / name, TextConfig)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All trainings of several processes in one start, which takes longer than any of them."""
    folder = tmp_path_factory.mktemp("processes")
    data.write_folder(folder / "puzzles", small.SUDOKU, small.puzzles(task_ids=4))
    changes: dict[str, Any] = {
        "optim": {"name": "adamw", "ema": 0.9, "clip": 1.0, "task_lr": 1e-3},
        # Without an accelerator auto is the CPU, for processes that belong together as well.
        "train": {"steps": 20, "log_every": 1, "checkpoint_every": 8, "keep": 9, "device": "auto"},
        "task": {"holdout": 10},
    }
    tasks = config(**{**changes, "train": changes["train"] | {"device": "cpu"}, "data": str(folder / "puzzles")})
    commands: list[tuple[int, list[str]]] = []
    for name, its in {"puzzles": config(**changes), "tasks": tasks}.items():
        one = small.train(folder / f"{name}-one", its)
        commands.append((2, small.command(folder / f"{name}-two", its)))
        half = small.cut(one, folder / f"{name}-one-two", 8)
        commands.append((2, ["train", "--resume", str(half), "--train.steps", "12", "--optim.ema", "0.8"]))
    commands.append((4, small.command(folder / "tasks-four", tasks)))
    commands += in_turns(small.command(folder / "tasks-turns", tasks), folder / "tasks-turns")
    (folder / "poem.txt").write_text("the fox sees the hen\nthe hen sees the fox\n" * 40)
    text = ["train", *small.LONG_TEXT, "--data", str(folder / "poem.txt")]
    assert hrm([*text, "--out", str(folder / "text-one")]) == 0
    commands += [(count, [*text, "--out", str(folder / f"text-{name}")]) for name, count in (("two", 2), ("four", 4))]
    half = small.cut(Run.open(folder / "text-one", TextConfig), folder / "text-one-two", 8)
    commands.append((2, ["train", "--resume", str(half), "--train.steps", "12", "--train.device", "cpu"]))
    commands += in_turns([*text, "--out", str(folder / "text-turns")], folder / "text-turns")
    timed = config(train=ENDLESS | {"minutes": 0.02}, optim={"schedule": "cosine"})
    commands.append((2, small.command(folder / "timed", timed)))
    # The measurements are 0 until something is learned; the other process must not go on when the main one stops.
    learning = config(**small.LEARNS, train=ENDLESS | {"batch_size": 32, "target_accuracy": 0.3})
    commands.append((2, small.command(folder / "learning", learning)))
    return Trained(folder, several(*commands))


@pytest.mark.parametrize("name", ["puzzles", "tasks"])
def test_two_processes_give_the_losses_of_one_and_go_on_with_what_it_began(trained: Trained, name: str) -> None:
    one, mixed = trained.puzzles(f"{name}-one"), trained.puzzles(f"{name}-one-two")
    assert_close(one, trained.puzzles(f"{name}-two"))
    assert_close(one, mixed, steps=12)
    assert [record["event"] for record in mixed.records() if record.get("event") == "resumed"] == ["resumed"]


def test_two_processes_train_text_as_one_does_and_go_on_with_what_one_began(trained: Trained) -> None:
    assert_close(trained.text("text-one"), trained.text("text-two"))
    assert_close(trained.text("text-one"), trained.text("text-one-two"), steps=12)


def test_four_processes_give_the_losses_of_one(trained: Trained) -> None:
    assert_close(trained.puzzles("tasks-one"), trained.puzzles("tasks-four"))
    assert_close(trained.text("text-one"), trained.text("text-four"))


def test_two_four_and_one_go_on_with_what_the_others_began(trained: Trained) -> None:
    assert_same_turns(*(trained.puzzles(f"tasks-{name}") for name in ("one", "two", "turns")))
    assert_same_turns(*(trained.text(f"text-{name}") for name in ("one", "two", "turns")))


def test_only_the_main_process_speaks(trained: Trained) -> None:
    assert trained.shown.count("held out; step 0 of ") == 9


def test_two_processes_stop_together_at_a_time_limit_and_a_target(trained: Trained) -> None:
    """Each process has its own clock, and only the main one measures."""
    assert json.loads((trained.folder / "timed" / "result.json").read_text())["state"] == "finished"
    assert "reached 30.0%" in trained.shown


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], after: int = 0) -> int:
    """Wait until a run has a checkpoint of a step after this one; returns its step."""
    while process.poll() is None:
        saved = checkpoint.complete(run / "checkpoints") if (run / "checkpoints").is_dir() else []
        if saved and (step := checkpoint.step_of(saved[-1])) > after:
            return step
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


def second(process: subprocess.Popen[str]) -> psutil.Process:
    """The process of rank 1; they are started one after the other."""
    return sorted(psutil.Process(process.pid).children(), key=lambda child: child.pid)[1]


def test_two_processes_stop_together_at_a_signal_that_reaches_one_of_them(tmp_path: Path) -> None:
    run, settings = tmp_path / "run", config(task={"holdout": 10}, train=ENDLESS)
    process = small.start(
        *TWO, "0", "-m", "hrm", *small.command(run, settings), "--json", module="torch.distributed.run"
    )
    wait_for_checkpoint(run, process)
    second(process).terminate()
    output, shown = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    assert {json.loads(line)["state"] for line in output.splitlines()} == {"paused"}
    last = checkpoint.complete(run / "checkpoints")[-1]
    assert checkpoint.step_of(last) == json.loads(output.splitlines()[0])["step"]


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
    process = small.start(*TWO, "0", *args, module="torch.distributed.run")
    _, shown = process.communicate(timeout=120)
    assert process.returncode and "hrm train: the second process fails" in shown
    assert "rank 1 (process" in shown and "so all end; the checkpoint of step 2 is intact: resume with" in shown
    assert [checkpoint.step_of(path) for path in checkpoint.complete(tmp_path / "run" / "checkpoints")] == [2]


def test_a_process_that_is_killed_ends_the_other_and_torchrun_starts_both_again(tmp_path: Path) -> None:
    run, settings = tmp_path / "run", config(train=ENDLESS)
    process = small.start(*TWO, "1", "-m", "hrm", *small.command(run, settings), module="torch.distributed.run")
    first = wait_for_checkpoint(run, process)
    second(process).kill()
    wait_for_checkpoint(run, process, after=first + 20)
    second(process).kill()
    _, shown = process.communicate(timeout=30)
    assert process.returncode
    assert shown.count("so all end; the checkpoint of step ") == shown.count("hrm train: rank 1 (process ") == 2
    started = [int(step.replace(",", "")) for step in re.findall(r"; step ([\d,]+) of", shown)]
    assert started[0] == 0 and started[1] >= first
    assert f"resume with hrm train --resume {run}" in shown


def test_a_process_that_hangs_ends_the_other(tmp_path: Path) -> None:
    run, settings = tmp_path / "run", config(train=ENDLESS | {"timeout": 0.1})
    process = small.start(json.dumps([(2, small.command(run, settings))]), module="tests.training.several")
    wait_for_checkpoint(run, process)
    hanging = second(process)
    hanging.suspend()
    try:
        while process.poll() is None and len(psutil.Process(process.pid).children()) == 2:
            time.sleep(0.05)
    finally:
        hanging.kill()
    _, shown = process.communicate(timeout=30)
    assert process.returncode and f"rank 1 (process {hanging.pid}) is stopped and does not answer, so all end" in shown
