"""The one door to the terminal: what comes from files, names and arguments reaches it without characters it obeys.

`standard_streams` stands around every verb: whatever is printed is cleaned, on standard error always, on standard
output where that is a terminal; a file or pipe gets the exact text. Only `hrm.console.Console`
may send colours.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import IO, Any, TextIO

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but the tab and the new line, overrides of the direction of writing, and what is no character."""


def clean(text: str) -> str:
    """A text for the terminal; what a terminal would obey is written as \\x1b, or \\u202e."""
    return _OBEYED.sub(_escaped, text.replace("\r\n", "\n"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def replaced(text: str) -> str:
    """A text from the command line as a model reads it: a replacement sign for what is no character in UTF-8."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class _Stream:
    """Stands in for the stream `behind`."""

    def __init__(self, behind: IO[str]) -> None:
        self.behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class CleanStream(_Stream):
    """A stream that cleans what is printed."""

    say: Callable[[str], None] | None = None

    def write(self, text: str) -> int:
        # Bars of other libraries begin with a carriage return, which is harmless at the start of the output.
        again = "\r" if text.startswith("\r") and not text.startswith("\r\n") else ""
        self.behind.write(again + clean(text[len(again) :]))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)


class NamedStream(_Stream):
    """Standard output where it is a file or pipe: an error says so."""

    def write(self, text: str) -> int:
        try:
            return self.behind.write(text)
        except OSError as error:
            raise _named(error) from None

    def flush(self) -> None:
        try:
            self.behind.flush()
        except OSError as error:
            raise _named(error) from None


def _named(error: OSError) -> OSError:
    if not isinstance(error, BrokenPipeError):
        error.filename = "standard output"
    return error


@contextmanager
def standard_streams(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """The three streams as every verb finds them; gives a function that prints a line on standard error, also if quiet.
    A closed stream becomes the null device. Input is read as a file is, and a byte that is not UTF-8 replaced. `quiet`:
    nothing else is printed on standard error."""
    _open_closed()
    _reconfigure(sys.stdin, errors="replace", **({} if _is_terminal(sys.stdin) else {"encoding": "utf-8-sig"}))
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, errors=_ERRORS)
    out, err = sys.stdout, sys.stderr
    door: Any = CleanStream(err)

    def say(text: str) -> None:
        print(text, file=door, flush=True)

    with open(os.devnull, "w", encoding="utf-8") if quiet else nullcontext(err) as notes:
        notes_door = CleanStream(notes)
        notes_door.say = say
        sys.stderr = notes_door  # type: ignore[assignment]
        sys.stdout = CleanStream(out) if _is_terminal(out) else NamedStream(out)  # type: ignore[assignment]
        try:
            yield say
        finally:
            sys.stdout, sys.stderr = out, err


def report(text: str) -> None:
    """Print what a verb has found to be wrong on standard error: a result, which `--quiet` leaves."""
    (getattr(sys.stderr, "say", None) or partial(print, file=sys.stderr))(text)


def drop(*streams: TextIO) -> None:
    """Send what streams still hold nowhere: their reader has left, or there is no room."""
    for stream in streams:
        with suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def understand_utf8() -> None:
    """In the C locale Python takes the command line for ASCII: begin again in its UTF-8 mode, before anything else."""
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode and sys.executable:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _open_closed() -> None:
    """Whatever is opened next would otherwise get the number of a closed stream, and what is printed there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: that of the closed stream
            setattr(sys, name, open(handle, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _is_terminal(stream: Any) -> bool:
    return hasattr(stream, "isatty") and stream.isatty()


def _reconfigure(stream: Any, **how: object) -> None:
    if hasattr(stream, "reconfigure"):
        with suppress(OSError, ValueError):  # a stream that was read from, in a program that calls `main`
            stream.reconfigure(**how)


def _what_it_can(error: UnicodeError) -> tuple[str | bytes, int]:
    """A byte of a name that is not UTF-8 as it is, and a question mark for what a stream has no character for."""
    assert isinstance(error, UnicodeEncodeError)
    code = ord(error.object[error.start])
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else "?", error.start + 1


_ERRORS = "hrm.what_it_can"
codecs.register_error(_ERRORS, _what_it_can)
