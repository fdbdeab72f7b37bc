"""A dataset of Reasoning Gym as a board: its options, and how an entry is laid out. The package is imported when the
first puzzle is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from hrm.files.reading import UserError, nearest, needs
from hrm.puzzles.tasks.board import Board
from hrm.puzzles.tasks.puzzle import Puzzle

Number = int | float
Entry = dict[str, Any]
"""An item of Reasoning Gym: question and answer as text, and its metadata."""
TRIES = 1000
"""Entries looked at before a dataset is said to have none that fits."""


class Source:
    """One dataset with its options; every random number draws its own entry."""

    def __init__(self, name: str, options: Mapping[str, Number]):
        self.name, self.options = name, options

    def draw(self, rng: np.random.Generator) -> Entry:
        """An entry as Reasoning Gym makes it: question and answer as text, and its metadata."""
        return self.dataset[int(rng.integers(2**62))]

    @cached_property
    def dataset(self) -> Any:
        """The dataset itself; UserError where the package is missing or refuses the options."""
        try:
            import reasoning_gym
        except ImportError as error:
            raise UserError(needs(f"the task {self.name}", "Reasoning Gym", "gym", error)) from error
        try:
            return reasoning_gym.create_dataset(self.name, seed=0, **self.options)
        except (AssertionError, ValueError) as error:
            raise UserError(f"Reasoning Gym refuses --task.gym-options of {self.name}: {error}") from error


class Dataset(Board):
    """What the datasets share; a subclass says how an entry is laid out, and has rules only if it `verifies`."""

    dataset: ClassVar[str]
    defaults: ClassVar[Mapping[str, Number]]
    """Reasoning Gym's own."""

    def __init__(self, options: Mapping[str, Number], rows: Number, cols: Number, names: Sequence[str]):
        if not 1 <= min(rows, cols) <= max(rows, cols) <= 64:
            size = f"{rows} x {cols} cells"
            raise UserError(f"{self.dataset} of {size} is not possible (--task.gym-options): use 1 to 64 a side")
        super().__init__(int(rows), int(cols), names)
        self.name = self.dataset
        self.options = options
        self.source = Source(self.dataset, options)

    def lay(self, entry: Entry) -> tuple[np.ndarray, np.ndarray]:
        """Question and answer [rows, cols] of an entry."""
        raise NotImplementedError

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """What Reasoning Gym makes for a random number; the rating counts its blanks. UserError if not installed."""
        for _ in range(TRIES):
            try:
                laid = self.lay(self.source.draw(rng))
            except RuntimeError:  # a dataset's own search for a puzzle gave up
                continue
            question, answer = (grid.ravel().astype(self.dtype) for grid in laid)
            return Puzzle(question, answer, int((question == self.blank).sum()))
        raise UserError(f"Reasoning Gym made no {self.dataset} puzzle in {TRIES} tries: change --task.gym-options")


def read_options(name: str, defaults: Mapping[str, Number], given: Sequence[str]) -> dict[str, Number]:
    """The defaults with the NAME=VALUE pairs put in; UserError for a name or value that cannot be."""
    options, flag, example = dict(defaults), "--task.gym-options", "=".join(map(str, next(iter(defaults.items()))))
    for pair in given:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UserError(f"{flag} '{pair}' is not NAME=VALUE: for {name} write for example {example}")
        if key not in defaults:
            known = ": it has " + ", ".join(defaults)
            raise UserError(f"{flag}: {name} has no option '{key}'{nearest(key, defaults) or known}")
        kind = type(defaults[key])
        try:
            options[key] = kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UserError(f"{flag} {key} must be {what}, not '{text}'") from None
        if not 0 <= options[key] <= 1000:
            raise UserError(f"{flag} {key} must be from 0 to 1000, not {text}")
    for key, least in options.items():
        most = options.get("max" + key[3:], least) if key.startswith("min") else least
        if least > most:
            raise UserError(f"{flag}: {key}={least} exceeds max{key[3:]}={most}: change one of them")
    return options
