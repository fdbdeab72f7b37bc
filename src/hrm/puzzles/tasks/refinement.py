"""Numbers that symmetric variants of a puzzle share: the colours of its cells, refined by those they see."""

from __future__ import annotations

import numpy as np

_ROUNDS = 3
_CHUNK = 4096


def refined(groups: np.ndarray, questions: np.ndarray, interchangeable: range = range(0)) -> np.ndarray:
    """A number [n] uint64 for each question [n, cells] that symmetric variants share and others seldom do. A cell's
    colour is refined by the colours in its groups [partitions, cells] and, for interchangeable symbols (the last of the
    vocabulary), in the cells with its own; all directions count alike."""
    found = np.zeros(len(questions), np.uint64)
    for i in range(0, len(found), _CHUNK):
        found[i : i + _CHUNK] = _refined(groups, np.asarray(questions[i : i + _CHUNK]), interchangeable)
    return found


def _refined(groups: np.ndarray, questions: np.ndarray, interchangeable: range) -> np.ndarray:
    first = interchangeable.start
    start = np.where(questions >= first, first, questions) if interchangeable else questions
    colours = mixed(start.astype(np.uint64))
    members = [np.argsort(labels, kind="stable").reshape(labels.max() + 1, -1) for labels in groups]
    for _ in range(_ROUNDS):
        seen = np.zeros_like(colours)
        for labels, cells in zip(groups, members, strict=True):
            seen += mixed(colours[:, cells].sum(axis=2))[:, labels]
        for digit in interchangeable:
            own = questions == digit
            seen += own * mixed((colours * own).sum(axis=1))[:, None]
        colours = mixed(colours + mixed(seen))
    return colours.sum(axis=1)


def mixed(x: np.ndarray) -> np.ndarray:
    """A well-mixed 64-bit hash of each entry (the finalizer of splitmix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
