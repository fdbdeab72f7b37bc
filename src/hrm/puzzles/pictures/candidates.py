"""Candidates as pencil marks: what a model that deduces holds possible in each cell, and what it has just killed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from rich import console as terminal
from rich.table import Table
from rich.text import Text

from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks import Task

CORNERS = " ╶╴─╷┌┐┬╵└┘┴│├┤┼"
"""By the lines that leave them: 8 up, 4 down, 2 to the left, 1 to the right."""
ASCII = str.maketrans(CORNERS[1:], "---|+++|+++|+++")
DYING, DECIDED = "red strike", "bold magenta"


class Marks(NamedTuple):
    """What is drawn in a cell: tokens that are possible, those that the call killed, and whether a decision pins it."""

    alive: list[int]
    dying: list[int]
    decided: bool


def marks(task: Task, segment: Segment) -> list[Marks]:
    """Of each cell; of a verified readout its symbol alone."""
    deduced, readout = segment.deduced, segment.readout
    assert deduced is not None
    decided = deduced.decided.tolist()
    if task.verify(segment.question, readout):
        return [Marks([token], [], each) for token, each in zip(readout.tolist(), decided, strict=True)]
    masks = zip(deduced.candidates, deduced.killed, decided, strict=True)
    return [Marks(np.flatnonzero(one).tolist(), np.flatnonzero(other).tolist(), each) for one, other, each in masks]


def abreast(task: Task) -> int:
    """How many pencil marks stand beside each other in a cell."""
    return math.isqrt(len(task.symbols) - 1) + 1


def pinned(task: Task, segment: Segment) -> np.ndarray:
    """The question [cells] with the symbols filled in that are alone in their cell."""
    filled = segment.question.copy()
    for cell, each in enumerate(marks(task, segment)):
        if len(each.alive) == 1:
            filled[cell] = each.alive[0]
    return filled


def numbers(segment: Segment, sound: float) -> dict[str, str]:
    """What is told beside the candidates."""
    deduced = segment.deduced
    assert deduced is not None
    counts = deduced.candidates.sum(1)
    open_, killed = counts[counts > 1].sum(), deduced.killed.sum()
    return {
        "segment": str(segment.segment), "open": str(open_), "killed": str(killed),
        "decisions": f"{deduced.depth} stand, {deduced.decisions} made", "sound": f"{sound:.0%}",
    }  # fmt: skip


def drawn(task: Task, segment: Segment, colour: bool = True, ascii_only: bool = False) -> Text:
    """The grid with pencil marks: givens bold, what the call killed struck through or, without colour, behind a minus;
    decided cells in brackets."""
    (rows, columns), blocks, wide = task.shape, task.look().blocks, abreast(task)
    high, width = -(-len(task.symbols) // wide), 2 * wide + 1
    boxes = np.pad(np.reshape(blocks or [0] * (rows * columns), (rows, columns)), 1, constant_values=-1)
    upright, level = boxes[:, :-1] != boxes[:, 1:], boxes[:-1] != boxes[1:]
    cells = [_cell(task, segment, number, each, wide, high, colour) for number, each in enumerate(marks(task, segment))]

    def line(parts: int) -> str:
        return CORNERS[parts].translate(ASCII) if ascii_only else CORNERS[parts]

    text = Text(no_wrap=True)
    for y in range(rows + 1):
        for x in range(columns + 1):
            ends = upright[y, x], upright[y + 1, x], level[y, x], level[y, x + 1]
            text.append(line(int(np.dot(ends, (8, 4, 2, 1)))))
            text.append(line(3 * int(level[y, x + 1])) * width if x < columns else "\n" if y < rows else "")
        for part in range(high if y < rows else 0):
            for x in range(columns):
                text.append(line(12 * int(upright[y + 1, x]))).append_text(cells[y * columns + x][part])
            text.append(line(12) + "\n")
    return text


def _cell(task: Task, segment: Segment, number: int, held: Marks, wide: int, high: int, colour: bool) -> list[Text]:
    """The lines of a cell."""
    labels, width = task.vocabulary, 2 * wide + 1
    if len(held.alive) == 1 and not held.dying:
        sign, style = labels[held.alive[0]], "bold" if segment.question[number] == held.alive[0] else ""
        sign, style = (f"[{sign}]", DECIDED) if held.decided else (sign, style)
        return [Text(sign.center(width) if part == (high - 1) // 2 else " " * width, style) for part in range(high)]
    lines = []
    for part in range(high):
        text = Text()
        for token in task.symbols[part * wide : part * wide + wide]:
            dies = token in held.dying
            text.append("-" if dies and not colour else " ")
            text.append(
                labels[token] if dies or token in held.alive else " ",
                DYING if dies else "dim" if len(held.alive) > 1 else "",
            )
        text.append(" " * (width - len(text)))
        lines.append(text)
    return lines


class Drawing(NamedTuple):
    """A call as a terminal shows it: pencil marks and numbers beside them or below; the plain grid where there is no
    room for the marks."""

    task: Task
    segment: Segment
    sound: float

    def __rich_console__(self, console: terminal.Console, options: terminal.ConsoleOptions) -> terminal.RenderResult:
        told = numbers(self.segment, self.sound)
        grid = drawn(self.task, self.segment, bool(console.color_system) and not console.no_color, options.ascii_only)
        lines = grid.plain.split("\n")
        below = Text("  ".join(f"{name} {value}" for name, value in told.items()))
        width, height = max(map(len, lines)), len(lines) + 1
        if width > options.max_width or (console.is_terminal and height > console.height):
            grid = self.task.draw(self.segment.question, pinned(self.task, self.segment))
            width, height = 0, 0
        facts = Table.grid(padding=(0, 1))
        for name, value in told.items():
            facts.add_row(name, value)
        if width + 3 + console.measure(facts).maximum > options.max_width:
            yield grid
            yield below
        else:
            both = Table.grid(padding=(0, 3))
            both.add_row(grid, facts)
            yield both
