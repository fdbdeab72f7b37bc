"""Ctrl-C while a book is learned, in a terminal and outside of one."""

from __future__ import annotations

import io
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from hrm.cli.learn import _ask
from hrm.text.learning.learner import Learner
from tests import forks
from tests.person import Person
from tests.text.learning.test_learner import FLAGS, config, first, same, second, weights

pytestmark = pytest.mark.slow
LONG = ["--epochs", "4", "--checkpoint-every", "1000", "--log-every", "5"]


def learns(run: Path, *books: Path) -> Person:
    """Somebody who starts `hrm learn` and sees the first updates."""
    return Person("updates/s", "learn", str(run), *map(str, books), *FLAGS, *LONG)


def test_ctrl_c_asks_and_a_pause_goes_on_to_the_weights_of_an_uninterrupted_run(tmp_path: Path):
    files = [first(tmp_path, 300), second(tmp_path, 60)]
    straight = Learner.create(tmp_path / "straight", config(epochs=4, checkpoint_every=1000))
    for file in files:
        straight.learn(file)
    with learns(tmp_path / "run", *files) as person:
        person.key("\x03")
        assert "pause (p)" in person.read("[p] ")
        person.key("\r")
        assert person.leaves() == 0
        assert f"paused; resume with: hrm learn {tmp_path / 'run'} {files[0]} {files[1]}" in person.rest
    paused = Learner.open(tmp_path / "run")
    assert 5 <= paused.step_number < straight.books[0]["step"]
    for file in files:
        paused.learn(file)
    assert same(weights(paused), weights(straight)) and [b["state"] for b in paused.books] == ["finished"] * 2


@pytest.mark.parametrize("error", [EOFError, OSError])
def test_ctrl_d_and_a_terminal_that_is_gone_pause(monkeypatch: pytest.MonkeyPatch, error: type[Exception]):
    def nobody(prompt: str) -> str:
        raise error

    monkeypatch.setattr("builtins.input", nobody)
    bar = SimpleNamespace(stop=lambda: None, console=Console(file=io.StringIO()))
    assert _ask(bar) == "pause"  # type: ignore[arg-type]


def test_ctrl_c_and_stop_end_the_book_and_leave_the_next_ones(tmp_path: Path):
    files = [first(tmp_path, 600), second(tmp_path, 300)]
    with learns(tmp_path / "run", *files) as person:
        person.key("\x03")
        person.read("[p] ")
        person.key("s\r")
        assert person.leaves() == 0
        assert "held-out bits a character: first.txt" in person.rest  # what was learned is measured
        assert f"first.txt counts as learned; resume with: hrm learn {tmp_path / 'run'} {files[1]}\r" in person.rest
    (book,) = Learner.open(tmp_path / "run").books
    assert book["state"] == "stopped" and 5 <= book["step"] < 600 and book["bits_per_character_then"] > 0


def test_without_a_terminal_nothing_is_asked(tmp_path: Path):
    process = forks.start_in(tmp_path, "learn", str(tmp_path / "run"), str(first(tmp_path, 600)), *FLAGS, *LONG)
    said = tmp_path / "errors.txt"
    while "updates/s" not in said.read_text("utf-8"):
        assert process.is_alive(), "it ended early"
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 0 and "paused; resume with" in said.read_text("utf-8")
    assert "[p]" not in said.read_text("utf-8")
    assert Learner.open(tmp_path / "run").books[0]["state"] == "learning"


def test_another_signal_in_a_terminal_pauses_without_asking(tmp_path: Path):
    with learns(tmp_path / "run", first(tmp_path, 600)) as person:
        os.kill(person.process.pid or 0, signal.SIGHUP)
        assert person.leaves() == 0 and "paused" in person.rest and "[p]" not in person.rest
    assert Learner.open(tmp_path / "run").books[0]["state"] == "learning"
