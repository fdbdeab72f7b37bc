"""Draw how a run solves one of its held-out puzzles, segment by segment, or a given puzzle.

python examples/draw_solving.py runs/demo-9x9 docs/solving.svg
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

import hrm
from hrm.puzzles.config import Config
from hrm.puzzles.pictures.candidates import drawn
from hrm.puzzles.pictures.watch import grid
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks import Task
from hrm.puzzles.training.session import puzzles_of
from hrm.runs import Run

SHOWN = 4
"""Segments in the picture, so that it fits a page."""


def watch(run: Path, puzzle: str, checkpoint: str) -> tuple[Task, list[Segment]]:
    """The segments of this puzzle."""
    solver = hrm.load(run, checkpoint=checkpoint, device="cpu")
    segments: list[Segment] = []
    answer = solver.solve(puzzle, observe=segments.append)
    if answer.status != "solved":
        sys.exit(f"{run} does not solve {puzzle}: it is {answer.status} {answer.reason or ''}")
    return solver.task, segments


def find(run: Path, checkpoint: str) -> tuple[Task, list[Segment]]:
    """The segments of the first held-out puzzle that takes SHOWN of them, or else of one that comes closest."""
    solver = hrm.load(run, checkpoint=checkpoint, device="cpu")
    _, held_out = puzzles_of(Run.open(run, Config), solver.task)
    if held_out is None:
        sys.exit(f"{run} has no held-out puzzles to choose from")
    questions = [solver.task.format(question) for question in held_out.inputs]
    seen: dict[int, list[Segment]] = defaultdict(list)
    solved = []
    for number, answer in enumerate(solver.solve_many(questions, observe=lambda i, segment: seen[i].append(segment))):
        if answer.status == "solved":
            solved.append(seen.pop(number))
            if len(solved[-1]) == SHOWN:
                break
    if not solved:
        sys.exit(f"{run} solves none of its held-out puzzles")
    return solver.task, min(reversed(solved), key=lambda segments: abs(len(segments) - SHOWN))


def draw(task: Task, segments: list[Segment]) -> Table:
    """The question and the readouts side by side: givens bold, cells that break a rule red; of a model that deduces
    the candidates."""
    if segments[0].deduced is not None:
        return draw_candidates(task, segments)
    left_out = len(segments) - SHOWN
    table = Table.grid(padding=(0, 2))
    grids, notes, details = [task.draw(segments[0].question)], ["question"], [""]
    for segment in segments[:SHOWN] if left_out <= 0 else [*segments[: SHOWN - 1], segments[-1]]:
        wrong = len(task.wrong(segment.question, segment.readout))
        grids.append(grid(task, segment))
        notes.append(f"segment {segment.segment}")
        details.append(f"{wrong} cells break a rule" if wrong else "[green]verified[/]")
    for row in (grids, notes, details):
        table.add_row(*row)
    return table


def draw_candidates(task: Task, segments: list[Segment]) -> Table:
    """The first and the last call, and between them those that kill most, two in a row."""
    killed = [int(segment.deduced.killed.sum()) if segment.deduced else 0 for segment in segments]
    between = sorted(range(1, len(segments) - 1), key=lambda i: -killed[i])[: SHOWN - 2]
    shown = sorted({0, *between, len(segments) - 1})
    table = Table.grid(padding=(0, 3))
    for pair in (shown[i : i + 2] for i in range(0, len(shown), 2)):
        table.add_row(*(drawn(task, segments[i]) for i in pair))
        table.add_row(*(note(segments[i], i, i == len(segments) - 1) for i in pair))
    return table


def note(segment: Segment, number: int, last: bool) -> str:
    """What a call did."""
    made = segment.deduced
    assert made is not None
    if last:
        return f"call {number + 1}: [green]verified[/], {made.decisions} decision{'s' * (made.decisions != 1)} made\n"
    return f"call {number + 1}: {made.killed.sum()} candidates killed, decisions that stand: {made.depth}\n"


def picture(task: Task, segments: list[Segment]) -> str:
    """The same as an SVG that fetches nothing from another site: without rich's web fonts."""
    table = draw(task, segments)
    width = Console(width=1000).measure(table).maximum
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(table)
    svg = console.export_svg(title=f"solved after {segments[-1].segment} segments", unique_id="solving")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder with held-out puzzles, such as runs/demo-9x9")
    parser.add_argument("svg", type=Path, help="picture to write")
    parser.add_argument("--puzzle", help="draw this one instead")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    given = parser.parse_args()
    run, target = given.run, given.svg
    if given.puzzle:
        task, segments = watch(run, given.puzzle, given.checkpoint)
    else:
        task, segments = find(run, given.checkpoint)
    target.write_text(picture(task, segments), encoding="utf-8")
    print(f"{target}: {task.format(segments[0].question)}, {len(segments)} segments")


if __name__ == "__main__":
    main()
