"""SHA-256 of files on the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_sha256(path: Path) -> str | None:
    """Of a file, or of a folder's files in the order of their names; None for what is not on this disk."""
    files = [file for file in (sorted(path.rglob("*")) if path.is_dir() else [path]) if file.is_file()]
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if files else None
