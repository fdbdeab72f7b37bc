"""A task whose code is a person's own: whatever fails in it ends in one sentence that names file, class and method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks.puzzle import PuzzleError
from hrm.puzzles.tasks.task import Task


def made(found: type[Task], config: TaskConfig, file: str) -> Task:
    """The task of a class in a file for the settings of a run; UserError for what fails there, now or later."""
    with failing(f"{file}: {found.__name__} cannot be made"):
        task = found.of(config)
    if not isinstance(task, Task) or not hasattr(task, "groups"):
        raise UserError(f"{file}: {found.__name__} does not call super().__init__(rows, cols, names): correct it")
    task.origin = f"{file}: {found.__name__}"
    for name, method in vars(Task).items():
        if inspect.isfunction(method) and not name.startswith("_") and getattr(found, name) is not method:
            setattr(task, name, _watched(getattr(task, name), f"{task.origin}.{name} failed"))
    return task


@contextmanager
def failing(what: str) -> Iterator[None]:
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
        with failing(what):
            return method(*args, **named)

    return call
