"""Ctrl-C, and every signal by which a system asks a program to end, ask for a save; a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")
"""A request to end, a closed terminal, and Ctrl-Break or a closed window of Windows: no system has all of them."""


_came = 0
"""Number of the signal for which `ending` raised; kept because a library's callback may swallow the exception."""


class Terminated(BaseException):
    """The system asked the program to end. Not a SystemExit, which command-line parsers catch."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number
        self.name = signal.Signals(number).name


@contextmanager
def ending() -> Iterator[None]:
    """Inside, a request to end raises Terminated, so that half-written files are removed and measurements are kept.
    Signals that are ignored (as under nohup) or have another handler are left alone."""

    def end(number: int, frame: FrameType | None) -> None:
        global _came
        _came = number
        _leave_dead_terminals()
        raise _stop(number)

    global _came
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, *_asking())} if _in_main_thread() else {}
    usual: dict[int, object] = {signal.SIGINT: signal.default_int_handler}
    taken = {number: handler for number, handler in before.items() if handler == usual.get(number, signal.SIG_DFL)}
    _came = 0
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        _came = 0
        for number, handler in taken.items():
            signal.signal(number, handler)


@contextmanager
def at_once() -> Iterator[None]:
    """Inside, SIGTERM ends the process at once: for calls that wait for long and look at no signal. One that has come
    before raises here, if a library swallowed what it raised then: no other may follow."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL) if _in_main_thread() else None
    try:
        if _came:
            raise _stop(_came)
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _stop(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


class Abandoned(BaseException):
    """A signal came during work that may be given up. A BaseException, so that no `except Exception` catches it."""


Abandoning = Callable[[], AbstractContextManager[None]]
"""Makes a context in which a signal raises Abandoned."""


class Interrupt:
    """A context in which the first signal sets `asked`. It has an effect in the main thread only."""

    def __init__(
        self,
        says: str = "saving; press Ctrl-C again to stop at once",
        intact: Callable[[], str] = lambda: "what was saved before is intact",
    ) -> None:
        """`says` is printed at the first signal, the sentence from `intact()` at the second Ctrl-C."""
        self.says, self.intact = says, intact
        self.asked = 0
        """Number of the first signal; 0: none came."""
        self._abandons = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if _in_main_thread():
            # A process under nohup should outlive its terminal.
            numbers = [n for n in _asking() if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, *numbers)}
            if _came:  # the handler raised, but a library swallowed the exception
                self._handle(_came, None)
        return self

    def __exit__(self, *error: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)  # type: ignore[arg-type]

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Inside, the first signal raises Abandoned at once: for long work that can be repeated."""
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
            _tell(f"stopped at once; {self.intact()}")
            os._exit(130)
        # Set before the message is printed, for a caller that reacts at once.
        first, self.asked = not self.asked, self.asked or number
        if first and self.says:
            _tell(self.says)
        if self._abandons:
            self._abandons = False
            raise Abandoned


def _asking() -> list[int]:
    """The signals with which this system asks a program to end."""
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _tell(text: str) -> None:
    """Write unbuffered, since a signal may have interrupted a buffered write; silent if nobody can read it."""
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode(errors="replace"))


_terminals = {number for number in (1, 2) if os.isatty(number)}


def _leave_dead_terminals() -> None:
    """Discard output to a closed terminal: a failed message must not prevent the save."""
    for number in [number for number in _terminals if not os.isatty(number)]:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)
        _terminals.discard(number)
