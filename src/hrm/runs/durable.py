"""Writes that survive a kill or a power cut: flushed to the disk, then renamed into place."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk; folders are skipped where the system cannot flush them."""
    if path.is_dir():
        if os.name == "nt":
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems refuse to flush a folder; anything else is a disk that lost data.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def write(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new one, never a part."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write` a value as indented JSON."""
    write(path, json.dumps(value, indent=2) + "\n")
