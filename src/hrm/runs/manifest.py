"""A folder's content when it was written: size and SHA-256 of each file, by name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from hrm.files import names
from hrm.files.digest import sha256


class Facts(TypedDict):
    """What is known of a file."""

    bytes: int
    sha256: str


_BEGINNINGS = ("dataset.json", "index.json", "tasks.json", "identifiers.json")
"""Files that mark a folder as part of a data set; a folder added later is not part of this one."""


def of(folder: Path) -> dict[str, Facts]:
    """Size and SHA-256 of each file below a folder; empty if there is no folder."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()] if folder.is_dir() else []
    return {file.relative_to(folder).as_posix(): facts_of(file) for file in files}


def facts_of(file: Path) -> Facts:
    """The facts of a file as it is now."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def problems(folder: Path, listed: object) -> Iterator[str]:
    """A sentence for each file that differs from the list: all sizes are compared first, then contents."""
    where = folder.parent / "run.json"
    if not isinstance(listed, dict) or not all(_is_entry(name, facts) for name, facts in listed.items()):
        yield f"{where} does not say what lay in {folder}: restore it or start a new run"
        return
    found = {file.relative_to(folder).as_posix() for name in _BEGINNINGS for file in folder.rglob(name)}
    for name in sorted(found - listed.keys()):
        yield f"{folder / name} was not there when the run began: remove it"
    whole: list[tuple[Path, str]] = []
    for name, facts in listed.items():
        path = folder.joinpath(*name.split("/"))
        try:
            size = names.regular(path).stat().st_size
        except names.BadName as error:
            yield str(error)
        except OSError as error:
            yield f"{path} cannot be read ({error.strerror}): restore it or start a new run"
        else:
            if size == facts["bytes"]:
                whole.append((path, facts["sha256"]))
            else:
                yield f"{path} has {size:,} bytes instead of {facts['bytes']:,}: restore it or start a new run"
    for path, digest in whole:
        facts = path.stat()
        if _known(path, facts.st_size, facts.st_mtime_ns, facts.st_ino) != digest:
            yield f"{path} has changed since it was written: restore it or start a new run"


@lru_cache(maxsize=4096)
def _known(path: Path, *state: int) -> str:
    """The SHA-256 of a file, cached as long as its size, time and inode stay the same."""
    return sha256(path)


def _is_entry(name: object, facts: object) -> bool:
    if not isinstance(name, str) or any(names.fault(part) for part in name.split("/")):
        return False
    known = isinstance(facts, dict) and type(facts.get("bytes")) is int and isinstance(facts.get("sha256"), str)
    return known and name.count("/") < 4
