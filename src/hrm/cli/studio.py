"""hrm studio: a page on this machine on which books are learned, puzzles solved, and models talked with."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hrm.cli.options import Positional, parse
from hrm.files.reading import UserError, check_copied, needs


@dataclass(frozen=True)
class Options:
    """Open a page in the browser: choose books and see them learned, talk with a model, solve puzzles.

    It works on this machine alone and needs no network. Trainings continue when the page or the studio is closed.
    """

    folder: Positional[Path] = Path("runs")
    """Folder of the runs; it is made when the first one begins."""
    port: int = 8722
    """Of the page; 0, or when it is taken: any that is free."""
    browser: bool = True
    """Open the page; --no-browser prints its address alone."""


def main(args: list[str]) -> int:
    """Run the verb."""
    options = parse("studio", Options, args, example="hrm studio runs")
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(package) is None:
            raise UserError(needs("hrm studio", package.replace("_", "-"), "serve"))
    if not 0 <= options.port < 1 << 16:
        raise UserError(f"--port {options.port} is no port: use 0 to 65535")
    if options.folder.exists():
        check_copied(options.folder)
        if not options.folder.is_dir():
            raise UserError(f"{options.folder} is a file: name the folder in which the runs are")
    print("hrm studio is starting: a few seconds", file=sys.stderr, flush=True)
    from hrm.serve.studio.server import open_page, serve

    def say(address: str, first: bool) -> None:
        if first:
            print(f"hrm studio is open; Ctrl-C closes it, and trainings continue\n{address}", flush=True)
        else:
            print(f"to open it in another browser: {address}", flush=True)
        if first and options.browser and not open_page(address):
            print("open this address in a browser", file=sys.stderr)

    serve(options.folder, options.port, say)
    return 0
