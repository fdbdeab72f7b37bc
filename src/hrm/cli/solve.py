"""`hrm solve RUN PUZZLE|FILE|-`."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hrm.cli.options import MACHINE, TRIES, Machine, OnMachine, Positional, Tries, parse
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.reading import UserError, opened
from hrm.puzzles.config import Strategy

if TYPE_CHECKING:
    from hrm.puzzles.solving import Answer, Solver
    from hrm.puzzles.solving.engine import Segment


@dataclass(frozen=True)
class Options:
    """Solve puzzles. Every answer is verified; a puzzle without one is called unsolved, a wrong question invalid."""

    run: Positional[str]
    """Run folder, or the name of a solver that comes with the package: sudoku, maze."""
    puzzle: Positional[str]
    """A puzzle, a file of them (text, drawn or one per line, CSV, XML; also .gz), or - for standard input."""
    strategy: Tries = field(default_factory=Strategy)
    also: tuple[str, ...] = ()
    """More run folders on the same task, whose models try in turn."""
    task: str | None = None
    """FILE.py:CLASS, the task of your own that the run was trained on; its code is run."""
    watch: bool = False
    """Draw the grid after every segment, wrong cells marked, the model's confidence beside it."""
    delay: float = 0.3
    """Seconds that a terminal shows each drawing at least."""
    html: str | None = None
    """File for a page on which to step through the segments of the puzzle."""
    gif: str | None = None
    """File for the same as a moving picture; needs Pillow, from the extra [report]."""
    json: bool = False
    """Print one JSON object per puzzle."""
    batch_size: int = 64
    """Puzzles in a batch; 1 answers each line of a pipe before it reads the next."""
    checkpoint: str = "best"
    """best, latest or a step."""
    on: OnMachine = field(default_factory=Machine)


def main(args: list[str]) -> int:
    example = "hrm solve runs/sudoku puzzles.txt --max-segments 64 --restarts 8"
    options = parse("solve", Options, args, example=example, main=(*TRIES, *MACHINE))
    if options.watch and options.json:
        raise UserError("--watch draws and --json does not: use one of them")
    options = _check_pictures(options)
    if os.path.isdir(options.puzzle):
        raise UserError(f"{options.puzzle} is a folder: give a file of puzzles, or measure a data set with hrm eval")
    several = options.puzzle == "-" or os.path.exists(options.puzzle)
    with _progress(options.puzzle == "-", several) as bar:
        # From here on, since the libraries alone take seconds to load.
        shown = bar.add_task("loading the model", total=None)
        from hrm.puzzles.data import puzzle_file
        from hrm.puzzles.solving import load
        from hrm.runs import threads

        where = options.on
        solver = load(options.run, options.checkpoint, where.device, where.precision, options.task, options.also)
        if several and solver.task.embedded:
            raise UserError("a grid of ARC is no question without its task: use `hrm arc eval RUN --data FILE`")
        threads.settle_for(solver.model, options.batch_size * solver.model.positions, where.threads)
        bar.update(shown, description="solving")
        advance = partial(bar.update, shown)
        if several:
            with _opened(options.puzzle) as (name, lines, read):
                rows = puzzle_file.rows(lines, name, solver.task)
                questions = ((row.line, row.question) for row in rows)
                return _solve_lines(solver, options, questions, bar.stop, advance, read)
    return _solve_one(solver, options, options.puzzle)


@contextmanager
def _opened(name: str) -> Iterator[tuple[object, Iterable[str], Callable[[], float] | None]]:
    """Open a file, or standard input: its name for messages, its lines, and a function that gives the share read so far
    if that is known."""
    from hrm.puzzles.data import puzzle_file

    if name == "-":
        stream, name = getattr(sys.stdin, "buffer", None), "standard input"
        yield name, (sys.stdin or ()) if stream is None else puzzle_file.decoded(stream, name), None
        return
    path = Path(name)
    with opened(path) as stream:
        packed = getattr(stream, "fileobj", None)  # what gzip reads from
        known = path.is_file() and (packed is not None or path.suffix.lower() != ".xz")
        size, inner = max(1, path.stat().st_size), packed or stream
        yield path, puzzle_file.decoded(stream, path), (lambda: inner.tell() / size) if known else None


def _check_pictures(options: Options) -> Options:
    """Check up front whether --html and --gif can be written. Without Pillow only the page is."""
    read = (options.run, *options.also, options.puzzle, (options.task or "").rpartition(":")[0])
    for flag, name in (("--html", options.html), ("--gif", options.gif)):
        output.check(flag, name, read)
    if options.gif is not None:
        from hrm.puzzles.pictures.gif import pillow

        try:
            pillow()
        except UserError as error:
            if options.html is None:
                raise
            print(f"{error}; only the page is written", file=sys.stderr)
            return replace(options, gif=None)
    return options


def _solve_one(solver: Solver, options: Options, text: str) -> int:
    from hrm.puzzles.pictures.watch import grid

    console = _console()
    solver = solver.fitting(text)
    answer, segments = _observed(solver, options, text, console)
    last = segments[-1] if segments else None
    if last is not None:
        _save_pictures(solver, options, answer, segments)
    if options.json:
        print(to_json(answer.to_dict()))
    elif last is None:
        rows, columns = solver.task.shape
        typed = text is options.puzzle and len(text) < rows * columns
        mistyped = "; nor is there a file of that name" if typed else ""
        raise UserError(f"invalid: {answer.reason}{mistyped}")
    elif console.is_terminal:
        if not options.watch:
            console.print(grid(solver.task, last))
        print(_sentence(answer, "--guesses" if solver.task.can_guess else "--restarts"))
    else:
        print(answer.answer or answer.status)
    return 2 if last is None else 0


def _solve_lines(
    solver: Solver,
    options: Options,
    questions: Iterator[tuple[int, str]],
    hide: Callable[[], None],
    advance: Callable[..., None],
    read: Callable[[], float] | None = None,
) -> int:
    """Solve all questions. `advance` updates the progress bar, `hide` removes it, `read` gives the share of the file
    read so far."""
    name = "standard input" if options.puzzle == "-" else options.puzzle
    if options.html or options.gif:
        first = [text for _, text in itertools.islice(questions, 2)]
        if len(first) != 1:
            found = "several" if first else "none"
            raise UserError(f"--html and --gif show one puzzle, and {options.puzzle} holds {found}: give the puzzle")
        hide()
        return _solve_one(solver, options, first[0])
    numbers: deque[int] = deque()

    def texts() -> Iterator[str]:
        for number, text in questions:
            numbers.append(number)
            yield text

    if options.watch:
        hide()
        console = _console()
        answers = (_observed(solver, options, text, console)[0] for text in texts())
    else:
        answers = solver.solve_many(texts(), batch_size=options.batch_size, **vars(options.strategy))
    counts: Counter[str] = Counter()
    wrong = ""  # the first invalid one
    if read is not None:
        advance(total=1.0)
    started = time.perf_counter()
    for answer in answers:
        if sys.stdout.isatty():
            hide()  # the answers themselves appear there
        number = numbers.popleft()
        counts[answer.status] += 1
        if answer.status == "invalid":
            wrong = wrong or f"line {number}: {answer.reason}"
        if options.json:
            line = to_json({"line": number, **answer.to_dict()})
        elif answer.status == "invalid":
            line = f"invalid: line {number}: {answer.reason}"
        else:
            line = answer.answer or answer.status
        print(line + ("\n" if "\n" in line else ""), flush=True)  # an empty line behind each drawn one
        done = counts.total()
        rate = f"{done:,} puzzles, {done / max(1e-9, time.perf_counter() - started):.1f} a second"
        advance(completed=0.0 if read is None else read(), description=rate)
    hide()
    found = ", ".join(f"{count} {status}" for status, count in counts.items())
    many = "s" if counts.total() != 1 else ""
    print(f"{counts.total()} puzzle{many}{': ' if found else ''}{found}", file=sys.stderr)
    if counts.total() == counts["invalid"]:
        why = f"; the first, {wrong}" if wrong else ": it has no line that could be one"
        raise UserError(f"nothing in {name} was a valid puzzle{why}")
    return 0


def _progress(piped: bool, several: bool) -> Progress:
    """A progress bar on the terminal's stderr; none where puzzles are typed in."""
    columns = BarColumn(20), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), TimeRemainingColumn()
    typed = piped and getattr(sys.stdin, "isatty", lambda: False)()
    quiet = typed or not several or not sys.stderr.isatty()
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=quiet, transient=True, redirect_stdout=False)


def _console() -> Console:
    """A console for the answers. The stream alone decides: a pipe gets plain text, whatever the environment says about
    colour."""
    return Console(highlight=False, force_terminal=sys.stdout.isatty())


def _observed(solver: Solver, options: Options, text: str, console: Console) -> tuple[Answer, Sequence[Segment]]:
    """Solve one puzzle, drawing it with --watch. Returns the answer and the last segment, or all segments for pictures;
    none if the question is invalid."""
    from hrm.puzzles.pictures.watch import watching

    solver = solver.fitting(text)
    segments: deque[Segment] = deque(maxlen=None if options.html or options.gif else 1)
    with watching(solver, console, options.delay) if options.watch else nullcontext() as watch:

        def observe(segment: Segment) -> None:
            segments.append(segment)
            if watch is not None:
                watch(segment)

        answer = solver.solve(text, observe=observe, **vars(options.strategy))
    return answer, segments


def _save_pictures(solver: Solver, options: Options, answer: Answer, segments: Sequence[Segment]) -> None:
    from hrm.puzzles.pictures.gif import gif
    from hrm.puzzles.pictures.page import page

    for name, drawn in ((options.html, page), (options.gif, gif)):
        if name is not None:
            output.write(name, drawn(solver, answer, segments))
            print(f"wrote {name}", file=sys.stderr)


def _sentence(answer: Answer, more: str) -> str:
    many = "s" if answer.segments != 1 else ""
    again = f" in {answer.attempts} attempts" if answer.attempts > 1 else ""
    after = f"{answer.status} after {answer.segments} segment{many}{again}, confidence {answer.confidence:.0%}"
    return after + (f"; more --max-segments or {more} may help" if answer.status == "unsolved" else "")
