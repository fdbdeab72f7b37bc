"""What one cleaning does and where: the recipe, the files found, and how they are shared out among tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from hrm.files.output import write_json
from hrm.files.reading import UserError, reading, shown
from hrm.text.data.clean.recipe import Recipe, Source

ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".md", ".warc", ".wet")
PACKINGS = (".gz", ".xz", ".zst")
Share = tuple[Source, list[str], int, int]
"""Of a task: its source, the files of that, its number among the tasks of the source, and theirs."""


@dataclass(frozen=True)
class Plan:
    """A recipe that is being followed."""

    recipe: Recipe
    work: Path
    """Where everything is until the corpus is complete."""
    shares: list[Share]

    @classmethod
    def make(cls, recipe: Recipe, work: Path, tasks: int) -> Plan:
        """Share the files of each source out among at most `tasks` tasks."""
        shares: list[Share] = []
        for source in recipe.sources:
            files = [] if source.hub else _files(source)
            count = 1 if source.limit else tasks if source.hub else min(tasks, len(files))
            shares += [(source, files, number, count) for number in range(count)]
        return cls(recipe, work.absolute(), shares)

    def facts(self) -> dict[str, Any]:
        """What must be the same where this work is continued."""
        tree = self.recipe.tree()
        facts = {name: value for name, value in _flat("", tree) if not name.startswith("sources")}
        for source, files, number, count in self.shares:
            if not number:
                facts[f"source {source.name}"] = {name: value for name, value in vars(source).items() if value}
                facts[f"tasks of {source.name}"] = count
                facts |= {f"the file {file}": _state(Path(file)) for file in files}
        facts |= {f"the file {file}": _state(file) for file in self._beside()}
        return json.loads(json.dumps(facts))

    def _beside(self) -> Iterator[Path]:
        """The files that are read beside those of the sources: evaluations, the model of languages, the tokenizer."""
        recipe = self.recipe
        yield from map(Path, recipe.decontaminate.files if recipe.decontaminate else ())
        if recipe.language is not None:
            yield Path(recipe.language.model)
        tokenizer = Path(recipe.tokenizer).expanduser()
        if recipe.tokenizer != "char" and os.path.exists(tokenizer):  # else bpe:N or a name of the Hub
            within = sorted(tokenizer.iterdir()) if tokenizer.is_dir() else [tokenizer]
            yield from (file for file in within if file.is_file() and not file.name.startswith("."))

    def begin(self) -> None:
        """Note down what is done here; UserError where something else was begun."""
        note, facts = self.work / "plan.json", self.facts()
        if note.is_file():
            with reading(note, "begin again with --overwrite"):
                begun = json.loads(note.read_text("utf-8"))
                different = sorted({*begun, *facts}, key=lambda name: (name not in facts, name))
                different = [name for name in different if begun.get(name) != facts.get(name)]
            if different:
                raise UserError(
                    f"{self.work} holds the beginning of another corpus: {shown(different, 3)} changed since; follow "
                    "that recipe again to continue, or add --overwrite to start over"
                )
            return
        self.work.mkdir(parents=True, exist_ok=True)
        write_json(note, facts)


def form(path: Path) -> str:
    """The ending that tells what a file holds: .jsonl of x.jsonl.gz."""
    return (path.with_suffix("") if path.suffix.lower() in PACKINGS else path).suffix.lower()


def _state(file: Path) -> list[int]:
    """What changes with the content of a file."""
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _files(source: Source) -> list[str]:
    """The files of a source, in order; UserError where there is none that can be read."""
    path = Path(str(source.path)).expanduser()
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and file.stat().st_size]
        found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    else:
        named = [str(path)] if path.is_file() else sorted(glob(str(path), recursive=True))
        found = [Path(name) for name in named if Path(name).is_file()]
    if not found:
        raise UserError(f"source {source.name}: there is no file {source.path}")
    for file in found:
        if form(file) not in ENDINGS:
            known = f"{', '.join(ENDINGS)}, or one of these with .gz, .xz or .zst"
            raise UserError(f"source {source.name}: {file} cannot be read as text: its name must end in {known}")
    return [str(file.absolute()) for file in found]


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, item)
    else:
        yield prefix, value
