"""Progress bars with the time left, drawn on a terminal and gone when done; of long jobs, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hrm.console import Console

T = TypeVar("T")
EVERY = 10.0
"""Seconds from one plain line to the next."""


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
def counted(
    what: str, total: int, unit: str, console: Console | None, done: int = 0
) -> Iterator[Callable[..., object]]:
    """`bar`, and where there is no terminal a line at once and then every `EVERY` seconds; `done` were done before.
    Call what it gives with 0 now and then where a thing takes long."""
    if console is None or console.is_terminal:
        with bar(what, total, console) as advance:
            advance(done)
            yield advance
        return
    start = said = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{what}: {text}", highlight=False, soft_wrap=True)

    def line(count: int = 1) -> None:
        nonlocal done, said
        done, now = done + count, time.monotonic()
        if now - said >= EVERY:
            said = now
            say(f"{done:,} of {total:,} {unit}s done, {now - start:.0f} s")

    say(f"{total:,} {unit}{'s'[: total != 1]}" + (f", {done:,} done before" if done else ""))
    yield line


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
