"""The studio's page for puzzles, by keyboard, mouse and file: what is solved, what is not, and going back and forth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from hrm.puzzles.solving import load
from tests.puzzles.solving import small, small_maze
from tests.serve.page import Opened, Watched, opened, watched
from tests.serve.puzzles.test_arc import TASK, arc_run


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("studio")
    small.run_folder(folder / "four")
    small_maze.run_folder(folder / "maze")
    arc_run(folder / "arc")
    with opened(folder) as found:
        yield found


@pytest.fixture
def at(browser: Any, studio: Opened) -> Iterator[Callable[..., Watched]]:
    """Opens the page for a solver; at the end nothing may have been said to the console or asked of others."""
    left = []

    def go(run: str, **context: Any) -> Watched:
        manager = watched(browser, studio.address, **{"reduced_motion": "reduce"} | context)
        shown = manager.__enter__()
        left.append((manager, shown))
        shown.page.goto(f"{studio.home}#solve/{run}")
        shown.page.get_by_role("heading", name="The puzzle").wait_for()
        return shown

    yield go
    for manager, shown in left:
        manager.__exit__(None, None, None)
        assert shown.messages == [] and shown.outside == []


def solved_by(run: Path, texts: list[str], status: str = "solved") -> str:
    """The first of the puzzles with this outcome."""
    found = zip(texts, load(run).solve_many(texts), strict=True)
    return next(text for text, answer in found if answer.status == status and answer.segments > 1)


def grid(page: Any, name: str) -> str:
    """What stands in a board, blanks as dots."""
    cells = page.get_by_role("grid", name=name).get_by_role("gridcell").all_inner_texts()
    return "".join(cell.strip() or "." for cell in cells)


def type_in(page: Any, text: str) -> None:
    """From the first cell on, by keyboard alone."""
    page.get_by_role("button", name="Clear").click()
    page.locator("[role=grid][aria-label='The puzzle'] [tabindex='0']").focus()
    page.keyboard.press("Control+Home")
    for sign in text:
        page.keyboard.press("0" if sign == "." else sign)


def verdict(page: Any) -> str:
    page.locator("#verdict.solved, #verdict.unsolved, #verdict.answered, #verdict.invalid").wait_for()
    return page.inner_text("#verdict")


@pytest.mark.slow
def test_a_sudoku_is_typed_solved_and_scrubbed(at: Callable[..., Watched], studio: Opened):
    text = solved_by(studio.studio.folder.path / "four", small.questions(40))
    shown = at("four")
    page = shown.page
    page.get_by_role("grid", name="The puzzle").get_by_role("gridcell").nth(15).wait_for()
    type_in(page, text)
    assert grid(page, "The puzzle") == text
    page.get_by_role("button", name="Solve").press("Enter")
    expected = load(studio.studio.folder.path / "four").solve(text)
    assert verdict(page) == f"Solved after {expected.segments} segments. Every rule holds."
    assert page.inner_text("#said") == verdict(page)
    assert expected.grid is not None
    assert grid(page, "What it thinks") == "".join(map(str, expected.grid.ravel().tolist()))
    slider = page.get_by_role("slider", name="Segment")
    slider.press("Home")
    assert grid(page, "What it thinks") == text
    slider.press("ArrowRight")
    assert "Segment 1 of" in slider.get_attribute("aria-valuetext")
    bad = page.locator("[aria-label='What it thinks'] .bad").first
    assert "breaks a rule" in bad.get_attribute("aria-label")
    page.get_by_role("button", name="To the last segment").click()
    assert page.locator("[aria-label='What it thinks'] .bad").count() == 0
    given = page.locator("[aria-label='What it thinks'] .given")
    assert given.count() == 16 - text.count(".") and "given" in given.first.get_attribute("aria-label")
    given.first.focus()
    page.keyboard.press("ArrowRight")
    assert "with" in page.inner_text(".considers")
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause", exact=True).click()
    assert shown.serious() == []


@pytest.mark.slow
def test_what_is_not_solved_and_what_is_no_puzzle_is_said(at: Callable[..., Watched], studio: Opened):
    text = solved_by(studio.studio.folder.path / "four", small.questions(40), "unsolved")
    shown = at("four", viewport={"width": 375, "height": 812}, color_scheme="dark")
    page = shown.page
    page.get_by_text("As text").click()
    page.get_by_label("One line, or row by row").fill(
        "# a title\n" + "\n".join(text[i : i + 4] for i in range(0, 16, 4))
    )
    page.get_by_role("button", name="Use this text").click()
    assert grid(page, "The puzzle") == text
    page.get_by_role("button", name="Solve").click()
    assert verdict(page).startswith("Not solved: in 6 segments it found nothing that keeps every rule.")
    assert page.locator("[aria-label='What it thinks'] .bad").count() > 0
    assert page.locator("html").evaluate("e => e.scrollWidth") == 375
    assert shown.serious() == []
    type_in(page, "11")
    page.get_by_role("button", name="Solve").click()
    assert verdict(page).startswith("Not a puzzle that can be solved:")
    page.get_by_label("One line, or row by row").fill("12")
    page.get_by_role("button", name="Use this text").click()
    page.get_by_text("4 rows with 4 cells each").wait_for()


@pytest.mark.slow
def test_a_maze_is_drawn_by_keyboard_and_by_mouse(at: Callable[..., Watched], studio: Opened):
    rng = np.random.default_rng(5)
    texts = [small_maze.MAZE.format(small_maze.MAZE.generate(rng).question) for _ in range(60)]
    text = next(
        t for t, a in zip(texts, load(studio.studio.folder.path / "maze").solve_many(texts), strict=True) if a.answer
    )
    shown = at("maze")
    page = shown.page
    page.get_by_role("button", name="Clear").click()
    page.locator("[role=grid][aria-label='The puzzle'] [tabindex='0']").focus()
    page.keyboard.press("Control+Home")
    for row in range(4):
        for column in range(4):
            page.keyboard.press({"#": "w", " ": "Space", "S": "s", "G": "g"}[text[4 * row + column]])
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Home")
    page.get_by_role("button", name="Solve").press("Enter")
    assert "The path is a shortest one." in verdict(page)
    assert shown.serious() == []

    page.get_by_role("button", name="Clear").click()
    page.get_by_role("radio", name="Start").check()
    cells = page.get_by_role("grid", name="The puzzle").get_by_role("gridcell")
    cells.nth(0).click()
    page.get_by_role("radio", name="Wall").check()
    first, last = cells.nth(4).bounding_box(), cells.nth(6).bounding_box()
    page.mouse.move(first["x"] + 5, first["y"] + 5)
    page.mouse.down()
    page.mouse.move(last["x"] + 5, last["y"] + 5, steps=8)
    page.mouse.up()
    names = [cell.get_attribute("aria-label") for cell in cells.all()]
    assert names[0] == "Row 1, column 1: start"
    assert [name.endswith("wall") for name in names] == [False] * 4 + [True] * 3 + [False] * 9
    page.get_by_label("Columns").fill("3")
    page.get_by_label("Columns").press("Enter")
    assert cells.count() == 12
    page.get_by_role("button", name="Solve").click()
    assert "expected one G" in verdict(page)


@pytest.mark.slow
def test_a_task_of_arc_is_opened_from_a_file(at: Callable[..., Watched], tmp_path: Path):
    shown = at("arc")
    page = shown.page
    (tmp_path / "two.json").write_text(json.dumps({name: TASK[name] for name in ("train", "test")}))
    page.set_input_files("#file", tmp_path / "two.json")
    page.get_by_text("Task two").wait_for()
    assert "1, blue" in page.get_by_role("gridcell").first.get_attribute("aria-label")
    page.get_by_role("button", name="Solve").click()
    assert "may be wrong" in verdict(page) or "Not solved" in verdict(page)
    page.get_by_role("heading", name="Test 2").wait_for()
    assert shown.serious() == []
    (tmp_path / "three.json").write_text(json.dumps({name: TASK[name] for name in ("train", "test")}))
    page.set_input_files("#file", tmp_path / "three.json")
    page.get_by_text("Task three").wait_for()
    page.get_by_role("button", name="Solve").click()
    assert "has not learned the task 'three'" in verdict(page)


@pytest.mark.slow
def test_examples_are_at_hand_and_what_was_drawn_comes_back(at: Callable[..., Watched]):
    page = at("sudoku").page
    cells = page.get_by_role("grid", name="The puzzle").get_by_role("gridcell")
    cells.nth(80).wait_for()
    page.locator("#said", has_text="The puzzle is there").wait_for(state="attached")
    assert 17 <= 81 - grid(page, "The puzzle").count(".") < 40
    cells.nth(0).click()
    page.get_by_role("button", name="7", exact=True).click()
    before = grid(page, "The puzzle")
    assert before[0] == "7"
    page.get_by_label("Solver").select_option("four")
    page.get_by_label("Solver").select_option("sudoku")
    page.reload()
    cells.nth(80).wait_for()
    page.locator("#said", has_text="The puzzle is there").wait_for(state="attached")
    assert grid(page, "The puzzle") == before
