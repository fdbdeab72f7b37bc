"""hrm train: train a model, or resume a run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from hrm.cli.options import Positional, Settings, TextSettings, first_named, parse
from hrm.files.output import to_json
from hrm.files.reading import SMALL, UserError, text_of, yaml_of
from hrm.files.records import Json
from hrm.puzzles import kinds
from hrm.puzzles.config import Config
from hrm.puzzles.tasks import build
from hrm.settings import Recipe, kind_of, load_preset, presets, to_yaml
from hrm.text.config import LearnConfig, TextConfig, saved

C = TypeVar("C", bound=Recipe)
MAIN = (
    "data", "validation", "seed", "train.steps", "train.batch_size", "train.precision", "train.device", "optim.lr",
    "optim.ema", "arch.h_cycles", "arch.l_cycles", "halting.max_segments",
)  # fmt: skip
TEXT_MAIN = (
    "data", "validation", "seed", "model", "arch.dim", "arch.heads", "halting.max_segments", "lora",
    "text.tokenizer", "text.length", "text.kind",
    "train.steps", "train.batch_size", "train.precision", "train.device", "optim.lr", "optim.ema",
)  # fmt: skip


@dataclass(frozen=True)
class RunOptions:
    """Flags of every training."""

    preset: Positional[str | None] = None
    """Preset, or a YAML file of settings; not together with --resume."""
    resume: Path | None = None
    """Run folder to resume; flags given with it apply from here on and are recorded."""
    out: Path | None = None
    """Run folder to write; default: runs/PRESET."""
    overwrite: bool = False
    """Replace the run that --out holds."""
    dry_run: bool = False
    """Show the resolved settings, parameters, memory, steps and FLOPs, and stop."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class Options(RunOptions):
    """Train a model on puzzles or on text, or resume a run.

    A text preset has flags of its own: `hrm train text-char --help`. Presets: `hrm config list`.
    """

    init: Path | None = None
    """Run or shipped solver whose weights PRESET begins with, layers that it lacks adding nothing at first; or on ARC
    tasks, whose model learns --new-tasks: their embeddings, or all weights with --train.learn all."""
    new_tasks: str | None = None
    """Task files, joined by commas, whose demonstrations the model of --init learns."""
    config: Settings = field(default_factory=Config)


@dataclass(frozen=True)
class TextOptions(RunOptions):
    """Train a model of text, or resume a run."""

    dry_run: bool = False
    """Show the resolved settings, parameters and FLOPs, and stop."""
    config: TextSettings = field(default_factory=TextConfig)


def main(args: list[str]) -> int:
    """Run the verb."""
    named, resumed = _named(args)
    if not named and "--model" in args:
        raise UserError("--model continues a model of text: name a preset first, as in hrm train text-char --model RUN")
    kind = kind_of(named) if named else Config
    if resumed and kind is LearnConfig:
        raise UserError(f"{named} is a learner, which reads books: resume it with hrm learn {named}")
    # A run that is resumed is held from before its settings are read: they may be another process's to change.
    with ExitStack() as held:
        return (_text if kind is TextConfig else _puzzles)(args, named, held)


def _puzzles(args: list[str], named: str, held: ExitStack) -> int:
    base, example = partial(_base, held), "hrm train sudoku-4x4 --train.steps 500"
    options = parse("train", Options, args, example=example, main=MAIN, base=base, preset=named)
    own = _typed(options.config.task.kind, args)
    task = build(options.config.task, named=own)
    # A run stores no path: what its kind names is loaded only where a command line names the file again.
    config = replace(options.config, task=replace(options.config.task, kind=kinds.bare(options.config.task.kind)))
    if options.dry_run:
        from hrm.puzzles.model import board_of
        from hrm.puzzles.training.plan import describe, plan

        figures = plan(config, board_of(task))
        print(to_json(figures) if options.json else f"{to_yaml(config)}\n{describe(figures)}")
        return 0
    from hrm.puzzles.training.session import train

    path = options.resume or options.out or Path("runs") / Path(options.preset or f"{options.init}-new-tasks").stem
    result = _trained(train, config, path, options, task=task, init=options.init)
    run, kind = shlex.quote(str(path)), f" --task {shlex.quote(own)}" if own and kinds.is_file(own) else ""
    what = f"hrm arc eval {run} --data FILE" if task.embedded else f"hrm solve {run} PUZZLE{kind}"
    return _end(result, path, options.json, f"try: {what}")


def _trained(train: Callable[..., Json], config: Any, path: Path, options: RunOptions, **more: Any) -> Json:
    """Train, and return the result."""
    from hrm.training.ranks import RankLost, leave
    from hrm.training.trainer import BadBatch

    try:
        return train(config, path, resume=options.resume is not None, overwrite=options.overwrite, **more)
    except BadBatch as error:
        raise RuntimeError(str(error)) from None
    except RankLost as error:
        leave(error)


def _typed(kind: str, args: list[str]) -> str | None:
    """The kind, if --task.kind names it on this command line."""
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith("--task.kind=") else [arg])]
    return kind if ("--task.kind", kind) in pairwise(words) else None


def _end(result: Json, path: Path, as_json: bool, next_step: str) -> int:
    if int(os.environ.get("RANK", "0")) == 0:  # one line, however many processes torchrun started
        if result["state"] == "finished":
            print(next_step, file=sys.stderr)
        print(to_json(result) if as_json else path)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # All is saved. Threads of torch's communication may outlive the interpreter and would then abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
    return 0


def _named(args: list[str]) -> tuple[str, bool]:
    """The preset or run that decides the family of flags ("" if there is none), and whether it is resumed."""
    resumed = [arg.partition("=")[2] for arg in args if arg.startswith("--resume=")]
    if not resumed and "--resume" in args[:-1]:
        resumed = [args[args.index("--resume") + 1]]
    named = resumed[0] if resumed else first_named((Options, TextOptions), args)
    return named, bool(resumed)


def _text(args: list[str], named: str, held: ExitStack) -> int:
    def base(options: TextOptions) -> TextConfig:
        return _resumed(held, options, TextConfig) or load_preset(str(options.preset), TextConfig)

    example = "hrm train text-char --data alice.txt"
    options = parse("train", TextOptions, args, example=example, main=TEXT_MAIN, base=base, preset=named)
    if options.config.model is not None and not options.resume and saved(options.config.model):
        print(f"the architecture is that of {options.config.model}, and what flags change", file=sys.stderr)
    if options.dry_run:
        from hrm.text.training.plan import describe, plan

        figures = plan(options.config)
        print(to_json(figures) if options.json else f"{to_yaml(options.config)}\n{describe(figures)}")
        return 0
    from hrm.text.training.session import train_text

    path = options.resume or options.out or Path("runs") / Path(str(options.preset)).stem
    result, card = _trained(train_text, options.config, path, options), path / "README.md"
    said = f"model card: {card}; " if card.is_file() else ""
    return _end(result, path, options.json, f'{said}try: hrm generate {shlex.quote(str(path))} "..."')


def _resumed(held: ExitStack, options: RunOptions, kind: type[C]) -> C | None:
    """The settings of the run to resume; None for a new run. The run stays locked as long as `held` is open."""
    if options.resume is None:
        return None
    if options.preset is not None:
        raise UserError(f"--resume {options.resume} already has its settings: leave out '{options.preset}'")
    if options.out is not None or options.overwrite:
        raise UserError(f"--resume {options.resume} writes into that run: leave out --out and --overwrite")
    from hrm.runs import Run, lock

    if not options.dry_run and int(os.environ.get("RANK", "0")) == 0:
        held.enter_context(lock.own(options.resume, "train --resume"))
    return Run.open(options.resume, kind).config


def _base(held: ExitStack, options: Options) -> Config:
    if options.resume is not None and options.init is not None:
        raise UserError("--resume continues a run and --init starts one: use one of them")
    if (resumed := _resumed(held, options, Config)) is not None:
        return resumed
    if options.init is None and options.new_tasks is not None:
        raise UserError("--new-tasks FILE needs --init RUN, the model that learns them")
    if options.init is not None and options.preset is None and options.new_tasks is None:
        raise UserError("--init RUN needs a preset that begins with its weights, or --new-tasks FILE on ARC")
    if options.init is not None and options.new_tasks is not None:
        if options.preset is not None:
            raise UserError(f"--init {options.init} already has its settings: leave out '{options.preset}'")
        from hrm.runs import Run

        config = Run.open(options.init, Config).config
        if config.task.kind != "arc":
            raise UserError(f"--init {options.init} was trained on {config.task.kind}: only ARC has tasks to add")
        learn = replace(config.train, learn="embedding")
        return replace(config, train=learn, data=None, validation=options.new_tasks)
    if options.preset is None:
        raise UserError(f"train needs a preset ({', '.join(presets())}), a YAML file, or --resume RUN")
    _refuse_data(Path(options.preset))
    return load_preset(options.preset)


def _refuse_data(path: Path) -> None:
    """UserError for a file that is data rather than a recipe."""
    if not path.is_file() or path.suffix.lower() in (".yaml", ".yml"):
        return
    try:
        recipe = isinstance(yaml_of(text_of(path, SMALL), path), Mapping)
    except UserError:
        recipe = False
    if not recipe:
        preset = "sudoku-9x9" if path.suffix.lower() == ".csv" else "text-char"
        raise UserError(f"{path} is no recipe: to train on it, hrm train {preset} --data {shlex.quote(str(path))}")
