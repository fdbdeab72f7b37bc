"""Somebody at a terminal: a pseudo-terminal that a test types into as a person would."""

from __future__ import annotations

import os
import re
import select
import time

import pytest

from tests import forks

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX only")


class Person:
    """Types into `hrm ARGS` and reads what it says, without colours and cursor movements.

    `ready` is the last thing that is drawn when a line can be typed.
    """

    def __init__(self, ready: str, *args: str, **environment: str) -> None:
        self.ready = ready
        self.fd, terminal = pty.openpty()
        names = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}
        self.process = forks.start([*args, "--device", "cpu"], [terminal] * 3, terminal=True, environment=names)
        os.close(terminal)
        self.welcome = self.read(ready)

    def read(self, until: str, seconds: float = 120) -> str:
        """What appears until some words do."""
        raw, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            if not select.select([self.fd], [], [], 0.1)[0]:
                continue
            try:
                found = os.read(self.fd, 65536)
            except OSError:  # it has ended
                break
            if b"\x1b[6n" in found:
                os.write(self.fd, b"\x1b[1;1R")  # where is the cursor?
            raw += found
            self.raw = raw.decode(errors="replace")
            if until in (text := _plain(raw)):
                return text
        raise AssertionError(f"waited for {until!r}, got {raw!r}")

    def key(self, key: str) -> None:
        os.write(self.fd, key.encode())

    def say(self, line: str) -> str:
        """Type a line; what appears after it."""
        self.key(line + "\r")
        text = self.read(self.ready)
        return text.rpartition(f"> {line}")[2] if line else text

    def leaves(self) -> int | None:
        """Exit code, once nothing more is said; `rest` is what was."""
        raw = b""
        while select.select([self.fd], [], [], 60)[0]:
            try:
                found = os.read(self.fd, 65536)
            except OSError:  # Linux: nobody is left at the other end
                break
            if not found:
                break
            raw += found
        self.rest = _plain(raw)
        self.process.join(60)
        return self.process.exitcode

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        os.close(self.fd)


def _plain(raw: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw.decode(errors="replace"))
