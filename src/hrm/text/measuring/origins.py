"""What a run read in place and which runs came before it: kept in its run.json, as neither need stay where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.runs import Run
from hrm.settings import kind_of
from hrm.text.config import TextConfig, saved
from hrm.text.data import Corpus, Packed, Tokens, held_out, is_packed, open_text
from hrm.text.data.hops import Hops


def sources(read: object) -> list[Json]:
    """Name, share of the rows, tokens, licence and origin of each source of a corpus; [] for other data."""
    if not isinstance(read, Corpus):
        return []
    total = sum(source.weight for source in read.sources)
    return [
        {"name": source.name, "share": source.weight / total, "tokens": source.count, "licence": source.licence,
         "origin": source.origin}
        for source in read.sources
    ]  # fmt: skip


def before(model: str | None) -> list[Json]:
    """The run or folder that a training continues and all before it, the oldest first: names, data and sources."""
    if model is None or saved(model) is None:
        return []
    path = Path(model)
    found: Json = {"name": path.resolve().name}
    if not (path / "run.json").is_file() or kind_of(path) is not TextConfig:
        return [found]
    run = Run.open(path, TextConfig)
    return [*run.board.get("before", []), found | {"data": names(run.config.data), "sources": sources_of(run)}]


def sources_of(run: Run[TextConfig]) -> list[Json]:
    """The sources of the corpus that a run read, as it remembers them or as the corpus says."""
    known: Any = run.board.get("sources")
    return sources(read_in_place(run)) if known is None else known


def before_of(run: Run[TextConfig]) -> list[Json]:
    """What came before a run, as it remembers it or, for one that does not, as its model says where that is at hand."""
    known: Any = run.board.get("before")
    if known is not None:
        return known
    try:
        return before(run.config.model)
    except UserError:
        return []


def read_in_place(run: Run[TextConfig]) -> Tokens | None:
    """The packed data that a run reads where they are; None where they are gone or others."""
    data, known = run.config.data, run.board.get("data_sha256")
    if known is None or data is None or not is_packed(data):
        return None
    found = _at_hand(data)
    return found if found is not None and found.fingerprint == known else None


def parts(run: Run[TextConfig]) -> dict[str, Tokens]:
    """What a run was `trained on` and what was `held out` from it, as far as they are at hand."""
    inside = {"trained on": run.data / "train", "held out": run.data / "validation"}
    found = {words: open_text(path) for words, path in inside.items() if is_packed(path)}
    if found or (read := read_in_place(run)) is None:
        return found
    found["trained on"] = read
    held = held_out(run.config.validation or run.config.data or "") or run.config.validation
    if held and (measured := _at_hand(held, "validation")) is not None:
        found["held out"] = measured
    return found


def _at_hand(path: str | Path, split: str = "train") -> Tokens | None:
    try:
        return open_text(Path(path), split=split)
    except UserError:
        return None


def names(data: str | None) -> list[str]:
    """The names of files and folders, without where they are."""
    return [Path(part.strip()).name for part in (data or "").split(",") if part.strip()]


def digest(packed: Tokens | Hops) -> str:
    """SHA-256 of the tokens, or of what holds theirs."""
    return packed.facts["sha256"]["tokens.bin"] if isinstance(packed, Packed) else packed.fingerprint
