"""`hrm calibrate RUN`: fit when the tokens of a text model may stop thinking, and keep it with the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hrm.cli.options import MACHINE, Machine, OnMachine, Positional, parse
from hrm.cli.text_eval import TextOptions, text_to_measure
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.ranges import Range
from hrm.files.reading import SMALL, UserError, json_of
from hrm.progress import share
from hrm.settings import kind_of
from hrm.text.config import LearnConfig

if TYPE_CHECKING:
    from hrm.text.measuring.calibrating import Calibration, Halted
    from hrm.text.model import HRMForCausalLM

_HERE = Machine()


@dataclass(frozen=True)
class Options:
    """Learn on held-out text when more thinking will no longer change a token, and let the model halt by that from then
    on. It is kept with the run; calibrating again learns it again."""

    run: Positional[str]
    """Run folder of a text model, or any folder that save_pretrained wrote with a tokenizer in it."""
    loss: Annotated[float, Range(0, 100)] = 0.5
    """Percentage points of accuracy that halting may cost against full depth, with 95 % confidence: a mean over what is
    held out, of which rare, hard tokens may lose more."""
    data: str | None = None
    """Text, JSON lines (of conversations the answers count), parquet, a folder of them or packed; default: what the run
    held out."""
    limit: Annotated[int, Range(1, 10**12)] = 100_000
    """About how many tokens of it are read."""
    batch_size: Annotated[int, Range(1, 1 << 16)] = 8
    """Rows in a batch."""
    json: bool = False
    """Print the result as JSON instead of the table."""
    json_file: Path | None = None
    """File to write the result to as JSON."""
    undo: bool = False
    """Instead: let the tokens of a run halt again as they did before it was calibrated."""
    on: OnMachine = _HERE


def main(args: list[str]) -> int:
    """Run the verb: 1 where no threshold keeps the promise."""
    options = parse("calibrate", Options, args, example="hrm calibrate runs/alice --loss 0.5", main=MACHINE)
    path = Path(options.run)
    output.check("--json-file", options.json_file, (options.run, options.data))
    if (path / "run.json").is_file() and kind_of(path) is LearnConfig:
        raise UserError(
            f"{path} is a run of hrm learn, whose model changes with every book: calibrate what hrm train made"
        )

    if options.undo:
        return _undo(path)
    from hrm.runs import lock, threads
    from hrm.text.data.hops import Hops
    from hrm.text.load import load_text
    from hrm.text.measuring.calibrating import calibrate, check, store, tell_card
    from hrm.text.measuring.subject import longest
    from hrm.text.training.source import made

    with lock.own(path, "calibrate"):
        loaded = load_text(path, "best", options.on.device, options.on.precision)
        check(path)
        model, tokenizer = loaded.model, loaded.tokenizer
        if loaded.run is None:
            _check_folder(path, model)
        most = longest(model, tokenizer)
        threads.settle_for(model, options.batch_size * (loaded.length or most), options.on.threads)
        given = TextOptions(run=options.run, data=options.data)
        with text_to_measure(loaded, given, lambda words: None) as (packed, _), share("", Console(stderr=True)) as told:
            if isinstance(packed, Hops) and loaded.run is not None:  # made when they are read, as many as asked for
                packed = made(loaded.run.config, held_out=True, alone=True, most=options.limit // packed.length)
            rows = getattr(packed, "length", None)  # rows of a fixed length
            length = rows or min(loaded.length or most, max(1, packed.count - 1))
            if length > most:
                raise UserError(f"{options.data} has rows of {length} tokens and the model reads {most}: pack it again")
            how = (options.loss, options.batch_size, options.limit, told)
            found = calibrate(model, tokenizer, packed, length, *how)
        if found.chosen is not None:
            store(path, found)
            tell_card(path)
    result = found.plain() | {"checkpoint": loaded.name}
    if options.json_file is not None:
        output.write_json(options.json_file, result)
    print(to_json(result, indent=2) if options.json else table(found))
    return 0 if found.chosen is not None else 1


def _undo(path: Path) -> int:
    from hrm.runs import lock
    from hrm.text.measuring.calibrating import undo

    with lock.own(path, "calibrate --undo"):
        print(f"tokens halt as before: {undo(path)}")
    return 0


def _check_folder(path: Path, model: HRMForCausalLM) -> None:
    """UserError for a saved model whose files would not say what is stored."""
    if (kind := json_of(path / "config.json", SMALL).get("model_type")) != model.config.model_type:
        raise UserError(f"{path} holds a model of type {kind}: write it in this package's form first (hrm convert)")
    for name in ("halting", "exit_threshold"):
        if getattr(model.generation_config, name, None) is not None:
            raise UserError(
                f"{path / 'generation_config.json'} sets {name}, which would overrule a readout: take it out"
            )


def table(found: Calibration) -> str:
    """What halting costs, a way a line, and in a sentence what follows."""
    tried = found.chosen or found.tried[0]
    full = ("full depth", "", f"{found.max_segments:.2f}", f"{found.accuracy:.2%}", "", "")
    rows = [("", "threshold", "segments", "accuracy", "points lost", "at most (95%)"), full]
    ways = (("readout", tried), ("Q head, as deep", found.q), ("as deep at random", found.random))
    rows += [_row(name, way) for name, way in ways if way is not None]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        shown = (f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join((f"{name:<{widths[0]}}", *shown)).rstrip())
    of = "tokens" if found.answers is None else f"tokens in {found.answers:,} answers"
    lines.append(f"fitted on {found.fitted_on:,} tokens, measured on {found.n:,} other {of}")
    others = "Q head, random: other ways" if found.q is not None else "random: another way"
    lines.append(f"readout: halts by what was learned; {others} to the same mean depth")
    return "\n".join([*lines, sentence(found)])


def sentence(found: Calibration) -> str:
    """What was stored, or why nothing was."""
    if found.chosen is None:
        seen = found.tried[0]
        of = f"{found.n:,} tokens" if found.answers is None else f"{found.answers:,} answers"
        why = f"the strictest loses {seen.lost:.2f}, at most {seen.lost_at_most:.2f}, of {of}"
        said = f"no threshold is sure to keep the loss within {found.promised:g} points ({why})"
        return f"{said}: nothing stored; measure more (--limit, --data) or allow a larger --loss"
    return (
        f"stored: tokens halt by this readout, {found.chosen.mean_segments:.2f} of {found.max_segments} segments deep"
    )


def _row(name: str, way: Halted) -> tuple[str, ...]:
    threshold = "" if way.exit_threshold is None else f"{way.exit_threshold:.4g}"
    numbers = (f"{way.accuracy:.2%}", f"{way.lost:.2f}", f"{way.lost_at_most:.2f}")
    return (name, threshold, f"{way.mean_segments:.2f}", *numbers)
