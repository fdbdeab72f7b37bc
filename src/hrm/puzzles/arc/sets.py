"""What a model of ARC trains on: which pairs, under which task ids, and which must stay unseen."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrm.files.output import to_json
from hrm.files.reading import UserError, json_of, reading
from hrm.puzzles.arc.files import ArcTask, Pair, read
from hrm.puzzles.config import Config
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.tasks import Task
from hrm.puzzles.tasks.arc import Arc, labels_of

FILE = "tasks.json"


class TaskRecord(NamedTuple):
    """The tasks a run knows: their names in the order of their embeddings, and marks of all pairs trained on."""

    names: tuple[str, ...] = ()
    trained: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> TaskRecord:
        """The record in a run's data folder; UserError where there is none."""
        if not (folder / FILE).is_file():
            raise UserError(f"{folder} holds no {FILE}: the run was not trained on ARC tasks")
        tree = json_of(folder / FILE)
        with reading(folder / FILE):
            return cls(tuple(map(str, tree["names"])), frozenset(map(str, tree["trained"])))

    def save(self, folder: Path) -> None:
        """Write the record into a run's data folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tree = {"names": self.names, "trained": sorted(self.trained)}
        (folder / FILE).write_text(to_json(tree), encoding="utf-8")

    def numbers(self, tasks: Sequence[ArcTask]) -> list[int]:
        """The number of each task among the known ones; UserError for tasks without an embedding."""
        known = {name: number for number, name in enumerate(self.names)}
        unknown = [task.id for task in tasks if task.id not in known]
        if unknown:
            found = f"{len(unknown)} of {len(tasks)} tasks have no embedding in this run, the first is {unknown[0]}"
            raise UserError(f"{found}: learn them with `hrm train --init RUN --new-tasks FILE`")
        return [known[task.id] for task in tasks]

    def check_unseen(self, tasks: Sequence[ArcTask], flag: str) -> None:
        """UserError if a test pair of a task was trained on, in this or a symmetric form; `flag` is what allows it."""
        # The demonstrations of a task may be trained on, even one that is a symmetric form of its test pair.
        seen = [task.id for task in tasks if _marks(task.test) & (self.trained - _marks(task.train))]
        if seen:
            raise UserError(
                f"the run was trained on the answers of {len(seen)} of {len(tasks)} tasks, the first is {seen[0]}: "
                f"choose other tasks, or measure what it remembers with {flag}"
            )


class PreparedTasks(NamedTuple):
    """Training pairs, pairs held out of the training tasks, and what the run must remember of them."""

    training: PuzzleSet
    held_out: PuzzleSet | None
    record: TaskRecord
    notes: tuple[str, ...]
    """Notes for a person."""


def prepare(config: Config, task: Task, before: TaskRecord | None = None) -> PreparedTasks:
    """The pairs of the training tasks (`data`: all but `holdout` test pairs) and of the tasks to answer (`validation`:
    demonstrations only), numbered after the tasks known `before`. UserError for training tasks that are among those to
    answer, unless `task.leaks` drops or allows them."""
    assert isinstance(task, Arc)
    before = before or TaskRecord()
    learn = read(config.data) if config.data else []
    answer = read(config.validation) if config.validation else []
    if not learn and not answer:
        raise UserError("ARC needs training tasks (--data FILE), tasks to answer (--validation FILE), or both")
    notes: list[str] = []
    if config.task.leaks != "allow":
        learn = _without_leaks(learn, answer, config, notes)
    names = tuple(dict.fromkeys((*before.names, *(t.id for t in (*learn, *answer)))))
    tests = [(t.id, pair) for t in learn for pair in t.test if pair.output is not None]
    out = min(config.task.holdout, len(tests))
    chosen = set(np.random.default_rng(config.seed).permutation(len(tests))[:out].tolist())
    held_out = [pair for i, pair in enumerate(tests) if i in chosen]
    shown = [(t.id, pair) for t in (*learn, *answer) for pair in t.train]
    shown += [pair for i, pair in enumerate(tests) if i not in chosen]
    if config.task.leaks != "allow":
        shown = list(_unlike(shown, answer, notes))
    source = ", ".join(name for name in (config.data, config.validation) if name)
    record = TaskRecord(names, before.trained | _marks(pair for _, pair in shown))
    sets = [_puzzles(pairs, names, task, source) for pairs in (shown, held_out)]
    return PreparedTasks(sets[0], sets[1] if held_out else None, record, tuple(notes))


def leaks(learn: Sequence[ArcTask], answer: Sequence[ArcTask]) -> dict[str, list[str]]:
    """For each task to answer that training tasks give away, these: the same task, or one with an equal test pair up to
    turning, mirroring and recolouring."""
    by_id = {task.id: task for task in learn}
    by_mark: dict[str, list[str]] = {}
    for task in learn:
        for mark in _marks((*task.train, *task.test)):
            by_mark.setdefault(mark, []).append(task.id)
    found = {}
    for task in answer:
        others = {task.id} & by_id.keys() | {name for mark in _marks(task.test) for name in by_mark.get(mark, ())}
        if others:
            found[task.id] = sorted(others)
    return found


def _without_leaks(learn: list[ArcTask], answer: list[ArcTask], config: Config, notes: list[str]) -> list[ArcTask]:
    """The training tasks that are not among those to answer: neither the same id nor an equal test pair."""
    ids = {task.id for task in answer}
    tests = {_bytes(pair) for task in answer for pair in task.test}
    leaks = [t.id for t in learn if t.id in ids or any(_bytes(pair) in tests for pair in (*t.train, *t.test))]
    if leaks and config.task.leaks == "refuse":
        raise UserError(
            f"{len(leaks)} tasks of {config.data} are among the tasks to answer in {config.validation}, the first is "
            f"{leaks[0]}: leave them out with --task.leaks drop, or train on the answers with --task.leaks allow"
        )
    if leaks:
        notes.append(f"left out {len(leaks)} training tasks that are among the tasks to answer")
    return [t for t in learn if t.id not in set(leaks)]


def _unlike(shown: list[tuple[str, Pair]], answer: list[ArcTask], notes: list[str]) -> Iterator[tuple[str, Pair]]:
    """The pairs that are not the test pair of another task in a turned, mirrored or recoloured form."""
    owners: dict[str, set[str]] = {}
    for task in answer:
        for mark in _marks(task.test):
            owners.setdefault(mark, set()).add(task.id)
    count = 0
    for name, pair in shown:
        # A demonstration of the task itself is given to whoever answers it.
        if owners.get(_mark(pair), {name}) == {name}:
            yield name, pair
        else:
            count += 1
    if count:
        notes.append(f"left out {count} training pairs that are test pairs of other tasks in a symmetric form")


def _puzzles(pairs: list[tuple[str, Pair]], names: Sequence[str], task: Arc, source: str) -> PuzzleSet:
    numbers = {name: number for number, name in enumerate(names)}
    inputs, labels = np.empty((2, len(pairs), task.shape[0] ** 2), np.int8)
    for i, (name, pair) in enumerate(pairs):
        assert pair.output is not None
        try:
            inputs[i], labels[i] = task.encode(pair.input), labels_of(task.encode(pair.output))
        except UserError as error:
            raise UserError(f"task {name}: {error}: leave it out or enlarge the board") from None
    groups = np.array([numbers[name] for name, _ in pairs], np.int32)
    ids = np.array([task.row(int(number)) for number in groups], np.int32)
    return PuzzleSet(inputs.astype(np.uint8), labels, ids, groups, None, source, task.row(len(names)))


def _marks(pairs: Collection[Pair] | Iterator[Pair]) -> frozenset[str]:
    return frozenset(_mark(pair) for pair in pairs if pair.output is not None)


def _mark(pair: Pair) -> str:
    """A short hash that all symmetric forms of a pair share."""
    return hashlib.sha256(pair.key()).hexdigest()[:16]


def _bytes(pair: Pair) -> tuple[tuple[int, ...], bytes]:
    """A test pair as its input tells it: the output may be unknown."""
    return pair.input.shape, pair.input.tobytes()
