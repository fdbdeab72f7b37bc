"""Which puzzles are shown at a step: a pure function of (seed, step, global row)."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.tasks import Task
from hrm.training.randomness import generator, uniforms

_SAMPLING, _EXPLORATION, _ORDER = 1, 2, 3


class Batch(NamedTuple):
    """Inputs and labels [rows, cells], task ids [rows], and uniforms [rows, 2] for exploration."""

    inputs: np.ndarray
    labels: np.ndarray
    task_ids: np.ndarray
    explore: np.ndarray


class Sampler:
    """Endless training batches: groups in a new order every epoch, one puzzle of each, augmented online."""

    def __init__(
        self, puzzles: PuzzleSet, task: Task, batch_size: int, seed: int, augment: bool, reveal: float
    ) -> None:
        self.puzzles, self.task, self.batch_size, self.seed = puzzles, task, batch_size, seed
        self.augment, self.reveal = augment and task.uniforms > 0, reveal
        order = np.argsort(puzzles.groups, kind="stable")
        _, starts, counts = np.unique(puzzles.groups[order], return_index=True, return_counts=True)
        self._rows, self._starts, self._counts = order, starts, counts
        self._order = lru_cache(maxsize=4)(lambda epoch: generator(seed, _ORDER, epoch).permutation(len(starts)))

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The rows of global batch `step`, counted from 0."""
        size, cells = self.batch_size, self.puzzles.inputs.shape[1]
        u = uniforms(self.seed, _SAMPLING, step, size, 3 + cells + self.task.uniforms)[rows]
        explore = uniforms(self.seed, _EXPLORATION, step, size, 2)[rows].astype(np.float32)
        number = np.arange(step * size, (step + 1) * size)[rows]
        epochs, position = np.divmod(number, len(self._starts))
        group = np.empty(len(number), np.int64)
        for epoch in np.unique(epochs):
            group[epochs == epoch] = self._order(int(epoch))[position[epochs == epoch]]
        chosen = self._rows[self._starts[group] + (u[:, 0] * self._counts[group]).astype(np.int64)]
        inputs, labels = self.puzzles.inputs[chosen], self.puzzles.labels[chosen]
        task_ids = self.puzzles.task_ids[chosen].astype(np.int64)
        if self.reveal:
            share = np.where(u[:, 1] < self.reveal, u[:, 2], 0.0)
            inputs = np.where((u[:, 3 : 3 + cells] < share[:, None]) & (labels >= 0), labels, inputs)
        if self.augment:
            inputs, labels = self.task.augment(inputs, labels, u[:, 3 + cells :])
        # Numbers that reveal cells of other tasks, which a task with copies has none of.
        inputs, labels, task_ids = self.task.show(inputs, labels, task_ids, u[:, 1:5])
        return Batch(inputs.astype(np.int64), labels.astype(np.int64), task_ids, explore)

    def stream(self, step: int, rows: slice = slice(None)) -> Generator[Batch, None, None]:
        """Batches from `step` on, the next one prepared in a thread while the current one is used."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.batch, step, rows)
            while True:
                step += 1
                current, coming = coming.result(), pool.submit(self.batch, step, rows)
                yield current
