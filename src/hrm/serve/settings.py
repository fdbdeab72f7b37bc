"""What a server allows, and whom."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hrm.files import names
from hrm.files.reading import UserError, reading

SHORTEST_KEY = 16
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""The names under which a browser on this machine may ask."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Settings:
    """Who may ask for what."""

    keys: frozenset[str] = frozenset()
    """Digests of the keys of which a request must bring one; none: whoever reaches the server may ask."""
    cookie: str = ""
    """Name of a cookie that may hold the key instead."""
    free: tuple[str, ...] = ("/health",)
    """Paths that need no key."""
    hosts: tuple[str, ...] = ()
    """Names under which the server answers, so that no other site can pose as it in a browser; empty: any."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may ask."""
    log_contents: bool = False
    """Log prompts and answers as well."""
    headers: Mapping[str, str] = field(default_factory=lambda: HEADERS)
    """Of every answer that does not say otherwise."""
    most_tokens: int = 10**6
    """That a text may have."""
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    """A request has this long to arrive."""
    stall_seconds: float = 60.0
    """After this long in which a client has taken nothing of its answer, it counts as left."""


def digest(key: str) -> str:
    """What is kept and compared of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def keys_in(file: Path) -> frozenset[str]:
    """Digests of the keys in a file, one a line; UserError for a file without any, or with one that can be guessed."""
    with reading(file, "write one key a line into it"):
        lines = [line.strip() for line in names.read_text(file).splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UserError(f"{file} holds no key (--api-key-file): write one a line, such as `openssl rand -hex 32` makes")
    if any(len(key) < SHORTEST_KEY or not key.isascii() or len(key.split()) > 1 for key in keys):
        raise UserError(
            f"{file} has a line that is no key (--api-key-file): at least {SHORTEST_KEY} letters and digits, no spaces"
        )
    return frozenset(map(digest, keys))
