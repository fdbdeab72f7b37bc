"""Ctrl-C, and every signal by which a system asks a program to end, ask for a save; a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""A request to end, a closed terminal, and Ctrl-Break or a closed window of Windows: no system has all of them."""


_came = 0
"""Number of the signal that `ending` has raised; an import or a callback of a library may have swallowed the error."""


class Ended(BaseException):
    """The system asked the program to end; no SystemExit, which parsers of a command line catch."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        self.name = signal.Signals(number).name


@contextmanager
def ending() -> Iterator[None]:
    """Within it a request to end raises Ended, so that what is half-written is removed and what is measured is kept.

    Signals that are ignored (as by nohup) or handled by somebody else stay so.
    """

    def end(number: int, frame: FrameType | None) -> None:
        global _came
        _came = number
        _leave_dead_terminals()
        raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)

    global _came
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, *_asking())} if _in_main_thread() else {}
    taken = {number: handler for number, handler in before.items() if handler == _usual(number)}
    _came = 0
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        _came = 0
        for number, handler in taken.items():
            signal.signal(number, handler)


class Abandoned(BaseException):
    """A signal came while something was done that may be given up; no `except Exception` stops it on its way."""


class Interrupt:
    """A context in which the first signal sets `asked`; it must be entered in the main thread to have an effect."""

    def __init__(
        self,
        says: str = "saving; press Ctrl-C again to stop at once",
        stands: Callable[[], str] = lambda: "what was saved before stands",
    ) -> None:
        """`says` is shown at the first signal, and what `stands()` gives at the second Ctrl-C."""
        self.says, self.stands = says, stands
        self.asked = 0
        """Number of the first signal; 0: none came."""
        self._abandons = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if _in_main_thread():
            # Who starts it under nohup wants it to outlive its terminal.
            numbers = [n for n in _asking() if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, *numbers)}
            if _came:  # and yet we are here
                self._handle(_came, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)  # type: ignore[arg-type]

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Within it the first signal raises Abandoned at once, for what takes long and can be done again."""
        self._abandons = True
        try:
            if self.asked:
                raise Abandoned
            yield
        finally:
            self._abandons = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        _leave_dead_terminals()
        if self.asked and number == signal.SIGINT:
            _tell(f"stopped at once; {self.stands()}")
            os._exit(130)
        first, self.asked = not self.asked, self.asked or number  # before the message, for whoever answers at once
        if first and self.says:
            _tell(self.says)
        if self._abandons:
            self._abandons = False
            raise Abandoned


def _asking() -> list[int]:
    """The signals of this system by which it asks a program to end."""
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _usual(number: int) -> object:
    """What Python does at a signal unless it is told otherwise."""
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _tell(text: str) -> None:
    """Write past all buffers, which a signal may have interrupted; nothing where nobody can read it."""
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode(errors="replace"))


_terminals = {number for number in (1, 2) if os.isatty(number)}


def _leave_dead_terminals() -> None:
    """Let what is written to a terminal that was closed go nowhere: the failure of a message must not cost the save."""
    for number in [number for number in _terminals if not os.isatty(number)]:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        _terminals.discard(number)
