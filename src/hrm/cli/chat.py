"""`hrm chat RUN`."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hrm.cli.options import DEVICE, DRAWS, Device, Draws, OnDevice, Positional, parse
from hrm.files.encoding import read_text
from hrm.files.output import to_json
from hrm.files.reading import UserError, check_copied
from hrm.terminal import replaced
from hrm.text.config import Decoding, is_text

if TYPE_CHECKING:
    from hrm.text.chat.session import Session


@dataclass(frozen=True)
class Options:
    """Talk with a text model. It remembers as much of the conversation as fits; /help lists its commands."""

    run: Positional[str]
    """Run folder of a text model, or any folder that save_pretrained wrote with a tokenizer in it."""
    mode: Literal["fast", "normal", "deep", "extreme", "auto"] = "auto"
    """How long to think about each token; auto: as long as it needs."""
    decoding: Draws = field(default_factory=lambda: Decoding(max_new_tokens=300, temperature=0.8))
    stop: Literal["natural", "length", "unlimited"] | None = None
    """Stop at the end of a sentence, after --max-new-tokens, or at Ctrl-C; default: natural; length for questions."""
    min_characters: int = 80
    """Shortest answer, before it may stop at the end of a sentence."""
    memory: int | None = None
    """Tokens that it remembers; default: the length of a training row, or all positions of the model."""
    plain: bool = False
    """Continue the text, even where the model has learned questions and answers."""
    load: Path | None = None
    """Resume a conversation that /save kept."""
    batch: str | None = None
    """Instead: answer each line of a file, or of - for standard input, on its own."""
    encoding: str | None = None
    """Encoding of the batch file, such as cp1251 or gb18030; default: detected, and said where it is not UTF-8."""
    json: bool = False
    """Print one JSON object per answer of a batch."""
    checkpoint: str = "best"
    """best, latest or a step."""
    on: OnDevice = field(default_factory=Device)


def main(args: list[str]) -> int:
    example = "hrm chat runs/alice --mode deep --temperature 0.7"
    options = parse("chat", Options, args, example=example, main=(*DRAWS, *DEVICE))
    if (Path(options.run) / "run.json").is_file() and not is_text(options.run):
        raise UserError(f"{options.run} is a run on puzzles, which solves and does not talk: see hrm solve")
    if options.batch is None and options.json:
        raise UserError("--json prints the answers of a batch: give --batch FILE as well")
    if options.batch is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        instead = "answer the lines of a file with --batch FILE, or of a pipe with --batch -"
        raise UserError(f"a talk needs a terminal: {instead}")
    if options.batch is not None and options.stop == "unlimited":
        raise UserError("--stop unlimited writes until Ctrl-C, and a batch must end: use natural or length")
    lines = None if options.batch is None else _lines(options.batch, options.encoding)

    from hrm.runs import threads
    from hrm.text.chat.session import Session, Settings
    from hrm.text.load import load_text
    from hrm.text.writing.generation import Sampling

    sampling = Sampling(**vars(options.decoding))
    sampling.check()
    loaded = load_text(options.run, options.checkpoint, options.on.device or "auto", options.on.precision)
    threads.settle_for(loaded.model, 1)
    session = Session(loaded, memory=options.memory, plain=options.plain)
    session.change(Settings(options.mode, options.stop or session.settings.stop, options.min_characters, sampling))
    if options.load is not None:
        session.conversation.load(options.load)
    if lines is not None:
        return _batch(session, lines, options)
    from hrm.cli.generate import legend, style_of
    from hrm.text.chat.terminal import Terminal, TokenStyle

    Terminal(session, TokenStyle(style_of, legend)).run()
    return 0


def _batch(session: Session, lines: Iterator[tuple[int, str]], options: Options) -> int:
    """Each line is a conversation of its own, or continues the loaded one."""
    from hrm.text.chat.commands import CommandContext, mode_notice

    if notice := mode_notice(CommandContext(session), measure=False):
        print(notice, file=sys.stderr)
    session.continues = False
    between = ""
    for number, line in lines:
        session.conversation.clear()
        if options.load is not None:
            session.conversation.load(options.load)
        try:
            answer = session.answer(line)
        except UserError as error:
            raise UserError(f"line {number}: {error}") from error
        if answer.end == "interrupted":
            raise KeyboardInterrupt
        for notice in answer.notices:
            print(f"line {number}: {notice}", file=sys.stderr)
        if options.json:
            facts = {"line": number, "prompt": line, "mode": session.settings.mode, **answer.to_dict()}
            print(to_json(facts | {"notices": answer.notices}), flush=True)
        else:
            print(between + answer.text, flush=True)
            between = "\n"  # answers have line breaks of their own
    return 0


def _lines(name: str, encoding: str | None) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line that is not empty; the file is looked for at once."""
    if name == "-":
        return _said(sys.stdin)
    check_copied(Path(name))
    if not Path(name).is_file():
        raise UserError(f"there is no file {name} (--batch): name one, or - for standard input")
    text, how = read_text(Path(name), asked=encoding)
    if sentence := how.sentence(name):
        print(sentence, file=sys.stderr)
    return _said(io.StringIO(text, None))


def _said(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, replaced(line).rstrip("\r\n")) for number, line in enumerate(lines, 1) if line.strip())
