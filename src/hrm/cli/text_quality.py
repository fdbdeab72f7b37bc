"""`hrm analyze text`: what texts and text models are worth beside a reference."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from hrm.cli.options import Device, OnDevice, Positional
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.progress import share

if TYPE_CHECKING:
    from hrm.text.data import ReadOptions
    from hrm.text.quality.cloze import Cloze


@dataclass(frozen=True)
class TextOptions:
    """Judge texts, or what text models write, on a scale: 0 is the reference shuffled, 100 its held-out text."""

    sources: Positional[tuple[str, ...]]
    """Text files, and text runs or saved models, any causal one of transformers among them, which write themselves."""
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
    baselines: tuple[Literal["ngram", "transformer"], ...] = ()
    """ngram: an n-gram model of the reference's characters writes too; transformer: also a plain one of equal size,
    trained on the reference for as many tokens as the run named first, which takes as long as a training."""
    cloze: bool = False
    """Also hide each word and let an n-gram model of the reference guess it from those around it."""
    on: OnDevice = field(default_factory=Device)


def judge(options: TextOptions) -> int:
    """Judge texts, or what text models write, against a reference."""
    if not options.sources:
        raise UserError("nothing to judge: name text files or text runs")
    output.check("--json-file", options.json_file, _sources(options))
    output.check_picture("--plot", options.plot, _sources(options))

    from hrm.text.data import ReadOptions
    from hrm.text.quality.copying import TrainingText
    from hrm.text.quality.measures import words_of
    from hrm.text.quality.report import cloze_ends, cloze_table, details, draw, ends, table, warnings_of
    from hrm.text.quality.scale import Scale

    way = ReadOptions(lambda note: print(note, file=sys.stderr), options.encoding)
    reference = _read(options.reference, way)
    words = frozenset(words_of(_read(str(options.words), way))) if options.words else frozenset()
    cloze = _cloze(reference, options) if options.cloze else None
    scale = Scale(Path(options.reference).name, reference, options.block, words, options.seed)
    training = TrainingText(_read(options.training, way) if options.training else reference)
    judged, filled = [], {}
    for name, body in _texts(options, reference, way):
        judged.append(scale.judge(name, body, training))
        if cloze is not None:
            filled[name] = cloze.judge(name, body)
    texts = [{**one, "cloze": filled[one.name]} if cloze is not None else one for one in judged]
    result = {"reference": options.reference, "block": options.block, "seed": options.seed, "texts": texts}
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
    if cloze is not None:
        console.print()
        console.print(cloze_table(filled, cloze))
        console.print(f"\n{cloze_ends(cloze)}")
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


def _check_length(options: TextOptions) -> None:
    """UserError where a model is to write less than can be judged."""
    from hrm.text.quality.scale import LEAST_BLOCKS

    least = LEAST_BLOCKS * options.block
    if options.characters < least:
        raise UserError(f"--characters {options.characters} is too little to judge: use at least {least}")


def _texts(options: TextOptions, reference: str, way: ReadOptions) -> Iterator[tuple[str, str]]:
    """Name and text for each row of the table."""
    names = [Path(source).name for source in options.sources]
    if options.baselines:
        _check_length(options)
    if "transformer" in options.baselines:
        yield from _plain(options, reference)
    if "ngram" in options.baselines:
        yield _ngram(options, reference)
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
    from hrm.text.measuring.plain import is_plain, load_plain
    from hrm.text.quality.writing import write
    from hrm.text.writing.generation import Sampling

    _check_length(options)
    steps, plain = options.checkpoint, is_plain(source)
    if plain and options.max_segments:
        raise UserError(f"{source} has no segments: leave out --max-segments, or judge it by itself")
    if plain:
        steps = ("best",)
    if "all" in steps:
        known = checkpoint.complete(Path(source) / "checkpoints", lambda line: print(line, file=sys.stderr))
        steps = tuple(str(checkpoint.step_of(path)) for path in known)
    sampling = Sampling(temperature=options.temperature, seed=options.seed)
    for step in steps:
        on = options.on
        loaded = (
            load_plain(source, on.device, on.precision) if plain else load_text(source, step, on.device, on.precision)
        )
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


def _cloze(reference: str, options: TextOptions) -> Cloze:
    from hrm.text.quality.cloze import Cloze

    with Console(stderr=True).status("counting the words of the reference"):
        return Cloze(reference, options.block, options.seed)


def _ngram(options: TextOptions, reference: str) -> tuple[str, str]:
    """What an n-gram model of the reference writes, of the order that finds the held-out half likeliest."""
    from hrm.text.quality.measures import blocks_of
    from hrm.text.quality.ngram import MOST_CHARACTERS, NGram, best_order, write
    from hrm.text.quality.scale import halves

    with share("n-gram model", Console(stderr=True)) as report:
        order = best_order(*halves(blocks_of(reference, options.block)), MOST_CHARACTERS)
        model = NGram([reference], order)
        body = write(model, options.characters, options.seed, lambda done: report(done / options.characters))
    return f"n-gram, order {order}", body


def _plain(options: TextOptions, reference: str) -> Iterator[tuple[str, str]]:
    """What a plain Transformer writes that has the size and has learned from as many tokens as the first run."""
    from hrm.text.quality.twin import train

    run = next((source for source in options.sources if (Path(source) / "run.json").is_file()), None)
    if run is None:
        raise UserError("--baselines transformer needs a run of hrm train, whose size and tokens the Transformer gets")
    with TemporaryDirectory() as folder:
        (Path(folder) / "reference.txt").write_text(reference, "utf-8")
        trained = train(Path(run), Path(folder) / "reference.txt", Path(folder) / "plain")
        print(f"trained the plain Transformer: {trained}", file=sys.stderr)
        alone = replace(options, max_segments=(), checkpoint=("best",))
        yield from _written(str(Path(folder) / "plain"), "plain Transformer", alone, reference)
