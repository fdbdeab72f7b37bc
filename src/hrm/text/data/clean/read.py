"""The documents of a source: rows of tables, texts, pages of web archives, data sets of the Hub. Imported only where
datatrove is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Of the extra `pipeline`, which the type checker need not have.
from datatrove.data import Document  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.base import PipelineStep  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.extractors import Trafilatura  # pyright: ignore[reportMissingImports]
from datatrove.pipeline.readers.huggingface import HuggingFaceDatasetReader  # pyright: ignore[reportMissingImports]

from hrm.files.reading import UserError, needs, opened, reading
from hrm.text.data.clean.plan import Share, form
from hrm.text.data.clean.recipe import Source
from hrm.text.data.sources import documents, no_text, rows

TABLES = ".jsonl", ".ndjson", ".json", ".parquet"
ARCHIVES = ".warc", ".wet"
_PAGE = 30.0
"""Seconds that the text of a page may take."""


class Read(PipelineStep):
    """The documents of this task's share of its source, as plain text."""

    name, type = "documents", "read"

    def __init__(self, shares: list[Share]) -> None:
        """`shares`: of each task."""
        super().__init__()
        self.shares = shares

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        source, files, number, count = self.shares[rank]
        pages = self._streamed(source, number, count) if source.hub else self._read(source, files[number::count])
        made = 0
        for document in pages:
            if source.limit is not None and made >= source.limit:
                break
            if document.text.strip():
                made += 1
                self.stat_update("forwarded")
                yield document

    def _read(self, source: Source, files: list[str]) -> Iterator[Any]:
        for file in files:
            path = Path(file)
            ending = form(path)
            if ending in TABLES:
                found = ((row.place, _text(row.place, row.fields, source)) for row in rows(path))
            elif ending in ARCHIVES:
                found = records(path)
            else:
                found = ((f"{path} {number}", text) for number, text in enumerate(_parts(path, source.separator), 1))
            html = ending == ".warc" if source.extract is None else source.extract
            yield from self._extracted(found, source, html)

    def _streamed(self, source: Source, number: int, count: int) -> Iterator[Any]:
        name, *rest = (source.hub or "").split(":", 2)
        options = {"split": rest[-1] if rest else "train", "name": rest[0] if len(rest) > 1 else None}
        limit = -1 if source.limit is None else source.limit

        def fields(_: Any, row: dict[str, Any], path: str, at: str) -> dict[str, str]:
            text = _text(f"{source.hub} {at}", row, source)
            return {"text": text or " ", "id": f"{source.hub} {row.get('id', at)}"}  # the reader drops what is empty

        reader = HuggingFaceDatasetReader(name, options, streaming=True, adapter=fields, limit=limit)
        with reading(f"{source.hub}, a data set of the Hub,", "look at its name and at the network"):
            found = ((document.id, document.text) for document in reader.run(None, number, count))
            yield from self._extracted(found, source, bool(source.extract))

    def _extracted(self, found: Iterable[tuple[str, str]], source: Source, html: bool) -> Iterator[Any]:
        """Documents; of HTML the main part, which datatrove takes out in a process of its own, within a time."""
        documents = self._counted(found, source)
        if not html:
            return documents
        try:
            import trafilatura  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(needs("taking the text out of HTML", "trafilatura", "pipeline", error)) from error
        return Trafilatura(timeout=_PAGE).run(documents)

    def _counted(self, found: Iterable[tuple[str, str]], source: Source) -> Iterator[Any]:
        for place, text in found:
            self.stat_update("total")
            self.stat_update("characters", value=len(text))
            yield Document(text=text, id=place, metadata={"source": source.name})


def _text(place: str, fields: Mapping[str, Any], source: Source) -> str:
    if not isinstance(text := fields.get(source.field), str):
        raise no_text(place, fields, source.field, "with `field:`")
    return text


def _parts(path: Path, separator: str | None) -> Iterator[str]:
    """The documents of a text file."""
    rest = ""
    for piece in documents(path):
        if separator is None:
            rest += piece
            continue
        *whole, rest = (rest + str(piece)).split(separator)
        yield from whole
    yield rest


def records(path: Path) -> Iterator[tuple[str, str]]:
    """The pages of a WARC file, or the texts of a WET file, with their addresses."""
    from warcio.archiveiterator import ArchiveIterator  # pyright: ignore[reportMissingImports]

    with opened(path) as stream, reading(path):
        for record in ArchiveIterator(stream):
            kind = "charset=utf-8" if record.rec_type == "conversion" else ""
            if record.rec_type == "response" and record.http_headers is not None:
                kind = record.http_headers.get_header("Content-Type") or "text/html"
            if record.rec_type != "conversion" and "html" not in kind:
                continue
            text = _decoded(record.content_stream().read(), kind)
            if text is not None:
                yield record.rec_headers.get_header("WARC-Target-URI") or str(path), text


def _decoded(content: bytes, kind: str) -> str | None:
    """A page as text: UTF-8, else what its header says, else what it looks like; None where nothing fits."""
    from charset_normalizer import from_bytes

    said = kind.partition("charset=")[2].partition(";")[0].strip(" \"'")
    for encoding in filter(None, ("utf-8", said)):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    best = from_bytes(content[: 1 << 16]).best()
    return None if best is None else content.decode(best.encoding, "replace")
