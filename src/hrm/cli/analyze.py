"""`hrm analyze QUESTION RUN`: what trained models do, and what goes on inside them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hrm.cli.looking import Look, Looking, answer, schedules_of, subject_of, watched
from hrm.cli.options import DEVICE, Device, OnDevice, Positional, choose, parse
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.progress import share
from hrm.settings import Range

if TYPE_CHECKING:
    from hrm.text.data import ReadOptions


@dataclass(frozen=True)
class TextOptions:
    """Judge texts, or what text models write, on a scale: 0 is the reference shuffled, 100 its held-out text."""

    sources: Positional[tuple[str, ...]]
    """Text files, and text runs or saved models, which then write themselves."""
    reference: str
    """Text to compare with, usually what was trained on: a file, a folder of files or a Hub data set."""
    training: str | None = None
    """Text that may have been copied; default: the reference."""
    words: Path | None = None
    """File of words, divided by white space, that are real besides those of the reference."""
    encoding: str | None = None
    """Encoding of the files, such as cp1251 or gb18030; default: detected, and said where it is not UTF-8."""
    block: int = 1000
    """Characters of the blocks in which texts are measured."""
    json: bool = False
    """Print the result as JSON instead of the table."""
    json_file: Path | None = None
    """File to write the result to as JSON."""
    plot: Path | None = None
    """File for a picture of the comparison."""
    save: Path | None = None
    """Folder for the texts that models write."""
    characters: int = 20_000
    """How many characters a model writes."""
    max_segments: tuple[int, ...] = ()
    """Depths at which a model writes, each a row of the table; default: its own."""
    checkpoint: tuple[str, ...] = ("best",)
    """Checkpoints of a run: best, latest or steps, each a row of the table; all: every one kept."""
    temperature: float = 1.0
    """Below 1 the probable becomes more probable."""
    seed: int = 0
    """The same seed writes, shuffles and resamples the same."""
    on: OnDevice = field(default_factory=Device)


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


def main(args: list[str]) -> int:
    actions = {
        "steps": steps,
        "dimensions": dimensions,
        "answers": answers,
        "paths": paths,
        "text": text,
        "forgetting": forgetting,
    }
    return choose("analyze", actions, args)


def steps(args: list[str]) -> int:
    """Show how far the states move at every step, and what other schedules bring."""
    example = "hrm analyze steps runs/sudoku --schedules 1x1 2x2 3x2 6x4"
    options = parse("analyze steps", StepsOptions, args, example=example)
    schedules = schedules_of(options.schedules)
    with subject_of(options.run, options.look) as subject, watched("watching") as progress:
        from hrm.insight.steps import steps as measure

        look = options.look
        found = measure(
            subject, options.segments or subject.max_segments, look.limit, look.batch_size, schedules, progress
        )
    return answer(found, options.run, look)


def dimensions(args: list[str]) -> int:
    """Show in how many directions the states spread."""
    options = parse("analyze dimensions", DimensionsOptions, args, example="hrm analyze dimensions runs/sudoku")
    with subject_of(options.run, options.look) as subject, watched("watching") as progress:
        from hrm.insight.dimensions import dimensions as measure

        look, segments = options.look, options.segments or subject.max_segments
        found = measure(subject, segments, look.limit, look.batch_size, options.seed, progress)
    return answer(found, options.run, look)


def answers(args: list[str]) -> int:
    """Show what it would answer after every step."""
    options = parse("analyze answers", AnswersOptions, args, example="hrm analyze answers runs/sudoku --row 3")
    with subject_of(options.run, options.look) as subject, watched("answering") as progress:
        from hrm.insight.answers import answers as measure

        look, segments = options.look, options.segments or subject.max_segments
        found = measure(subject, segments, look.limit, look.batch_size, options.row, options.prompt, progress)
    return answer(found, options.run, look)


def paths(args: list[str]) -> int:
    """Show where thinking goes and how firmly it stays."""
    options = parse("analyze paths", PathsOptions, args, example="hrm analyze paths runs/sudoku --limit 32")
    with subject_of(options.run, options.look) as subject, watched("following") as progress:
        from hrm.insight.paths import paths as measure

        look, starts = options.look, (options.restarts, options.views, options.seed)
        found = measure(subject, options.segments, look.limit, look.batch_size, *starts, progress)
    return answer(found, options.run, look)


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


def text(args: list[str]) -> int:
    """Judge texts, or what text models write, against a reference."""
    example = "hrm analyze text runs/alice sample.txt --reference alice.txt --max-segments 1 2 4 --plot quality.png"
    options = parse("analyze text", TextOptions, args, example=example, main=DEVICE)
    if not options.sources:
        raise UserError("nothing to judge: name text files or text runs")
    output.check("--json-file", options.json_file, _sources(options))
    output.check_picture("--plot", options.plot, _sources(options))

    from hrm.text.data import ReadOptions
    from hrm.text.quality.copying import TrainingText
    from hrm.text.quality.measures import words_of
    from hrm.text.quality.report import details, draw, ends, table, warnings_of
    from hrm.text.quality.scale import Scale

    way = ReadOptions(lambda note: print(note, file=sys.stderr), options.encoding)
    reference = _read(options.reference, way)
    words = frozenset(words_of(_read(str(options.words), way))) if options.words else frozenset()
    scale = Scale(Path(options.reference).name, reference, options.block, words, options.seed)
    training = TrainingText(_read(options.training, way) if options.training else reference)
    judged = [scale.judge(name, body, training) for name, body in _texts(options, reference, way)]
    result = {"reference": options.reference, "block": options.block, "seed": options.seed, "texts": judged}
    if options.json_file is not None:
        output.write_json(options.json_file, result)
    if options.plot is not None:
        draw(judged, scale, options.plot)
    if options.json:
        print(to_json(result, indent=2))
        return 0
    console = Console(highlight=False)
    console.print(table(judged))
    if len(judged) == 1:
        console.print()
        console.print(details(judged[0]))
    console.print(f"\n{ends(scale)}", markup=False)
    for warning in (sentence for one in judged for sentence in warnings_of(one)):
        console.print(f"\n{warning}", style="red", markup=False)
    return 0


def _sources(options: TextOptions) -> tuple[output.Source, ...]:
    """Everything that is read."""
    return *options.sources, options.reference, options.training, options.words


def _read(source: str, way: ReadOptions) -> str:
    """The whole text of a source, with an empty line between documents."""
    from hrm.text.data import DocumentPart, documents

    pieces = []
    for piece in documents(source, way=way):
        pieces += [piece] if isinstance(piece, DocumentPart) else [piece, "\n\n"]
    return "".join(pieces[:-1])


def _texts(options: TextOptions, reference: str, way: ReadOptions) -> Iterator[tuple[str, str]]:
    """Name and text for each row of the table."""
    names = [Path(source).name for source in options.sources]
    for source, name in zip(options.sources, names, strict=True):
        name = source if names.count(name) > 1 else name
        if any((Path(source) / file).is_file() for file in ("run.json", "config.json")):
            yield from _written(source, name, options, reference)
        else:
            yield name, _read(source, way)


def _written(source: str, title: str, options: TextOptions, reference: str) -> Iterator[tuple[str, str]]:
    """What a model writes at each requested checkpoint and depth."""
    from hrm.runs import checkpoint
    from hrm.text.load import load_text
    from hrm.text.quality.scale import LEAST_BLOCKS
    from hrm.text.quality.writing import write
    from hrm.text.writing.generation import Sampling

    least = LEAST_BLOCKS * options.block
    if options.characters < least:
        raise UserError(f"--characters {options.characters} is too little to judge: use at least {least}")
    steps = options.checkpoint
    if "all" in steps:
        known = checkpoint.complete(Path(source) / "checkpoints", lambda line: print(line, file=sys.stderr))
        steps = tuple(str(checkpoint.step_of(path)) for path in known)
    sampling = Sampling(temperature=options.temperature, seed=options.seed)
    for step in steps:
        loaded = load_text(source, step, options.on.device, options.on.precision)
        model, tokenizer = loaded.model, loaded.tokenizer
        length = loaded.length
        for depth in options.max_segments or (None,):
            parts = [f"step {step}" if step.isdigit() else step] if len(steps) > 1 else []
            parts += [f"{depth} segment{'s'[: depth > 1]}"] if depth else []
            name = ", ".join([title, *parts])
            file = options.save and options.save / f"{name.replace(', ', '-').replace(' ', '-')}.txt"
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                output.check("--save", file, _sources(options))
            with share(name, Console(stderr=True)) as report:

                def tell(done: int, report: Callable[[float], None] = report) -> None:
                    report(done / options.characters)

                size = options.characters
                body = write(model, tokenizer, reference, size, length, sampling, tell, max_segments=depth)
            if file is not None:
                output.write(file, body)
            yield name, body
