"""The studio's page, clicked through in a browser: Home, Learn, and the story of a learner."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from hrm.serve.studio.following import newest
from hrm.serve.studio.jobs import Jobs
from tests.serve.page import LEARNER, Opened, opened, watched


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """With a learner that has paused at its second book, and one that is damaged."""
    folder = tmp_path_factory.mktemp("studio") / "runs"
    shutil.copytree(LEARNER, folder / "reader")
    shutil.copytree(LEARNER, folder / "broken")
    (folder / "broken/run.json").write_text("{")
    with opened(folder) as found:
        yield found


def book(folder: Path, name: str, words: str, seed: int = 0) -> Path:
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(" ".join(rng.choice(words.split()) for _ in range(400)), "utf-8")
    return folder / name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Any, studio: Opened, tmp_path: Path, scheme: str) -> None:
    with watched(browser, studio.address, color_scheme=scheme, reduced_motion="reduce") as shown:
        page = shown.page
        page.get_by_role("link", name="reader", exact=True).wait_for()
        page.get_by_text("Damaged").wait_for()
        assert shown.serious() == []
        page.get_by_role("button", name="Rename reader").click()
        assert shown.serious() == []
        page.keyboard.press("Escape")
        page.goto(f"{studio.home}#learn/reader")
        page.get_by_role("heading", name="How it writes").wait_for()
        assert shown.serious() == []
        page.goto(f"{studio.home}#learn")
        page.set_input_files("#files", str(book(tmp_path, "a.txt", "one two three")))
        page.get_by_role("button", name="Begin to learn").wait_for()
        page.get_by_text("More", exact=True).click()
        assert shown.serious() == []
        assert shown.messages == [] and shown.outside == []


@pytest.mark.parametrize("width", [375, 1280])
def test_it_fits_and_can_be_touched(browser: Any, studio: Opened, tmp_path: Path, width: int) -> None:
    with watched(browser, studio.address, viewport={"width": width, "height": 700}) as shown:
        page = shown.page
        for hash in ("home", "learn/reader", "learn"):
            page.goto(f"{studio.home}#{hash}")
            page.locator("h1").wait_for()
            if hash == "learn":
                page.set_input_files("#files", str(book(tmp_path, f"{'long ' * 20}.txt", "one two three")))
                page.get_by_role("button", name="Begin to learn").wait_for()
            page.wait_for_timeout(200)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, hash
            small = page.evaluate(
                "[...document.querySelectorAll('button, .button, select, nav a, summary')].filter("
                "e => e.checkVisibility() && e.getBoundingClientRect().height < 44).map(e => e.outerHTML)"
            )
            assert small == [], hash


def test_home_works_by_keyboard_and_asks_before_it_deletes(browser: Any, tmp_path: Path) -> None:
    shutil.copytree(LEARNER, tmp_path / "runs/old")
    with opened(tmp_path / "runs") as studio, watched(browser, studio.address) as shown:
        page = shown.page
        assert "token" not in page.url
        page.get_by_role("button", name="Rename old").focus()
        page.keyboard.press("Enter")
        page.keyboard.type("new <b>")
        page.keyboard.press("Enter")
        page.locator("#problem").get_by_text("characters").wait_for()
        page.get_by_role("button", name="Rename old").press("Enter")
        page.keyboard.type("new one")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="new one", exact=True).wait_for()
        assert page.locator("#said").inner_text() == "Renamed to new one"
        page.get_by_role("button", name="Delete new one").press("Enter")
        page.get_by_role("dialog").get_by_text("is lost").wait_for()
        page.keyboard.press("Escape")
        assert (tmp_path / "runs/new one/run.json").is_file()
        page.get_by_role("button", name="Delete new one").press("Enter")
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.get_by_text("Nothing has been learned here yet").wait_for()
        assert not list((tmp_path / "runs").iterdir())
        assert [text for text in shown.messages if "400" not in text] == [] and shown.outside == []


def test_a_book_is_looked_at_and_can_be_read_otherwise(browser: Any, studio: Opened, tmp_path: Path) -> None:
    text = "Все счастливые семьи похожи друг на друга. " * 60
    (tmp_path / "anna.txt").write_bytes(text.encode("cp1251"))
    with watched(browser, studio.address) as shown:
        page = shown.page
        page.goto(f"{studio.home}#learn")
        sample = page.get_by_role("region", name="The beginning of anna.txt")
        page.get_by_label("Or name a file").fill(str(tmp_path / "missing.txt"))
        page.keyboard.press("Enter")
        page.locator("#path-wrong").get_by_text("There is no file").wait_for()
        page.get_by_label("Or name a file").fill(str(tmp_path / "anna.txt"))
        page.keyboard.press("Enter")
        sample.get_by_text("Все счастливые").wait_for()
        page.locator(".book").get_by_text(f"{len(text):,} characters").wait_for()
        page.get_by_label("Encoding of anna.txt").select_option("koi8_r")
        sample.get_by_text("бЯЕ").wait_for()
        page.get_by_label("Encoding of anna.txt").select_option("utf-8")
        page.get_by_text("cannot be read as").wait_for()
        page.reload()  # the draft is kept
        page.get_by_role("button", name="Read it as before").click()
        sample.get_by_text("Все счастливые").wait_for()
        assert page.get_by_text("reader", exact=True).locator("xpath=ancestor::label").locator("input").is_disabled()
        page.get_by_text("it has not finished").wait_for()
        page.get_by_role("button", name="Remove anna.txt").click()
        page.locator("#start").wait_for(state="hidden")
        dropped = page.evaluate_handle(
            "() => { const d = new DataTransfer(); d.items.add(new File(['dropped '.repeat(99)], 'd.txt')); return d; }"
        )
        page.dispatch_event(".drop", "drop", {"dataTransfer": dropped})
        page.get_by_role("region", name="The beginning of d.txt").wait_for()
        assert (studio.studio.folder.path / "books/d.txt").read_text() == "dropped " * 99


def test_a_run_that_is_not_there_is_said_once(browser: Any, studio: Opened) -> None:
    with watched(browser, studio.address) as shown:
        shown.page.goto(f"{studio.home}#learn/nobody")
        shown.page.locator("#problem").get_by_text("There is no run nobody").wait_for()
        shown.page.wait_for_timeout(2500)
        assert len(shown.messages) == 1


def test_what_a_run_is_called_is_never_markup(browser: Any, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>" if os.name != "nt" else "&lt;b&gt;"
    shutil.copytree(LEARNER, tmp_path / "runs" / name)
    with opened(tmp_path / "runs") as studio, watched(browser, studio.address) as shown:
        shown.page.get_by_text(name).first.wait_for()
        assert shown.page.locator("main img").count() == 0 and shown.outside == []


@contextmanager
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hrm studio` and the address that it prints."""
    command = [sys.executable, "-m", "hrm", "studio", str(folder), "--no-browser", "--port", "0"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        lines = (line.strip() for line in started.stdout)
        yield started, next(line for line in lines if line.startswith("http"))
    finally:
        started.kill()
        started.communicate()


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX's")
def test_the_story_of_a_learner(browser: Any, tmp_path: Path) -> None:
    """First book; server and page are killed; pause, resume, stop; a second book by choice; what it knows; a talk."""
    folder = tmp_path / "runs"
    first = book(tmp_path, "first.txt", "the cat sat on a mat and the dog ate it")
    second = book(tmp_path, "second.txt", "ÄPFEL UND BÄUME, ZWÖLF KÜHE!", 1)
    jobs = Jobs(folder)

    def step() -> int:
        state = newest(folder / "first")
        return -1 if state is None else state.step_number

    try:
        with process(folder) as (server, address), watched(browser, address) as shown:
            page = shown.page
            page.get_by_role("link", name="Learn a book").click()
            page.set_input_files("#files", str(first))
            page.get_by_label("Tiny").check()
            page.get_by_role("button", name="How long").click()
            page.locator(".time").get_by_text("parameters").wait_for(timeout=90_000)
            page.get_by_label("Epochs").fill("100000")
            page.get_by_label("Save every").fill("5")
            page.get_by_label("Evaluate every").fill("20")
            page.keyboard.press("Tab")
            assert "have changed" in page.locator(".time").inner_text()
            page.get_by_role("button", name="Begin to learn").click()
            page.get_by_role("img", name=re.compile("held out")).wait_for(timeout=90_000)
            page.get_by_role("heading", name="How it writes").wait_for(timeout=90_000)
            training = jobs.job("first")
            assert training is not None and training.lives and shown.messages == [] and shown.outside == []
            server.send_signal(signal.SIGKILL)
            server.wait()
            page.locator("#problem").get_by_text("Trainings continue").wait_for()
        assert training.lives
        saved = step()
        until(lambda: step() > saved)

        with process(folder) as (server, address), watched(browser, address) as shown:
            page = shown.page
            page.get_by_role("link", name="Watch: first").click()
            page.get_by_text("Reads first.txt, epoch").wait_for()
            page.get_by_role("button", name="Pause").click()
            page.locator(".badge.paused").wait_for(timeout=30_000)
            assert not training.lives
            paused = step()
            page.get_by_role("button", name="Resume").click()
            until(lambda: step() > paused)
            page.get_by_role("button", name="Stop").click()
            page.get_by_role("button", name="Stop here").click()
            page.locator(".badge.finished").wait_for(timeout=60_000)
            page.get_by_role("link", name="Learn another book").click()
            page.get_by_label("Or name a file").fill(str(second))
            page.keyboard.press("Enter")
            page.get_by_role("radio", name="first").check()
            new = len(set(second.read_text("utf-8")) - set(first.read_text("utf-8")))
            page.get_by_text(f"New to first: {new} characters").wait_for()
            page.get_by_label("Epochs").fill("1")
            page.get_by_label("Batch size").fill("8")
            page.keyboard.press("Tab")
            page.get_by_role("button", name="Begin to learn").click()
            page.get_by_text("Has read second.txt").wait_for(timeout=120_000)
            row = page.get_by_role("row", name=re.compile("first.txt")).inner_text().split("\t")
            assert re.fullmatch(r"[+−]\d+\.\d %", row[-1].strip()), row
            page.get_by_role("link", name="Learn another book").click()
            page.get_by_label("Or name a file").fill(str(first))
            page.keyboard.press("Enter")
            page.get_by_text("first has read first.txt").wait_for()
            page.get_by_role("link", name="Home").click()
            page.get_by_text("2 books: first.txt, second.txt").wait_for()
            page.get_by_role("link", name="Talk: first").click()
            for mode in ("fast", "normal", "deep", "extreme"):
                page.locator("label", has_text=mode).click()
                page.fill("#chat-text", "the cat")
                page.press("#chat-text", "Enter")
                page.locator(".message.assistant").last.get_by_text(f"mode {mode}").wait_for(timeout=60_000)
            assert shown.messages == [] and shown.outside == []
        state = newest(folder / "first")
        assert state is not None and [each.state for each in state.books] == ["stopped", "finished"]
    finally:
        for name in jobs.named():
            job = jobs.job(name)
            if job is not None and job.lives:
                with suppress(OSError):
                    os.kill(job.process, signal.SIGKILL)
