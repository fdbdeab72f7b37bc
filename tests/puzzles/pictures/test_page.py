"""The page of `hrm solve --html`: its data, and what a browser makes of it at phone and desktop width."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hrm.cli.main import main
from hrm.core.arch import ArchConfig
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.pictures.candidates import marks
from hrm.puzzles.pictures.page import _shares, page
from hrm.puzzles.solving import Solver
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks import Task
from tests.puzzles.pictures.deducing import deduced
from tests.puzzles.pictures.observed import Solving, guessed, long, solved, unsolved, untrained, watched
from tests.puzzles.solving.small import questions, run_folder

pytestmark = pytest.mark.slow

SMALL, PHONE, DESKTOP = 320, 390, 1280


def data(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(found)


KINDS = "6x6", "9x9", "16x16", "grid", "numbers", "maze"


# What the page holds, without a browser.


@given(arrays(np.float32, (5, 7), elements=st.floats(0, 1, width=32)))
def test_rounded_probabilities_begin_with_the_readout_and_are_off_by_less_than_a_thousandth(weights: np.ndarray):
    exact = (weights + 1e-3) / (weights + 1e-3).sum(axis=1, keepdims=True)
    segment = Segment(np.zeros(5, int), exact.argmax(1), 1, 1, (0.0, 0.0), 0.0, exact)
    for cell, known in enumerate(_shares(segment)):
        tokens, parts = ([known], [1000]) if isinstance(known, int) else (known[::2], known[1::2])
        assert tokens[0] == segment.readout[cell] and parts == sorted(parts, reverse=True)
        told = np.zeros(7)
        told[tokens] = np.array(parts) / 1000
        assert np.abs(told - exact[cell]).max() < 0.001


def test_a_readout_that_ties_with_another_token_comes_first():
    shares = np.full((1, 3), 1 / 3, np.float32)
    segment = Segment(np.zeros(1, int), np.array([2]), 1, 1, (0.0, 0.0), 0.0, shares)
    assert _shares(segment) == [[2, 333, 0, 333, 1, 333]]


def test_of_many_tokens_the_most_probable_are_kept():
    item = untrained("numbers")
    for segment, step in zip(item.segments, data(page(*item))["steps"], strict=True):
        for cell, known in enumerate(step["shares"]):
            assert len(known) == 32
            assert set(known[::2]) <= set(np.argsort(-segment.probabilities[cell])[:16].tolist())


def test_the_verdict_says_whether_the_answer_was_verified():
    several = len(solved().segments)
    assert f"<h1>Solved after {several} segments, verified</h1>" in page(*solved())
    assert "<h1>Unsolved after 12 segments in 2 attempts</h1>" in page(*unsolved())
    assert "<h1>Answered after 3 segments, not verified</h1>" in page(*untrained("grid"))


def test_a_maze_of_900_cells_and_64_segments_in_doubt_stays_below_5_megabytes():
    item = untrained("maze")
    assert len(item.segments) == 64 and len(page(*item).encode()) < 5e6


def test_it_opens_on_the_segment_whose_readout_became_the_answer():
    item = solved()
    assert data(page(*item))["chosen"] == len(item.segments)
    # After a vote an earlier attempt's readout counts.
    first = item._replace(segments=[item.segments[-1], *item.segments[:-1]])
    assert data(page(*first))["chosen"] == 1


def test_numbers_that_json_cannot_say_are_left_out():
    item = solved()
    broken = item._replace(segments=[item.segments[0]._replace(residual=float("inf"), q=(float("nan"), 0.0))])
    (step,) = data(page(*broken))["steps"]
    assert step["residual"] is None and step["q"] == [None, 0.0]


class Different(Task):
    """A task of one's own with a rule that can be seen: neighbours in a row differ."""

    name = "different"
    verifies = True
    blocks = (0,) * 10 + (1,) * 5

    def __init__(self) -> None:
        super().__init__(3, 5, ["?", "red", "green", "blue"])

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """[cells] bool."""
        rows = answer.reshape(self.shape)
        same = np.pad(rows[:, 1:] == rows[:, :-1], ((0, 0), (1, 1)))
        return (same[:, 1:] | same[:, :-1]).ravel()


def test_a_task_of_ones_own_says_how_tokens_are_called_where_lines_run_and_which_cells_are_wrong():
    task = Different()
    item = guessed(task)
    known = data(page(*item))
    assert known["labels"] == ["", "red", "green", "blue"] and known["rules"]
    assert known["blocks"] == list(task.blocks)
    for segment, step in zip(item.segments, known["steps"], strict=True):
        assert step["wrong"] == np.flatnonzero(task.conflicts(segment.question, segment.readout)).tolist()
    assert known["steps"][0]["wrong"] and not data(page(*untrained("grid")))["rules"]


class Brackets(Task):
    """A task whose cells look like the end of the page's script."""

    name = "</script><b>"

    def __init__(self) -> None:
        super().__init__(2, 3, "?<>/&'\"")


@cache
def brackets() -> Solving:
    task = Brackets()
    torch.manual_seed(0)
    arch = ArchConfig(dim=16, heads=2, fast_layers=1, slow_layers=1, h_cycles=1, l_cycles=1)
    return watched(Solver(PuzzleModel(arch, board_of(task)).eval(), task), "</>'\"&", max_segments=2)


def test_no_text_can_break_out_of_the_page():
    text = page(*brackets())
    assert text.count("</script>") == 2 and "<b>" not in re.sub(r"<script.*", "", text, flags=re.S)
    assert data(text)["labels"] == ["", *"<>/&'\""]


def test_it_names_no_other_place():
    assert not re.search(
        r"https?:|//[\w.]+/|@import|url\(|<link(?! rel=\"icon\" href=\"data:,\")", page(*untrained("9x9"))
    )


def test_only_sudoku_has_boxes_of_its_own():
    assert [len(set(data(page(*untrained(kind)))["blocks"])) for kind in KINDS] == [6, 9, 16, 0, 0, 0]


# In a browser.


class Screen(NamedTuple):
    """A page in the browser, and what it complained about or asked for."""

    page: Any
    complaints: list[str]
    requests: list[str]

    def grid(self) -> list[str]:
        return self.page.locator("#grid i").all_inner_texts()

    def cells(self, name: str) -> list[int]:
        return self.page.evaluate(
            "name => [...document.querySelectorAll('#grid i')].map((c, i) => c.classList.contains(name) ? i : -1)"
            ".filter(i => i >= 0)",
            name,
        )

    def shares(self) -> dict[str, float]:
        """What the panel says about the cell it shows."""
        rows = self.page.locator("#bars li").all_inner_texts()
        return {(words := row.split())[0]: float(words[-1].strip("<%")) / 100 for row in rows}


Open = Callable[..., Screen]


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a Solving in a window; at the end nothing may have gone wrong and nothing may have been fetched."""
    screens = []

    def show(item: Solving, width: int = DESKTOP, **settings: Any) -> Screen:
        file = tmp_path / "out.html"
        file.write_text(page(*item), "utf-8")
        context = browser.new_context(viewport={"width": width, "height": 844}, offline=True, **settings)
        screen = Screen(context.new_page(), [], [])
        screen.page.on("console", lambda message: screen.complaints.append(message.text))
        screen.page.on("pageerror", lambda error: screen.complaints.append(str(error)))
        screen.page.on("request", lambda request: screen.requests.append(request.url))
        screen.page.goto(file.as_uri())
        screens.append(screen)
        return screen

    yield show
    for screen in screens:
        assert screen.complaints == []
        assert [url for url in screen.requests if not url.startswith("data:")] == [screen.page.url]
        screen.page.context.close()


def written(item: Solving, tokens: np.ndarray) -> list[str]:
    return [item.solver.task.vocabulary[token].replace(".", "") for token in tokens]


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_buttons_step_from_the_question_to_the_answer(show: Open, width: int):
    item = solved()
    screen = show(item, width)
    assert "solved" in screen.page.locator("h1").inner_text().lower()
    screen.page.click("#first")
    assert screen.grid() == written(item, item.segments[0].question)
    for segment in item.segments:
        screen.page.click("#next")
        assert screen.grid() == written(item, segment.readout)
        assert screen.cells("wrong") == item.solver.task.wrong(segment.question, segment.readout)
        assert screen.cells("given") == np.flatnonzero(segment.question == segment.readout).tolist()
        assert f"segment {segment.segment} of {len(item.segments)}" in screen.page.locator("#place").inner_text()
    assert screen.page.locator("#next").is_disabled() and not screen.cells("wrong")
    screen.page.click("#back")
    assert screen.grid() == written(item, item.segments[-2].readout)


def test_candidates_are_pencil_marks_and_those_killed_are_struck_through(show: Open):
    item = deduced()
    screen = show(item)
    for number, segment in enumerate(item.segments[:8], 1):
        screen.page.evaluate("step => go(step)", number)
        told = screen.page.evaluate(
            "grid.map(cell => [cell.innerText, [...cell.querySelectorAll('.dead')].map(b => b.innerText)])"
        )
        for (text, dead), held in zip(told, marks(item.solver.task, segment), strict=True):
            assert set(text.split()) == {item.solver.task.vocabulary[token] for token in held.alive + held.dying}
            assert dead == [item.solver.task.vocabulary[token] for token in held.dying]
        assert segment.deduced is not None
        assert screen.cells("decided") == np.flatnonzero(segment.deduced.decided).tolist()
        assert screen.page.locator("#place").inner_text() == f"call {number} of {len(item.segments)}"


def test_arrow_keys_and_the_slider_step_too(show: Open):
    item = solved()
    screen = show(item)
    screen.page.keyboard.press("ArrowLeft")
    assert screen.grid() == written(item, item.segments[-2].readout)
    screen.page.keyboard.press("ArrowRight")
    assert screen.grid() == written(item, item.segments[-1].readout)
    screen.page.focus("#slider")
    screen.page.keyboard.press("Home")
    assert screen.grid() == written(item, item.segments[0].question)
    screen.page.keyboard.press("ArrowRight")
    assert screen.grid() == written(item, item.segments[0].readout)
    assert screen.page.get_attribute("#slider", "aria-valuetext") == f"segment 1 of {len(item.segments)}"


def test_home_end_and_space_work_before_anything_has_the_focus(show: Open):
    item = solved()
    screen = show(item)
    screen.page.keyboard.press("Home")
    assert screen.grid() == written(item, item.segments[0].question)
    screen.page.keyboard.press("End")
    assert screen.grid() == written(item, item.segments[-1].readout)
    assert screen.page.get_attribute("#play", "aria-label") == "Play"
    screen.page.keyboard.press("Space")
    assert screen.page.get_attribute("#play", "aria-label") == "Pause"
    screen.page.keyboard.press("Space")
    assert screen.page.get_attribute("#play", "aria-label") == "Play"
    screen.page.click("#next")  # has the focus now: Space presses it, Home goes on to work
    screen.page.keyboard.press("Home")
    screen.page.keyboard.press("Space")
    assert screen.page.input_value("#slider") == "1"


LABELS = """
() => [...document.querySelectorAll('figure svg')].map(svg => {
  const bottom = svg.getBoundingClientRect().bottom - 24;
  const boxes = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect());
  return boxes.filter(b => b.top > bottom).map(b => [b.left, b.right]);
})
"""


@pytest.mark.parametrize("width", [SMALL, PHONE, DESKTOP])
@pytest.mark.parametrize("attempts, segments", [(1, 3), (1, 400), (61, 16)])
def test_numbers_below_the_curves_never_touch_and_the_controls_fit(
    show: Open, width: int, attempts: int, segments: int
):
    screen = show(long(attempts, segments), width)
    assert screen.page.evaluate("document.documentElement.scrollWidth") == width
    for labels in screen.page.evaluate(LABELS):
        assert len(labels) >= 2
        assert all(right + 3 < left for (_, right), (left, _) in pairwise(labels))
    card = screen.page.locator(".player").bounding_box()
    for control in screen.page.locator(".player button, .player input, .player output").all():
        box = control.bounding_box()
        assert box["x"] >= card["x"] - 1 and box["x"] + box["width"] <= card["x"] + card["width"] + 1
        assert box["width"] >= 40


def test_play_shows_every_segment_once_and_stops(show: Open):
    item = solved()
    screen = show(item)
    screen.page.clock.install(time=datetime(2026, 1, 1))
    screen.page.clock.pause_at(datetime(2026, 1, 2))  # else real time goes on beside it
    screen.page.click("#play")
    assert screen.grid() == written(item, item.segments[0].question)
    for segment in item.segments:
        assert screen.page.get_attribute("#play", "aria-label") == "Pause"
        screen.page.clock.run_for(900)
        assert screen.grid() == written(item, segment.readout)
    assert screen.page.get_attribute("#play", "aria-label") == "Play"


def test_the_keyboard_alone_reaches_every_cell_and_steps_from_there(show: Open):
    item = solved()
    screen = show(item)
    for _ in range(3):
        if screen.page.evaluate("document.activeElement.matches('#grid i')"):
            break
        screen.page.keyboard.press("Tab")
    for key in [*["ArrowUp"] * 4, *["ArrowLeft"] * 4]:
        screen.page.keyboard.press(key)
    assert screen.page.locator("#where").inner_text() == "Row 1, column 1"
    for key in ("ArrowRight", "ArrowDown", "End"):
        screen.page.keyboard.press(key)
    assert screen.page.locator("#where").inner_text() == "Row 2, column 4"
    screen.page.keyboard.press("PageUp")
    assert screen.grid() == written(item, item.segments[-2].readout)
    label = screen.page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert label.startswith(f"row 2, column 4: {written(item, item.segments[-2].readout)[7]}, ")


def test_pointing_at_a_cell_shows_its_probabilities(show: Open):
    item = unsolved()
    screen = show(item)
    task = item.solver.task
    for step, cell in ((1, 0), (3, 5), (8, 15)):
        screen.page.evaluate("step => go(step)", step)
        screen.page.locator("#grid i").nth(cell).hover()
        shares, exact = screen.shares(), item.segments[step - 1].probabilities[cell]
        assert sum(shares.values()) == pytest.approx(1, abs=0.005)
        for token in task.symbols:
            assert shares[task.vocabulary[token]] == pytest.approx(exact[token], abs=0.0011)


def test_a_tap_shows_the_probabilities_without_scrolling(show: Open):
    screen = show(solved(), PHONE, has_touch=True, is_mobile=True)
    screen.page.click("#first")
    screen.page.click("#next")
    screen.page.locator("#grid i").nth(6).tap()
    assert screen.page.locator("#where").inner_text() == "Row 2, column 3"
    assert sum(screen.shares().values()) == pytest.approx(1, abs=0.005)
    assert screen.page.evaluate("scrollY") == 0
    assert screen.page.evaluate("document.getElementById('bars').getBoundingClientRect().bottom <= innerHeight")


def test_attempts_are_separated_in_the_curves_and_named(show: Open):
    item = unsolved()
    screen = show(item)
    for name in ("residual", "q"):
        assert screen.page.locator(f"#{name} .cut").count() == 1
        assert screen.page.locator(f"#{name} .dot").count() == len(item.segments) == 12
        assert screen.page.locator(f"#{name} .halt").get_attribute("d").count("M") == 2
    assert "attempts, counted below" in screen.page.locator("figcaption").first.inner_text()
    assert screen.page.locator("#residual text").all_text_contents()[-3:-1] == ["1", "2"]
    assert screen.page.locator("#place").inner_text().split("\n") == ["attempt 2", "segment 6 of 6"]
    screen.page.evaluate("go(3)")
    assert screen.page.locator("#place").inner_text().split("\n") == ["attempt 1", "segment 3 of 6"]
    assert f"{100 * item.segments[2].residual:.1f}%" in screen.page.locator("#residual .value").inner_html()


def test_a_click_into_a_curve_goes_to_that_segment(show: Open):
    item = unsolved()
    screen = show(item)
    screen.page.locator("#q .dot").nth(4).click(force=True)
    assert screen.page.input_value("#slider") == "5"


def test_the_table_lists_every_segment(show: Open):
    item = unsolved()
    screen = show(item)
    screen.page.click("summary")
    rows = screen.page.locator("#table tbody tr").all_inner_texts()
    wrong = [len(item.solver.task.wrong(s.question, s.readout)) for s in item.segments]
    assert [(int(row.split()[0]), int(row.split()[-1])) for row in rows] == [
        (segment.segment, count) for segment, count in zip(item.segments, wrong, strict=True)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_fits_the_width(show: Open, kind: str):
    item = untrained(kind)
    screen, last = show(item), item.segments[-1]
    cells = item.solver.task.shape[0] * item.solver.task.shape[1]
    for width in (PHONE, DESKTOP):
        screen.page.set_viewport_size({"width": width, "height": 844})
        assert screen.page.evaluate("document.documentElement.scrollWidth") == width
        box = screen.page.locator("#grid").bounding_box()
        cell = screen.page.locator("#grid i").nth(cells - 1).bounding_box()
        assert box["width"] <= width - 32 and cell["width"] == pytest.approx(cell["height"], abs=0.1)
        assert screen.page.evaluate(
            "[...document.querySelectorAll('#grid i')].every(c => c.scrollWidth <= Math.ceil(c.clientWidth) + 1)"
        )
    assert len(screen.grid()) == cells
    assert screen.cells("wrong") == item.solver.task.wrong(last.question, last.readout)


def test_text_that_looks_like_markup_is_shown_as_text(show: Open):
    screen = show(brackets())
    screen.page.click("#first")
    assert screen.grid() == list("</>'\"&")
    assert screen.page.locator("pre").first.inner_text() == "</>'\"&"


CONTRAST = """
() => {
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.checkVisibility() || element.closest("script, style, noscript")) continue;
    const style = getComputedStyle(element);
    let behind = element;
    while (behind && rgba(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
    const back = behind ? rgba(getComputedStyle(behind).backgroundColor) : [255, 255, 255, 255];
    const [a, b] = [light(rgba(element instanceof SVGElement ? style.fill : style.color)), light(back)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5 || back[3] < 255) found.push([element.outerHTML.slice(0, 80), ratio]);
  }
  return found;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_at_least_4_5(show: Open, scheme: str):
    for item in (solved(), unsolved(), untrained("maze"), untrained("grid"), untrained("9x9")):
        screen = show(item, color_scheme=scheme)
        screen.page.click("summary")
        for step in (0, 1, 2, len(item.segments)) if item is solved() else (1, len(item.segments)):
            screen.page.evaluate("step => go(step)", step)
            assert screen.page.evaluate(CONTRAST) == []


def test_every_control_has_a_name_and_a_size_for_fingers(show: Open):
    screen = show(solved(), PHONE)
    for control in screen.page.locator("button, input").all():
        assert control.get_attribute("aria-label")
        box = control.bounding_box()
        assert min(box["width"], box["height"]) >= 28


# From the command line.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(run_folder(tmp_path_factory.mktemp("runs") / "tiny"))


def test_the_command_writes_the_page_and_prints_the_answer_as_ever(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    answer = solved().answer
    assert main(["solve", run, answer.question, "--html", str(tmp_path / "out.html")]) == 0
    assert capsys.readouterr() == (f"{answer.answer}\n", f"wrote {tmp_path / 'out.html'}\n")
    steps = data((tmp_path / "out.html").read_text("utf-8"))["steps"]
    assert [step["segment"] for step in steps] == list(range(1, answer.segments + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out.html"]


def test_a_file_of_one_puzzle_gets_a_page_and_a_file_of_several_a_sentence(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, out = tmp_path / "puzzles.txt", tmp_path / "out.html"
    file.write_text(solved().answer.question + "\n")
    assert main(["solve", run, str(file), "--html", str(out)]) == 0
    assert "Solved after" in out.read_text("utf-8")
    out.unlink()
    file.write_text("\n".join(questions(2)))
    capsys.readouterr()
    assert main(["solve", run, str(file), "--html", str(out)]) == 2
    assert "show one puzzle" in capsys.readouterr().err and not out.exists()


def test_a_missing_folder_is_named_before_anything_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["solve", "no-run", "1...", "--html", str(tmp_path / "none/out.html")]) == 2
    assert "make it first" in capsys.readouterr().err


def test_an_invalid_puzzle_leaves_no_page(run: str, tmp_path: Path):
    assert main(["solve", run, "11" + "." * 14, "--html", str(tmp_path / "out.html")]) == 2
    assert not list(tmp_path.iterdir())
