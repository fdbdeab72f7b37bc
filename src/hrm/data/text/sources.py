"""Documents from files (text, JSON lines, parquet, folders of them) or from the Hub."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from hrm.config import UserError, needs

PIECE = 1 << 18
"""Characters of a text file that are handed on at once."""
Report = Callable[[str], object]
_BOMS = {  # longest first: the mark of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?(:[\w.%\[\]:+-]+)?")
_CUT = re.compile(r".*\w(?=\s)", re.DOTALL)


class Part(str):
    """A part of a document that goes on with the next string; a document's last part is a plain str."""

    __slots__ = ()


class Row(NamedTuple):
    """A row of a table and its place, for messages."""

    place: str
    fields: dict[str, Any]


class Documents(Iterable[str]):
    """Documents that can be read any number of times, each time from the start."""

    def __init__(self, read: Callable[[], Iterator[str]]):
        self._read = read

    def __iter__(self) -> Iterator[str]:
        return self._read()


def documents(source: str | Path, field: str = "text", report: Report | None = None) -> Documents:
    """The documents of a local file or folder, or else of a data set of the Hub (NAME, NAME:SPLIT, NAME:CONFIG:SPLIT).

    A text file is one document, handed on in Parts where it is big; .jsonl, .json and .parquet hold one per row, in
    `field`; .gz and .xz are unpacked on the way; line ends become \\n. `report` hears of text that is not UTF-8.
    UserError names file and line.
    """
    path = local(source)
    if path is None:
        return Documents(lambda: _texts(str(source), hub_rows(str(source)), field))
    return Documents(lambda: _local(path, field, report))


def local(source: str | Path) -> Path | None:
    """The path of an existing file or folder, None for what can only be a name of the Hub, or else a UserError."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    named = isinstance(source, Path) or str(source).startswith(("/", ".", "~")) or path.suffix in _LOCAL
    if named or not _HUB.fullmatch(str(source)):
        raise UserError(f"there is no file or folder {source}")
    return None


def rows(source: str | Path) -> Iterator[Row]:
    """The rows of a .jsonl, .json or .parquet file, or of a data set of the Hub."""
    path = local(source)
    if path is None:
        return hub_rows(str(source))
    if path.is_dir() or _suffix(path) not in _READERS:
        raise UserError(f"{path} is not a .jsonl, .json or .parquet file")
    return _READERS[_suffix(path)](path)


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
        message = f"{name} is no file here and could not be loaded from the Hub: {_reason(error)}"
        raise UserError(message) from error
    for number, fields in enumerate(table, 1):
        yield Row(f"{name} row {number}", fields)


def _local(path: Path, field: str, report: Report | None) -> Iterator[str]:
    """The documents below a path; hidden and empty files of a folder are left out."""
    if path.is_file():
        yield from _texts(str(path), rows(path), field) if _suffix(path) in _READERS else _pieces(path, report)
        return
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.stat().st_size]
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise UserError(f"{path} is a folder without documents")
    for file in files:
        yield from _local(file, field, report)


def _texts(source: str, table: Iterable[Row], field: str) -> Iterator[str]:
    empty = True
    for place, fields in table:
        if not isinstance(text := fields.get(field), str):
            known = ", ".join(map(str, fields))
            raise UserError(f"{place} has no text in a field '{field}': say which of {known} with --field")
        if text:
            empty = False
            yield text
    if empty:
        raise UserError(f"{source} holds no text")


def _pieces(path: Path, report: Report | None) -> Iterator[str]:
    """A text file as one document."""
    encoding = _encoding(path)
    if encoding in ("cp1252", "latin-1") and report:
        report(f"{path} is not UTF-8: read as {encoding}")
    with _unpacked(path) as raw:
        text = io.TextIOWrapper(raw, encoding)
        piece = text.read(PIECE)
        if not piece:
            raise UserError(f"{path} is empty")
        while following := text.read(PIECE):
            # Every common tokenizer begins a new token at a space after a letter, so a cut there changes none.
            found = _CUT.match(piece, max(0, len(piece) - 4096))
            cut = found.end() if found else len(piece)
            yield Part(piece[:cut])
            piece = piece[cut:] + following
        yield piece


def _encoding(path: Path) -> str:
    """The encoding in which a whole file can be read: what its first bytes say, UTF-8, cp1252 or latin-1."""
    with _unpacked(path) as raw:
        head = raw.read(4)
    marked = next((name for mark, name in _BOMS.items() if head.startswith(mark)), None)
    for encoding in [marked] if marked else ["utf-8", "cp1252"]:
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with _unpacked(path) as raw:
                while chunk := raw.read(1 << 20):
                    if not marked and b"\0" in chunk:
                        raise UserError(f"{path} is not a text in a known encoding: convert it to UTF-8")
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
            return encoding
        except UnicodeDecodeError as error:
            if marked:
                raise UserError(f"{path} begins as {encoding}, but cannot be read as such ({error})") from error
    return "latin-1"


def _json_lines(path: Path) -> Iterator[Row]:
    with _unpacked(path) as raw:
        for number, line in enumerate(raw, 1):
            if line.strip():
                yield _row(f"{path} line {number}", lambda line=line: json.loads(line.decode("utf-8-sig")))


def _json_list(path: Path) -> Iterator[Row]:
    with _unpacked(path) as raw:
        content = raw.read()
    try:
        entries = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error
    if not isinstance(entries, list):
        raise UserError(f"{path} is not a list of objects; one object per line is a .jsonl file")
    for number, entry in enumerate(entries, 1):
        yield _row(f"{path} entry {number}", lambda entry=entry: entry)


def _row(place: str, read: Callable[[], Any]) -> Row:
    try:
        fields = read()
    except ValueError as error:
        raise UserError(f"{place} is not JSON ({error}); correct or remove it") from error
    if not isinstance(fields, dict):
        raise UserError(f"{place} is not an object with fields; correct or remove it")
    return Row(place, fields)


def _parquet(path: Path) -> Iterator[Row]:
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
        raise UserError(f"{path} cannot be read after row {number} ({_reason(error)}); restore it") from error


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked; UserError where it is damaged."""
    opened: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with opened(path, "rb") as raw:
            yield raw
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read ({_reason(error)}); restore it") from error


def _suffix(path: Path) -> str:
    """The ending that tells the form: .jsonl of x.jsonl.gz."""
    return (path.with_suffix("") if path.suffix in (".gz", ".xz") else path).suffix.lower()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


_READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_list, ".parquet": _parquet}
_LOCAL = {*_READERS, ".txt", ".md", ".gz", ".xz"}
