"""Documents from files (text, JSON lines, parquet, folders of them) or from the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from hrm.files.encoding import Encoding, find, known_encoding, reader
from hrm.files.reading import (
    LINE,
    WHOLE,
    TooLarge,
    UserError,
    Watched,
    check_copied,
    needs,
    opened,
    parsed,
    quoted,
    reading,
    reason,
    shown,
)
from hrm.files.records import Json

PIECE = 1 << 18
"""Characters of a text file that are handed on at once."""
Report = Callable[[str], object]
T = TypeVar("T")
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?(:[\w.%\[\]:+-]+)?")
_CUT = re.compile(r".*\w(?=\s)", re.DOTALL)


class DocumentPart(str):
    """A part of a document that the next string continues; a document's last part is a plain str."""

    __slots__ = ()


class Row(NamedTuple):
    """A row of a table and its place, for messages."""

    place: str
    fields: Json


class ReadOptions:
    """How files are read: in which encoding, and who hears, once for each, of those that are not proper UTF-8."""

    def __init__(self, report: Report | None = None, encoding: str | None = None):
        self._report, self.encoding = report, encoding and known_encoding(encoding)
        self._said: set[str] = set()

    def find(self, path: Path) -> Encoding:
        """The encoding of a file, which is told of if there is something to tell."""
        with reading(path):
            state = path.stat()
        found = _found(path, self.encoding, state.st_size, state.st_mtime_ns)
        self.say(found.sentence(path))
        return found

    def say(self, sentence: str | None) -> None:
        """Report a sentence, once."""
        if sentence and self._report and sentence not in self._said:
            self._said.add(sentence)
            self._report(sentence)


class Again(Iterable[T]):
    """What can be read any number of times, each time from the start."""

    def __init__(self, read: Callable[[], Iterator[T]]):
        self._read = read

    def __iter__(self) -> Iterator[T]:
        return self._read()


def texts(sources: Sequence[str], field: str, way: ReadOptions) -> Again[str]:
    """The documents of several sources, one after another; UserError where there is none."""
    if not sources:
        raise UserError("there is no file to read: name at least one")
    each = [documents(source, field, way=way) for source in sources]
    return Again(lambda: chain.from_iterable(each))


def documents(
    source: str | Path,
    field: str = "text",
    report: Report | None = None,
    encoding: str | None = None,
    way: ReadOptions | None = None,
) -> Again[str]:
    """The documents of a local file or folder, or else of a data set of the Hub (NAME, NAME:SPLIT, NAME:CONFIG:SPLIT):
    a text file, in Parts where it is big, or each row's `field` of .jsonl, .json and .parquet, .gz and .xz unpacked.
    `report` hears once of each file that is not proper UTF-8; `way` stands for it and `encoding`. UserError names file
    and line."""
    path = local(source)
    if path is None:
        return Again(lambda: _texts(str(source), hub_rows(str(source)), field))
    how = way or ReadOptions(report, encoding)
    return Again(lambda: _local(path, field, how))


def local(source: str | Path) -> Path | None:
    """The path of an existing file or folder, None for what can only be a name of the Hub, or else a UserError."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    named = isinstance(source, Path) or str(source).startswith(("/", ".", "~")) or path.suffix in _LOCAL
    if named or not _HUB.fullmatch(str(source)):
        raise UserError(f"there is no file or folder {source}")
    return None


def rows(source: str | Path, way: ReadOptions | None = None) -> Iterator[Row]:
    """The rows of a .jsonl, .json or .parquet file, or of a data set of the Hub."""
    path = local(source)
    if path is None:
        return hub_rows(str(source))
    if path.is_dir() or _suffix(path) not in _READERS:
        raise UserError(f"{path} is not a .jsonl, .json or .parquet file")
    return _READERS[_suffix(path)](path, way or ReadOptions())


def hub_rows(name: str) -> Iterator[Row]:
    """The rows of a data set of the Hub; the only function here that uses the network."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = f"{name} is no file here, and to read it from the Hub"
        raise UserError(needs(what, "datasets", "data", error)) from error
    path, *rest = name.split(":", 2)
    config, split = (rest[0] if len(rest) > 1 else None), (rest[-1] if rest else "train")
    try:
        table: Any = datasets.load_dataset(path, config, split=split, trust_remote_code=False)
    except Exception as error:  # what it raises depends on the data set
        message = f"{name} is no file here and could not be loaded from the Hub: {reason(error)}"
        raise UserError(message) from error
    for number, fields in enumerate(table, 1):
        yield Row(f"{name} row {number}", fields)


def _local(path: Path, field: str, way: ReadOptions) -> Iterator[str]:
    """The documents below a path; hidden and empty files of a folder are left out."""
    if path.is_file():
        yield from _texts(str(path), rows(path, way), field) if _suffix(path) in _READERS else _pieces(path, way)
        return
    check_copied(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.stat().st_size]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise UserError(f"{path} is a folder without documents")
    for file in files:
        yield from _local(file, field, way)


def _texts(source: str, table: Iterable[Row], field: str) -> Iterator[str]:
    empty = True
    for place, fields in table:
        if not isinstance(text := fields.get(field), str):
            raise no_text(place, fields, field, "with --field, or read them as conversations with --kind chat")
        if text:
            empty = False
            yield text
    if empty:
        raise UserError(f"{source} holds no text")


def no_text(place: str, fields: Mapping[str, Any], field: str, how: str) -> UserError:
    """The error for a row without text in a field; `how` another field is named."""
    others = [name for name in fields if name != field]
    advice = f"say which of {shown(others)} {how}"
    if field not in fields:
        return UserError(f"{place} has no text in a field {quoted(field)}: {advice}")
    kind = _KINDS.get(type(fields[field]), "something else")
    advice = f"correct it, or {advice}" if others else "correct or remove it"
    return UserError(f"{place} holds {kind} and no text in the field {quoted(field)}: {advice}")


_KINDS = {
    int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object", type(None): "nothing",
}  # fmt: skip


def _pieces(path: Path, way: ReadOptions) -> Iterator[str]:
    """A text file as one document."""
    found = way.find(path)
    with opened(path) as raw, reader(raw, found) as text:
        piece = _read(text, path, PIECE).removeprefix("\ufeff")
        if not piece:
            raise UserError(f"{path} is empty")
        while following := _read(text, path, PIECE):
            # Every common tokenizer begins a new token at a space after a letter, so a cut there changes none.
            space = _CUT.match(piece, max(0, len(piece) - 4096))
            cut = space.end() if space else len(piece)
            yield DocumentPart(piece[:cut])
            piece = piece[cut:] + following
        yield piece


def _read(text: TextIO, path: Path, size: int) -> str:
    with reading(path):
        return text.read(size)


@lru_cache(maxsize=1024)
def _found(path: Path, asked: str | None, size: int, changed: int) -> Encoding:
    """The encoding of a file as it was at a time, so that reading it again does not look again."""
    with reading(path):
        return find(lambda: _watched(path), str(path), asked)


@contextmanager
def _watched(path: Path) -> Iterator[Any]:
    """The bytes of a file; of one with rows as far as its readers go."""
    whole = WHOLE if _suffix(path) == ".json" else None
    with opened(path) as stream:
        yield Watched(stream, path, LINE, whole) if _suffix(path) in _READERS else stream


def _json_lines(path: Path, way: ReadOptions) -> Iterator[Row]:
    found, number = way.find(path), 0
    with opened(path) as raw, reader(raw, found, newline="\n") as lines:
        while True:
            with reading(path, f"restore it; line {number:,} was the last" if number else "restore it"):
                line = lines.readline(LINE)
            if not line:
                return
            number += 1
            if len(line) == LINE and not line.endswith("\n"):
                raise TooLarge(f"{path}, line {number:,} is longer than {LINE >> 20} MB, the most that is read: cut it")
            text = line.removeprefix("\ufeff")
            if number == 1 and text.lstrip().startswith("["):
                yield from _json_list(path, way)  # a list under the other name
                return
            if text.strip():
                yield _row(f"{path} line {number}", parsed(text, f"{path} line {number}", "correct or remove it"))


def _json_list(path: Path, way: ReadOptions) -> Iterator[Row]:
    found = way.find(path)
    with opened(path) as raw, reader(raw, found) as text:
        content = _read(text, path, WHOLE).removeprefix("\ufeff")
        if _read(text, path, 1):
            raise TooLarge(f"{path} holds more than {WHOLE >> 20} MB, the most that is read whole: write JSON lines")
    first = content.lstrip().partition("\n")[0]
    if first.startswith("{") and first.rstrip().endswith("}") and content.strip() != first.strip():
        yield from _json_lines(path, way)  # lines under the other name
        return
    entries = parsed(content, path)
    if isinstance(entries, dict):  # a list with some facts about it around
        lists = [v for v in entries.values() if isinstance(v, list) and v and all(isinstance(e, dict) for e in v)]
        entries = lists[0] if len(lists) == 1 else entries
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a list of objects, nor lines of one object each")
    for number, entry in enumerate(entries, 1):
        yield _row(f"{path} entry {number}", entry)


def _row(place: str, fields: object) -> Row:
    if not isinstance(fields, dict):
        raise UserError(f"{place} is not an object with fields; correct or remove it")
    return Row(place, fields)


def _parquet(path: Path, way: ReadOptions) -> Iterator[Row]:
    try:
        import pyarrow.parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(needs(f"reading {path}", "pyarrow", "data", error)) from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{path} row {number}", fields)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} cannot be read after row {number} ({reason(error)}); restore it") from error


def _suffix(path: Path) -> str:
    """The ending that tells the form: .jsonl of x.jsonl.gz."""
    return (path.with_suffix("") if path.suffix.lower() in (".gz", ".xz", ".zst") else path).suffix.lower()


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list, ".parquet": _parquet}
_LOCAL = {*_READERS, ".txt", ".md", ".gz", ".xz", ".zst"}
