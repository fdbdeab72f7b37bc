"""The picture of `hrm analyze paths`: ways in a plane, how they end, and how firmly they stay."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from hrm.files.records import Json
from hrm.insight.figures import COLOURS, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN = 6
"""Most ways of each kind in the picture."""
ENDS = {
    ("right", "fixed"): ("#0072B2", ""), ("right", "cycle"): ("#56B4E9", ".."),
    ("right", "moving"): ("#b8ddf2", "//"), ("wrong", "fixed"): ("#D55E00", ""),
    ("wrong", "cycle"): ("#E69F00", ".."), ("wrong", "moving"): ("#f7dfae", "//"),
}  # fmt: skip
"""Colours and hatches, so that they can be told apart without colours."""


def draw(
    title: str,
    unit: str,
    plane: Any,
    states: np.ndarray,
    right: np.ndarray,
    others: list[tuple[str, np.ndarray]],
    kinds: dict[str, Counter[tuple[str, str]]],
    stable: list[Json],
    after: int,
) -> Figure:
    """Four panels."""
    from matplotlib.figure import Figure

    figure = Figure((10, 8), dpi=144, layout="constrained")
    panels = figure.subplots(2, 2)
    for axis in panels.ravel():
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    (ways, starts), (ends, firm) = panels
    for number, (name, wanted) in enumerate((("right in the end", True), ("wrong in the end", False))):
        for i, path in enumerate(states[right == wanted][:DRAWN]):
            _way(ways, plane(path), number, name if i == 0 else None)
    for number, name in enumerate(dict.fromkeys(name for name, _ in others)):
        for i, path in enumerate([path for of, path in others if of == name]):
            _way(starts, plane(path), number, name if i == 0 else None)
    of = "mean of z_h over positions" if unit == "puzzles" else "z_h of a token"
    for axis, what in ((ways, f"paths of {unit}"), (starts, f"one of the {unit} from every start")):
        axis.set(xlabel=f"1st component ({plane.shares[0]:.0%} of the variance)",
                 ylabel=f"2nd component ({plane.shares[1]:.0%})")  # fmt: skip
        axis.set_title(f"{what}\n{of} (dot: segment 1, mark: end)", fontsize=9)
        axis.legend(frameon=False, fontsize=8)
    _ends(ends, kinds, unit)
    _firm(firm, stable, after)
    figure.suptitle(title, fontsize=11)
    return figure


def _way(axis: Axes, points: np.ndarray, number: int, label: str | None) -> None:
    how: dict[str, Any] = look(number, marks=False) | {"linewidth": 1.0, "alpha": 0.75}
    axis.plot(points[:, 0], points[:, 1], label=label, **how)
    axis.plot(*points[0, :2], "o", markersize=2.5, color=how["color"])
    axis.plot(*points[-1, :2], "os^"[number % 3], markersize=7, markeredgecolor="black", color=how["color"])


def _ends(axis: Axes, kinds: dict[str, Counter[tuple[str, str]]], unit: str) -> None:
    names = list(kinds)
    sums = np.zeros(len(names))
    totals = np.array([max(1, sum(kinds[name].values())) for name in names])
    for kind, (colour, hatch) in ENDS.items():
        shares = np.array([kinds[name][kind] for name in names]) / totals
        axis.barh(names, shares, left=sums, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6, height=0.6,
                  label=", ".join(kind))  # fmt: skip
        sums = sums + shares
    axis.invert_yaxis()
    axis.set(xlabel=f"share of {unit}", xlim=(0, 1))
    axis.set_title("how they end", fontsize=9)
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _firm(axis: Axes, stable: list[Json], after: int) -> None:
    known = [one for one in stable if one["of"]]
    shares = [one["back"] / one["of"] for one in known]
    bars = [[s - one["interval"][0] for s, one in zip(shares, known, strict=True)],
            [one["interval"][1] - s for s, one in zip(shares, known, strict=True)]]  # fmt: skip
    axis.errorbar([one["noise"] for one in known], shares, np.maximum(bars, 0), fmt="o-", color=COLOURS[0], capsize=3)
    axis.set(
        xlabel="noise at the solved state / scale of the state", ylabel="share that is right again", ylim=(0, 1.05)
    )
    count = known[0]["of"] if known else 0
    axis.set_title(f"{count:,} solved ones, {after} segments after the noise; bars: 95 %", fontsize=9)
