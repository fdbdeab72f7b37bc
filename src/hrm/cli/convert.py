"""`hrm convert IN OUT --to hrm|sapient-hrm|trm`: weights of other implementations, in and out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hrm.cli.options import Positional, parse
from hrm.config import UserError

if TYPE_CHECKING:
    from hrm.interop import Imported


@dataclass(frozen=True)
class Options:
    """Turn a model of the official HRM or TRM program into a run, or a run into theirs; the weights stay the same."""

    source: Positional[Path]
    """Run folder, official folder (all_config.yaml and step_N), or one step_N file in it."""
    out: Positional[Path]
    """New folder to write."""
    to: Literal["hrm", "sapient-hrm", "trm"]
    """hrm: a run folder for solve and eval; sapient-hrm, trm: a folder for the official program."""
    checkpoint: str = "best"
    """Of a run: best, latest or a step."""
    shape: tuple[int, int] | None = None
    """Rows and columns of the grid, where an official checkpoint does not tell: 9 9."""


def main(args: list[str]) -> int:
    options = parse(
        "convert", Options, args, example="hrm convert downloads/HRM-checkpoint-sudoku-extreme runs/published --to hrm"
    )
    from hrm.interop import write

    model = _read(options)
    if options.to == "hrm":
        _write_run(options.out, model, options)
    else:
        write(options.out, options.to, model.config, model.cells, model.weights, model.step)
    print(f"{options.out}: {model.config.task.kind}, {model.cells} cells, {model.vocabulary} tokens, step {model.step}")
    return 0


def _read(options: Options) -> Imported:
    """The model of a run (averaged weights where there are any) or of an official folder."""
    from hrm.interop import Imported, find, read
    from hrm.runs import Run, checkpoint

    source = options.source
    if (source / "run.json").is_file():
        run = Run.open(source)
        path = run.checkpoint(options.checkpoint)
        groups, _ = checkpoint.load(path, {"weights", "ema"})
        board = {name: run.board[name] for name in ("cells", "vocabulary", "task_ids")}
        weights = groups["weights"] | groups.get("ema", {})
        return Imported(run.config, checkpoint.step_of(path), **board, weights=weights)
    if not source.exists() or find(source) is None:
        raise UserError(f"{source} is neither a run folder nor an official one with all_config.yaml and a file step_N")
    return read(source, options.shape)


def _write_run(path: Path, model: Imported, options: Options) -> None:
    """A run folder with one checkpoint of weights alone: to solve and measure with, not to resume."""
    from hrm.runs import Run, checkpoint

    # It may be given away: where the puzzles lay is nobody's business, and nothing here is trained on.
    config = replace(model.config, data=None, validation=None)
    run = Run.create(path, config, {"cells": model.cells, "vocabulary": model.vocabulary, "task_ids": model.task_ids})
    checkpoint.save(run.checkpoints, model.step, {"weights": model.weights}, {"step_number": model.step})
    best = Run.open(options.source).best if (options.source / "run.json").is_file() else None
    if best and best["step"] == model.step:
        run.set_best(model.step, {key: best[key] for key in ("n", "exact_accuracy", "calibration") if key in best})
