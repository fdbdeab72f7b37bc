"""hrm learn: read books, one after another, and remember them."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hrm.cli.options import Positional, parse
from hrm.files import names, output
from hrm.files.encoding import known_encoding
from hrm.files.output import to_json
from hrm.files.reading import UserError, check_copied
from hrm.text.config import LearnConfig

if TYPE_CHECKING:
    from rich.progress import Progress

    from hrm.text.learned import Book, NewLayers
    from hrm.text.learning.learner import Learner
    from hrm.text.learning.loop import Event

LONG = 1200.0
"""Seconds of a book above which it is said what would be faster."""
MAIN = (
    "epochs", "tokenizer", "arch.dim", "arch.heads", "halting.max_segments", "precision", "memory", "grow_every",
    "seed", "device",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Learn books: a new run starts with a small model, an existing one continues; Ctrl-C pauses or stops.

    Each book is read three times unless --epochs says otherwise. With the default model, a book of 145,000 characters
    takes about 80 minutes on one busy core. An estimate for each book is printed before it starts.
    """

    run: Positional[Path]
    """Run folder."""
    books: Positional[tuple[str, ...]] = ()
    """Text files, read in this order; a book that was paused is resumed. None: the paused one."""
    fresh: bool = False
    """Start over; the old run is kept under another name."""
    grow: bool = False
    """Add layers now, before the books."""
    stop: bool = False
    """End the unfinished book here."""
    encoding: str | None = None
    """Encoding of the books, such as cp1251 or gb18030; default: detected, and said where it is not UTF-8."""
    json: bool = False
    """Print the books as JSON at the end."""
    config: Annotated[LearnConfig, tyro.conf.arg(name="")] = field(default_factory=LearnConfig)


def main(args: list[str]) -> int:
    """Run the verb."""
    # A run is held from before its settings are read: they may be another process's to change.
    with ExitStack() as held:
        example, base = "hrm learn runs/reader alice.txt", partial(_base, held)
        return _main(parse("learn", Options, args, example=example, main=MAIN, base=base), args, held)  # type: ignore[arg-type]


def _main(options: Options, args: list[str], held: ExitStack) -> int:
    output.check_utf8(options.run)
    known = (options.run / "run.json").is_file()
    if not options.books and (options.fresh or not known):
        raise UserError("learn needs a book: hrm learn RUN FILE [FILE ...]")
    books = [Path(book) for book in options.books]
    if options.encoding is not None:
        known_encoding(options.encoding)
    for book in books:
        check_copied(book)
        if not book.is_file():
            what = "is a folder" if book.is_dir() else "does not exist"
            raise UserError(f"{book} {what}: give the text files to learn")
    if options.fresh or not known:
        names.apart(options.run, books, "the run")
    from hrm.runs import lock
    from hrm.text.learning.learner import Learner, ready

    if options.fresh:
        ready(options.config)  # before the old run is moved
        _set_aside(options.run)
    held.enter_context(lock.own(options.run, "learn", new=True))
    if (options.run / "run.json").is_file() and (options.fresh or not known):
        raise lock.InUse(f"{options.run} has just been started by another process: resume that one, or use another")
    run, config = options.run, options.config
    if known and not options.fresh:
        return _read(Learner.open(run, config=config), options, books, args)
    learner = Learner.create(run, config)
    try:
        return _read(learner, options, books, args)
    except Exception:
        from hrm.runs import checkpoint

        if not checkpoint.complete(learner.run.checkpoints):  # nothing was learned
            learner.run.remove()
            learner.close()
        raise


def _read(learner: Learner, options: Options, books: list[Path], args: list[str]) -> int:
    """Do what the options ask of a learner, book after book, and print where it is."""
    if options.grow:
        _say_grown(learner.grow())
    if options.stop:
        learner.end()
    # Only what the person asks for changes the epochs of a book that is known.
    epochs = options.config.epochs if any(arg.split("=")[0] == "--epochs" for arg in args) else None
    alone = not books and not options.grow and not options.stop
    if alone and _learn(learner, None, epochs, None)[0].state == "learning":
        print(f"paused; resume with: hrm learn {shlex.quote(str(options.run))}", file=sys.stderr)
    for place, book in enumerate(books):
        entry, asked = _learn(learner, book, epochs, options.encoding)
        if asked is not None:
            left = books[place + (entry.state != "learning") :]
            if left:
                said = "paused" if entry.state == "learning" else f"{book.name} counts as learned"
                print(f"{said}; resume with: hrm learn {shlex.join(map(str, (options.run, *left)))}", file=sys.stderr)
            break
    if options.json:
        print(to_json({"books": learner.books, **learner.facts()}))
    else:
        print(options.run)
    return 0


def _set_aside(run: Path) -> None:
    """Give a run that is there another name."""
    from hrm.runs import lock

    with lock.own(run, "learn --fresh") as old:
        if (run / "run.json").is_file():
            free = (run.with_name(f"{run.name}-{i}") for i in count(1))
            kept = next(path for path in free if not os.path.lexists(path))
            old.rename(kept)
            print(f"the old run is kept as {kept}", file=sys.stderr)


def _base(held: ExitStack, options: Options) -> LearnConfig:
    if (options.run / "run.json").is_file() and not options.fresh:
        from hrm.runs import lock

        held.enter_context(lock.own(options.run, "learn"))
        from hrm.runs import Run

        return Run.open(options.run, LearnConfig).config
    return LearnConfig()


def _learn(learner: Learner, book: Path | None, epochs: int | None, encoding: str | None) -> tuple[Book, str | None]:
    """Learn a book, or resume the paused one, with a progress bar, and ask at Ctrl-C in a terminal. Returns its entry,
    and how it was ended early."""
    from rich.progress import BarColumn, Progress, TextColumn

    from hrm.console import Console
    from hrm.runs import checkpoint
    from hrm.training.interrupt import Interrupt
    from hrm.training.progress import duration, fitting

    console = Console(stderr=True)
    say = partial(console.print, highlight=False, soft_wrap=True)
    live = console.is_terminal
    columns = BarColumn(bar_width=10), TextColumn("{task.fields[line]}", markup=False)
    bar = Progress(*columns, console=console, disable=not live)
    job = bar.add_task("learn", total=1.0, line="" if book is None else book.name)
    said = ""

    def redraw(event: Event) -> None:
        share = event["book_step"] / event["steps"]
        parts = [f"{event['book_step']}/{event['steps']}", f"left {duration(event['left'])}", f"{share:.0%}"]
        parts += [f"epoch {event['epoch']}/{event['epochs']}", *said.split("  "), event["book"]]
        bar.update(job, completed=share, line=fitting([part for part in parts if part], console.width - 12))

    def show(event: Event) -> None:
        nonlocal said
        if event["event"] == "step":
            replayed = event["replayed_bits"]
            old = "" if replayed is None else f"  old books {replayed:.2f}"
            rate = f"{event['steps_per_second']:.1f} updates/s"
            said = f"{event['bits']:.2f} bits{old}  {rate}"
            place = f"epoch {event['epoch']}/{event['epochs']}  update {event['book_step']}/{event['steps']}"
            line = f"{event['book']}  {place}  {event['bits']:.2f} bits a character{old}  {rate}"
            if not live:
                say(f"{line}  left {duration(event['left'])}")
        if event["event"] in ("step", "update"):
            if live:
                redraw(event)
        elif event["event"] == "grown":
            _say_grown(event["layers"])
        else:
            for line in _lines(learner, event):
                say(line)

    asks, answer = live and sys.stdin.isatty(), None

    def asked() -> str | None:
        nonlocal answer
        if interrupt.asked and answer is None:
            answer = _ask(bar) if asks and interrupt.asked == signal.SIGINT else "pause"
        return answer

    learner.asked = asked

    def intact() -> str:
        saved = checkpoint.complete(learner.run.checkpoints)
        if not saved:
            return "nothing was saved yet"
        return f"update {checkpoint.step_of(saved[-1])} is saved: hrm learn {learner.run.path} resumes there"

    says = "" if asks else "pausing; press Ctrl-C again to stop at once"
    with Interrupt(says, intact) as interrupt, bar:
        return learner.resume(epochs, show) if book is None else learner.learn(book, epochs, show, encoding), answer


def _lines(learner: Learner, event: Event) -> list[str]:
    """What is said of an event."""
    kind, steps = event["event"], f"{event.get('steps') or 0:,} updates"
    unit = "characters" if learner.config.tokenizer == "char" else "tokens"
    if kind == "note":
        return [event["sentence"]]
    if kind == "begin":
        place = f"resumed at update {event['done']:,} of {event['steps']:,}" if event["done"] else steps
        threads = f"; {event['threads']}" if event["threads"] else ""
        return [f"{event['book']}: {place}; {event['parameters']:,} parameters, {event['vocabulary']} {unit}{threads}"]
    if kind == "estimate":
        return [_estimate(learner, event)]
    if kind == "before":
        return [_before(event, unit)]
    if kind == "measured":
        scores = "  ".join(f"{name} {bits:.3f}" for name, bits in event["scores"].items())
        written = event["sample"].strip().splitlines()
        head = f"it writes, {event['rate']:.0f} characters a second:" if written else "it writes nothing yet"
        return [f"held-out bits a character: {scores}", head, *(f"  | {line}" for line in written)]
    if kind == "known":
        return [_known(event)]
    stopped = kind == "end" and event["state"] == "stopped"
    return [f"{event['book']}: stopped after {event['step']:,} of {steps}; it counts as learned"] if stopped else []


def _estimate(learner: Learner, event: Event) -> str:
    """How long a book will take, and what would be faster where that is long."""
    from hrm.training.long_steps import about

    said = f"about {about(event['seconds'])} on this machine"
    if event["seconds"] < LONG:
        return said
    model = learner.model.config
    if event["new"] and model.hidden_size > 128:
        shape = "--arch.dim 128 --arch.heads 4 --arch.intermediate-size 320"
        return f"{said}; a smaller model is several times as fast: --fresh {shape}"
    return f"{said}; fewer epochs (--epochs 1) take less, and Ctrl-C pauses at any time"


def _before(event: Event, unit: str) -> str:
    """The score of a book that was not read yet, and why it is high where it has new characters."""
    said = f"before reading: {event['bits']:.3f} held-out bits a character"
    if not event["new_tokens"] or not event["vocabulary"] - event["new_tokens"]:
        return said
    one = event["new_tokens"] == 1
    return (
        f"{said}; {event['new_tokens']} {unit[:-1] if one else unit} of it {'is' if one else 'are'} new and "
        "thought all but impossible so far, so this falls steeply at first"
    )


def _known(event: Event) -> str:
    """Why a file is not learned: its text was read, perhaps under another name, to the end or not."""
    given, name = event["given"], event["name"]
    same = given if given == name else f"{given} holds the text of {name}, which"
    if event["state"] != "stopped":
        return f"{same} is learned already"
    part = f"{event['step']:,} of {event['steps']:,} updates"
    return f"{same} was stopped after {part} and counts as learned: --epochs {event['epochs']} resumes it"


def _ask(bar: Progress) -> str:
    bar.stop()
    bar.console.print("pause (p), to resume here later, or stop (s), so that the book counts as learned?")
    try:
        return "stop" if input("[p] ").strip().lower().startswith("s") else "pause"
    except (EOFError, OSError):  # nobody is there any more
        return "pause"


def _say_grown(entry: NewLayers) -> None:
    before, after = entry.parameters or (0, 0)
    added = f"{entry.fast_layers} fast and {entry.slow_layers} slow layers"
    print(f"grown by {added}: {before:,} -> {after:,} parameters", file=sys.stderr)
