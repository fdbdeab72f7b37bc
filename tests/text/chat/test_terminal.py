"""The terminal, driven through a pseudo-terminal as a person would: typing, reading, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.person import Person
from tests.text.chat.small import run, saved

READY = "tokens remembered"


def chat(home: Path, *args: str) -> Person:
    return Person(READY, "chat", *args, XDG_STATE_HOME=str(home))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model"), max_position_embeddings=64)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # paths of any length would be wrapped
    return tmp_path


@pytest.fixture
def person(folder: Path, home: Path) -> Iterator[Person]:
    with chat(home, str(folder), "--max-new-tokens", "20", "--stop", "length") as someone:
        yield someone


@pytest.mark.slow
def test_a_talk_with_modes_commands_an_interrupt_saving_loading_and_completion(person: Person, home: Path):
    assert "remembers 64 tokens" in person.welcome and "/help" in person.welcome
    assert len(person.say("the cat")) > 20
    assert "did you mean '/mode'?" in person.say("/mdoe deep")
    assert "mode deep: schedule 3x2, 1 segment" in person.say("/mode deep")
    text = person.say("/status")
    assert "deep" in text and "27 of 64 tokens" in text and "2 messages" in text
    assert "saved 2 messages in talk.json" in person.say("/save talk.json")
    saved_text = "".join(m["content"] for m in json.loads((home / "talk.json").read_text("utf-8"))["messages"])

    person.say("/stop unlimited")
    person.key("the dog\r")
    time.sleep(1.0)
    person.key("\x03")
    assert "stopped" in person.read(READY)
    person.say("/stop length")
    assert len(person.say("")) > 20  # and it goes on

    assert "everything that was said is forgotten" in person.say("/clear")
    text = person.say("/load talk.json")
    assert "loaded 2 messages" in text and saved_text[-10:].split("\n")[-1] in text
    assert "27 of 64 tokens" in text

    assert "depth in segments: 1" in person.say("/trace on")
    person.say("/mode auto")
    person.say("the mat")
    assert "38;2;91;143;249m" in person.raw or "38;5;" in person.raw  # colours
    assert "mean depth" in person.say("")
    person.say("/debug on")
    assert re.search(r"depth \d, confidence +\d+%, [\d.]+ nats  '", person.say("the"))

    person.key("half a line")
    person.key("\x03")
    assert "Ctrl-D or /quit ends" in person.read(READY)
    person.key("/qui")
    person.read("/quit")  # in the menu
    person.key("\t")
    time.sleep(1.0)
    person.key("\r")
    assert person.leaves() == 0
    history = (home / "hrm/chat_history").read_text("utf-8")
    assert "+the cat" in history and os.stat(home / "hrm/chat_history").st_mode & 0o077 == 0


@pytest.mark.slow
def test_a_mode_is_compared_on_the_runs_held_out_text(home: Path):
    trained = run(home)
    with chat(home, str(trained), "--mode", "extreme", "--max-new-tokens", "5") as someone:
        assert set(json.loads((trained / "modes.json").read_text())["modes"]) >= {"fast", "extreme", "auto"}
        assert "bits a character" in someone.say("/modes")
        someone.key("\x04")
        assert someone.leaves() == 0
