"""hrm status: what a learner has read, how well it still knows it, and how it grew; how far any other run is."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hrm.cli.options import Positional, parse
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.settings import kind_of
from hrm.text.config import LearnConfig

if TYPE_CHECKING:
    from hrm.text.learned import Book, State


@dataclass(frozen=True)
class Options:
    """Show a learner's books, scores and growth, or how far a training is; without RUN, what hrm runs shows."""

    run: Positional[Path | None] = None
    """Run folder of hrm learn or hrm train."""
    folder: Path = Path("runs")
    """Folder whose runs are listed."""
    repair: bool = False
    """Restore a lost or damaged tokenizer from the newest checkpoint; the old one is kept."""
    json: bool = False
    """Print it as JSON."""


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("status", Options, args, example="hrm status runs/reader")
    if options.run is None:
        from hrm.cli.runs import show

        return show(options.folder, as_json=options.json)
    from hrm.runs import Run, checkpoint, lock
    from hrm.text import learned

    is_run = (options.run / "run.json").is_file()
    if not is_run and options.run.is_dir():
        from hrm.inspection import other_than_run

        if (known := other_than_run(options.run)) is not None:
            raise UserError(f"{options.run} is no run but {known}")
    if not options.repair and is_run and kind_of(options.run) is not LearnConfig:
        from hrm.overview import training

        told = training(options.run)
        if options.json:
            print(to_json(told))
        else:
            _show_training(options.run, told)
        return 0
    with lock.own(options.run, "status --repair") if options.repair else nullcontext():
        run = Run.open(options.run, LearnConfig)
        newest = checkpoint.newest(run.checkpoints, lambda text: print(text, file=sys.stderr))
        if newest is None:
            raise UserError(f"{options.run} has learned nothing yet: give it a book with hrm learn")
        _, state = learned.load(newest, ())
        if options.repair:
            _repair(run.path, state)
    with checkpoint.restoring(newest):
        found = {"tokenizer": run.config.tokenizer, **describe(state)}
    if options.json:
        print(to_json(found))
    else:
        _show(options.run, state, "characters" if run.config.tokenizer == "char" else "tokens")
    return 0


def _show_training(path: Path, told: Json) -> None:
    at = "no checkpoint yet" if told["checkpoint"] is None else f"checkpoint of step {told['checkpoint']:,}"
    share = told["step"] / told["steps"]
    print(f"{path}: {told['kind']}, step {told['step']:,} of {told['steps']:,} ({share:.0%}), {at}")
    print(f"{told['state']}{': ' + told['writer'] if told['writer'] else ''}")
    for name in ("last", "best"):
        if numbers := {key: value for key, value in (told[name] or {}).items() if key != "step"}:
            step = f" (step {told['best']['step']:,}, held out)" if name == "best" else ""
            print(
                f"{name}{step}: " + ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in numbers.items())
            )
    if (found := told["calibration"]) is not None:
        depth = f"{found['mean_segments']:.2f} of {found['max_segments']} segments"
        print(f"tokens halt by a calibrated readout: {depth}, at most {found['promised']:g} points lost")


def describe(state: State) -> dict[str, object]:
    """What `hrm status --json` promises, from a learner's checkpoint."""
    names = ("name", "characters", "learned_at", "state", "epochs", "step", "steps")
    names += tuple(f"bits_per_character_{when}" for when in _WHEN)
    books = [{name: book.get(name) for name in names} for book in state.books]
    layers = {"fast": state.model["fast_layers"], "slow": state.model["slow_layers"]}
    return {
        "books": books, "vocabulary": len(state.tokens), "parameters": state.parameters, "layers": layers,
        "growth": state.growth, "characters": sum(book.characters for book in state.books),
        "updates": state.step_number, "seconds": state.seconds,
    }  # fmt: skip


def _state(book: Book) -> str:
    """Whether a book was read to the end, or how far."""
    part = book.state != "finished" and book.steps
    return f"{book.state} ({book.step:,} of {book.steps:,} updates)" if part else book.state


_WHEN = ("before", "then", "now")
_WHY = {"characters": "enough was read", "plateau": "it stood still", "command": "by command"}


def _show(path: Path, state: State, unit: str) -> None:
    from rich.table import Table

    from hrm.console import Console

    console, table = Console(), Table(title=str(path), title_justify="left")
    for name in ("book", "characters", "learned", "state", "before", "then", "now"):
        table.add_column(name, justify="right" if name in ("characters", *_WHEN) else "left")
    for book in state.books:
        bits = [book.get(f"bits_per_character_{when}") for when in _WHEN]
        table.add_row(
            book.name, f"{book.characters:,}", str(book.learned_at)[:10], _state(book),
            *("" if b is None else f"{b:.3f}" for b in bits),
        )  # fmt: skip
    console.print(table)
    console.print("before, then, now: held-out bits a character", highlight=False)
    known = sum(len(token) == 1 for token in state.tokens) if unit == "characters" else len(state.tokens)
    console.print(
        f"{known:,} {unit} known; {state.parameters:,} parameters in {state.model['fast_layers']} fast and "
        f"{state.model['slow_layers']} slow layers; {state.step_number:,} updates", highlight=False,
    )  # fmt: skip
    for entry in state.growth:
        if entry.kind == "vocabulary":
            what = f"{entry.vocabulary[1] - entry.vocabulary[0]} new {unit}"
        else:
            what = f"{entry.fast_layers} fast and {entry.slow_layers} slow layers"
            what += f" ({_WHY[entry.why]})" if entry.why else ""
        console.print(f"{entry.at[:16]}  grown by {what} after {entry.characters:,} characters", highlight=False)


def _repair(path: Path, state: State) -> None:
    from hrm.text.data.tokenizers import tokenizer_hash
    from hrm.text.load import load_tokenizer, rebuild_of

    folder, kept = path / "tokenizer", rebuild_of(state)
    with suppress(UserError):  # what is missing or damaged there
        found = load_tokenizer(path)
        if tokenizer_hash(found) == tokenizer_hash(kept) and found.special_tokens_map == kept.special_tokens_map:
            print(f"{folder} is intact", file=sys.stderr)
            return
    if folder.exists():
        old = next(p for i in range(1, 1000) if not (p := path / f"tokenizer-old-{i}").exists())
        folder.rename(old)
        print(f"the old tokenizer is kept as {old}", file=sys.stderr)
    kept.save_pretrained(folder)
    print(f"{folder} restored with {len(state.tokens)} tokens", file=sys.stderr)
