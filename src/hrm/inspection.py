"""Every file of a run, compared with what was recorded when it was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hrm.files.reading import UserError
from hrm.runs import Run, checkpoint
from hrm.runs.checkpoint import DamagedCheckpoint
from hrm.settings import kind_of
from hrm.text import learned
from hrm.text.config import LearnConfig, TextConfig
from hrm.text.data import Packed
from hrm.text.learned import Book


def problems(path: Path) -> Iterator[str]:
    """A sentence for each file of a run that is not as it was written: its data, and every checkpoint."""
    run = Run.open(path, kind_of(path))
    yield from run.data_problems()
    if run.listed is None and isinstance(run.config, TextConfig):
        for part in ("train", "validation"):
            if (run.data / part).is_dir():
                yield from _packed(run.data / part)
    books: list[Book] = []
    for where in checkpoint.named(run.checkpoints):
        try:
            if isinstance(run.config, LearnConfig):
                books = learned.load(where)[1].books
            else:
                checkpoint.verify(where)
        except DamagedCheckpoint as error:
            yield str(error)
    for book in books:
        for part in ("train", "validation"):
            yield from _packed(learned.folder_of(run.path, book) / part, (book.packed or {}).get(part))


def _packed(folder: Path, wanted: str | None = None) -> Iterator[str]:
    """The same of packed text, whose index.json tells what the other files are."""
    try:
        packed = Packed.open(folder)
        if wanted not in (None, packed.fingerprint):
            yield f"{folder / 'index.json'} has changed since it was written: restore it"
        yield from packed.check()
    except UserError as error:
        yield str(error)
