"""ARC's tasks on disk: the official JSON files, and one task per line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrm import output
from hrm.config import UserError
from hrm.reading import json_of, lines_of, parsed
from hrm.tasks.arc import canonical, grid_of

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


class Pair(NamedTuple):
    """An input grid [rows, columns] uint8 and its output, None where it is not known."""

    input: np.ndarray
    output: np.ndarray | None

    def key(self) -> bytes:
        """The same for all turned, mirrored and recoloured forms of the pair; the output must be known."""
        assert self.output is not None
        return canonical(self.input, self.output)


class ArcTask(NamedTuple):
    """A task of ARC: demonstrations, and the test inputs to answer."""

    id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def largest(self) -> int:
        """Rows or columns of its largest grid, whichever are more."""
        return max(max(grid.shape) for pair in (*self.train, *self.test) for grid in pair if grid is not None)


def read(paths: str | Path) -> list[ArcTask]:
    """The tasks of one or several sources, joined by commas; of tasks with the same id the first counts.

    A source is a folder of official files (one task each), a file of challenges (its solutions are taken from the file
    beside it named so), a file of one task, or one with a task per line; any of the files may end in .gz.
    UserError names file, task, pair and row of what is wrong.
    """
    tasks: dict[str, ArcTask] = {}
    for name in str(paths).split(","):
        own: set[str] = set()
        for where, task_id, value in _values(Path(name.strip())):
            if task_id in own:
                raise UserError(f"{where}: task {task_id} is there twice: remove one of them")
            own.add(task_id)
            task = _task(where, task_id, value)
            tasks.setdefault(task_id, task)
    if not tasks:
        raise UserError(f"{paths} holds no tasks")
    return list(tasks.values())


def write(path: Path, tasks: Sequence[ArcTask]) -> None:
    """Write tasks to a file, one per line, gzipped if its name ends in .gz."""
    lines = [
        json.dumps({"id": task.id, "train": [_plain(p) for p in task.train], "test": [_plain(p) for p in task.test]})
        for task in tasks
    ]
    text = ("\n".join(lines) + "\n").encode()
    output.write(path, gzip.compress(text, mtime=0) if path.name.endswith(".gz") else text)


def _values(path: Path) -> Iterator[tuple[str, str, Any]]:
    """(place for messages, id, value) of each task of a source."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith((".json", ".json.gz")))
        if not files:
            raise UserError(f"{path} holds no .json files: give the folder with a file per task")
        for file in files:
            yield from _values(file)
    elif not path.is_file():
        raise UserError(f"there is no file or folder {path}")
    elif not path.name.endswith(SUFFIXES):
        raise UserError(f"{path} is not a file of ARC tasks: its name must end in {', '.join(SUFFIXES)}")
    elif ".jsonl" in path.name:
        for number, line in enumerate(lines_of(path), 1):
            where = f"{path}, line {number}"
            if line.strip():
                value = parsed(line, where)
                if not isinstance(value, dict) or not isinstance(value.get("id"), str):
                    raise UserError(f'{where} has no task with an id: write {{"id": ..., "train": ..., "test": ...}}')
                yield where, value["id"], value
    else:
        tree = read_json(path)
        if isinstance(tree, dict) and "train" in tree:
            yield str(path), path.name.removesuffix(".gz").removesuffix(".json"), tree
        elif isinstance(tree, dict):
            yield from _with_solutions(path, tree)
        else:
            raise UserError(f"{path} is neither a task nor a file of challenges: it must hold an object")


def _with_solutions(path: Path, challenges: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    beside = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = read_json(beside) if beside != path and beside.is_file() else {}
    for task_id, value in challenges.items():
        if outputs := solutions.get(task_id):
            tests = value.get("test") if isinstance(value, dict) else None
            if not isinstance(tests, list) or len(tests) != len(outputs):
                raise UserError(f"{beside}: task {task_id} has not as many solutions as {path.name} has test inputs")
            tests = [{**test, "output": output} for test, output in zip(tests, outputs, strict=True)]
            value = {**value, "test": tests}
        yield str(path), task_id, value


def _task(where: str, task_id: str, value: Any) -> ArcTask:
    parts = []
    for name, title in (("train", "demonstration"), ("test", "test pair")):
        pairs = value.get(name) if isinstance(value, dict) else None
        if not isinstance(pairs, list) or not pairs:
            raise UserError(f"{where}: task {task_id} has no list '{name}' of pairs: restore the file")
        parts.append(tuple(_pair(f"{where}: task {task_id}, {title} {i}", p, name) for i, p in enumerate(pairs, 1)))
    return ArcTask(task_id, *parts)


def _pair(where: str, value: Any, part: str) -> Pair:
    if not isinstance(value, dict) or "input" not in value or (part == "train" and "output" not in value):
        raise UserError(f"{where} has no input or no output: restore the file")
    output = value.get("output")
    return Pair(
        checked_grid(f"{where}, input", value["input"]),
        None if output is None else checked_grid(f"{where}, output", output),
    )


def checked_grid(where: str, value: Any) -> np.ndarray:
    """A grid from lists of numbers; UserError with the place and what is wrong."""
    try:
        return grid_of(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}; restore the file") from None


def _plain(pair: Pair) -> dict[str, Any]:
    return {name: grid.tolist() for name, grid in pair._asdict().items() if grid is not None}


def read_json(path: Path) -> Any:
    """What a JSON file holds, gzipped if its name ends in .gz; UserError if it cannot be read."""
    return json_of(path)
