"""The studio's page about what is inside a run: figures by name, questions in processes of their own, the report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from hrm.serve.studio import inside
from hrm.serve.studio.app import Studio
from tests.puzzles.solving import small
from tests.serve.page import Opened, opened, watched

FOUND = {
    "title": "How far its states move",
    "says": ["L moves <b>far</b>", "H moves less"],
    "command": "hrm analyze steps four",
}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="200"><rect width="400" height="200"/></svg>'
SLOWLY = """
import json, pathlib, sys, time
place, go = pathlib.Path(sys.argv[-1], "analysis"), pathlib.Path(__file__).with_name("go")
print("watching 45%%", file=sys.stderr, flush=True)
while not go.exists():
    time.sleep(0.02)
place.mkdir(exist_ok=True)
(place / "paths.svg").write_text(%r)
(place / "paths.json").write_text(json.dumps({"title": "Where it goes", "says": ["far"]}))
"""


def figure(place: Path, name: str = "steps") -> None:
    place.mkdir(exist_ok=True)
    (place / f"{name}.json").write_text(json.dumps(FOUND))
    (place / f"{name}.svg").write_text(SVG)
    (place / f"{name}.png").write_bytes(b"\x89PNG")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a run that has a figure, and one that has none."""
    place = tmp_path_factory.mktemp("studio")
    figure(small.run_folder(place / "four") / "analysis")
    shutil.copytree(place / "four", place / "bare", ignore=shutil.ignore_patterns("analysis"))
    return place


@pytest.fixture
def client(folder: Path) -> TestClient:
    return TestClient(Studio(folder), base_url="http://127.0.0.1")


def said(client: TestClient, path: str, **asked: Any) -> str:
    answer = client.post(path, json=asked) if asked else client.get(path)
    assert answer.status_code in (400, 404), answer.text
    return answer.json()["error"]["message"]


def test_the_figures_of_a_run_are_listed_and_served(client: TestClient):
    found = client.get("/studio/inside?run=four").json()
    (steps,) = found["figures"]
    assert (steps["title"], steps["says"]) == (FOUND["title"], FOUND["says"]) and not found["report"]
    assert [each["name"] for each in found["questions"]] == list(inside.QUESTIONS)
    picture = client.get("/studio/inside/file?run=four&name=steps.svg")
    assert picture.text == SVG and picture.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in picture.headers["content-security-policy"]
    assert client.get("/studio/inside?run=bare").json()["figures"] == []
    shipped = client.get("/studio/inside?run=sudoku").json()
    assert "report" not in [each["name"] for each in shipped["questions"]]


@pytest.mark.parametrize(
    "name",
    [
        "paths.svg",
        "steps.json",
        "../run.json",
        "..%2Frun.json",
        "/etc/passwd",
        "steps.svg%00",
        "",
        ".",
        "steps",
        "x" * 41,
    ],
)
def test_no_other_file_is_served(client: TestClient, name: str):
    assert said(client, f"/studio/inside/file?run=four&name={name}")


def test_no_link_leads_out_of_a_run(client: TestClient, folder: Path, tmp_path: Path):
    evil = folder / "evil"
    shutil.copytree(folder / "bare", evil)
    (tmp_path / "secret.svg").write_text(SVG)
    (evil / "analysis").mkdir()
    (evil / "analysis/steps.json").write_text(json.dumps(FOUND))
    (evil / "analysis/steps.svg").symlink_to(tmp_path / "secret.svg")
    try:
        client.get("/studio/runs")
        assert client.get("/studio/inside?run=evil").json()["figures"] == []
        assert said(client, "/studio/inside/file?run=evil&name=steps.svg")
        shutil.rmtree(evil / "analysis")
        (evil / "analysis").symlink_to(tmp_path)
        assert "link" in said(client, "/studio/inside?run=evil")
    finally:
        shutil.rmtree(evil)


def test_what_cannot_be_asked_is_refused(client: TestClient):
    assert "there is no model 'none'" in said(client, "/studio/inside?run=none")
    assert said(client, "/studio/inside", run="four", question="rm")
    assert "nothing to report" in said(client, "/studio/inside", run="sudoku", question="report")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Instead of hrm, something that waits for the file that this gives."""
    (tmp_path / "slow.py").write_text(SLOWLY % SVG)
    monkeypatch.setattr(inside, "HRM", (sys.executable, str(tmp_path / "slow.py")))
    return tmp_path / "go"


def until(client: TestClient, run: str, share: float | None = None) -> dict[str, Any]:
    """The state of the work once it has ended, or is so far."""
    for _ in range(1000):
        found = client.get(f"/studio/inside?run={run}").json()
        if not found["work"]["lives"] or (share is not None and found["work"]["share"] == share):
            return found
        time.sleep(0.02)
    raise AssertionError("it does not end")


def test_a_question_is_answered_by_a_process_that_can_be_stopped(client: TestClient, folder: Path, slow: Path):
    assert client.post("/studio/inside", json={"run": "bare", "question": "paths"}).json()["lives"]
    assert until(client, "bare", 0.45)["work"]["question"] == "paths"
    assert "bare is being looked into" in said(client, "/studio/inside", run="four", question="paths")
    assert client.get("/studio/inside?run=four").json()["work"] is None
    assert client.post("/studio/inside/stop").json()["work"]["stopped"]
    stopped = until(client, "bare")
    assert not stopped["work"]["problem"] and stopped["figures"] == []
    slow.write_text("")
    client.post("/studio/inside", json={"run": "bare", "question": "paths"})
    (found,) = until(client, "bare")["figures"]
    assert found["title"] == "Where it goes"
    shutil.rmtree(folder / "bare/analysis")


@pytest.mark.slow
def test_what_went_wrong_is_said_in_the_sentence_of_the_command(client: TestClient):
    client.post("/studio/inside", json={"run": "bare", "question": "training"})
    problem = until(client, "bare")["work"]["problem"]
    assert problem and "Traceback" not in problem and not problem.startswith("hrm") and "\x1b" not in problem


@pytest.fixture(scope="module")
def studio(folder: Path) -> Iterator[Opened]:
    with opened(folder) as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 375])
def test_a_figure_is_shown_with_its_words(browser: Any, studio: Opened, width: int):
    with watched(browser, studio.address, viewport={"width": width, "height": 800}) as shown:
        page = shown.page
        page.goto(f"{studio.home}#inside/four")
        page.get_by_role("heading", name=FOUND["title"]).wait_for()
        picture = page.get_by_role("img")
        picture.scroll_into_view_if_needed()
        for _ in range(100):
            if picture.evaluate("image => image.naturalWidth"):
                break
            time.sleep(0.02)
        assert picture.evaluate("image => image.naturalWidth") == 400
        assert page.get_by_text("L moves <b>far</b>.").is_visible()
        assert page.locator("html").evaluate("e => e.scrollWidth") == width
        assert shown.serious() == [] and shown.messages == [] and shown.outside == []


@pytest.mark.slow
def test_a_question_is_asked_watched_stopped_and_answered(browser: Any, studio: Opened, folder: Path, slow: Path):
    with watched(browser, studio.address, color_scheme="dark", reduced_motion="reduce") as shown:
        page = shown.page
        page.goto(f"{studio.home}#inside/bare")
        page.get_by_role("button", name="Ask: Paths").press("Enter")
        page.get_by_text("Paths: 45 % done").wait_for()
        assert page.get_by_role("button", name="Ask: Steps").is_disabled()
        assert shown.serious() == []
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Stop").wait_for(state="hidden")
        page.get_by_role("button", name="Ask: Paths").click()
        page.reload()  # nothing is lost when the page is closed
        page.get_by_text("Paths: 45 % done").wait_for()
        slow.write_text("")
        page.get_by_role("heading", name="Where it goes").wait_for()
        assert page.inner_text("#said") == "Paths is ready"
        assert shown.serious() == [] and shown.messages == [] and shown.outside == []
    shutil.rmtree(folder / "bare/analysis")
