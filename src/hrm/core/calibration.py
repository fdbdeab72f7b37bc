"""Calibration of a model's confidence: expected calibration error, and Platt scaling to lower it.

Also the confidence interval of a measured share.
"""

from __future__ import annotations

import math

import numpy as np

BINS = 15


def expected_calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance between confidence and accuracy [n] over 15 equal bins, weighted by their counts; 0 for none."""
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(which, confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / max(1, len(confidence)))


class Reliability:
    """Confidences and how often they were right, in the same 15 bins, summed up batch by batch."""

    def __init__(self) -> None:
        self.counts, self.confidence, self.right = (np.zeros(BINS) for _ in range(3))
        """[bins]"""

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Of some puzzles or tokens [n]."""
        which = np.minimum((confidence * BINS).astype(int), BINS - 1)
        self.counts += np.bincount(which, minlength=BINS)
        self.confidence += np.bincount(which, confidence, minlength=BINS)
        self.right += np.bincount(which, right, minlength=BINS)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    @property
    def ece(self) -> float:
        """`expected_calibration_error` of all."""
        return float(np.abs(self.confidence - self.right).sum() / max(1, self.count))

    def plain(self) -> dict[str, object]:
        """Count, error, means over all, and the means of each bin that is not empty."""
        full, n = self.counts > 0, max(1, self.count)
        counts, confidence, right = (column[full].tolist() for column in (self.counts, self.confidence, self.right))
        return {
            "count": self.count, "ece": self.ece, "confidence": float(self.confidence.sum() / n),
            "right": float(self.right.sum() / n),
            "bins": [
                {"count": int(many), "confidence": p / many, "right": r / many}
                for many, p, r in zip(counts, confidence, right, strict=True)
            ],
        }  # fmt: skip


def calibrate(q: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Scale and shift for which sigmoid(scale * q + shift) fits what was right [n] best (Platt 1999, smoothed targets).
    Few or one-sided observations move them little from 1 and 0."""
    positive = float(right.sum())
    negative = len(right) - positive
    targets = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))
    features = np.stack((q, np.ones_like(q)), axis=1).astype(np.float64)
    start, prior = np.array([1.0, 0.0]), np.diag([1.0, 0.1])
    weights = start
    for _ in range(50):
        share = 1 / (1 + np.exp(-np.clip(features @ weights, -50, 50)))
        slope = features.T @ (share - targets) + prior @ (weights - start)
        curvature = (features.T * (share * (1 - share))) @ features + prior
        step = np.linalg.solve(curvature, slope)
        # Far from the solution a whole Newton step may overshoot.
        weights = weights - step / max(1.0, float(np.abs(step).max()))
    return float(weights[0]), float(weights[1])


def interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, count of n (Wilson 1927); (0, 1) for none."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    share, more = count / n, z * z / n
    middle, half = share + more / 2, z * math.sqrt(share * (1 - share) / n + more / (4 * n))
    return max(0.0, (middle - half) / (1 + more)), min(1.0, (middle + half) / (1 + more))
