"""`hrm VERB ...`: finds the verb, turns errors into one sentence and an exit code (0 done, 1 failed, 2 wrong usage)."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from hrm import terminal
from hrm.training.interrupt import Terminated, ending

LONGEST = 700
"""Characters of a message; of a longer one the middle is left out."""
VERBS = {
    "demo": "train a tiny solver on this machine and watch it solve",
    "train": "train a model on puzzles or on text, or resume a run",
    "solve": "solve puzzles; every answer is verified or marked unsolved",
    "eval": "measure a run on puzzles with known answers, or on text",
    "calibrate": "learn when a text model's tokens may stop thinking, at a loss you choose",
    "generate": "continue a prompt with a text model",
    "learn": "read books, one after another, and remember them",
    "status": "show how far a run is, or what a learner has read and still knows",
    "runs": "list the runs below a folder: what they learn, how far and how good they are",
    "chat": "talk with a text model, in any reasoning mode",
    "serve": "answer over HTTP, as OpenAI's API does, and solve puzzles",
    "studio": "open a page on which books are learned, puzzles solved and models talked with",
    "analyze": "look inside a model, or judge what it writes",
    "report": "write one page about runs, which opens anywhere",
    "data": "build, convert, check and show puzzle files and text",
    "arc": "build, check, show, answer and score tasks of ARC",
    "plan": "say what a training on text takes on a cluster",
    "config": "list, show, compare and check presets",
    "convert": "read and write the weights of other implementations",
    "push": "publish a model on the Hugging Face Hub",
    "completion": "complete verbs, presets and flags in a shell",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. `--debug` (anywhere) shows the traceback of an error, `--quiet` prints
    only results and errors."""
    if args is None:
        terminal.understand_utf8()
    # Transformers imports torchao where it is installed, which then lists what this machine cannot use.
    for noisy in ("torchao", "torch.utils._pytree"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    args = list(sys.argv[1:] if args is None else args)
    debug, quiet = "--debug" in args, "--quiet" in args
    args = [arg for arg in args if arg not in ("--debug", "--quiet")]
    name = f"hrm {args[0]}" if args and args[0] in VERBS else "hrm"
    with terminal.standard_streams(quiet) as say:
        try:
            with ending():
                code = _run(args)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            say(f"{name}: interrupted")
            return 130
        except Terminated as stop:
            with contextlib.suppress(OSError):
                say(f"{name}: ended by {stop.name}")
            return stop.code
        except BrokenPipeError:
            # The reader (`| head`) has left; the interpreter's last flush must not complain about it.
            terminal.drop(sys.stdout, sys.stderr)
            return 1
        except Exception as error:
            if debug:
                import traceback

                say("".join(traceback.format_exception(error)).rstrip())
            code, sentence = _explained(error, debug)
            try:
                sys.stdout.flush()
            except OSError:
                terminal.drop(sys.stdout)
            say(f"{name}: {sentence}")
            return code


def _explained(error: Exception, debug: bool) -> tuple[int, str]:
    """The exit code and the sentence for an error."""
    from hrm.files.output import is_mistake, refusal
    from hrm.files.reading import UserError

    reason = " ".join(terminal.clean(str(error)[:100_000]).split()) or type(error).__name__
    if isinstance(error, UserError):
        code = 2
    elif (said := refusal(error)) is not None:
        reason, code = terminal.clean(said), 2 if is_mistake(error) else 1
    else:
        reason, code = reason + ("" if debug else f" ({type(error).__name__}; --debug shows where)"), 1
    half = LONGEST // 2
    return code, reason if len(reason) <= LONGEST else f"{reason[:half]} ... {reason[-half:]}"


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "--help-all", "help"):
        print(_help())
        return 0 if args else 2
    if args[0] == "--version":
        from hrm import __version__

        print(f"hrm {__version__}")
        return 0
    if args[0] not in _available():
        from hrm.files.reading import UserError, nearest

        kind = "flag" if args[0].startswith("-") else "verb"
        raise UserError(
            f"unknown {kind} '{args[0]}'{nearest(args[0], _available()) or '; `hrm --help` lists the verbs'}"
        )
    try:
        return import_module(f"hrm.cli.{args[0]}").main(args[1:])
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def _available() -> list[str]:
    return [verb for verb in VERBS if find_spec(f"hrm.cli.{verb}")]


def _help() -> str:
    width = shutil.get_terminal_size().columns
    indent = max(map(len, VERBS)) + 4
    verbs = [
        textwrap.fill(VERBS[verb], width, initial_indent=f"  {verb}".ljust(indent), subsequent_indent=" " * indent)
        for verb in _available()
    ]
    about = "Recursive reasoning models: puzzles whose answers come back verified, and text."
    more = (
        "`hrm VERB --help` shows a verb's flags with an example; `hrm --version` the version. With any verb, --quiet "
        "leaves only results and errors, and --debug shows the traceback of an error."
    )
    about, more = textwrap.fill(about, width), textwrap.fill(more, width)
    return "\n".join(["usage: hrm VERB ...", "", about, "", *verbs, "", more, "Start with: hrm demo"])
