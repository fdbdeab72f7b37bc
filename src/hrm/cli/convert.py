"""`hrm convert IN OUT --to hrm|hrm_lm|hrm_text|sapient-hrm|trm`: weights of other implementations, in and out."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hrm.cli.options import Positional, parse
from hrm.files import names
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.puzzles.config import Config

if TYPE_CHECKING:
    from hrm.puzzles.official import ImportedModel


@dataclass(frozen=True)
class Options:
    """Turn a model of another implementation into ours, or ours into theirs; the weights stay the same."""

    source: Positional[Path]
    """Run folder, official folder (all_config.yaml and step_N), one step_N file in it, or a folder of transformers."""
    out: Positional[Path]
    """New folder to write."""
    to: Literal["hrm", "hrm_lm", "hrm_text", "sapient-hrm", "trm"]
    """hrm: ours; hrm_lm: a run of text as a folder that transformers loads; hrm_text: text for transformers alone, vLLM
    and llama.cpp; sapient-hrm, trm: for the official program."""
    segments: int | None = None
    """Depth at which a text model is exported to hrm_text; default: its budget."""
    quantize: Literal["int8"] | None = None
    """With --to hrm_lm: store the matrices of the blocks in 8 bits, by torchao."""
    checkpoint: str = "best"
    """Of a run: best, latest or a step."""
    shape: tuple[int, int] | None = None
    """Rows and columns of the grid, where an official checkpoint does not tell: 9 9."""

    json: bool = False
    """Print the result as JSON."""


def main(args: list[str]) -> int:
    options = parse(
        "convert", Options, args, example="hrm convert downloads/HRM-checkpoint-sudoku-extreme runs/published --to hrm"
    )
    names.apart(options.out, [options.source], "OUT")
    if options.quantize and options.to != "hrm_lm":
        raise UserError(f"--quantize writes what transformers loads: use it with --to hrm_lm, not {options.to}")
    if options.to == "hrm_lm" or (options.to == "hrm_text" and (options.source / "run.json").is_file()):
        return _export(options)
    if options.to == "hrm_text" or _is_text(options.source):
        return _convert_text(options)
    from hrm.puzzles.official import write

    model = _read(options)
    if options.to == "hrm":
        _write_run(options.out, model, options)
    else:
        write(options.out, options.to, model.config, model.cells, model.weights, model.step)
    board = {"cells": model.cells, "tokens": model.vocabulary}
    _say(options, model.config.task.kind, board, f", step {model.step}")
    return 0


def _say(options: Options, form: str, counts: dict[str, int], more: str = "") -> None:
    """Print what was written."""
    if options.json:
        print(to_json({"written": str(options.out), "form": form, **counts}))
    else:
        print(f"{options.out}: {', '.join([form, *(f'{count:,} {name}' for name, count in counts.items())])}{more}")


def _read(options: Options) -> ImportedModel:
    """Read the model from a run (averaged weights if there are any) or an official folder."""
    from hrm.puzzles.official import find, of_run, read
    from hrm.runs import Run

    source = options.source
    if (source / "run.json").is_file():
        return of_run(Run.open(source, Config), options.checkpoint)
    if not source.exists() or find(source) is None:
        raise UserError(f"{source} is neither a run folder nor an official one with all_config.yaml and a file step_N")
    return read(source, options.shape)


def _write_run(path: Path, model: ImportedModel, options: Options) -> None:
    from hrm.puzzles.official import write_run
    from hrm.runs import Run, lock

    best = Run.open(options.source, Config).best if (options.source / "run.json").is_file() else None
    with lock.own(path, "convert", new=True):
        write_run(path, model, best)


def _export(options: Options) -> int:
    """Export a text run, adapters merged, with its tokenizer: for transformers (hrm_lm) or as hrm_text."""
    from hrm.runs import lock
    from hrm.text import hrm_text
    from hrm.text.config import is_text
    from hrm.text.load import load_text, quantised, silent

    if not is_text(options.source):
        raise UserError(
            f"{options.source} is no run of text: --to {options.to} takes one of hrm train text-... or learn"
        )
    loaded = load_text(options.source, options.checkpoint, device="cpu", precision="float32")
    with lock.complete(options.out, "convert") as folder, silent():
        if options.to == "hrm_lm":
            (quantised(loaded.model) if options.quantize else loaded.model).save_pretrained(folder)
        else:
            for line in hrm_text.write(folder, loaded.model, options.segments):
                print(line, file=sys.stderr)
        loaded.save_tokenizer(folder)
        _copy_card(options, folder)
    _say(options, options.to, {"parameters": loaded.model.num_parameters()}, f", from {loaded.name}")
    return 0


def _copy_card(options: Options, folder: Path) -> None:
    """Copy the source's model card and licence, and note the conversion in the card."""
    for name in ("README.md", "LICENSE", "LICENSE.txt"):
        if (options.source / name).is_file():
            shutil.copyfile(names.regular(options.source / name), folder / name)
    card = folder / "README.md"
    if card.is_file():
        note = f"\nConverted by `hrm convert --to {options.to}`: what a card says of loading it may differ.\n"
        if options.quantize:
            note += "\nIts matrices are in 8 bits; the figures above are of the model before that.\n"
        card.write_bytes(card.read_bytes() + note.encode())


def _is_text(path: Path) -> bool:
    """Whether this is a transformers folder with a text model."""
    return (path / "config.json").is_file()


def _convert_text(options: Options) -> int:
    if not _is_text(options.source):
        raise UserError(f"{options.source} holds no config.json: give a folder that save_pretrained has written")
    from hrm.runs import lock
    from hrm.text import hrm_text
    from hrm.text.load import load_model, silent

    source, kind = options.source, hrm_text.model_type(options.source)
    if options.to == "hrm" and kind == "hrm_text":
        with lock.complete(options.out, "convert") as folder, silent():
            model = hrm_text.read(source)
            model.save_pretrained(folder)
            hrm_text.copy_tokenizer(source, folder)
            _copy_card(options, folder)
        _say(options, "hrm_lm", {"parameters": model.num_parameters(), "segments": model.config.max_segments})
        return 0
    if options.to == "hrm_text" and kind == "hrm_lm":
        model = load_model(source)
        with lock.complete(options.out, "convert") as folder:
            for line in hrm_text.write(folder, model, options.segments, source):
                print(line, file=sys.stderr)
            _copy_card(options, folder)
        segments = options.segments or model.config.max_segments
        _say(options, "hrm_text", {"parameters": model.num_parameters(), "segments": segments})
        return 0
    raise UserError(f"{source} holds a model of type '{kind}': --to hrm reads hrm_text, --to hrm_text reads hrm_lm")
