"""Progress bars with the time left, drawn only on a terminal and gone when done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hrm.console import Console

T = TypeVar("T")


@contextmanager
def bar(what: str, total: int, console: Console | None) -> Iterator[Callable[..., object]]:
    """Show a bar while the block runs; call what it gives once for every thing done, or with how many were."""
    if console is None or not console.is_terminal:
        yield lambda count=1: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    named, rate = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[rate]}")
    columns = named, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total, rate="")

        def advance(count: int = 1) -> None:
            progress.update(task, advance=count, rate=f"{progress.tasks[0].speed or 0:,.0f}/s")

        yield advance


@contextmanager
def share(what: str, console: Console | None) -> Iterator[Callable[[float], None]]:
    """The same for work whose size is not counted: call what it gives with the share done, from 0 to 1."""
    if console is None or not console.is_terminal:
        yield lambda done: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda done: progress.update(task, completed=done)


def track(things: Collection[T], what: str, console: Console | None) -> Iterator[T]:
    """The things, one by one, with a bar."""
    with bar(what, len(things), console) as advance:
        for thing in things:
            yield thing
            advance()
