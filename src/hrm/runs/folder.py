"""The run folder: `config.yaml`, `run.json`, `data/`, `metrics.jsonl`, `checkpoints/`, `best.json`, `result.json`."""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from hrm.files import names
from hrm.files.output import refused, to_json
from hrm.files.reading import UserError, parsed, quoted, reading, shown
from hrm.files.records import Json
from hrm.runs import checkpoint, durable, lock, manifest
from hrm.settings import Recipe, check_ranges, families, from_yaml, to_yaml

FORMAT = 1
_NEW, _OLD = ".tmp-run-new", ".tmp-run-old"
"""Names inside the folder: a run being created, and the old one moved aside for it."""


C = TypeVar("C", bound=Recipe)
_RESTORE = "restore it or start a new run"


class Run(Generic[C]):
    """A run folder on the disk; use `Run.create` or `Run.open`."""

    def __init__(self, path: Path, config: C, facts: Json) -> None:
        self.path = path
        self.config = config
        self.board: Json = dict(facts["board"])
        self.version: str = facts["version"]
        self.created: str = facts["created"]
        self.listed: object = facts.get("data")
        """Size and SHA-256 of each file of `data` when it was written, by name; None in runs of old versions."""
        self.data = path / "data"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: C,
        board: Mapping[str, object],
        overwrite: bool = False,
        fill: Callable[[Path], None] | None = None,
    ) -> Run[C]:
        """Make a new run folder; `board` is the task's `cells`, `vocabulary` and `task_ids`. `fill` puts more into the
        folder before it counts as a run. UserError for a folder that holds a run (unless `overwrite`) or anything
        else."""
        path = Path(path)
        refuse_in_use(path, overwrite)
        path.mkdir(parents=True, exist_ok=True)
        # Created under a temporary name, so that an old run stays until the new one is complete.
        durable.discard(new := path / _NEW)
        (new / "checkpoints").mkdir(parents=True)
        durable.write(new / "config.yaml", to_yaml(config))
        durable.write(new / "metrics.jsonl", "")
        if fill is not None:
            try:
                fill(new)
            except UserError:
                durable.discard(new)
                raise
        facts: Json = {
            "format": FORMAT, "kind": config.family, "board": dict(board), "version": _version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"), "data": manifest.of(new / "data"),
        }  # fmt: skip
        durable.write_json(new / "run.json", facts)
        _take_place(path)
        durable.flush(path.parent)
        return cls(path, config, facts)

    @classmethod
    def open(cls, path: Path | str, kind: type[C]) -> Run[C]:
        """Open a run of this family; UserError, with the nearest name, if there is none or one of the other family."""
        path = Path(path)
        if not (path / "run.json").is_file():
            raise UserError(_no_run_at(path))
        facts = _read_json(path / "run.json")
        if not _are_facts(facts):
            raise UserError(f"{path / 'run.json'} lacks what a run has: restore it or start a new run")
        if facts["format"] != FORMAT:
            found = quoted(facts["format"])
            raise UserError(f"{path} has run format {found}, this hrm reads {FORMAT}: use another version")
        found = facts.get("kind", "puzzle")
        if found != kind.family:
            other = families().get(str(found))
            if other is None:
                raise UserError(f"{path} is a run of the unknown kind {quoted(found)}: use another version of hrm")
            raise UserError(f"{path} is a run {other.told}, not {kind.told}: {other.use}")
        sizes = [facts["board"].get(name) for name in ("cells", "vocabulary", "task_ids")]
        if found == "puzzle" and not all(type(size) is int and 0 <= size < 2**31 for size in sizes):
            raise UserError(f"{path / 'run.json'} does not say how large its board is: {_RESTORE}")
        where = path / "config.yaml"
        with reading(where, _RESTORE):
            text = names.read_text(where)
        config = from_yaml(text, str(where), kind)
        try:
            check_ranges(config)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        return cls(path, config, facts)

    def remove(self) -> None:
        """Delete a run that came to nothing in the process that made it; other files in the folder stay."""
        for name in names.RUN_CONTENTS:  # run.json is the first, without which the folder is no run
            durable.discard(self.path / name)

    def data_problems(self) -> Iterator[str]:
        """A sentence for each file of the run's data that has changed since it was written."""
        return manifest.problems(self.data, self.listed) if self.listed is not None else iter(())

    def check_data(self) -> None:
        """UserError for the first of `data_problems`."""
        for problem in self.data_problems():
            raise UserError(problem)

    def check_places(self) -> None:
        """UserError if files of the run would be written outside of it; checked before anything is computed."""
        for name in names.KEPT_BY_RUNS:
            names.place_in(self.path, name)

    def set_config(self, config: C) -> None:
        """Record a configuration that the flags of a resumed training changed."""
        durable.write(self.path / "config.yaml", to_yaml(config))
        self.config = config

    def log(self, record: Mapping[str, object]) -> None:
        """Append one line to `metrics.jsonl`."""
        line = to_json(dict(record)).encode() + b"\n"
        where = f"nothing more could be written to {self.metrics}"
        with (
            refused(where, lambda: checkpoint.intact(self.checkpoints)),
            names.regular(self.metrics).open("ab+") as file,
        ):
            # Ends a line that a killed process left half-written, which would swallow this one.
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line)

    def records(self, most: int | None = None) -> list[Json]:
        """The lines of `metrics.jsonl`, without those that a crash left unreadable; `most`: of its last bytes alone."""
        if not self.metrics.exists():
            return []
        with names.regular(self.metrics).open("rb") as file:
            if most is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            lines = file.read().split(b"\n")[:-1]
        records = []
        for line in lines:
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
        return [record for record in records if isinstance(record, dict)]

    def rewind(self, step: int) -> None:
        """Drop the metrics logged after `step`, so that a resumed training continues them."""
        kept = [to_json(record) + "\n" for record in self.records() if record.get("step", 0) <= step]
        durable.write(self.metrics, "".join(kept))

    @property
    def best(self) -> Json | None:
        """Step and metrics of the best checkpoint so far; None if none was measured."""
        path = self.path / "best.json"
        if not os.path.lexists(path):
            return None
        best = _read_json(path)
        curve = best.get("calibration", [1.0, 0.0]) if isinstance(best, dict) else None
        fine = isinstance(curve, list) and [type(n) in (int, float) and math.isfinite(n) for n in curve] == [True, True]
        if not isinstance(best, dict) or type(best.get("step")) is not int or not fine:
            raise UserError(f"{path} does not say which checkpoint is the best: restore it, or remove it")
        return best

    def set_best(self, step: int, metrics: Mapping[str, object]) -> None:
        """Record the best checkpoint; call it after the checkpoint is saved."""
        durable.write_json(self.path / "best.json", {"step": step, **metrics})

    @property
    def best_checkpoint(self) -> Path | None:
        """The folder of the best checkpoint, if one is recorded and still exists."""
        step = (self.best or {}).get("step")
        return next((p for p in checkpoint.named(self.checkpoints) if checkpoint.step_of(p) == step), None)

    def set_result(self, result: Mapping[str, object]) -> None:
        """Write `result.json`."""
        durable.write_json(self.result, dict(result))

    @property
    def outcome(self) -> Json:
        """`result.json`; empty where the training has not ended."""
        found = _read_json(self.result) if os.path.lexists(self.result) else {}
        return found if isinstance(found, dict) else {}

    def checkpoint(self, which: str | int = "best", report: Callable[[str], None] = print) -> Path:
        """The checkpoint "best", "latest" or of a step; UserError if there is none. Without a best one it is the
        latest. Damaged ones are reported and skipped, unless asked for by step."""
        if which not in ("best", "latest"):
            by_step = {str(checkpoint.step_of(p)): p for p in checkpoint.named(self.checkpoints)}
            if str(which) not in by_step:
                known = ", ".join(by_step) or "none so far"
                raise UserError(f"{self.path} has no checkpoint '{which}': use best, latest or a step ({known})")
            return by_step[str(which)]
        if which == "best" and (best := self.best):
            path = self.best_checkpoint
            try:
                if path is not None:
                    checkpoint.verify(path)
                    return path
                report(f"the best checkpoint, of step {best['step']}, is not in {self.path}; using the latest instead")
            except checkpoint.DamagedCheckpoint as error:
                report(f"the best checkpoint {path} is damaged: {error.reason}; using the latest instead")
        path = checkpoint.newest(self.checkpoints, report)
        if path is None:
            raise UserError(f"{self.path} has no intact checkpoint yet: train it further or restore a copy")
        return path


def refuse_in_use(path: Path, overwrite: bool = False) -> None:
    """UserError for a folder where no run may be made: one that holds a run (unless `overwrite`) or anything else.
    Nothing is deleted here: leftovers of a killed start have known names and are removed when the new run is
    complete."""
    if os.path.lexists(path) and not path.is_dir():
        raise UserError(f"{path} is a file: choose another folder for the run")
    if not path.is_dir():
        return
    if os.path.lexists(path / "run.json"):
        if not _are_facts(_read_json(path / "run.json")):
            raise UserError(f"{path} has a run.json that is none of hrm's: choose another folder")
        if not overwrite:
            ways = "resume it (--resume), replace it (--overwrite), or choose another folder (--out)"
            raise UserError(f"{path} already holds a run: {ways}")
        return
    if (path / _OLD).is_dir():
        return  # a kill came while one run replaced another, so the files belong to either of the two
    foreign = sorted((name in names.RUN_CONTENTS, name) for name in os.listdir(path) if name not in (_NEW, *lock.FILES))
    if foreign:
        raise UserError(f"{path} is not empty ('{foreign[0][1]}') and not a run: choose another folder")


def _take_place(path: Path) -> None:
    """Replace the folder's run by the one created inside it; links are moved and deleted as links."""
    new, old = path / _NEW, path / _OLD
    durable.discard(old)
    old.mkdir()
    # run.json is removed first and written last: without it the folder is no run if this is interrupted.
    for name in names.RUN_CONTENTS:
        if os.path.lexists(path / name):
            os.rename(path / name, old / name)
    for name in reversed(names.RUN_CONTENTS):
        if os.path.lexists(new / name):
            os.rename(new / name, path / name)
    durable.flush(path)
    durable.discard(new)
    durable.discard(old)


def _are_facts(facts: object) -> bool:
    """Whether a run.json was written by `Run.create`, in any format version."""
    if not isinstance(facts, dict) or "format" not in facts or not isinstance(facts.get("board"), dict):
        return False
    return all(isinstance(facts.get(name), str) for name in ("version", "created"))


def _read_json(path: Path) -> Any:
    with reading(path, _RESTORE):
        text = names.read_text(path)
    return parsed(text, path, _RESTORE)


def _no_run_at(path: Path) -> str:
    what = f"{path} is not a run folder (run.json is missing)" if path.exists() else f"there is no run at {path}"
    parent = path.absolute().parent
    names = sorted(p.parent.name for p in parent.glob("*/run.json")) if parent.is_dir() else []
    near = difflib.get_close_matches(path.absolute().name, names[:2000], n=1, cutoff=0.4)
    if near:
        return f"{what}: did you mean {path.parent / near[0]}?"
    if names:
        return f"{what}: the runs in {path.parent} are {shown(names)}"
    return f"{what}: give the folder that 'hrm train' wrote"


def _version() -> str:
    try:
        return importlib.metadata.version("hrm-toolkit")
    except importlib.metadata.PackageNotFoundError:  # running from a source tree that is not installed
        return "unknown"
