"""`hrm VERB ...`: finds the verb, turns errors into one sentence and an exit code (0 done, 1 failed, 2 wrong usage)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from hrm.training.interrupt import Ended, ending

VERBS = {
    "demo": "train a tiny solver on this machine and watch it solve",
    "train": "train a model, or go on with a run",
    "solve": "solve puzzles; every answer is verified or marked unsolved",
    "eval": "measure a run on a file of puzzles or of text",
    "generate": "write text on from a prompt",
    "learn": "read books, one after another, and remember them",
    "status": "what a learner has read, and what it still knows",
    "chat": "talk with a text model",
    "analyze": "judge what text models write",
    "data": "build, check or show puzzle files",
    "arc": "tasks of ARC: build, check, show, answer, score",
    "config": "show, compare or check presets",
    "convert": "read and write the weights of other implementations",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. `--debug` anywhere shows the traceback of an error."""
    args = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    name = f"hrm {args[0]}" if args and args[0] in VERBS else "hrm"
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that lacks a character shows a question mark; it does not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        with ending():
            code = _run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except Ended as stop:
        with contextlib.suppress(OSError):
            print(f"{name}: ended by {stop.name}", file=sys.stderr)
        return int(str(stop.code))
    except BrokenPipeError:
        # The reader (`| head`) has left; the interpreter's last flush must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from hrm.config import UserError

        if debug:
            import traceback

            traceback.print_exc()
        mistake = isinstance(error, UserError)
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "" if mistake or debug else f" ({type(error).__name__}; --debug shows where)"
        print(f"{name}: {reason}{hint}", file=sys.stderr)
        return 2 if mistake else 1


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "--help-all", "help"):
        print(_help())
        return 0 if args else 2
    if args[0] == "--version":
        from hrm import __version__

        print(f"hrm {__version__}")
        return 0
    if args[0] not in _available():
        from hrm.config import UserError, nearest

        kind = "flag" if args[0].startswith("-") else "verb"
        raise UserError(
            f"unknown {kind} '{args[0]}'{nearest(args[0], _available()) or '; `hrm --help` lists the verbs'}"
        )
    try:
        return import_module(f"hrm.cli.{args[0]}").main(args[1:])
    except Ended:
        raise
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0


def _available() -> list[str]:
    return [verb for verb in VERBS if find_spec(f"hrm.cli.{verb}")]


def _help() -> str:
    verbs = "\n".join(f"  {verb:<10}{VERBS[verb]}" for verb in _available())
    return f"""\
usage: hrm VERB ...

Recursive reasoning models: puzzles whose answers come back verified, and text.

{verbs}

`hrm VERB --help` shows a verb's flags with an example; `hrm --version` the version; --debug with any verb a traceback.
Start with: hrm demo"""
