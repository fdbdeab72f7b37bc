"""Writes into a run's folder that survive a kill or a power cut: flushed to the disk, then renamed into place."""

from __future__ import annotations

import shutil
from pathlib import Path

from hrm.files.output import flush as flush
from hrm.files.output import replacing, to_json


def write(path: Path, content: str | bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never a part; a link is not followed."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object) -> None:
    """`write` a value as indented JSON."""
    write(path, to_json(value, indent=2) + "\n")


def discard(path: Path) -> None:
    """Delete a file or folder; of a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
