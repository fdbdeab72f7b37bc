"""Drawing a puzzle while it is being solved: the grid with its wrong cells, and the model's confidence beside it."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from hrm.console import Console
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.solving.solver import Solver
from hrm.puzzles.tasks import Task


class Watch:
    """Call it with each Segment of one puzzle: redraws in a terminal, prints frame after frame elsewhere."""

    def __init__(self, solver: Solver, console: Console, delay: float = 0.3) -> None:
        """`delay` is how many seconds a terminal shows a frame at least, so that eyes can follow."""
        self.solver, self.console, self.delay = solver, console, delay
        redraws = console.is_terminal and not console.is_dumb_terminal
        self.live = Live(console=console, auto_refresh=False) if redraws else None

    def __enter__(self) -> Watch:
        if self.live is not None:
            self.live.start()
        return self

    def __call__(self, segment: Segment) -> None:
        if self.live is None:
            self.console.print(frame(self.solver, segment))
        else:
            pictures = [frame(self.solver, segment)]
            if (segment.attempt, segment.segment) == (1, 1):
                pictures.insert(0, self.solver.task.draw(segment.question))
            for picture in pictures:
                self.live.update(picture, refresh=True)
                time.sleep(self.delay)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()


def grid(task: Task, segment: Segment) -> RenderableType:
    """The readout after a segment, its wrong cells marked."""
    return task.draw(segment.question, segment.readout, task.wrong(segment.question, segment.readout))


def frame(solver: Solver, segment: Segment) -> RenderableType:
    """The grid after a segment with the segment's numbers beside it."""
    task, believed = solver.task, solver.confidence(segment.q)
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
