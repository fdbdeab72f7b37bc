"""A file of puzzles in any of its forms, which shows in its first lines: CSV, text (one line or row by row), XML."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, NamedTuple
from xml.parsers import expat

from hrm.files.encoding import mark_of
from hrm.files.reading import LINE, TooLarge, UserError, opened, quoted, reason, shown
from hrm.puzzles.tasks import Task, written

QUESTIONS = ("question", "puzzle", "puzzles", "quiz", "quizzes", "problem", "unsolved", "sudoku", "maze", "input")
ANSWERS = ("answer", "answers", "solution", "solutions", "solved", "label", "output", "target")
RATINGS = ("rating", "difficulty", "level")
"""Names of the columns of a CSV file."""
FREE = 1000
"""Lines of spaces above the first puzzle that may be its first rows."""
_SEPARATORS = ",;\t|"
_TABLES = (".csv", ".csv.gz", ".csv.xz", ".tsv", ".tsv.gz")


class Row(NamedTuple):
    """One puzzle as the file has it."""

    line: int
    """Where it begins, counted from 1."""
    question: str
    answer: str | None
    """None where the file has none."""
    rating: str = ""
    problem: str = ""
    """What is wrong with the whole line."""


class Columns(NamedTuple):
    """The columns named by the header of a CSV file."""

    separator: str
    names: list[str]
    question: int
    answer: int | None
    rating: int | None


@contextmanager
def text_of(path: Path) -> Iterator[Iterator[str]]:
    """The lines of a file, decompressed if its name ends in .gz or .xz."""
    with opened(path) as stream:
        yield decoded(stream, path)


def decoded(stream: IO[bytes], where: object) -> Iterator[str]:
    """Decode UTF-8, UTF-16 or UTF-32 line by line. Invalid bytes are replaced: no puzzle contains any."""
    number, text = 0, None
    try:
        head = stream.peek(4)[:4]  # type: ignore[attr-defined]
        # Without a mark the zeros tell: signs of puzzles are all below 128.
        zeros = {b"\0": "utf-16-be"}.get(head[:1]) or {b"\0": "utf-16-le"}.get(head[1:2])
        text = TextIOWrapper(stream, mark_of(head) or zeros or "utf-8", errors="replace", newline="")
        while line := text.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                most = f"{LINE >> 20} MB, the most that is read"
                raise TooLarge(f"{where}, line {number:,} is longer than {most}: cut it")
            yield line
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} cannot be read after line {number} ({reason(error)}): restore it") from error
    finally:
        with suppress(ValueError):  # closed by its owner already
            if text is not None:
                text.detach()


def rows(lines: Iterable[str], where: object, task: Task) -> Iterator[Row]:
    """Yield the puzzles of a file as they are read, broken ones included. UserError for a damaged file, or a CSV file
    without a column of questions."""
    source = iter(lines)
    skipped, first = 0, ""
    free: deque[str] = deque(maxlen=FREE)
    for first in source:
        # A spreadsheet may say first what separates its columns, which shows anyway.
        if first.strip() and not re.fullmatch(r"sep=.", first.strip()):
            break
        skipped += 1
        free.append("\n" if first.strip() else first)
    else:
        first = ""
    if re.match(r"\s*<(\?xml|opensudoku)", first, re.IGNORECASE):
        yield from _opensudoku(chain([first], source), where, skipped)
    elif columns := header(first):
        check_columns(columns, where)
        yield from csv_rows(source, where, columns, skipped + 1)
    elif str(where).lower().endswith(_TABLES) and not _is_puzzle(first.rstrip("\r\n"), task):
        named = shown(f"'{name.strip()}'" for name in re.split(r"[,;\t]", first.strip("\r\n"))) if first else "none"
        lacks = f"there is no column 'question' (nor {', '.join(QUESTIONS[1:5])}) among its columns"
        raise UserError(f"{where} line {skipped + 1}: {lacks}, {named}: name it so")
    else:
        # Lines of spaces may be the first rows of a maze.
        for found in written.puzzles(chain(free, [first], source), task):
            yield Row(found.line + skipped - len(free), found.question, found.answer or None)


def header(line: str) -> Columns | None:
    """The columns named in a first line; None if none of them holds questions."""
    for separator in _SEPARATORS:
        try:
            names = next(csv.reader([line.strip("\r\n")], delimiter=separator), [])
        except csv.Error:
            return None
        known = [_column(name) for name in names]
        kinds = (QUESTIONS, ANSWERS, RATINGS)
        question, *others = (next((known.index(name) for name in kind if name in known), None) for kind in kinds)
        if question is not None:
            return Columns(separator, names, question, *others)
    return None


def check_columns(columns: Columns, where: object) -> None:
    """UserError if a column that is read appears twice."""
    known = [_column(name) for name in columns.names]
    for at in (columns.question, columns.answer, columns.rating):
        if at is not None and known.count(known[at]) > 1:
            raise UserError(f"{where} has the column {quoted(known[at])} twice: rename or remove one of them")


def _column(name: str) -> str:
    return name.strip(' \t"').lower()


def csv_rows(lines: Iterable[str], where: object, columns: Columns, before: int) -> Iterator[Row]:
    """The rows below the header, which is on line `before`."""
    separator, names, question, answer, rating = columns
    # Words may stand in the other columns that say how hard a puzzle is; they are no ratings.
    strict = rating is None or names[rating].strip().lower() == RATINGS[0]
    reader = csv.reader(lines, delimiter=separator, strict=True)
    number = before
    try:
        for fields in reader:
            number = reader.line_num + before
            if len(fields) == len(names):
                graded = "" if rating is None or not (strict or _number(fields[rating])) else fields[rating]
                yield Row(number, fields[question], None if answer is None else fields[answer], graded)
            elif fields:
                what = f"{len(fields)} columns instead of the header's {len(names)}"
                asked = fields[question] if question < len(fields) else ""
                yield Row(number, asked, None, "", what)
    except csv.Error as error:
        raise UserError(f"{where} cannot be read as CSV after line {number} ({reason(error)}): restore it") from error


def _opensudoku(lines: Iterable[str], where: object, before: int) -> Iterator[Row]:
    """The puzzles of an OpenSudoku file. Document types are refused: their entities could expand without end."""
    found: list[Row] = []
    names: set[str] = set()

    def start(name: str, attributes: dict[str, str]) -> None:
        names.add(name[:80])
        if name == "game" and "data" in attributes:
            found.append(Row(parser.CurrentLineNumber + before, _given(attributes["data"]), None))

    def refuse(*_: object) -> None:
        raise UserError(f"{where} line {parser.CurrentLineNumber + before} declares a document type: remove it")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    count = 0
    try:
        for line in chain(lines, [None]):
            parser.Parse(line or "", line is None)
            count += len(found)
            yield from found
            found.clear()
    except expat.ExpatError as error:
        raise UserError(f"{where} is no sound XML ({quoted(str(error))[1:-1]}): restore it") from error
    if not count:
        others = shown(sorted(names))
        raise UserError(f"{where} holds no <game data=...> of OpenSudoku, but {others}: convert it to text")


def _given(data: str) -> str:
    """The cells of a game: 81 characters, or value, notes and an 'editable' flag per cell, separated by bars."""
    versioned = re.match(r"\s*version:\s*\d+\s+", data)
    if versioned is None:
        return data
    fields = [field for field in data[versioned.end() :].strip().split("|") if field]
    each = max(1, len(fields) // 81)
    cells = [fields[i : i + each] for i in range(0, len(fields), each)]
    return "".join(cell[0] if cell[-1] == "0" else "." for cell in cells)


def _is_puzzle(line: str, task: Task) -> bool:
    """Whether a line is a puzzle, the start of one, or a comment, so that the file has no header."""
    form = task.form
    if not line or form is None or len(line) > task.longest:
        return False
    return bool(form.whole(line) or form.row(line) or form.note(line))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
