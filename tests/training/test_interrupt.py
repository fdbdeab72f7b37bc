"""Ctrl-C, SIGTERM and SIGHUP save and end cleanly; a second Ctrl-C stops at once and says what is intact."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint
from hrm.training import interrupt as interrupts
from hrm.training.interrupt import Interrupt, Terminated, ending
from hrm.training.loop import TrainingLoop
from tests import forks
from tests.training import small
from tests.training.small import config

SETTINGS = config(train={"steps": 150, "checkpoint_every": 150}, optim={"ema": 0.9})


def until(process: BaseProcess, step: int, of: Path) -> None:
    """Wait until a training has logged this step."""
    while process.is_alive():
        lines = of.read_bytes().split(b"\n")[:-1] if of.is_file() else []
        if lines and json.loads(lines[-1]).get("step", 0) >= step:
            return
        time.sleep(0.01)
    raise AssertionError("the training ended early")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return small.train(tmp_path_factory.mktemp("signals") / "straight", SETTINGS)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_ctrl_c_saves_and_ends_with_code_0_and_the_run_goes_on_as_if_nothing_had_been(
    straight: Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = forks.start_in(tmp_path, *small.command(run, SETTINGS), "--json")
    until(process, 20, run / "metrics.jsonl")
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    output, shown = (tmp_path / "output.txt").read_text("utf-8"), (tmp_path / "errors.txt").read_text("utf-8")
    assert process.exitcode == 0, shown
    assert "saving; press Ctrl-C again to stop at once" in shown
    assert f"continue with: hrm train --resume {run}" in shown and "Traceback" not in shown
    result = json.loads(output)
    assert result["state"] == "paused" and 20 <= result["step"] < 150
    assert [checkpoint.step_of(path) for path in checkpoint.complete(run / "checkpoints")] == [result["step"]]
    assert not (run / "result.json").exists(), "a paused run has no result yet"
    small.assert_same(straight, small.resume(run), 150, {"weights", "ema", "optimizer", "slots"})


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_another_signal_saves_as_well(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    step = Trainer.step

    def signalled(trainer: Trainer) -> None:
        if trainer.step_number == 20:
            signal.raise_signal(getattr(signal, name))
        step(trainer)

    monkeypatch.setattr(Trainer, "step", signalled)
    run = small.train(tmp_path / "run", SETTINGS)
    assert len(checkpoint.complete(run.path / "checkpoints")) == 1 and not (run.path / "result.json").exists()
    monkeypatch.undo()
    small.assert_same(straight, small.resume(run.path), 150, {"weights", "ema", "optimizer", "slots"})


SLOW_SAVE = """
import sys, time
from hrm.runs import checkpoint

def save(*args):
    print("saving slowly", file=sys.stderr, flush=True)
    time.sleep(60)

checkpoint.save = save
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_second_ctrl_c_stops_at_once_and_loses_no_checkpoint(tmp_path: Path) -> None:
    run = small.train(tmp_path / "run", config(optim={"warmup_steps": 0}, train={"steps": 1, "log_every": 1})).path
    endless = ("--train.steps", "1000000", "--train.checkpoint-every", "1000000")
    process = forks.start_in(tmp_path, "train", "--resume", str(run), *endless, code=SLOW_SAVE)
    until(process, 2, run / "metrics.jsonl")
    os.kill(process.pid or 0, signal.SIGINT)
    while "saving slowly" not in (tmp_path / "errors.txt").read_text("utf-8"):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    shown = (tmp_path / "errors.txt").read_text("utf-8")
    assert process.exitcode == 130
    assert f"stopped at once; the checkpoint of step 1 is intact: hrm train --resume {run}" in shown
    assert "Traceback" not in shown
    [path] = checkpoint.complete(run / "checkpoints")
    checkpoint.verify(path)


def test_the_handlers_of_before_are_put_back() -> None:
    numbers = (signal.SIGINT, *interrupts._asking())
    before = [signal.getsignal(number) for number in numbers]
    with Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) not in before and not interrupt.asked
    assert [signal.getsignal(number) for number in numbers] == before


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


def test_a_training_without_a_checkpoint_says_so_when_it_is_stopped_at_once(tmp_path: Path) -> None:
    loop = TrainingLoop.__new__(TrainingLoop)
    loop.run = Run(tmp_path, SETTINGS, {"board": {}, "version": "", "created": ""})
    assert loop._intact() == f"there is no checkpoint yet: hrm train --resume {tmp_path} begins from the start"
    checkpoint.save(tmp_path / "checkpoints", 1, {}, {})
    assert loop._intact() == f"the checkpoint of step 1 is intact: hrm train --resume {tmp_path}"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_whose_error_a_library_swallows_ends_the_training_at_its_start(name: str) -> None:
    number = getattr(signal, name, None)
    if number is None or os.name == "nt":
        pytest.skip("there is no such signal here")
    with ending():
        with contextlib.suppress(BaseException):  # as some libraries do where they import others
            signal.raise_signal(number)
        with Interrupt() as interrupt:
            assert interrupt.asked == number
            with pytest.raises(interrupts.Abandoned), interrupt.abandoning():
                pass
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    with ending(), Interrupt() as interrupt:
        assert not interrupt.asked


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_whose_error_a_library_swallows_ends_a_process_before_it_waits_for_others() -> None:
    with ending():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        waited = False
        with pytest.raises(Terminated), interrupts.at_once():
            waited = True
    assert not waited


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes join on POSIX only")
def test_a_signal_ends_a_process_that_waits_for_others_to_join(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    known = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "LOCAL_RANK": "0"}
    known |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    process = forks.start_in(
        tmp_path, *small.command(tmp_path / "run", SETTINGS), code=f"import os; os.environ |= {known}"
    )
    while process.is_alive():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break  # it listens, and nobody comes
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == -signal.SIGTERM, (tmp_path / "errors.txt").read_text("utf-8")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_while_the_flags_are_parsed_is_no_mistake_in_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tyro.cli", lambda *args, **given: signal.raise_signal(signal.SIGTERM))
    assert main(["status"]) == 143
    assert capsys.readouterr().err == "hrm status: ended by SIGTERM\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_whatever_else_runs_cleans_up_when_it_is_asked_to_end(name: str) -> None:
    number = getattr(signal, name, None)
    if number is None or os.name == "nt":
        pytest.skip("there is no such signal here")
    before, cleaned = signal.signal(number, signal.SIG_DFL), []
    try:
        with pytest.raises(Terminated) as ended, ending():
            try:
                os.kill(os.getpid(), number)
            finally:
                cleaned.append(True)
        assert cleaned and ended.value.code == 128 + number and ended.value.name == name
        assert signal.getsignal(number) == signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as under nohup
        with ending(), Interrupt() as interrupt:
            assert name == "SIGTERM" or signal.getsignal(number) == signal.SIG_IGN
        assert not interrupt.asked
    finally:
        signal.signal(number, before)


def test_a_system_without_some_of_the_signals_has_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIGHUP", "SIGBREAK"):
        monkeypatch.delattr(signal, name, raising=False)
    assert interrupts._asking() == [signal.SIGTERM]
    with ending(), Interrupt() as interrupt:
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.asked == signal.SIGTERM


def test_nothing_is_lost_when_nobody_can_read_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    for nobody in (None, io.StringIO()):
        monkeypatch.setattr("sys.stderr", nobody)
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGTERM)
            assert interrupt.asked == signal.SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a terminal that can be closed")
def test_a_training_whose_terminal_is_closed_saves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    keyboard, terminal = os.openpty()
    process = forks.start(small.command(run, SETTINGS), [terminal] * 3, terminal=True)
    os.close(terminal)
    while not (run / "metrics.jsonl").is_file() or b"\n" not in (run / "metrics.jsonl").read_bytes():
        assert process.is_alive()
        time.sleep(0.01)
        with contextlib.suppress(BlockingIOError):
            os.set_blocking(keyboard, False)
            os.read(keyboard, 65536)
    os.close(keyboard)
    os.kill(process.pid or 0, signal.SIGHUP)
    process.join(60)
    assert process.exitcode == 0
    assert checkpoint.complete(run / "checkpoints")
