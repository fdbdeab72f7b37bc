"""`hrm` in processes of its own that are forked after the imports, which take longer than most of what they do here."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

IMPORTS = [
    "torch._dynamo", "hrm.cli.chat", "hrm.cli.generate", "hrm.cli.learn", "hrm.cli.train",
    "hrm.puzzles.training.session", "hrm.text.training.session", "hrm.text.learning.learner", "hrm.text.chat.terminal",
]  # fmt: skip


@cache
def _context() -> Any:
    """One server for this process and its tests, started at the first fork; processes are spawned where none forks."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return SpawnContext()
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTS)
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
    return context


def start(
    args: Sequence[str],
    files: Sequence[int | Path],
    terminal: bool = False,
    code: str = "",
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """`hrm ARGS` (after some code) as a process that can be signalled and killed.

    `files`: its input, output and errors; `terminal`: they are a terminal, and this is a session of its own that it
    controls.
    """
    opened = [Connection(os.dup(file)) if isinstance(file, int) else file for file in files]
    given = (list(args), opened, terminal, code, os.environ | (environment or {}), os.getcwd())
    process = _context().Process(target=_run, args=given)
    process.start()
    return process


def start_in(folder: Path, *args: str, code: str = "") -> BaseProcess:
    """The same without input; its output and errors come into output.txt and errors.txt in a folder."""
    files = Path(os.devnull), folder / "output.txt", folder / "errors.txt"
    for file in files[1:]:
        file.write_bytes(b"")
    return start(args, files, code=code)


def run(code: str, folder: Path) -> str:
    """What some code prints in a process of its own."""
    process = start_in(folder, code=code)
    process.join()
    assert process.exitcode == 0, (folder / "errors.txt").read_text("utf-8")
    return (folder / "output.txt").read_text("utf-8")


def _run(
    args: list[str],
    files: list[Connection | Path],
    terminal: bool,
    code: str,
    environment: dict[str, str],
    folder: str,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR) if isinstance(file, Path) else file.fileno(), number)
    files.clear()
    if terminal:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C comes to this process
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.argv = ["hrm", *args]
    if code:
        exec(compile(code, "code", "exec"), {"__name__": "__main__"})
    if args:
        from hrm.cli.main import main
        from hrm.training import interrupt

        interrupt._terminals |= {number for number in (1, 2) if os.isatty(number)}  # as the import would have seen
        result = main()
        with suppress(OSError):  # a terminal that is gone
            sys.stderr.flush()
        os._exit(result)
