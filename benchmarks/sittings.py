"""Rows that a measurement writes as it gets them, so that the same command continues where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hrm.runs import durable


def rows_of(file: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that are there, of which a last one that a kill cut short is dropped. The first line says what they are
    of; a file that is of something else ends the program."""
    text = file.read_text() if file.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        whole = json.dumps(facts) + "\n"
    if whole != text:
        durable.write(file, whole)
    first, *rows = map(json.loads, whole.splitlines())
    if first != facts:
        print(f"{file} holds figures of {first}, not of {facts}: name another folder with --out", file=sys.stderr)
        raise SystemExit(2)
    return rows


def add(file: Path, row: dict[str, Any]) -> None:
    """Append one."""
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
