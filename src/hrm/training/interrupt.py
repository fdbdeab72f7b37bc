"""Ctrl-C and SIGTERM ask for a save; a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A context in which the first signal sets `asked`; it must be entered in the main thread to have an effect."""

    def __init__(self, says: str = "saving; press Ctrl-C again to stop at once") -> None:
        self.says = says
        self.asked = 0
        """Number of the first signal; 0: none came."""
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            os.write(sys.stderr.fileno(), b"\nstopped at once; the last checkpoint stands\n")
            os._exit(130)
        first, self.asked = not self.asked, self.asked or number  # before the message, for whoever answers at once
        if first and self.says:
            os.write(sys.stderr.fileno(), f"\n{self.says}\n".encode())
