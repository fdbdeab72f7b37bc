"""What is shown of a model that deduces: candidates dying, decisions, the way back. Others are drawn as before."""

from __future__ import annotations

import io
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from hrm.console import Console
from hrm.files.output import to_json
from hrm.puzzles.pictures.candidates import abreast, drawn, marks
from hrm.puzzles.pictures.gif import WRONG, gif
from hrm.puzzles.pictures.page import page
from hrm.puzzles.pictures.watch import frame
from hrm.puzzles.solving.engine import Deduced, Segment
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.serve.puzzles.schema import Traced
from tests.puzzles.pictures.deducing import deduced, solver
from tests.puzzles.pictures.observed import solved, watched
from tests.puzzles.solving.small import SUDOKU


def cells(task: Task, text: str) -> list[tuple[set[str], set[str]]]:
    """What a drawing without colours shows as possible and as dying in each cell."""
    wide, (rows, columns) = abreast(task), task.shape
    high, width = -(-len(task.symbols) // wide) + 1, 2 * wide + 2
    lines, found = text.split("\n"), []
    for row in range(rows):
        for column in range(columns):
            inside = [
                line[column * width + 1 : (column + 1) * width] for line in lines[row * high + 1 : (row + 1) * high]
            ]
            signs = re.findall(r"(-?)(\w)", " ".join(inside))
            found.append(({sign for minus, sign in signs if not minus}, {sign for minus, sign in signs if minus}))
    return found


def shown(segment: Segment, width: int = 80, height: int = 40, task: Task = SUDOKU) -> list[str]:
    """The lines of a frame in a terminal of that size, without colour."""
    by = solver()
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, no_color=True)
    console.print(frame(by if task is SUDOKU else by.__class__(by.models, task), segment))
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue()).rstrip().split("\n")  # type: ignore[attr-defined]


def hard() -> Segment:
    """A 9x9 Sudoku in which everything is possible and the last symbol of every cell dies."""
    question, masks = np.ones(81, int), np.zeros((2, 81, 11), bool)
    masks[0, :, 2:10], masks[1, :, 10] = True, True
    made = Deduced(masks[0], masks[1], np.zeros(81, bool), 0, False)
    return Segment(question, question + 1, 6, 1, (0.0, 0.0), 1.0, np.full((81, 11), 1 / 11), made)


def test_a_killed_candidate_never_comes_back_in_the_drawing_except_after_going_back():
    item = deduced()
    told = [segment.deduced for segment in item.segments]
    assert any(each.refused for each in told) and any(each.killed.any() for each in told)  # type: ignore[union-attr]
    drawings = [cells(SUDOKU, drawn(SUDOKU, segment, colour=False).plain) for segment in item.segments]
    for (before, after), made in zip(pairwise(drawings), told, strict=False):
        for (alive, dying), (later, dies) in zip(before, after, strict=True):
            assert not alive & dying and not later & dies
            assert made.refused or later | dies <= alive  # type: ignore[union-attr]


def test_decisions_stand_in_brackets_until_they_are_taken_back():
    depths = []
    for segment in deduced().segments:
        text = drawn(SUDOKU, segment, colour=False).plain
        assert segment.deduced is not None and text.count("[") == segment.deduced.depth
        depths.append(segment.deduced.depth)
    assert max(depths) > 1 and any(one > other for one, other in pairwise(depths))
    assert deduced().answer.decisions >= max(depths)


def test_a_verified_answer_is_drawn_whole():
    item = deduced()
    last = cells(SUDOKU, drawn(SUDOKU, item.segments[-1], colour=False).plain)
    assert "".join("".join(alive) for alive, _ in last) == item.answer.answer and not any(dying for _, dying in last)


def test_what_dies_is_red_and_struck_through_in_a_terminal_with_colours():
    segment = next(each for each in deduced().segments if each.deduced is not None and each.deduced.killed.any())
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    console.print(frame(solver(), segment))
    assert "\x1b[9;31m" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_of_80_by_40_holds_the_candidates_of_a_9x9():
    lines = shown(hard(), task=Sudoku(3, 3))
    assert len(lines) < 40 and max(map(len, lines)) <= 80
    found = cells(Sudoku(3, 3), "\n".join(lines))
    assert all(cell == (set("12345678"), {"9"}) for cell in found)


@pytest.mark.parametrize("width, height", [(60, 40), (80, 24)])
def test_a_smaller_terminal_gets_the_plain_grid(width: int, height: int):
    lines = shown(hard(), width, height, Sudoku(3, 3))
    assert len(lines) < 24 and sum(line.count(".") for line in lines) == 81
    assert "killed" in "\n".join(lines)


def test_the_page_holds_the_candidates_of_every_call():
    item = deduced()
    (found,) = re.findall(r'id="data">(.*?)</script>', page(*item), re.S)
    steps = json.loads(found)["steps"]
    for segment, step in zip(item.segments, steps, strict=True):
        assert [each.alive for each in marks(SUDOKU, segment)] == step["alive"]
        assert segment.deduced is not None and len(step["decided"]) == segment.deduced.depth
        assert all(step["dying"].get(str(i), []) == each.dying for i, each in enumerate(marks(SUDOKU, segment)))
    assert f"and {item.answer.decisions} decisions, verified" in page(*item)


def test_a_moving_picture_strikes_what_dies():
    item = deduced()
    red = tuple(int(WRONG[i : i + 2], 16) for i in (1, 3, 5))
    image = Image.open(io.BytesIO(gif(item.solver, item.answer, item.segments[:6])))
    for number, segment in enumerate(item.segments[:6], 1):
        image.seek(number)
        pixels = np.array(image.convert("RGB")).astype(int)
        struck = (np.abs(pixels - red).sum(2) < 24).any()
        assert struck == any(each.dying for each in marks(SUDOKU, segment))


def test_the_trace_survives_json_and_the_schema_of_the_server():
    answer = solver().solve("2..14..232.41.2.", trace=True)
    assert answer.trace is not None
    told = json.loads(to_json(answer.to_dict()))["trace"]
    for segment, step in zip(deduced().segments, told, strict=True):
        made = step["deduced"]
        for cell, each in enumerate(segment.deduced.candidates):  # type: ignore[union-attr]
            assert made["candidates"][cell] == [int(SUDOKU.vocabulary[token]) for token in np.flatnonzero(each)]
        assert made["depth"] == len(made["decided"]) and Traced(**step).model_dump(mode="json") == step


def test_candidates_seen_through_a_view_are_shown_as_the_puzzle_was_asked():
    item = watched(solver(), "2..14..232.41.2.", views=2, max_segments=2)
    assert item.segments[-1].attempt == 2
    for segment in item.segments:
        given = segment.question > 1
        assert segment.deduced is not None and (segment.deduced.candidates.sum(1)[given] == 1).all()
        assert (segment.deduced.candidates.argmax(1)[given] == segment.question[given]).all()


def test_a_model_without_deduction_is_shown_as_before():
    item = solved()
    (found,) = re.findall(r'id="data">(.*?)</script>', page(*item), re.S)
    data = json.loads(found)
    assert data["unit"] == "segment" and "symbols" not in data
    assert all("alive" not in step for step in data["steps"])
    assert "deduced" not in item.solver.describe(item.segments[0])
    lines = shown(item.segments[0])
    assert any("wrong cells" in line for line in lines) and not any("killed" in line for line in lines)
