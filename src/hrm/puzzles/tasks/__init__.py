"""Puzzles of one kind: how to make, augment, verify and draw them. `Task` is the base of all, `build` makes one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hrm.files.reading import UserError, nearest, quoted, reason
from hrm.puzzles import kinds
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks.board import Board as Board
from hrm.puzzles.tasks.puzzle import Puzzle as Puzzle
from hrm.puzzles.tasks.puzzle import PuzzleError as PuzzleError
from hrm.puzzles.tasks.puzzle import Symmetry as Symmetry
from hrm.puzzles.tasks.task import Look as Look
from hrm.puzzles.tasks.task import Task as Task


def build(config: TaskConfig, named: str | None = None) -> Task:
    """The task of the kind that a person has just `named`, or else of the configuration's; UserError for impossible
    settings. A configuration may be a stranger's, so that its kind never makes code in a file be loaded."""
    kind = named or config.kind
    if sentence := kinds.problem(kind):
        raise UserError(sentence)
    if kinds.is_file(kind):
        if named is None:
            raise UserError(
                f"the code of {quoted(kind)} is not part of this package and is not loaded by its name alone: if you "
                f"trust the file, add --task PATH/{kinds.bare(kind)} (for hrm train --task.kind)"
            )
        return _made(_from_file(kind), config, kind.rpartition(":")[0])
    if kind in kinds.KINDS:
        return resolve_name(kinds.KINDS[kind]).of(config)
    found = kinds.installed(kind)
    assert found is not None
    return _checked(found.load(), found.value).of(config)


def _from_file(kind: str) -> type[Task]:
    """The class that FILE.py:CLASS names; runs the file."""
    file, _, name = kind.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file {file}: --task takes FILE.py:CLASS")
    spec = spec_from_file_location(f"hrm_task_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise UserError(f"{file} cannot be loaded: it calls exit({error.code}); correct it") from error
    except Exception as error:
        raise UserError(f"{file} cannot be loaded: {reason(error)}; correct it") from error
    known = [each for each, value in vars(module).items() if inspect.isclass(value) and value.__module__ == spec.name]
    if name not in vars(module):
        others = nearest(name, known) or f": it has {', '.join(known) or 'none'}"
        raise UserError(f"{file} has no class {quoted(name)}{others}")
    return _checked(vars(module)[name], kind)


def _checked(found: object, where: str) -> type[Task]:
    if not inspect.isclass(found) or not issubclass(found, Task):
        raise UserError(f"{where} is no task: make it a class that extends hrm.Task")
    return found


def _made(found: type[Task], config: TaskConfig, file: str) -> Task:
    """The task of a class in a file for the settings of a run; UserError for what fails there, now or later."""
    with _failing(f"{file}: {found.__name__} cannot be made"):
        task = found.of(config)
    if not isinstance(task, Task) or not hasattr(task, "groups"):
        raise UserError(f"{file}: {found.__name__} does not call super().__init__(rows, cols, names): correct it")
    task.origin = f"{file}: {found.__name__}"
    for name, method in vars(Task).items():
        if inspect.isfunction(method) and not name.startswith("_") and getattr(found, name) is not method:
            setattr(task, name, _watched(getattr(task, name), f"{task.origin}.{name} failed"))
    return task


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Errors of a person's code become a UserError, but for those that tasks may raise."""
    try:
        yield
    except (UserError, PuzzleError):
        raise
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        said = text if text and isinstance(error, ValueError) else f"{type(error).__name__}: {text}".rstrip(": ")
        raise UserError(f"{what} ({said}): correct it") from error


def _watched(method: Callable[..., Any], what: str) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **named: Any) -> Any:
        with _failing(what):
            return method(*args, **named)

    return call
