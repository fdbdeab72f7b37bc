"""ARC's tasks on disk: the official JSON files, and one task per line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrm.files import names, output
from hrm.files.reading import UserError, check_copied, json_of, lines_of, parsed, reading
from hrm.files.records import Json
from hrm.puzzles.tasks.arc import canonical, grid_of

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


class FoundTasks(NamedTuple):
    """The tasks found in sources, and what was left out."""

    tasks: list[ArcTask]
    too_large: int
    """Tasks left out for their size."""
    bad: list[str]
    """A sentence for each task or file that was left out because something is wrong with it."""


def read(paths: str | Path) -> list[ArcTask]:
    """The tasks of `find`; UserError names file, task, pair and row of what is wrong."""
    return find(paths).tasks


def find(paths: str | Path, largest: int | None = None, skip_bad: bool = False) -> FoundTasks:
    """Read tasks from sources joined by commas: folders of official files, files of challenges (with the solutions
    beside them), of one task, or with a task per line; also .gz. The first task with an id counts. Tasks larger than
    `largest` are left out unjudged, and with `skip_bad` bad ones too."""
    found = FoundTasks([], 0, [])
    known: set[str] = set()
    too_large = 0
    for name in names.sources(str(paths)):
        own: set[str] = set()
        for entry in _entries(Path(name)):
            try:
                where, task_id, value = entry()
                if task_id in own:
                    raise UserError(f"{where}: task {task_id} is there twice: remove one of them")
                own.add(task_id)
                if largest is not None and _extent(value) > largest:
                    too_large += 1
                    continue
                with reading(f"{where}: task {task_id}"):
                    task = task_of(where, task_id, value)
            except UserError as error:
                if not skip_bad:
                    raise
                found.bad.append(str(error))
            else:
                if task_id not in known:
                    found.tasks.append(task)
                    known.add(task_id)
    if not found.tasks and not too_large:
        raise UserError(f"{paths} holds no tasks" + (f" but bad ones: {found.bad[0]}" if found.bad else ""))
    return found._replace(too_large=too_large)


def write(path: Path, tasks: Sequence[ArcTask]) -> None:
    """Write tasks to a file, one per line, gzipped if its name ends in .gz."""
    lines = [
        json.dumps({"id": task.id, "train": [plain(p) for p in task.train], "test": [plain(p) for p in task.test]})
        for task in tasks
    ]
    text = ("\n".join(lines) + "\n").encode()
    output.write(path, gzip.compress(text, mtime=0) if path.name.endswith(".gz") else text)


Placed = tuple[str, str, object]
"""Place for messages, id and value of a task."""
Entry = Callable[[], Placed]
"""Returns a task, or raises the UserError that takes its place."""


def _entries(path: Path) -> Iterator[Entry]:
    """The tasks of a source, one by one."""
    check_copied(path)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith((".json", ".json.gz")))
        # Neither what a system hides in folders, nor solutions, which are read with their challenges.
        beside = {_beside(file) for file in files if "challenges" in file.name}
        files = [file for file in files if not file.name.startswith(".") and file not in beside]
        if not files:
            inside = [child for child in sorted(path.iterdir()) if child.is_dir() and any(child.glob("*.json*"))]
            instead = f", such as {inside[0]}" if inside else ""
            raise UserError(f"{path} holds no .json files: give the folder with a file per task{instead}")
        for file in files:
            yield from _entries_of(file)
    elif not path.is_file():
        raise UserError(f"there is no file or folder {path}")
    elif not path.name.endswith(SUFFIXES):
        raise UserError(f"{path} is not a file of ARC tasks: its name must end in {', '.join(SUFFIXES)}")
    else:
        yield from _entries_of(path)


def _entries_of(path: Path) -> Iterator[Entry]:
    """The tasks of a file; one entry that raises for a file that cannot be read."""
    try:
        if ".jsonl" in path.name:
            for number, line in enumerate(lines_of(path), 1):
                if line.strip():
                    yield partial(_of_line, f"{path}, line {number}", line)
            return
        tree = json_of(path)
        if not isinstance(tree, dict):
            raise UserError(f"{path} is neither a task nor a file of challenges: it must hold an object")
        alone = "train" in tree or "test" in tree
        solutions = {} if alone else _solutions(path)
    except UserError as error:
        yield partial(_refused, error)
        return
    challenges = {path.name.removesuffix(".gz").removesuffix(".json"): tree} if alone else tree
    for task_id, value in challenges.items():
        yield partial(_with_solution, path, task_id, value, solutions)


def _of_line(where: str, line: bytes) -> Placed:
    value = parsed(line, where)
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        raise UserError(f'{where} has no task with an id: write {{"id": ..., "train": ..., "test": ...}}')
    return where, value["id"], value


def _refused(error: UserError) -> Placed:
    raise error


def _beside(path: Path) -> Path:
    return path.with_name(path.name.replace("challenges", "solutions"))


def _solutions(path: Path) -> Json:
    """The solutions of a file of challenges, if there are any."""
    beside = _beside(path)
    if beside == path or not beside.is_file():
        return {}
    solutions = json_of(beside)
    if not isinstance(solutions, dict):
        raise UserError(f"{beside} is no file of solutions: it must hold an object with a list for each task")
    return solutions


def _with_solution(path: Path, task_id: str, value: object, solutions: Json) -> Placed:
    """A challenge with its solutions filled in."""
    outputs = solutions.get(task_id)
    if outputs is None:
        return str(path), task_id, value
    value = value if isinstance(value, dict) else {}
    tests = value.get("test")
    if not isinstance(tests, list) or not isinstance(outputs, list) or len(tests) != len(outputs):
        raise UserError(f"{_beside(path)}: task {task_id} has not as many solutions as {path.name} has test inputs")
    if not all(isinstance(test, dict) for test in tests):
        raise UserError(f"{path}: task {task_id} has a test pair that is no object: restore the file")
    tests = [{**test, "output": output} for test, output in zip(tests, outputs, strict=True)]
    return str(path), task_id, {**value, "test": tests}


def _extent(value: object) -> int:
    """Rows or columns of a task's largest grid, as far as it has any."""
    pairs = [pair for part in ("train", "test") for pair in _list(value, part)]
    grids = [_list(pair, side) for pair in pairs for side in ("input", "output")]
    return max(
        (max(len(grid), *(len(row) if isinstance(row, list) else 0 for row in grid)) for grid in grids if grid),
        default=0,
    )


def _list(value: object, name: str) -> list:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, list) else []


def task_of(where: str, task_id: str, value: object) -> ArcTask:
    """A task from what its JSON holds; UserError with the place and what is wrong."""
    parts = []
    for name, title in (("train", "demonstration"), ("test", "test pair")):
        pairs = value.get(name) if isinstance(value, dict) else None
        if not isinstance(pairs, list) or not pairs:
            raise UserError(f"{where}: task {task_id} has no list '{name}' of pairs: restore the file")
        parts.append(tuple(_pair(f"{where}: task {task_id}, {title} {i}", p, name) for i, p in enumerate(pairs, 1)))
    return ArcTask(task_id, *parts)


def _pair(where: str, value: object, part: str) -> Pair:
    if not isinstance(value, dict) or "input" not in value or (part == "train" and value.get("output") is None):
        raise UserError(f"{where} has no input or no output: restore the file")
    output = value.get("output")
    return Pair(
        checked_grid(f"{where}, input", value["input"]),
        None if output is None else checked_grid(f"{where}, output", output),
    )


def checked_grid(where: str, value: object) -> np.ndarray:
    """A grid from lists of numbers; UserError with the place and what is wrong."""
    try:
        return grid_of(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}; restore the file") from None


def plain(pair: Pair) -> dict[str, list[list[int]]]:
    """A pair as JSON has it."""
    return {name: grid.tolist() for name, grid in pair._asdict().items() if grid is not None}
