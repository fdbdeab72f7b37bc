"""hrm demo: train a tiny solver on this machine and watch it solve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hrm.cli.options import parse
from hrm.files.output import to_json
from hrm.puzzles.config import Config
from hrm.settings import changed, load_preset


@dataclass(frozen=True)
class Options:
    """Train a tiny solver on Sudoku it generates itself, measure it on held-out puzzles, and watch it solve one."""

    size: Literal[4, 6, 9] = 4
    """Rows of the Sudoku: 4 takes ten seconds, 6 a minute, 9 five minutes on two CPU cores."""
    out: Path | None = None
    """New run folder to write; default: runs/demo-4x4, replacing the demo in it."""
    steps: int | None = None
    """Training steps; default: the preset's."""
    seed: int = 0
    """Everything random follows from it."""
    json: bool = False
    """Print the result as JSON and draw nothing."""


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("demo", Options, args, example="hrm demo --size 6")
    from hrm.runs import lock

    path = options.out or Path("runs") / f"demo-{options.size}x{options.size}"
    with lock.own(path, "demo", new=True):  # to the end, so that what it solves with is what it trained
        return _demo(options, path)


def _demo(options: Options, path: Path) -> int:
    name = f"{options.size}x{options.size}"
    config = _config(options)

    import numpy as np
    from rich.text import Text

    from hrm.console import Console
    from hrm.puzzles.pictures.watch import watching
    from hrm.puzzles.solving import load
    from hrm.puzzles.training.session import puzzles_of, train
    from hrm.runs import Run

    console = Console(quiet=options.json)
    console.print(f"Training a Sudoku solver ({name}) from nothing; it sees no puzzle that it is measured on.")
    # Only the demo's own folder is replaced: any other may hold a run that somebody needs.
    result = train(config, path, overwrite=options.out is None)
    if "exact" not in result:  # a signal came before it was trained and measured
        return 0
    if options.json:
        print(to_json(result))
        return 0
    solver = load(path)
    _, held_out = puzzles_of(Run.open(path, Config), solver.task)
    assert held_out is not None
    # The two with the most blanks.
    first, last = (
        solver.task.format(held_out.inputs[i]) for i in np.argsort((held_out.inputs == held_out.labels).sum(1))[:2]
    )
    with watching(solver, console) as watch:
        solver.solve(first, observe=watch)
    console.print(
        Text("\n").append(f"{result['exact']:.1%}", "bold"),
        f"of {result['n']} held-out puzzles solved exactly, "
        f"{result['wrong']} wrong answers, after {result['training_seconds']:.0f} seconds of training.\n"
        f"The run is in {path}. Ask it:  hrm solve {path} {last}",
        highlight=False,
    )
    return 0


def _config(options: Options) -> Config:
    """The preset for a size; a short training gets a shorter warm-up."""
    config = replace(load_preset(f"sudoku-deduce-{options.size}x{options.size}"), seed=options.seed)
    if options.steps is None:
        return config
    warmup, steps = config.optim.warmup_steps, options.steps
    changes = {"train.steps": steps, "optim.warmup_steps": warmup if warmup <= steps else steps // 10}
    return changed(config, changes)
