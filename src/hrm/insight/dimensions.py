"""`hrm analyze dimensions`: in how many directions the states spread, trained and untrained (Fig. 8 of HRM)."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hrm.core.probe import Moment, Probe, Spread, probing
from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.insight.figures import Finding, Table, canvas, look
from hrm.insight.subject import Subject, called

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = 16
"""Disjoint parts of the puzzles or windows, joined two by two: so each number of them is seen without replacement."""
CONVERGED = 0.05
"""A ratio that the last doubling moved by less than this share counts as converged."""


class _Parts:
    """Covariances of both states in each part; rows go to the parts that `places` says."""

    def __init__(self, parts: int) -> None:
        self.of = {role: [Spread() for _ in range(parts)] for role in "LH"}
        self.places = np.zeros(0, int)

    def begin(self, carry: Carry) -> None:
        pass

    def see(self, moment: Moment, carry: Carry, live: Tensor | None) -> None:
        parts, z = self.of[moment.visit.role], moment.of(carry)
        if parts[0].shift is None:  # the same for all, so that they can be added
            shift = z.flatten(0, -2).float().mean(0) if z.dtype != torch.float64 else z.flatten(0, -2).mean(0)
            for part in parts:
                part.shift = shift
        for place in np.unique(self.places):
            parts[place].add(z[torch.from_numpy(self.places == place)])


def dimensions(
    subject: Subject,
    segments: int,
    limit: int,
    batch_size: int,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Finding:
    """Participation ratio of z_l after every step and of z_h after every update, over all positions of `limit` puzzles
    or windows, of the model and of one with fresh weights."""
    count = min(limit, subject.count)
    parts = max(1, min(PARTS, 1 << (count.bit_length() - 1)))
    places = np.random.default_rng(seed).permutation(count) % parts
    numbers: Json = {"segments": segments, "count": count, "dim": 0}
    for which, one in (("trained", subject), ("untrained", subject.untrained(seed))):
        seen = _Parts(parts)
        done = 0
        for batch in one.batches(batch_size, count):
            seen.places = places[batch.first : batch.first + len(batch.inputs)]
            with probing(one.model, Probe(seen)):
                for reading in one.think(batch, segments):
                    numbers["dim"] = reading.carry.z_h.shape[-1]
            done += len(batch.inputs)
            progress((min(1.0, done / count) + (which == "untrained")) / 2)
        if not any(part.count for part in seen.of["L"]):
            raise UserError(
                f"{subject.name} has no step of L (a plain Transformer): there are no two states to compare"
            )
        numbers["count"] = done  # a short text has fewer windows than were asked for
        numbers[which] = {role: _levels(spreads, done) for role, spreads in seen.of.items()}
    return _finding(subject, numbers)


def _levels(spreads: list[Spread], count: int) -> Json:
    """The ratio of 1/16 of all, 1/8 ... all: mean, least and most over the disjoint parts; and the eigenvalues of all,
    largest first, as shares of their sum."""
    spreads, levels = [spread for spread in spreads if spread.count], []
    while len(spreads) & (len(spreads) - 1):  # some parts were empty
        spreads = [*spreads[:-2], spreads[-2] + spreads[-1]]
    while True:
        ratios = [spread.participation_ratio() for spread in spreads]
        levels.append({"count": count / len(spreads), "mean": fmean(ratios), "low": min(ratios), "high": max(ratios)})
        if len(spreads) == 1:
            values = torch.linalg.eigvalsh(spreads[0].covariance()).flip(0).clamp(min=0)
            shares = (values / values.sum().clamp(min=1e-300)).tolist()
            return {"levels": levels, "ratio": ratios[0], "states": spreads[0].count, "eigenvalues": shares}
        spreads = [a + b for a, b in zip(spreads[::2], spreads[1::2], strict=True)]


def _finding(subject: Subject, numbers: Json) -> Finding:
    unit = "puzzles" if subject.family == "puzzle" else "windows"
    arms = [(which, role) for which in ("trained", "untrained") for role in "HL"]
    levels = [numbers[which][role]["levels"] for which, role in arms]
    rows = [[round(level[0]["count"], 1), *(one["mean"] for one in level)] for level in zip(*levels, strict=True)]
    names = [f"z_{role.lower()} {which}" for which, role in arms]
    title = (
        f"In how many directions the states of {called(subject)} spread: {numbers['count']:,} {unit}, "
        f"{numbers['segments']} segments"
    )
    tables = {"participation ratio": Table([unit, *names], rows)}
    return Finding(
        "dimensions", title, subject.about(), _sentences(numbers, unit), tables, numbers,
        lambda: _draw(numbers, arms, names, unit, title),
    )  # fmt: skip


def _sentences(numbers: Json, unit: str) -> list[str]:
    high, low = numbers["trained"]["H"]["ratio"], numbers["trained"]["L"]["ratio"]
    fresh_high, fresh_low = numbers["untrained"]["H"]["ratio"], numbers["untrained"]["L"]["ratio"]
    said = [
        f"Of {numbers['dim']} dimensions z_h uses {high:.1f} and z_l {low:.1f} (participation ratio), that is "
        f"{high / max(low, 1e-9):.2f} to 1; with fresh weights {fresh_high:.1f} and {fresh_low:.1f}.",
        "The HRM paper has 89.95 and 30.22, 2.98 to 1, of a model of all of Sudoku-Extreme; untrained 40.75 and 42.09.",
    ]  # fmt: skip
    ratio, fresh = high / max(low, 1e-9), fresh_high / max(fresh_low, 1e-9)
    if ratio > 1.2 and ratio > 1.2 * fresh:
        said.append("The hierarchy of dimensions appears: the slow state is the richer one, and training made it so.")
    elif ratio > 1.2:
        said.append(
            "z_h is the richer state, but it is so with fresh weights too: training did not make this hierarchy."
        )
    else:
        said.append("The hierarchy of dimensions does not appear here: z_h is not the richer state.")
    moved = []
    for role in "HL":
        levels = numbers["trained"][role]["levels"]
        if len(levels) > 1:
            moved.append(abs(levels[-1]["mean"] / max(levels[-2]["mean"], 1e-9) - 1))
    if moved:
        settled = "it has converged" if max(moved) < CONVERGED else f"more {unit} would move it further"
        said.append(f"The last doubling of the {unit} moved the ratios by {max(moved):.1%} at most: {settled}.")
    return said


def _draw(numbers: Json, arms: list[tuple[str, str]], names: list[str], unit: str, title: str) -> Figure:
    figure, (left, right) = canvas(2, title=title)
    for number, ((which, role), name) in enumerate(zip(arms, names, strict=True)):
        levels, how = numbers[which][role]["levels"], look(number)
        x = [one["count"] for one in levels]
        left.plot(x, [one["mean"] for one in levels], label=name, **how)
        left.fill_between(
            x,
            [one["low"] for one in levels],
            [one["high"] for one in levels],
            color=how["color"],
            alpha=0.12,
            linewidth=0,
        )
        shares = np.cumsum(numbers[which][role]["eigenvalues"])
        right.plot(np.arange(1, len(shares) + 1), shares, label=name, **look(number, marks=False))
    for axis in (left, right):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
    left.set(xlabel=f"{unit} (shaded: disjoint samples)", ylabel="participation ratio", ylim=(0, None))
    right.set(xlabel="directions, widest first", ylabel="share of the variance, summed", ylim=(0, 1.02))
    left.legend(frameon=False, fontsize=8)
    return figure
