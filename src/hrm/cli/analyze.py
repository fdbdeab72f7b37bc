"""`hrm analyze QUESTION RUN`: what trained models do, and what happens inside them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from hrm.cli.looking import LOOKED, Look, Looking, answer, check_place, schedules_of, subject_of, subjects_of, watched
from hrm.cli.options import DEVICE, Positional, choose, parse
from hrm.cli.text_quality import TextOptions, judge
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.settings import Range


@dataclass(frozen=True)
class ForgettingOptions:
    """Show every book's score after every book of a learner, and what was forgotten."""

    run: Positional[Path]
    """Run folder of hrm learn."""
    json: bool = False
    """Print the result as JSON instead of the table."""
    json_file: Path | None = None
    """File to write the result to as JSON."""
    plot: Path | None = None
    """File for a picture of the matrix."""


@dataclass(frozen=True)
class StepsOptions:
    """Show how far the states move at every step of L and update of H, and what other schedules bring and cost."""

    run: Positional[str]
    """Run, saved model, or the name of a solver that comes with the package."""
    segments: int | None = None
    """How many are watched; default: as many as the model was trained with."""
    schedules: tuple[str, ...] = ()
    """Cycles x steps to measure beside the model's own, such as 1x1 2x2 3x2 6x4."""
    look: Look = field(default_factory=Looking)


@dataclass(frozen=True)
class DimensionsOptions:
    """Show in how many directions z_h and z_l spread, trained and untrained, against the number of puzzles or texts."""

    run: Positional[str]
    """Run, saved model, or the name of a solver that comes with the package."""
    segments: int | None = None
    """How many are watched; default: as many as the model was trained with."""
    seed: int = 0
    """Of the fresh weights, and of the order of the puzzles."""
    look: Look = field(default_factory=Looking)


@dataclass(frozen=True)
class AnswersOptions:
    """Show what a model would answer after every step of L: a puzzle's grids, or a text's next tokens as a heat map."""

    run: Positional[str]
    """Run, saved model, or the name of a solver that comes with the package."""
    row: int = 1
    """The puzzle or window that is drawn, of those that are looked at."""
    prompt: str | None = None
    """Instead: a puzzle, or a text, of your own."""
    segments: int | None = None
    """How many are watched; default: as many as the model was trained with."""
    look: Look = field(default_factory=Looking)


@dataclass(frozen=True)
class PathsOptions:
    """Show where thinking goes over many segments, where it ends, and whether a solved state comes back after noise."""

    run: Positional[str]
    """Run, saved model, or the name of a solver that comes with the package."""
    segments: int = 64
    """How many are watched."""
    restarts: Annotated[int | None, Range(0, 1000)] = None
    """Further starts with noise in the initial states; default: 3 where that leaves the question as it is."""
    views: Annotated[int | None, Range(0, 1000)] = None
    """Further starts through symmetries of the puzzle; default: 3 where there are some."""
    seed: int = 0
    """Of the noise."""
    look: Look = field(default_factory=Looking)


@dataclass(frozen=True)
class HaltingOptions:
    """Show depth and quality against the most segments allowed, whether P(halt) can be trusted, and what takes longer.

    Of several runs, such as models trained with limits of their own, the curves stand beside each other.
    """

    runs: Positional[tuple[str, ...]]
    """Runs, saved models, or the name of a solver that comes with the package."""
    segments: int | None = None
    """The largest limit; default: that of the training (the largest one)."""
    look: Look = field(default_factory=Looking)


@dataclass(frozen=True)
class AblateOptions:
    """Show what a result loses when a part of the trained model is knocked out, beside models retrained without it."""

    run: Positional[str]
    """Run, saved model, or the name of a solver that comes with the package."""
    retrained: tuple[str, ...] = ()
    """Runs that were trained without something, each measured as it was trained."""
    segments: int | None = None
    """Depth of the trained model; default: as many as it was trained with."""
    look: Look = field(default_factory=Looking)


@dataclass(frozen=True)
class TrainingOptions:
    """Show how several runs learned, learners too: loss and held-out quality against steps and seconds."""

    runs: Positional[tuple[str, ...]]
    """Run folders."""
    out: Path | None = None
    """Folder for the picture (PNG, SVG) and the numbers (JSON); default: analysis in the first run."""
    json: bool = False
    """Print the numbers instead of the table."""


def main(args: list[str]) -> int:
    actions = {
        "steps": steps,
        "dimensions": dimensions,
        "halting": halting,
        "answers": answers,
        "paths": paths,
        "ablate": ablate,
        "training": training,
        "text": text,
        "forgetting": forgetting,
    }
    return choose("analyze", actions, args)


def text(args: list[str]) -> int:
    """Judge texts, or what text models write, against a reference."""
    example = "hrm analyze text runs/alice sample.txt --reference alice.txt --max-segments 1 2 4 --plot quality.png"
    return judge(parse("analyze text", TextOptions, args, example=example, main=DEVICE))


def steps(args: list[str]) -> int:
    """Show how far the states move at every step, and what other schedules bring."""
    example = "hrm analyze steps runs/sudoku --schedules 1x1 2x2 3x2 6x4"
    options = parse("analyze steps", StepsOptions, args, example=example, main=LOOKED)
    schedules = schedules_of(options.schedules)
    with subject_of(options.run, options.look) as subject, watched("watching") as progress:
        from hrm.insight.steps import steps as measure

        look = options.look
        found = measure(
            subject, options.segments or subject.max_segments, look.limit, look.batch_size, schedules, progress
        )
    return answer(found, options.run, look, args)


def dimensions(args: list[str]) -> int:
    """Show in how many directions the states spread."""
    options = parse(
        "analyze dimensions", DimensionsOptions, args, example="hrm analyze dimensions runs/sudoku", main=LOOKED
    )
    with subject_of(options.run, options.look) as subject, watched("watching") as progress:
        from hrm.insight.dimensions import dimensions as measure

        look, segments = options.look, options.segments or subject.max_segments
        found = measure(subject, segments, look.limit, look.batch_size, options.seed, progress)
    return answer(found, options.run, look, args)


def answers(args: list[str]) -> int:
    """Show what it would answer after every step."""
    options = parse(
        "analyze answers", AnswersOptions, args, example="hrm analyze answers runs/sudoku --row 3", main=LOOKED
    )
    with subject_of(options.run, options.look) as subject, watched("answering") as progress:
        from hrm.insight.answers import answers as measure

        look, segments = options.look, options.segments or subject.max_segments
        found = measure(subject, segments, look.limit, look.batch_size, options.row, options.prompt, progress)
    return answer(found, options.run, look, args)


def paths(args: list[str]) -> int:
    """Show where thinking goes and how firmly it stays."""
    options = parse(
        "analyze paths", PathsOptions, args, example="hrm analyze paths runs/sudoku --limit 32", main=LOOKED
    )
    with subject_of(options.run, options.look) as subject, watched("following") as progress:
        from hrm.insight.paths import paths as measure

        look, starts = options.look, (options.restarts, options.views, options.seed)
        found = measure(subject, options.segments, look.limit, look.batch_size, *starts, progress)
    return answer(found, options.run, look, args)


def halting(args: list[str]) -> int:
    """Show how deep a model thinks, and what that depends on."""
    options = parse(
        "analyze halting", HaltingOptions, args, example="hrm analyze halting runs/m2 runs/m4 runs/m8", main=LOOKED
    )
    look = options.look
    with subjects_of(options.runs, look) as subjects, watched("watching") as progress:
        from hrm.insight.halting import halting as measure

        def share(done: float) -> None:
            progress(done / len(subjects))

        found = measure(subjects, options.segments, look.limit, look.batch_size, share)
    return answer(found, options.runs[0], look, args)


def ablate(args: list[str]) -> int:
    """Show what a result loses without H, L, cycles, carry or task embedding."""
    example = "hrm analyze ablate runs/sudoku --retrained runs/one-cycle runs/transformer"
    options = parse("analyze ablate", AblateOptions, args, example=example, main=LOOKED)
    look = options.look
    with subjects_of((options.run, *options.retrained), look) as subjects, watched("watching") as progress:
        from hrm.insight.ablate import ablate as measure

        subject, *others = subjects
        found = measure(subject, others, options.segments, look.limit, look.batch_size, progress)
    return answer(found, options.run, look, args)


def training(args: list[str]) -> int:
    """Show the curves of several runs in one picture."""
    options = parse("analyze training", TrainingOptions, args, example="hrm analyze training runs/one runs/other")
    if not options.runs:
        raise UserError("nothing to look into: name a run")
    look, first = Looking(out=options.out, json=options.json), options.runs[0]
    check_place(first, look)
    from hrm.insight.training import training as curves

    return answer(curves([Path(run) for run in options.runs]), first, look, args)


def forgetting(args: list[str]) -> int:
    """Show what a learner has forgotten of its books."""
    options = parse("analyze forgetting", ForgettingOptions, args, example="hrm analyze forgetting runs/reader")
    output.check("--json-file", options.json_file, [options.run])
    output.check_picture("--plot", options.plot, [options.run])
    from rich.table import Table

    from hrm.runs import Run, checkpoint
    from hrm.text import learned
    from hrm.text.config import LearnConfig
    from hrm.text.learning.forgetting import cost, draw
    from hrm.text.learning.forgetting import forgetting as measure

    run = Run.open(options.run, LearnConfig)
    newest = checkpoint.newest(run.checkpoints, lambda line: print(line, file=sys.stderr))
    found = measure(learned.load(newest, ())[1].books if newest else [], run.records())
    if not found.books:
        raise UserError(f"{options.run} has finished no book yet: there is nothing to forget")
    if options.plot is not None:
        draw(found, options.plot)
    if options.json_file is not None:
        output.write_json(options.json_file, found)
    if options.json:
        print(to_json(found))
    else:
        table = Table("after", *found.books, "cost", title="held-out bits a character", title_justify="left")
        for i, (name, row) in enumerate(zip(found.readings, found.matrix, strict=True)):
            bits = [f"{value:.3f}" for value in row] + [""] * (len(found.books) - len(row))
            table.add_row(name, *bits, cost(found, i))
        for label in ("rise", "worst"):
            table.add_row(label, *("" if share is None else f"{share:+.1%}" for share in found[label]))
        Console().print(table)
    return 0
