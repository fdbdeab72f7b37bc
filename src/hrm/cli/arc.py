"""`hrm arc build|check|show|eval|score`: tasks of ARC-AGI and ConceptARC."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hrm.cli import facts
from hrm.cli.options import DEVICE, Device, OnDevice, Positional, choose, parse
from hrm.console import Console
from hrm.files import names, output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.progress import share
from hrm.puzzles.config import Config

if TYPE_CHECKING:
    from hrm.puzzles.arc.files import ArcTask
    from hrm.puzzles.arc.measuring import AnsweredTask
    from hrm.puzzles.arc.sets import TaskRecord


@dataclass(frozen=True)
class TaskOptions:
    """What to do with bad tasks."""

    skip_bad: bool = False
    """Leave out tasks and files that are wrong, and name them, instead of stopping."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions(TaskOptions):
    """Write the tasks of some sources to one file, all or the first ones that are small enough."""

    data: str
    """Task files or folders, joined by commas; of tasks with the same id the first counts."""
    out: Path
    """File to write, one task per line: .jsonl or .jsonl.gz."""
    largest: int = 30
    """Leave out tasks with a grid of more rows or columns."""
    count: int | None = None
    """Keep only this many, the first in the order of their ids."""
    overwrite: bool = False
    """Replace a file that exists."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(TaskOptions):
    """Find what is wrong with task files, and tasks whose answers another file gives away."""

    data: Positional[str]
    """Task files or folders, joined by commas."""
    against: str | None = None
    """Training tasks: which of them are among these, or hold a test pair of these in a symmetric form?"""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class ShowOptions(TaskOptions):
    """Draw a task in the terminal, or as an SVG picture."""

    data: Positional[str]
    """Task files or folders, joined by commas."""
    task: str | None = None
    """Id of the task; default: the first."""
    svg: Path | None = None
    """File for the picture."""
    json: bool = False
    """Print the task as JSON."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions(TaskOptions):
    """Answer the test inputs of tasks that a run knows: a vote over the task's copies, two guesses each."""

    run: Positional[str]
    """Run folder."""
    data: str
    """Task files or folders, joined by commas."""
    copies: int | None = None
    """Copies that vote; default: all that were trained."""
    max_segments: int | None = None
    """Segments after which the readout is taken as it is; default: as in training."""
    halt: bool = True
    """Let the Q head stop early; off: take the last readout."""
    fit: bool = True
    """Also count how many demonstrations the model reproduces."""
    submission: Path | None = None
    """File for the guesses in the official form."""
    pictures: Path | None = None
    """Folder for a picture of each task with its guesses."""
    json: bool = False
    """Print the result as JSON instead of the table."""
    json_file: Path | None = None
    """File to write the result to as JSON."""
    leaks: bool = False
    """Also measure tasks whose answers the run was trained on."""
    checkpoint: str = "best"
    """best, latest, a step, or all: one line for each."""
    batch_size: int = 64
    """Puzzles in a batch."""
    on: OnDevice = field(default_factory=Device)


@dataclass(frozen=True)
class ScoreOptions:
    """Check a submission in the official form and score it."""

    submission: Positional[Path]
    """JSON file: {task: [{"attempt_1": grid, "attempt_2": grid}, one for each test input]}; or a folder with a file for
    each task. An attempt that is null or absent is a wrong one."""
    data: str
    """Task files or folders with the answers, joined by commas."""
    skip_bad: bool = False
    """Leave out tasks that are wrong, and count those that the submission lacks or gets wrong as not answered."""
    json: bool = False
    """Print the result as JSON."""


def main(args: list[str]) -> int:
    return choose("arc", {"build": build, "check": check, "show": show, "eval": eval_, "score": score_}, args)


def build(args: list[str]) -> int:
    """Write the tasks of some sources to one file."""
    example = "hrm arc build --data ARC-AGI/data/evaluation --largest 10 --count 20 --out small.jsonl"
    options = parse("arc build", BuildOptions, args, example=example)
    from hrm.puzzles.arc import files as arc

    if not options.out.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"--out {options.out} must end in .jsonl or .jsonl.gz")
    if options.out.exists() and not options.overwrite:
        raise UserError(f"{options.out} exists: choose another --out or add --overwrite")
    names.apart(options.out, names.sources(options.data))
    if options.count is not None and options.count < 1:
        raise UserError(f"--count {options.count} leaves no task: use 1 or more")
    found = arc.find(options.data, options.largest, options.skip_bad)
    _name(found.bad)
    tasks = sorted(found.tasks, key=lambda task: task.id)
    if not tasks:
        raise UserError(f"no task of {options.data} has only grids of {options.largest} rows and columns or fewer")
    tasks = tasks[: options.count]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    arc.write(options.out, tasks)
    if options.json:
        print(to_json({"written": str(options.out), "tasks": len(tasks), "left_out": found.too_large}))
        return 0
    left_out = f"; {found.too_large:,} with larger grids left out" if found.too_large else ""
    print(f"{options.out}: {_counts(tasks)}{left_out}")
    return 0


def check(args: list[str]) -> int:
    """Find what is wrong with task files, and tasks that training tasks give away."""
    example = "hrm arc check arc1/evaluation.jsonl.gz --against arc2/training.jsonl.gz"
    options = parse("arc check", CheckOptions, args, example=example)
    from hrm.puzzles.arc import files as arc
    from hrm.puzzles.arc.sets import leaks

    tasks, _, bad = arc.find(options.data, skip_bad=options.skip_bad)
    found = leaks(_tasks(options.against, options.skip_bad), tasks) if options.against else {}
    _name(bad)
    if options.json:
        print(to_json({"data": options.data, "tasks": len(tasks), "bad": bad, "leaks": found}))
    else:
        print(f"{options.data}: {_counts(tasks)}")
        for name, others in found.items():
            print(f"{name}: its answer is in {', '.join(others)} of {options.against}")
        if options.against and not found:
            print(f"{options.against} gives no answer away")
    return 2 if found else 0


def show(args: list[str]) -> int:
    """Draw a task in the terminal, or as a picture."""
    options = parse("arc show", ShowOptions, args, example="hrm arc show tasks.jsonl --task 007bbfb7 --svg task.svg")
    output.check("--svg", options.svg, names.sources(options.data))
    from hrm.files.reading import nearest
    from hrm.puzzles.arc import files as arc

    tasks = {task.id: task for task in _tasks(options.data, options.skip_bad)}
    name = options.task or next(iter(tasks))
    if name not in tasks:
        raise UserError(f"{options.data} has no task '{name}'{nearest(name, tasks)}")
    task = tasks[name]
    if options.json:
        pairs = {name: [arc.plain(pair) for pair in getattr(task, name)] for name in ("train", "test")}
        print(to_json({"id": task.id, **pairs}))
    if options.svg is not None:
        from hrm.puzzles.arc.picture import picture

        output.write(options.svg, picture(task))
        if not options.json:
            print(options.svg)
    if options.svg is not None or options.json:
        return 0
    from rich.columns import Columns

    from hrm.puzzles.tasks.arc import Arc

    console = Console(highlight=False)
    for title, pairs in (("demonstration", task.train), ("test", task.test)):
        for number, pair in enumerate(pairs, 1):
            console.print(f"{task.id}, {title} {number}")
            grids = [grid for grid in pair if grid is not None]
            board = Arc(max(max(grid.shape) for grid in grids))
            console.print(Columns([board.draw(board.encode(grid)) for grid in grids], padding=(0, 3)))
    return 0


def eval_(args: list[str]) -> int:
    """Answer the test inputs of tasks that a run knows; pass@1 and pass@2."""
    example = "hrm arc eval runs/arc-1 --data evaluation.jsonl.gz --submission submission.json"
    return measure(parse("arc eval", EvalOptions, args, example=example, main=DEVICE))


def is_run(path: str) -> bool:
    """Whether a folder holds a run on ARC tasks."""
    from hrm.puzzles import solvers
    from hrm.runs import Run

    return Run.open(solvers.find(path), Config).config.task.kind == "arc"


def measure(options: EvalOptions) -> int:
    """Answer the tasks, score the answers, and write the requested files."""
    read = (options.run, *names.sources(options.data))
    output.check("--submission", options.submission, read)
    output.check("--json-file", options.json_file, read)
    from hrm.puzzles.arc.measuring import submission_of, write_submission
    from hrm.puzzles.arc.picture import picture
    from hrm.puzzles.arc.sets import TaskRecord
    from hrm.runs import Run, checkpoint

    run = Run.open(options.run, Config)
    record = TaskRecord.load(run.data)
    tasks = _tasks(options.data, options.skip_bad)
    record.numbers(tasks)
    if not options.leaks:
        record.check_unseen(tasks, "--leaks")
    steps: list[str] = [options.checkpoint]
    if options.checkpoint == "all":
        known = checkpoint.complete(run.checkpoints, lambda line: print(line, file=sys.stderr))
        steps = [str(checkpoint.step_of(path)) for path in known]
        if not steps:
            raise UserError(f"{run.path} has no checkpoint yet: train it further")
        if options.submission or options.pictures:
            raise UserError("--submission and --pictures show one checkpoint: choose it with --checkpoint STEP")
    if options.pictures is not None:
        for task in tasks:
            names.file_in(options.pictures, f"{task.id}.svg")  # the name of a task is what its file says
    results = []
    for step in steps:
        answers, result = _measure(options, step, tasks, record)
        results.append(result)
        if options.submission is not None:
            write_submission(options.submission, submission_of(answers))
        if options.pictures is not None:
            options.pictures.mkdir(parents=True, exist_ok=True)
            for answered in answers:
                output.write(options.pictures / f"{answered.task.id}.svg", picture(answered.task, answered.guesses))
        if not options.json:
            print(_table(result) + ("\n" if step != steps[-1] else ""))
    everything = results if options.checkpoint == "all" else results[0]
    if options.json:
        print(to_json(everything, indent=2))
    if options.json_file is not None:
        output.write_json(options.json_file, everything)
    return 0


def score_(args: list[str]) -> int:
    """Check a submission in the official form and score it."""
    example = "hrm arc score submission.json --data evaluation.jsonl.gz"
    options = parse("arc score", ScoreOptions, args, example=example)
    from hrm.puzzles.arc.measuring import read_submission, score

    tasks = _tasks(options.data, options.skip_bad)
    bad: list[str] = []
    submission = read_submission(options.submission, tasks, bad.append if options.skip_bad else None)
    _name(bad)
    result = score(submission, tasks)
    print(to_json(result) if options.json else _table(result))
    return 0


def _tasks(data: str, skip_bad: bool) -> list[ArcTask]:
    """Read tasks; with `skip_bad`, bad ones are reported on standard error."""
    from hrm.puzzles.arc import files as arc

    found = arc.find(data, skip_bad=skip_bad)
    _name(found.bad)
    return found.tasks


def _name(bad: list[str]) -> None:
    for problem in bad:
        print(f"left out: {problem}", file=sys.stderr)


def _measure(
    options: EvalOptions, step: str, tasks: list[ArcTask], record: TaskRecord
) -> tuple[list[AnsweredTask], Json]:
    """The answers of one checkpoint and their scores."""
    import time

    from hrm.core import devices
    from hrm.puzzles.arc.measuring import answer, fit, score, submission_of
    from hrm.puzzles.solving import load

    solver = load(options.run, step, options.on.device, options.on.precision)
    copies = options.copies or solver.task.copies  # type: ignore[attr-defined]
    start = time.perf_counter()
    readouts = copies * sum(len(task.test) for task in tasks)
    with share("answering", Console(stderr=True)) as report:
        limits = options.copies, options.max_segments, options.halt, options.batch_size
        answers = list(answer(solver, tasks, record, *limits, lambda done: report(done / readouts)))
    known = all(pair.output is not None for task in tasks for pair in task.test)
    result: Json = {"status": "answered", "tasks": len(tasks), "copies": copies}
    if options.fit:
        result["demonstrations_fitted"] = fit(solver, tasks, record, options.batch_size)
    if known:
        result |= score(submission_of(answers), tasks)
    return answers, {
        **result, "mean_segments": sum(answered.segments for answered in answers) / readouts,
        "seconds": time.perf_counter() - start, "device": str(solver.device),
        "dtype": devices.named(solver.model.dtype), "checkpoint": solver.checkpoint, "data": options.data,
    }  # fmt: skip


def _counts(tasks: list[ArcTask]) -> str:
    shown, asked = sum(len(task.train) for task in tasks), sum(len(task.test) for task in tasks)
    largest = max(task.largest for task in tasks)
    return f"{len(tasks)} tasks, {shown} demonstrations, {asked} test inputs, grids of up to {largest}x{largest}"


def _table(result: Json) -> str:
    return facts.lines(result, lambda name: "pass@" in name or name.endswith("fitted"), 23)
