"""What the questions of `hrm analyze` share: the run, what it thinks about, and where the answer goes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hrm.cli.options import Machine, OnMachine
from hrm.console import Console
from hrm.files.names import KEPT_BY_RUNS, place_in
from hrm.files.output import to_json
from hrm.files.reading import UserError, needs
from hrm.progress import share
from hrm.text.config import is_text

if TYPE_CHECKING:
    from hrm.insight.figures import Finding, Table
    from hrm.insight.subject import Puzzles, Subject, Text
    from hrm.puzzles.data import PuzzleSet
    from hrm.puzzles.tasks import Task


@dataclass(frozen=True)
class Looking:
    """What is looked at, and where the answer goes."""

    data: str | None = None
    """Puzzles or text to think about; default: what the run held out."""
    limit: int = 64
    """Puzzles, or windows of text."""
    batch_size: int = 16
    """Puzzles or windows in a batch."""
    checkpoint: str = "best"
    """best, latest or a step."""
    out: Path | None = None
    """Folder for the picture (PNG, SVG) and the numbers (JSON); default: analysis in the run, or here for a solver that
    comes with the package."""
    json: bool = False
    """Print the numbers instead of the table."""
    split: str = "test"
    """Which split of a dataset folder."""
    on: OnMachine = field(default_factory=Machine)


Look = Annotated[Looking, tyro.conf.arg(name="")]
"""These flags without a prefix."""
LOOKED = ("data", "limit", "out")
"""Those that every question shows in its help."""


@contextmanager
def subject_of(run: str, options: Looking) -> Iterator[Subject]:
    """The model of a run with what it is to think about; UserError where the answer could not be drawn or written."""
    check_place(run, options)
    if is_text(run):
        with _text(run, options) as subject:
            yield subject
    else:
        yield _puzzles(run, options)


def check_place(run: str, options: Looking) -> None:
    """UserError where the answer could not be drawn or written."""
    if find_spec("matplotlib") is None:
        raise UserError(needs("hrm analyze", "matplotlib", "report"))
    _folder(run, options)


@contextmanager
def subjects_of(runs: tuple[str, ...], options: Looking) -> Iterator[list[Subject]]:
    """Those of several runs; UserError for none."""
    if not runs:
        raise UserError("nothing to look into: name a run")
    with ExitStack() as stack:
        yield [stack.enter_context(subject_of(run, options)) for run in runs]


def answer(finding: Finding, run: str, options: Looking, args: Sequence[str]) -> int:
    """Save what was found, with the command that found it, and print it."""
    finding = replace(finding, command=shlex.join(["hrm", "analyze", finding.question, *args]))
    files = finding.save(_folder(run, options))
    if options.json:
        print(to_json(finding.plain(), indent=2))
        return 0
    console = Console(highlight=False)
    console.print(finding.title, style="bold")
    for title, table in finding.tables.items():
        console.print(_shown(title, table))
    for sentence in finding.says:
        console.print(sentence)
    print("wrote " + ", ".join(str(file) for file in files), file=sys.stderr)
    return 0


def _folder(run: str, options: Looking) -> Path:
    """Where the answer goes; UserError for a place where none can be written."""
    if options.out is None:
        if not Path(run).is_dir():
            return Path("analysis") / Path(run).name
        if (folder := place_in(Path(run), "analysis")).is_file():
            raise UserError(f"{folder} is a file, and the answer goes into a folder of this name: use --out")
        return folder
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file: name a folder")
    target = options.out.resolve()
    for folder in target.parents:  # of any run, not of this one alone
        first = target.relative_to(folder).parts[0]
        if first in KEPT_BY_RUNS and first != "analysis" and (folder / "run.json").is_file():
            raise UserError(f"--out {options.out} belongs to the run {folder}: choose another folder")
    return options.out


@contextmanager
def watched(what: str) -> Iterator[Callable[[float], None]]:
    """A bar while something is computed."""
    with share(what, Console(stderr=True)) as report:
        yield report


def _puzzles(run: str, options: Looking) -> Puzzles:
    from hrm.cli.eval import Options, puzzles_to_measure
    from hrm.insight.subject import Puzzles as Subject
    from hrm.puzzles.solving import load
    from hrm.runs import threads

    solver = load(run, options.checkpoint, options.on.device, options.on.precision)
    threads.settle_for(solver.model, options.batch_size * solver.model.positions, options.on.threads)
    if solver.task.embedded:  # ARC: every task has an embedding of its own, so that it can only look at its own
        return Subject(solver, _own(run, solver.task, options))
    wanted = Options(run=run, data=options.data, limit=options.limit, split=options.split, allow_overlap=True)
    return Subject(solver, puzzles_to_measure(wanted, solver.task))


def _own(run: str, task: Task, options: Looking) -> PuzzleSet:
    """The first puzzles that a run learned from, of different tasks or pairs."""
    import numpy as np

    from hrm.puzzles.config import Config
    from hrm.puzzles.training.session import puzzles_of
    from hrm.runs import Run

    if options.data is not None:
        raise UserError(f"{run} knows the tasks that it was trained on alone: leave out --data")
    puzzles = puzzles_of(Run.open(run, Config), task)[0]
    _, first = np.unique(puzzles.groups, return_index=True)
    print(f"the pairs that {run} learned from: it can look at no others", file=sys.stderr)
    return puzzles.take(np.sort(first)[: options.limit])


@contextmanager
def _text(run: str, options: Looking) -> Iterator[Text]:
    from hrm.cli.text_eval import TextOptions, text_to_measure
    from hrm.insight.subject import Text as Subject
    from hrm.runs import threads
    from hrm.text.data.hops import Hops
    from hrm.text.load import load_text
    from hrm.text.measuring.subject import longest

    loaded = load_text(run, options.checkpoint, options.on.device, options.on.precision)
    wanted = TextOptions(run=run, data=options.data)
    with text_to_measure(loaded, wanted, lambda count: None) as (packed, source):
        if isinstance(packed, Hops):
            raise UserError(f"{run} learned questions with hops, which are made: name a text of such with --data FILE")
        length = getattr(packed, "length", None) or min(
            loaded.length or longest(loaded.model, loaded.tokenizer), max(1, packed.count - 1)
        )
        threads.settle_for(loaded.model, options.batch_size * length, options.on.threads)
        yield Subject(loaded, packed, length, str(source))


def _shown(title: str, table: Table) -> Any:
    import rich.table

    shown = rich.table.Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in table.columns:
        shown.add_column(name, justify="right")
    for row in table.rows:
        shown.add_row(
            *("" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row)
        )
    return shown


def schedules_of(words: tuple[str, ...]) -> list[Any]:
    """Schedules written as 2x2; UserError for anything else."""
    from hrm.core.recurrence import Schedule

    found = []
    for word in words:
        parts = word.lower().split("x")
        if len(parts) != 2 or not all(part.isdecimal() and 1 <= int(part) <= 64 for part in parts):
            raise UserError(f"--schedules {word} is no schedule: write cycles x steps, such as 2x2 or 6x4")
        found.append(Schedule(*map(int, parts)))
    return found
