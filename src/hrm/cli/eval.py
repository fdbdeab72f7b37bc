"""`hrm eval RUN --data PATH`."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hrm.cli import arc, facts
from hrm.cli.options import TRIES, Machine, OnMachine, Positional, Tries, first_named, parse
from hrm.cli.text_eval import TextOptions as TextOptions
from hrm.cli.text_eval import main as measure_text
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.progress import bar, share
from hrm.puzzles import solvers
from hrm.puzzles.config import Config, Strategy
from hrm.text.config import is_text
from hrm.training.interrupt import Terminated

EVERY = 30
"""Seconds after which what is known so far is written again."""

if TYPE_CHECKING:
    from hrm.puzzles import tasks
    from hrm.puzzles.data import LocatedPuzzles, PuzzleSet
    from hrm.puzzles.solving import Solver


@dataclass(frozen=True)
class Options:
    """Measure a run on puzzles with known answers, which the solver itself never sees.

    A model of text has flags of its own: `hrm eval RUN --help` shows them for such a RUN.
    """

    run: Positional[str]
    """Run folder, or the name of a solver that comes with the package: sudoku, maze."""
    data: str | None = None
    """File of puzzles (text, CSV, XML) or dataset folder; default: the puzzles that the run held out."""
    strategy: Tries = field(default_factory=Strategy)
    also: tuple[str, ...] = ()
    """More run folders on the same task, whose models try in turn."""
    task: str | None = None
    """FILE.py:CLASS, the task of your own that the run was trained on; its code is run."""
    json: bool = False
    """Print the result as JSON instead of the table."""
    json_file: Path | None = None
    """File to write the result to as JSON, updated while it measures."""
    sweep: Path | None = None
    """Instead: accuracy against compute, up to the given segments, views and restarts, as PATH.json and PATH.png."""
    limit: int | None = None
    """Measure only this many puzzles, the first ones."""
    skip: int = 0
    """Leave out this many puzzles before these."""
    split: str = "test"
    """Which split of a dataset folder."""
    allow_overlap: bool = False
    """Also measure puzzles of which a symmetric variant was trained on."""
    batch_size: int = 64
    """Puzzles in a batch."""
    checkpoint: str = "best"
    """best, latest or a step."""
    on: OnMachine = field(default_factory=Machine)


def main(args: list[str]) -> int:
    args = _named(args)
    if any(is_text(word) for word in args if not word.startswith("-")):
        return measure_text(args)
    named = first_named((Options, TextOptions), args)
    if named and not solvers.find(named).exists():  # its kind decides which flags there are
        raise UserError(f"there is no run at {named}: give the folder that 'hrm train' wrote")
    example = "hrm eval runs/sudoku --data test.csv --max-segments 64 --restarts 8"
    options = parse("eval", Options, args, example=example, main=(*TRIES, "device", "threads"))
    if arc.is_run(options.run):
        if options.data is None:
            raise UserError(f"{options.run} was trained on ARC: name the task files to answer with --data")
        same = ("data", "json", "json_file", "checkpoint", "batch_size", "on")
        shared = {name: getattr(options, name) for name in same}
        return arc.measure(arc.EvalOptions(run=options.run, max_segments=options.strategy.max_segments, **shared))
    read = (options.run, *options.also, options.data, (options.task or "").rpartition(":")[0])
    output.check("--json-file", options.json_file, read)
    if options.sweep is not None:
        output.check_picture("--sweep", _picture(options.sweep), read)
        output.check("--sweep", _picture(options.sweep).with_suffix(".json"), read)

    from hrm.puzzles import data
    from hrm.puzzles.measuring import Measurement
    from hrm.puzzles.solving import load
    from hrm.runs import threads

    where = options.on
    solver = load(options.run, options.checkpoint, where.device, where.precision, options.task, options.also)
    threads.settle_for(solver.model, options.batch_size * solver.model.positions, where.threads)
    if solver.task.any_size and options.data is not None:
        try:
            solver = solver.on(data.infer(options.data).size)
        except data.Unrecognised as error:
            raise UserError(f"{error.what}; mazes that are not square can only be solved, drawn (hrm solve)") from None
    puzzles = puzzles_to_measure(options, solver.task)
    if options.sweep is not None:
        return _sweep(solver, puzzles, options)
    measurement = Measurement(solver, puzzles, options.batch_size, **vars(options.strategy))
    # A pipe gets the end alone.
    known = options.json_file if options.json_file and output.is_regular(options.json_file) else None
    total, written, done = len(puzzles.inputs), time.monotonic(), 0
    with bar("measuring", total, Console(stderr=True)) as advance, contextlib.suppress(KeyboardInterrupt, Terminated):
        for number in measurement:
            advance(number - done)
            done = number
            if known is not None and time.monotonic() - written > EVERY:
                output.write_json(known, {"skipped": options.skip} | measurement.result().plain())
                written = time.monotonic()
    result = {"skipped": options.skip} | measurement.result().plain()
    if options.json_file is not None:
        output.write_json(options.json_file, result)
    print(to_json(result, indent=2) if options.json else _table(result, options.strategy))
    if done == total:
        return 0
    print(f"stopped after {done} of {total} puzzles; --skip {options.skip + done} measures the others", file=sys.stderr)
    return 130


def puzzles_to_measure(options: Options, task: tasks.Task) -> PuzzleSet:
    """The puzzles to measure on; UserError for some that a run was trained on."""
    import numpy as np

    from hrm.puzzles import data
    from hrm.puzzles.data import LocatedPuzzles

    if options.data is None:
        located = LocatedPuzzles(_held_out(options.run, task), lambda row: f"held-out puzzle {row + 1}")
    else:
        located = data.locate(options.data, task, options.split, Console(stderr=True))
    puzzles = located.puzzles
    n = len(puzzles.inputs)
    if options.skip >= n > 0:
        raise UserError(f"--skip {options.skip} leaves nothing of the {n} puzzles of {puzzles.source}: use less")
    if options.limit is not None or options.skip:
        puzzles = puzzles.take(np.arange(options.skip, min(n, options.skip + (options.limit or n))))
    if not options.allow_overlap:
        # What a run held out is none of its own training puzzles; another run may have seen it.
        for run in (*options.also, *([] if options.data is None else [options.run])):
            _refuse_trained(run, LocatedPuzzles(puzzles, lambda row: located.where(row + options.skip)), task)
    return puzzles


def _named(args: list[str]) -> list[str]:
    """The arguments with a run that is named by --model where it stands without it."""
    for at, word in enumerate(args):
        if word == "--model" and args[at + 1 :]:
            return [args[at + 1], *args[:at], *args[at + 2 :]]
        if word.startswith("--model="):
            return [word.partition("=")[2], *args[:at], *args[at + 1 :]]
    return args


def _held_out(run: str, task: tasks.Task) -> PuzzleSet:
    """The puzzles that a run held out; UserError if there are none."""
    from hrm.puzzles.training.session import puzzles_of
    from hrm.runs import Run

    opened = Run.open(solvers.find(run), Config)
    kept = opened.config.data is not None or opened.data.is_dir()
    held_out = puzzles_of(opened, task)[1] if kept else None
    if held_out is None:
        raise UserError(f"{run} held out no puzzles to measure: name some with --data")
    return held_out


def _refuse_trained(run: str, measured: LocatedPuzzles, task: tasks.Task) -> None:
    """UserError if a run was trained on the measured puzzles; a note if its training puzzles can no longer be read."""
    from hrm.puzzles import data
    from hrm.puzzles.training.session import puzzles_of
    from hrm.runs import Run

    if not (Path(run) / "run.json").is_file() or task.embedded:
        return  # a solver that comes with the package; ARC, which refuses leaks when it trains
    opened = Run.open(run, Config)
    if opened.config.data is None and not opened.data.is_dir():
        return  # weights from elsewhere
    if task.cells != opened.board["cells"]:
        return  # a model for any size, trained on puzzles of another one
    try:
        training, _ = puzzles_of(opened, task)
    except UserError as error:
        print(f"not compared with the training puzzles of {run}: {error}", file=sys.stderr)
        return
    data.refuse(measured, training, task, Console(stderr=True))


def _sweep(solver: Solver, puzzles: PuzzleSet, options: Options) -> int:
    from hrm.puzzles.measuring.sweep import draw, sweep, table

    assert options.sweep is not None
    with share("measuring", Console(stderr=True)) as report:
        result = sweep(solver, puzzles, options.strategy, options.batch_size, report)
    draw(result, _picture(options.sweep))
    for file in (_picture(options.sweep).with_suffix(".json"), options.json_file):
        if file is not None:
            output.write_json(file, result)
    print(to_json(result, indent=2) if options.json else table(result))
    return 0


def _picture(path: Path) -> Path:
    """The picture of a sweep; its numbers go into a .json file of the same name."""
    return path.with_suffix(".png") if path.suffix in (".json", ".png") else path.with_name(path.name + ".png")


def _table(result: Json, asked: Strategy) -> str:
    """A measurement for people: the main numbers first, and nothing that was not used."""
    first = ("exact_accuracy", "exact_interval", "solved", "wrong", "unsolved")
    tried = ("skipped", "restarts", "guesses")
    unused = {"calibration", *(name for name in tried if not result[name] and getattr(asked, name, None) is None)}
    called = {"exact_interval": "95%_interval", "ece": "confidence error (ECE)"}
    names = dict.fromkeys([*first, *result])
    told = {called.get(name, name): result[name] for name in names if name not in unused}
    return facts.lines(told, lambda name: name.endswith("accuracy") or name in ("valid", "optimal"), 24)
