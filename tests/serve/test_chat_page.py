"""The chat page in a browser: talking, what is kept when a page dies, keys, screen readers, and what goes wrong."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi")
from hrm.serve.studio.app import Studio
from hrm.serve.studio.door import Door
from hrm.serve.text.engine import TextEngine
from hrm.text.chat.session import Session, Settings
from hrm.text.load import TextModel, load_text
from hrm.text.writing.generation import Sampling
from tests.serve.server import running
from tests.text.chat.small import TEMPLATE, run
from tests.text.chat.small import session as small_session

pause = 0.0
"""Seconds by which each token is delayed."""


def endless(*args: Any) -> TextModel:
    """A model that never ends a text."""
    loaded = load_text(*args)
    special = torch.tensor(loaded.tokenizer.all_special_ids)
    loaded.model.lm_head.register_forward_hook(lambda *call: call[2].index_fill(-1, special, -1e4))
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that continues, one that answers, and a learner whose vocabulary cannot be left."""
    place = tmp_path_factory.mktemp("runs")
    run(place).rename(place / "writer")
    shutil.copytree(place / "writer", place / "asker")
    settings = place / "asker/tokenizer/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    shutil.copytree(Path(__file__).parents[1] / "golden/runs/learner", place / "reader")
    return place


@pytest.fixture(scope="module")
def door(folder: Path) -> Iterator[tuple[str, Door]]:
    """A studio that listens, and what lets a browser in."""
    with pytest.MonkeyPatch.context() as patch:
        draw = TextEngine._draw

        def slowly(self: Any, texts: Any) -> Any:
            time.sleep(pause)
            return draw(self, texts)

        patch.setattr(TextEngine, "_draw", slowly)
        patch.setattr("hrm.serve.models.load_text", endless)
        made = Door(Studio(folder))
        with running(made) as address:  # type: ignore[arg-type]
            yield address, made


@pytest.fixture
def opened(browser: Any, door: tuple[str, Door], folder: Path) -> Iterator[Callable[..., Any]]:
    """Opens the chat page with a model in a window of its own."""
    global pause
    shutil.rmtree(folder / ".studio", ignore_errors=True)
    pause, contexts = 0.0, []

    def opened(model: str = "writer", **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 1280, "height": 844}, **options)
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        page.set_default_timeout(8000)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(f"{door[0]}/?token={door[1].token}")
        page.goto(f"{door[0]}/#chat/{model}")
        page.wait_for_selector(".segments")
        return page

    yield opened
    for context in contexts:
        context.close()


def settle(page: Any, **values: Any) -> None:
    """Change settings."""
    if page.locator("details.more[open]").count() == 0:
        page.locator("summary", has_text="Settings").click()
    for name, value in values.items():
        field = page.locator(f"#chat-{name}")
        field.select_option(value) if name in ("stop", "colour") else field.fill(str(value))


def say(page: Any, text: str, wait: bool = True) -> str:
    """Send a text; the answer."""
    page.fill("#chat-text", text)
    page.press("#chat-text", "Enter")
    return answer(page) if wait else ""


def answer(page: Any) -> str:
    page.wait_for_selector(".acts >> text=Regenerate")
    return shown(page)


def shown(page: Any) -> str:
    return page.locator(".message.assistant .said-text").last.text_content()


def kept(folder: Path) -> dict[str, Any]:
    (file,) = (folder / ".studio/conversations").glob("*.json")
    return json.loads(file.read_text())


def eventually(holds: Callable[[], Any], seconds: float = 8) -> Any:
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.03)
    return found


def test_it_is_talked_with_in_four_modes_and_the_answers_are_those_of_hrm_chat(opened: Any, folder: Path) -> None:
    page = opened()
    told = page.locator(".about").text_content()
    assert "6.46 K parameters, a vocabulary of 24, has read book.txt, remembers 16 tokens." in told
    assert told.endswith("It continues what you write.")
    settle(page, length=12, stop="length", seed=7)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    for mode in ("fast", "normal", "deep", "extreme"):
        page.locator("label", has_text=mode).click()
        assert "schedule" in page.locator("#chat-mode-told").text_content().lower()
        said = say(page, "the cat ")
        facts = page.locator(".took").last.text_content()
        assert said and "12 tokens" in facts and "mean depth 1.00" in facts and f"mode {mode}" in facts
        if mode != "fast":
            continue
        page.reload()  # still there, with its colours
        page.wait_for_selector(".segments")
        assert answer(page) == said and page.locator(".message.assistant .t").count() == 12
    conversation = kept(folder)
    assert [message["role"] for message in conversation["messages"]] == ["user", "assistant"] * 4
    assert conversation["answers"] == 4 and conversation["messages"][2]["content"] == "\nthe cat "
    drawn = Sampling(max_new_tokens=12, temperature=0.8, seed=7)
    talk = Session(endless(folder / "writer"), Settings("fast", "length", sampling=drawn))
    assert talk.answer("the cat ").text == conversation["messages"][1]["content"]
    # The file is one of hrm chat, and so is what is exported.
    (file,) = (folder / ".studio/conversations").glob("*.json")
    talk.conversation.load(file)
    assert [m.content for m in talk.conversation.messages] == [m["content"] for m in conversation["messages"]]
    with page.expect_download() as download:
        page.click("text=Export")
    talk.conversation.load(Path(download.value.path()))
    assert talk.conversation.answers == 4
    host = page.url.partition("#")[0]
    assert page.complaints == [] and all(url.startswith((host, "blob:")) for url in urls)


def test_characters_stream_and_escape_stops(opened: Any, folder: Path) -> None:
    global pause
    pause = 0.02
    page = opened()
    settle(page, length=2000, stop="length")
    say(page, "the cat ", wait=False)
    page.wait_for_selector(".message.assistant .t")
    first = shown(page)
    assert eventually(lambda: len(shown(page)) > len(first))
    assert page.locator("button", has_text="Stop").is_visible() and not page.locator("button.primary").is_visible()
    page.keyboard.press("Escape")
    said = answer(page)
    assert 0 < len(said) < 2000 and "You stopped it." in page.locator(".took").text_content()
    assert page.evaluate("document.activeElement.id") == "chat-text"
    assert eventually(lambda: kept(folder)["messages"][1]["content"] == said)
    assert eventually(lambda: kept(folder)["messages"][1]["end"] == "interrupted")
    pause = 0.0
    settle(page, length=9)
    page.press("#chat-text", "Enter")  # alone, it has the model continue
    assert eventually(lambda: len(shown(page)) > len(said))
    assert answer(page).startswith(said) and page.locator(".message").count() == 2
    tokens = page.locator(".message.assistant .t").count()
    assert eventually(lambda: len(kept(folder)["messages"][1]["trace"]) == tokens)


def test_an_answer_is_drawn_again_and_an_earlier_message_edited(opened: Any, folder: Path) -> None:
    page = opened()
    settle(page, length=12, stop="length")
    first, second = say(page, "the cat "), say(page, "the mat ")
    page.click("text=Regenerate")
    third = answer(page)
    assert third != second and page.locator(".message").count() == 4
    assert eventually(lambda: kept(folder)["answers"] == 3)
    page.click("text=Other version (2)")
    assert shown(page) == second and eventually(lambda: kept(folder)["messages"][3]["content"] == second)
    assert eventually(lambda: kept(folder)["messages"][3]["others"][0]["content"] == third)
    page.locator("button", has_text="Edit").first.click()
    box = page.get_by_label("Your message")
    assert box.input_value() == "the cat "
    box.fill("the rat ")
    box.press("Enter")
    assert "3 messages after this one are replaced" in page.locator("dialog").text_content()
    page.locator("dialog button.primary").click()
    assert eventually(lambda: page.locator(".message").count() == 2)
    changed = answer(page)
    assert changed != first
    assert eventually(lambda: [m["content"] for m in kept(folder)["messages"]] == ["the rat ", changed])
    page.locator(".message.assistant button", has_text="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == changed
    page.locator("button", has_text="Clear").click()
    page.locator("dialog button.primary").click()
    assert eventually(lambda: kept(folder)["messages"] == [])
    page.locator("button", has_text="Rename").click()
    page.fill("#asked", "About a cat")
    page.keyboard.press("Enter")
    page.wait_for_selector("h2:text('About a cat')")
    page.locator("button", has_text="Delete").click()
    page.locator("dialog button.primary").click()
    page.wait_for_selector("h2:text('New conversation')")
    assert list((folder / ".studio/conversations").glob("*.json")) == []


def test_nothing_is_lost_when_the_page_dies(opened: Any, folder: Path, door: tuple[str, Door]) -> None:
    """Left for another page, closed, or killed while an answer is written: it ends, and what was written is kept."""
    global pause
    pause = 0.01
    page = opened()
    settle(page, length=2000, stop="length")
    page.fill("#chat-text", "the cat ")
    assert page.evaluate("localStorage['hrm-chat-draft-writer']") == '"the cat "'
    models = door[1].app.models  # type: ignore[attr-defined]
    for how in ("left", "closed", "killed"):
        say(page, "the cat ", wait=False)
        page.wait_for_selector(".message.assistant .t")
        assert eventually(lambda: len(shown(page)) > 40)
        seen = str(shown(page))
        if how == "killed":
            time.sleep(0.8)
            page.close(run_before_unload=False)
        elif how == "closed":
            page.goto("about:blank")
        else:
            page.click("nav >> text=Home")
        assert eventually(lambda seen=seen: kept(folder)["messages"][1]["content"].startswith(seen)), how
        assert eventually(lambda: not models.get("writer").engine.active), how
        if how == "killed":
            break
        page.goto(f"{door[0]}/#chat")
        assert answer(page).startswith(seen)
        page.click("text=New conversation")
        page.wait_for_selector("h2:text('New conversation')")
        shutil.rmtree(folder / ".studio")


def test_a_question_is_answered_under_a_system_text(opened: Any, folder: Path) -> None:
    page = opened("asker")
    assert page.locator(".about").text_content().endswith("It answers questions.")
    settle(page, system="la", length=5)
    page.locator("#chat-system").blur()
    first = say(page, "hat?")
    page.locator(".acts >> text=Continue").click()
    assert eventually(lambda: len(shown(page)) == 10) and answer(page).startswith(first)
    assert eventually(lambda: [m["role"] for m in kept(folder)["messages"]] == ["system", "user", "assistant"])
    assert kept(folder)["talks"] is True
    session = small_session(talks=True)  # another model of the same form reads it
    (file,) = (folder / ".studio/conversations").glob("*.json")
    session.conversation.load(file)


def test_what_goes_wrong_is_said_where_the_person_is_looking(opened: Any, folder: Path) -> None:
    page = opened("reader")
    assert "has read 2 books: first.txt, second.txt" in page.locator(".about").text_content()
    settle(page, length=6, stop="length")
    say(page, "Ж")
    assert "vocabulary lacks 'Ж', read as <|unknown|>" in page.locator(".composer [role=status]").text_content()
    refused = json.dumps({"error": {"message": "the model's vocabulary lacks 'Ж': leave that out"}})
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=400, body=refused))
    say(page, "Ж", wait=False)
    page.wait_for_selector("#chat-problem:has-text('vocabulary lacks')")
    assert page.input_value("#chat-text") == "Ж" and page.locator(".message").count() == 2
    page.unroute("**/v1/chat/completions")
    page.click("text=New conversation")
    page.wait_for_selector("h2:text('New conversation')")
    page.wait_for_selector(".segments")
    shutil.rmtree(folder / ".studio")
    page.context.set_offline(True)
    say(page, "a", wait=False)
    page.wait_for_selector("#chat-problem:has-text('does not answer')")
    assert page.input_value("#chat-text") == "a"
    page.context.set_offline(False)
    busy = [True]

    def once(route: Any) -> None:
        if busy:
            busy.clear()
            body = json.dumps({"error": {"message": "the server has as many requests as it takes"}})
            route.fulfill(status=429, headers={"Retry-After": "2", "content-type": "application/json"}, body=body)
        else:
            route.continue_()

    page.route("**/v1/chat/completions", once)
    page.press("#chat-text", "Enter")
    page.wait_for_selector("text=The model is busy with other requests: it is asked again in 2 seconds.")
    said = answer(page)
    assert said and page.locator("#chat-problem").text_content() == ""
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}}]}
    cut = f"data: {json.dumps(chunk)}\n\n"
    page.unroute("**/v1/chat/completions")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=cut))
    page.press("#chat-text", "Enter")
    page.wait_for_selector("#chat-problem:has-text('cut off')")
    assert eventually(lambda: kept(folder)["messages"][1]["content"] == said + "x")
    settle(page, temperature=-1)
    page.fill("#chat-text", "a")
    page.press("#chat-text", "Enter")
    assert page.evaluate("document.activeElement.id") == "chat-temperature" and page.locator(".message").count() == 2


def test_two_windows_do_not_overwrite_each_other(opened: Any, folder: Path) -> None:
    page = opened()
    settle(page, length=5, stop="length")
    say(page, "the cat ")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(".segments")
    said = say(other, "the mat ")
    assert eventually(lambda: len(kept(folder)["messages"]) == 4)
    say(page, "the rat ", wait=False)
    page.wait_for_selector("#chat-problem:has-text('another window')")
    assert shown(page) == said and eventually(lambda: len(kept(folder)["messages"]) == 4)


def test_it_is_used_by_keyboard_and_screen_reader(opened: Any) -> None:
    page = opened()
    settle(page, length=5, stop="length")
    names = {"textbox": ["Your text"], "combobox": ["Model", "An answer ends", "Colours show"],
             "spinbutton": ["Temperature", "Top-p", "Length", "Seed"],
             "radio": ["fast", "normal", "deep", "extreme", "auto"], "list": ["Conversation"]}  # fmt: skip
    for role, each in names.items():
        for name in each:
            assert page.get_by_role(role, name=name, exact=True).count() == 1, name
    page.get_by_role("combobox", name="Model").focus()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".about:has-text('It answers questions.')")
    assert page.evaluate("document.activeElement.id") == "chat-model"
    page.keyboard.press("ArrowUp")
    page.wait_for_selector(".about:has-text('It continues what you write.')")
    page.get_by_role("radio", name="auto").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="fast").is_checked()
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "chat-text":
            break
    page.keyboard.type("the cat")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the ")
    assert page.input_value("#chat-text") == "the cat\nthe "
    page.keyboard.press("Enter")
    said = answer(page)
    assert said in eventually(lambda: page.locator("#said").text_content())
    text = page.get_by_role("group", name="Answer. The arrow keys step through its tokens.")
    text.focus()
    for key, place in (("ArrowRight", 0), ("ArrowRight", 1), ("End", 4), ("ArrowLeft", 3), ("Home", 0)):
        page.keyboard.press(key)
        assert page.locator(".t.at").text_content() == said[place]
    facts = r": 1 segment, confidence \d+ %, probability [\d.e-]+ %, entropy \d\.\d\d nats$"
    assert re.search(facts, page.locator("#said").text_content())
    assert page.locator(".facts >> visible=true").count() == 1


def test_axe_finds_nothing_serious_and_a_phone_is_wide_enough(opened: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = opened(bypass_csp=True, reduced_motion="reduce")
    settle(page, length=40, stop="length")
    say(page, "the cat " * 20)
    for scheme, colour in (("light", "depth"), ("dark", "confidence")):
        page.emulate_media(color_scheme=scheme)
        settle(page, colour=colour)
        for width in (1280, 375):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = axe.run(page).response["violations"]
        serious = [
            (each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], scheme
    assert page.complaints == []
