"""Draw how a run solves one of its held-out puzzles, segment by segment.

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
from hrm.puzzles.pictures.watch import grid
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks import Task
from hrm.puzzles.training.session import puzzles_of
from hrm.runs import Run

SHOWN = 4
"""Segments in the picture, so that it fits a page."""


def find(run: Path) -> tuple[Task, list[Segment]]:
    """The segments of the first held-out puzzle that takes SHOWN of them, or else of one that comes closest."""
    solver = hrm.load(run, device="cpu")
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
    """The question and the readouts side by side: givens bold, cells that break a rule red."""
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


def picture(task: Task, segments: list[Segment]) -> str:
    """The same as an SVG that fetches nothing from another site: without rich's web fonts."""
    table = draw(task, segments)
    width = Console(width=1000).measure(table).maximum
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(table)
    svg = console.export_svg(title=f"solved after {len(segments)} segments", unique_id="solving")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder with held-out puzzles, such as runs/demo-9x9")
    parser.add_argument("svg", type=Path, help="picture to write")
    given = parser.parse_args()
    run, target = given.run, given.svg
    task, segments = find(run)
    target.write_text(picture(task, segments), encoding="utf-8")
    print(f"{target}: {task.format(segments[0].question)}, {len(segments)} segments")


if __name__ == "__main__":
    main()
