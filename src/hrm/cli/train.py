"""hrm train: teach a model, or go on with a run."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from hrm.cli.options import Positional, Settings, parse
from hrm.config import Config, UserError, load_preset, presets, to_yaml

MAIN = (
    "data", "validation", "seed", "train.steps", "train.batch_size", "train.precision", "train.device", "optim.lr",
    "optim.ema", "arch.h_cycles", "arch.l_cycles", "halting.max_segments",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Train a model on puzzles, or continue a run."""

    preset: Positional[str | None] = None
    """Preset, or a YAML file of settings; not together with --resume."""
    resume: Path | None = None
    """Run folder to continue; flags given with it apply from here on and are recorded."""
    init: Path | None = None
    """Run folder on ARC tasks whose model learns --new-tasks: their embeddings, or all with --train.learn all."""
    new_tasks: str | None = None
    """Task files, joined by commas, whose demonstrations are learnt from --init on."""
    out: Path | None = None
    """Run folder to write; default: runs/PRESET."""
    overwrite: bool = False
    """Replace the run that --out holds."""
    dry_run: bool = False
    """Only show the resolved settings, parameters, memory, steps and FLOPs."""
    json: bool = False
    """Print the result as JSON."""
    config: Settings = field(default_factory=Config)


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("train", Options, args, example="hrm train sudoku-4x4 --train.steps 500", main=MAIN, base=_base)
    if options.dry_run:
        return _dry_run(options)
    from hrm.training.course import BadBatch
    from hrm.training.session import train

    name = Path(options.preset or f"{options.init}-new-tasks").stem
    path = options.resume or options.out or Path("runs") / name
    try:
        resume = options.resume is not None
        result = train(options.config, path, resume=resume, overwrite=options.overwrite, init=options.init)
    except BadBatch as error:
        raise RuntimeError(str(error)) from None
    if int(os.environ.get("RANK", "0")) == 0:  # one line, however many processes torchrun started
        print(json.dumps(result) if options.json else path)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # All is saved. Threads of torch's communication may outlive the interpreter and would then abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _base(options: Options) -> Config:
    if options.resume is not None:
        if options.preset is not None:
            raise UserError(f"--resume {options.resume} already has its settings: leave out '{options.preset}'")
        if options.init is not None:
            raise UserError("--resume goes on with a run and --init begins one: use one of them")
        if options.out is not None or options.overwrite:
            raise UserError(f"--resume {options.resume} writes into that run: leave out --out and --overwrite")
        from hrm.runs import Run

        return Run.open(options.resume).config
    if (options.init is None) != (options.new_tasks is None):
        raise UserError("--init RUN and --new-tasks FILE go together: the model, and what it is to learn")
    if options.init is not None:
        if options.preset is not None:
            raise UserError(f"--init {options.init} already has its settings: leave out '{options.preset}'")
        from hrm.runs import Run

        config = Run.open(options.init).config
        if config.task.kind != "arc":
            raise UserError(f"--init {options.init} was trained on {config.task.kind}: only ARC has tasks to add")
        learn = replace(config.train, learn="embedding")
        return replace(config, train=learn, data=None, validation=options.new_tasks)
    if options.preset is None:
        raise UserError(f"train needs a preset ({', '.join(presets())}), a YAML file, or --resume RUN")
    return load_preset(options.preset)


def _dry_run(options: Options) -> int:
    from hrm.models.puzzle import board_of
    from hrm.tasks import build
    from hrm.training.plan import describe, plan

    figures = plan(options.config, board_of(build(options.config.task)))
    if options.json:
        print(json.dumps(figures))
    else:
        print(to_yaml(options.config), describe(figures), sep="\n")
    return 0
