"""What a folder is: every file of a run, compared with what was recorded when it was written, and what is no run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hrm.files.reading import UserError, quoted
from hrm.puzzles.data.recognition import are_puzzles
from hrm.puzzles.official import find
from hrm.runs import Run, checkpoint
from hrm.runs.checkpoint import DamagedCheckpoint
from hrm.settings import kind_of
from hrm.text import learned
from hrm.text.config import LearnConfig, TextConfig
from hrm.text.data import Packed, is_packed
from hrm.text.hrm_text import model_type
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


def other_than_run(path: Path) -> str | None:
    """What a folder that is no run is, and the commands that read it; None where that is unknown."""
    if (path / "adapter_config.json").is_file():
        return "a PEFT adapter: merge it into its model with peft (merge_and_unload); hrm eval reads what that saves"
    if (path / "config.json").is_file() and any(path.glob("*.safetensors*")):
        kind = quoted(model_type(path) or "unknown")
        if kind == "'hrm_text'":
            return f"a saved model of type {kind}: hrm convert {path} OUT --to hrm makes one that all commands read"
        return f"a saved model of type {kind}: hrm eval {path} measures it" + (
            f", and hrm generate {path} writes with it" if kind == "'hrm_lm'" else ""
        )
    if are_puzzles(path):
        return f"a data set of puzzles: hrm data check {path} looks through it, and hrm train --data {path} learns it"
    if is_packed(path):
        reads = f"hrm train text-char --data {path} reads it"
        return f"a corpus of packed text: hrm data check {path} looks through it, and {reads}"
    if find(path) is not None:
        return f"a checkpoint of the official program: hrm convert {path} OUT --to hrm makes a run of it"
    return None


def _packed(folder: Path, wanted: str | None = None) -> Iterator[str]:
    """The same of packed text, whose index.json tells what the other files are."""
    try:
        packed = Packed.open(folder)
        if wanted not in (None, packed.fingerprint):
            yield f"{folder / 'index.json'} has changed since it was written: restore it"
        yield from packed.check()
    except UserError as error:
        yield str(error)
