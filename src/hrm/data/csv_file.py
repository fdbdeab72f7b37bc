"""The CSV form: a header and columns source, question, answer, rating; plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrm import output
from hrm.config import UserError
from hrm.data.puzzle_set import Located, PuzzleSet
from hrm.tasks import PuzzleError, Task

_CHUNK = 1 << 16


class Row(NamedTuple):
    """One line of the file; `line` counts from 1, the header included."""

    line: int
    question: str
    answer: str
    rating: str


def rows(path: Path, report: Callable[[str], None]) -> Iterator[Row]:
    """The lines of a CSV file; `report` gets a sentence for each one with too few or too many columns.

    UserError where the file cannot be read or lacks a column.
    """
    line = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as raw:
            reader = csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), strict=True)  # type: ignore[arg-type]
            header = next(reader, [])
            line = reader.line_num
            missing = [name for name in ("question", "answer") if name not in header]
            if missing:
                known = "source,question,answer,rating"
                raise UserError(f"{path} line 1: there is no column '{missing[0]}'; the header should be {known}")
            question, answer = header.index("question"), header.index("answer")
            rating = header.index("rating") if "rating" in header else None
            for fields in reader:
                line = reader.line_num
                if len(fields) == len(header):
                    yield Row(line, fields[question], fields[answer], "" if rating is None else fields[rating])
                elif fields:
                    what = f"{len(fields)} columns instead of the header's {len(header)}"
                    report(f"{path} line {line}: {what}; correct or remove the line")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        form = "gzipped CSV" if path.suffix == ".gz" else "CSV"
        raise UserError(f"{path} cannot be read as {form} after line {line} ({error}); restore it") from error


def load(path: Path, task: Task, report: Callable[[str], None]) -> Located:
    """All rows that parse; `report` gets a sentence for each of the others. UserError if none is left."""
    tokens_of = _parser(task)
    stream = rows(path, report)
    parts: list[tuple[np.ndarray, ...]] = []
    graded = False
    while chunk := list(islice(stream, _CHUNK)):
        bad: dict[int, str] = {}
        questions = tokens_of([row.question for row in chunk], "question", bad)
        answers = tokens_of([row.answer for row in chunk], "answer", bad)
        ratings = np.zeros(len(chunk), np.int32)
        for i, row in enumerate(chunk):
            if row.rating:
                graded = True
                try:
                    ratings[i] = int(row.rating)
                except (ValueError, OverflowError):
                    bad.setdefault(i, f"rating '{row.rating}' is not a whole number")
        for i in sorted(bad):
            report(f"{path} line {chunk[i].line}: {bad[i]}; correct or remove the line")
        good = np.array([i for i in range(len(chunk)) if i not in bad], int)
        lines = np.array([row.line for row in chunk])
        parts.append((questions[good], answers[good], ratings[good], lines[good]))
    if not sum(len(part[0]) for part in parts):
        raise UserError(f"{path} holds no {task.name} puzzle of {task.shape[0]}x{task.shape[1]} cells")
    inputs, labels, ratings, lines = (np.concatenate(column) for column in zip(*parts, strict=True))
    number = np.arange(len(inputs), dtype=np.int32)
    puzzles = PuzzleSet(inputs, labels, np.zeros_like(number), number, ratings if graded else None, str(path))
    return Located(puzzles, lambda row: f"{path} line {lines[row]}")


def save(path: Path, task: Task, puzzles: PuzzleSet) -> None:
    """Write a CSV file, gzipped if the name ends in .gz; equal puzzles give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = Path(puzzles.source).name
    ratings = [""] * len(puzzles.inputs) if puzzles.ratings is None else puzzles.ratings.tolist()
    with output.opened(path) as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        text = io.TextIOWrapper(packed, "utf-8", newline="")  # type: ignore[arg-type]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["source", "question", "answer", "rating"])
        for question, answer, rating in zip(puzzles.inputs, puzzles.labels, ratings, strict=True):
            writer.writerow([source, task.format(question), task.format(np.maximum(answer, 0)), rating])
        text.detach()  # writes what it still holds; the file itself is closed where it was opened
        if packed is not raw:
            packed.close()


def _parser(task: Task) -> Callable[[list[str], str, dict[int, str]], np.ndarray]:
    """`task.parse` for many texts at once: [n, cells]; the reasons of failures go into a dictionary by index."""
    cells = task.shape[0] * task.shape[1]
    dtype = np.uint8 if len(task.vocabulary) <= 256 else np.int32
    token = np.zeros(256, dtype)  # of each character; 0 sends the text to task.parse
    for code in range(128):
        try:
            token[code] = task.parse(chr(code) * cells)[0]
        except PuzzleError:
            continue

    def parse(texts: list[str], column: str, bad: dict[int, str]) -> np.ndarray:
        tokens = np.zeros((len(texts), cells), dtype)
        fits = np.array([len(text) == cells for text in texts])
        joined = "".join(text for text in texts if len(text) == cells).encode("ascii", "replace")
        tokens[fits] = token[np.frombuffer(joined, np.uint8)].reshape(-1, cells)
        for i in np.flatnonzero(~tokens.all(axis=1)).tolist():
            try:
                tokens[i] = task.parse(texts[i])
            except PuzzleError as error:
                bad.setdefault(i, f"{column}: {error}")
        return tokens

    return parse
