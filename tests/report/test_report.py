"""The report: what it says is what the runs say, it opens anywhere, and nothing in a run can write into the page."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main
from hrm.report.page import page
from hrm.report.story import figures_of, story


@pytest.fixture(scope="module")
def puzzles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 4x4 Sudokus that knows little, with a figure."""
    path = tmp_path_factory.mktemp("puzzles") / "four"
    words = "--task.puzzles 60 --task.holdout 20 --train.steps 4 --train.eval-every 2 --train.checkpoint-every 2"
    assert main(["train", "sudoku-4x4", *words.split(), "--optim.warmup-steps", "1", "--out", str(path)]) == 0
    assert main(["analyze", "steps", str(path), "--limit", "4", "--segments", "2"]) == 0
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a text, of two steps."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "book.txt").write_text("The cat sat on the mat and saw the rat that ran away. " * 60)
    words = "--text.length 32 --train.steps 2 --train.batch-size 2 --arch.dim 32 --arch.heads 2 --optim.warmup-steps 1"
    words += " --train.eval-every 1 --train.checkpoint-every 1 --halting.max-segments 3"
    assert (
        main(["train", "text-char", "--data", str(folder / "book.txt"), *words.split(), "--out", str(folder / "run")])
        == 0
    )
    return folder / "run"


@pytest.fixture(scope="module")
def made(puzzles: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page about each, and one about both."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for name, runs in {"puzzles": [puzzles], "text": [text], "both": [puzzles, text]}.items():
        found[name] = folder / f"{name}.html"
        assert main(["report", *map(str, runs), "--out", str(found[name])]) == 0
    return found


def test_it_says_what_the_run_says(puzzles: Path, made: dict[str, Path]) -> None:
    result = json.loads((puzzles / "result.json").read_text())
    told = json.loads(made["puzzles"].with_suffix(".json").read_text())["runs"][0]
    results = {row["name"]: row["value"] for row in told["results"]}
    assert results["exact"] == f"{result['exact_accuracy']:.2%}"
    assert results["unsolved"] == str(result["unsolved"])
    assert [figure["question"] for figure in told["figures"]] == ["steps"]
    assert f"hrm analyze steps {puzzles} --limit 4 --segments 2" in told["commands"]
    assert "hrm train settings.yaml" in told["commands"][0] and told["settings"].startswith("task:")
    from hrm.puzzles.solving import load

    parameters = sum(p.numel() for p in load(puzzles).model.parameters())
    assert int({row["name"]: row["value"] for row in told["facts"]}["parameters"].replace(",", "")) == parameters


def test_its_settings_train_the_same_run(puzzles: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(story(puzzles).settings)
    assert main(["train", str(tmp_path / "settings.yaml"), "--out", str(tmp_path / "again")]) == 0
    first, second = (json.loads((path / "result.json").read_text()) for path in (puzzles, tmp_path / "again"))
    assert first["exact_accuracy"] == second["exact_accuracy"] and first["token_accuracy"] == second["token_accuracy"]


def test_several_runs_stand_side_by_side(made: dict[str, Path]) -> None:
    said = made["both"].read_text("utf-8")
    assert said.count('scope="row"') >= 2 and "Side by side" in said and "GPT-2 1.5B" in said and "87.4%" in said


def test_a_learner_is_reported(tmp_path: Path) -> None:
    learner = Path(__file__).parents[1] / "golden/runs/learner"
    shutil.copytree(learner, tmp_path / "reader")
    assert main(["report", str(tmp_path / "reader"), "--out", str(tmp_path / "a.html"), "--no-samples"]) == 0
    told = json.loads((tmp_path / "a.json").read_text())["runs"][0]
    assert any("bits a character" in row["value"] for row in told["results"])


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_nothing_in_a_run_becomes_part_of_the_page(puzzles: Path, tmp_path: Path) -> None:
    evil = tmp_path / "<script>alert(1)</script>"
    shutil.copytree(puzzles, evil)
    command = "hrm analyze x a; rm -r /\n reboot"
    said = {"title": "<img src=x onerror=alert(1)>", "says": ["</p><b>"], "command": command}
    (evil / "analysis" / "x.json").write_text(json.dumps(said))
    (evil / "analysis" / "x.svg").write_text("<svg onload='alert(1)'/>")
    (evil / "analysis" / "broken.json").write_text("[")
    told = story(evil)
    assert [figure.question for figure in told.figures] == ["steps", "x"]
    assert told.figures[1].command == "hrm analyze x 'a;' rm -r / reboot"
    elements = _Elements()
    elements.feed(page([told], [], "hrm report"))
    assert sum(tag == "script" for tag, _ in elements.seen) == 1
    for tag, attributes in elements.seen:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)


def test_pictures_of_strangers_are_not_followed_out_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "secret.svg").write_text("<svg/>")
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis/a.json").write_text(json.dumps({"title": "a", "says": []}))
    (tmp_path / "analysis/a.svg").symlink_to(tmp_path / "secret.svg")
    assert list(figures_of(tmp_path / "analysis")) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "name run folders"),
        ("nowhere", "nowhere"),
        ("RUN --out a.txt", "must end in .html"),
        ("RUN --out nowhere/a.html", "does not exist"),
        ("RUN --price -1", "--price"),
    ],
)
def test_a_mistake_is_said_in_one_sentence(
    words: str, said: str, puzzles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["report", *words.replace("RUN", str(puzzles)).split()]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize("name", ["puzzles", "text", "both"])
def test_it_opens_in_a_browser_without_a_request_or_a_complaint(
    name: str, width: int, made: dict[str, Path], browser: Any
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True)
    shown = context.new_page()
    complaints, requests = [], []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(made[name].as_uri())
    shown.wait_for_timeout(300)
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "about:"))] == [made[name].as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    summary = shown.locator("summary", has_text="settings.yaml").first
    summary.focus()
    shown.keyboard.press("Enter")
    assert shown.locator("details[open] pre").count() == 1
    for frame in shown.locator("iframe").all():
        inside = frame.content_frame
        assert abs(frame.bounding_box()["height"] - inside.locator("body").bounding_box()["height"]) < 8
    shown.emulate_media(media="print")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["puzzles", "text", "both"])
def test_axe_finds_nothing_serious(name: str, scheme: str, made: dict[str, Path], browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    context = browser.new_context(viewport={"width": 1280, "height": 844}, color_scheme=scheme, bypass_csp=True)
    shown = context.new_page()
    shown.goto(made[name].as_uri())
    shown.wait_for_timeout(300)
    found = axe.Axe().run(shown).response["violations"]
    serious = [
        (each["id"], re.sub(r"\s+", " ", each["nodes"][0]["html"])[:200])
        for each in found if each["impact"] in ("serious", "critical")
    ]  # fmt: skip
    assert serious == []
    context.close()
