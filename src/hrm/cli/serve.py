"""`hrm serve RUN...`."""

from __future__ import annotations

import ipaddress
import re
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from hrm.cli.options import DEVICE, Device, OnDevice, Positional, parse
from hrm.files.reading import UserError, needs


@dataclass(frozen=True)
class Options:
    """Answer over HTTP: text as OpenAI's API does, puzzles with verified answers.

    A run in training is served from its newest checkpoint.
    """

    runs: Positional[tuple[str, ...]]
    """Run folders, saved text models, or sudoku; NAME=RUN gives one another name."""
    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own needs keys."""
    port: int = 8000
    """0: any that is free."""
    api_key_file: Path | None = None
    """A file with one key a line; requests must bring one of them."""
    max_concurrent: int = 16
    """Requests of a model that are computed at once."""
    max_waiting: int = 64
    """Requests of a model that may wait; more are refused with 429."""
    request_seconds: float = 600.0
    """Longest time of a request, its waiting included."""
    max_tokens: int = 1_000_000
    """Longest text that a request may ask for."""
    weights_gb: float = 8.0
    """Weights that are held at once; the model unused for longest is dropped."""
    cors_origin: tuple[str, ...] = ()
    """Sites whose pages may ask, such as https://example.org."""
    log_contents: bool = False
    """Log prompts and answers as well."""
    grace_seconds: float = 30.0
    """At the end, requests under way have this long to finish."""
    checkpoint: str = "best"
    """best, latest or a step."""
    on: OnDevice = field(default_factory=Device)


def main(args: list[str]) -> int:
    options = parse("serve", Options, args, example="hrm serve runs/alice sudoku --port 8000", main=DEVICE)
    if any(find_spec(package) is None for package in ("fastapi", "uvicorn", "prometheus_client")):
        raise UserError(needs("hrm serve", "fastapi", "serve"))
    if not options.runs:
        raise UserError("nothing to serve: name run folders")
    if options.api_key_file is None and not is_loopback(options.host):
        said = "reaches other machines, and without a key anyone could ask"
        raise UserError(f"--host {options.host} {said}: name a file of keys with --api-key-file")
    for origin in options.cors_origin:
        if not re.fullmatch(r"https?://[^/*\s]+", origin):
            raise UserError(f"--cors-origin {origin} is no site: write it as https://example.org, without a path")

    from hrm.serve.app import create_app
    from hrm.serve.models import Models, names_of
    from hrm.serve.running import listening, serve
    from hrm.serve.settings import LOOPBACK, Settings, keys_in
    from hrm.serve.waiting import Limits

    models = Models(
        names_of(options.runs), Limits(options.max_concurrent, options.max_waiting, options.request_seconds),
        checkpoint=options.checkpoint, device=options.on.device, precision=options.on.precision,
        memory=round(options.weights_gb * 1e9),
    )  # fmt: skip
    keys = frozenset() if options.api_key_file is None else keys_in(options.api_key_file)
    settings = Settings(
        keys, hosts=() if keys else (*LOOPBACK, options.host), origins=options.cors_origin,
        log_contents=options.log_contents,
        most_tokens=options.max_tokens,
    )  # fmt: skip
    with listening(options.host, options.port) as (socket, address):
        print(f"serving {', '.join(models.names())} at {address}", file=sys.stderr)
        serve(create_app(models, settings), socket, options.grace_seconds)
    return 0


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
