"""Randomness of a training: a pure function of (seed, purpose, step, row), the same for any number of processes."""

from __future__ import annotations

import numpy as np


def generator(seed: int, purpose: int, step: int) -> np.random.Generator:
    """Random numbers that depend on the arguments alone (counter-based Philox)."""
    bits = np.random.Philox(key=np.array([seed, purpose], np.uint64), counter=np.array([0, 0, step, 0], np.uint64))
    return np.random.Generator(bits)


def uniforms(seed: int, purpose: int, step: int, rows: int, columns: int) -> np.ndarray:
    """Numbers [rows, columns] in [0, 1) that depend on the arguments alone."""
    return generator(seed, purpose, step).random((rows, columns))
