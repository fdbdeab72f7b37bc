"""Ctrl-C and SIGTERM save and end cleanly; a second Ctrl-C stops at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from hrm.runs import Run, checkpoint
from hrm.training.interrupt import Interrupt
from tests.training import small
from tests.training.small import config

pytestmark = pytest.mark.slow

SETTINGS = config(train={"steps": 150, "checkpoint_every": 150}, optim={"ema": 0.9})


def until(process: subprocess.Popen[str], step: int, of: Path) -> None:
    """Wait until a training has logged this step."""
    while process.poll() is None:
        lines = of.read_bytes().split(b"\n")[:-1] if of.is_file() else []
        if lines and json.loads(lines[-1]).get("step", 0) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"the training ended early: {process.communicate()[1]}")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small.train(tmp_path_factory.mktemp("signals") / "straight", SETTINGS)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_code_0_and_the_run_goes_on_as_if_nothing_had_been(
    straight: Run, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = small.start(*small.command(run, SETTINGS), "--json")
    until(process, 20, run / "metrics.jsonl")
    process.send_signal(number)
    output, shown = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    assert "saving; press Ctrl-C again to stop at once" in shown
    assert f"continue with: hrm train --resume {run}" in shown and "Traceback" not in shown
    result = json.loads(output)
    assert result["state"] == "paused" and 20 <= result["step"] < 150
    assert [checkpoint.step_of(path) for path in checkpoint.complete(run / "checkpoints")] == [result["step"]]
    assert not (run / "result.json").exists(), "a paused run has no result yet"
    small.assert_same(straight, small.resume(run), 150, {"weights", "ema", "optimizer", "slots"})


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_second_ctrl_c_stops_at_once_and_loses_no_checkpoint(tmp_path: Path) -> None:
    # A step takes a second and nothing is saved after it, so that both signals arrive before the first can be obeyed.
    slow = config(
        arch={"h_cycles": 64, "l_cycles": 32},
        optim={"warmup_steps": 0},
        train={"steps": 1, "checkpoint_every": 10**6, "log_every": 1},
    )
    run = small.train(tmp_path / "run", slow).path
    process = small.start("train", "--resume", str(run), "--train.steps", "1000000")
    until(process, 2, run / "metrics.jsonl")
    time.sleep(0.1)
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    while "press Ctrl-C again" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at once; the last checkpoint stands" in shown and "Traceback" not in shown
    [path] = checkpoint.complete(run / "checkpoints")
    checkpoint.verify(path)


def test_the_handlers_of_before_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) not in before and not interrupt.asked
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_training_in_another_thread_leaves_the_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    found = []

    def work() -> None:
        with Interrupt():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]
