"""Drawing a puzzle while it is being solved: the grid with its wrong cells, and the model's confidence beside it; of a
model that deduces the candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from hrm.console import Console
from hrm.puzzles.pictures.candidates import Drawing
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.solving.solver import Solver
from hrm.puzzles.tasks import Task


@contextmanager
def watching(solver: Solver, console: Console, delay: float = 0.3) -> Iterator[Callable[[Segment], None]]:
    """Yield a function to call with each Segment of a puzzle. In a terminal it redraws the grid and keeps each frame
    for at least `delay` seconds; elsewhere it prints one frame after the other."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda segment: console.print(frame(solver, segment))
        return
    with Live(console=console, auto_refresh=False) as live:

        def show(segment: Segment) -> None:
            first = (segment.attempt, segment.segment) == (1, 1)
            question = [solver.task.draw(segment.question)] if first else []
            for picture in (*question, frame(solver, segment)):
                live.update(picture, refresh=True)
                time.sleep(delay)

        yield show


def grid(task: Task, segment: Segment) -> RenderableType:
    """The readout after a segment, with wrong cells marked."""
    return task.draw(segment.question, segment.readout, task.wrong(segment.question, segment.readout))


def frame(solver: Solver, segment: Segment) -> RenderableType:
    """The grid after a segment, with the segment's numbers beside it."""
    task, believed = solver.task, solver.confidence(segment.q)
    if segment.deduced is not None:
        return Drawing(task, segment, believed)
    facts = Table.grid(padding=(0, 1))
    facts.add_row("segment", str(segment.segment))
    facts.add_row("attempt", str(segment.attempt))
    facts.add_row("confidence", f"{believed:.0%}")
    facts.add_row("", ProgressBar(total=1, completed=believed, width=20))
    if task.marks:
        facts.add_row("wrong cells", str(len(task.wrong(segment.question, segment.readout))))
    facts.add_row("residual", f"{segment.residual:.1%}")
    both = Table.grid(padding=(0, 3))
    both.add_row(grid(task, segment), facts)
    return both
