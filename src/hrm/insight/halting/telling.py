"""What was found of halting in tables, sentences and a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from hrm.core.calibration import Reliability
from hrm.files.records import Json
from hrm.insight.figures import MARKS, Finding, Table, canvas, look, shares
from hrm.insight.halting.difficulty import KINDS
from hrm.insight.halting.measuring import Measured
from hrm.insight.subject import called, same_data

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 20
"""A group of fewer puzzles or tokens is not compared in a sentence."""


def finding(measured: list[Measured]) -> Finding:
    first = measured[0]
    puzzles = first.subject.family == "puzzle"
    unit, quality = ("puzzles", "right") if puzzles else ("tokens", "bits a token")
    tables: dict[str, Table] = {}
    if len(measured) > 1:
        tables["each at its own limit"] = Table(
            ["run", "limit", "mean segments", quality, f"{quality}, fixed depth"],
            [[called(one.subject), *_own(one).values()] for one in measured],
        )
    for one in measured:
        name = f"{called(one.subject)}: " if len(measured) > 1 else ""
        rows = [[row["max_segments"], row["mean_segments"], row["halting"], row["fixed"]] for row in one.curve()]
        tables[f"{name}by the most segments allowed, {one.count:,} {unit}"] = Table(
            ["segments at most", "mean segments", quality, f"{quality}, fixed depth"], rows
        )
    if first.taught:
        rows = [[str(i), *_row(bins)] for i, bins in enumerate(first.reliable, 1)]
        rows.append(["where it halts", *_row(first.settled)])
        rows += [["the same, scaled", *_row(first.scaled)]] if first.scaled is not None else []
        tables["the Q head: P(halt) and how often it was right"] = Table(
            ["segment", unit, "mean P(halt)", "was so", "ECE"], rows
        )
    for name in _told(first):
        tables[f"depth by {name}"] = Table(
            [name, unit, "mean segments", "standard error", f"{quality} at depth 1", f"{quality} where it halts"],
            [list(row.values()) for row in first.difficulty(name)],
        )
    who = " and others" if len(measured) > 1 else ""
    title = f"Halting of {called(first.subject)}{who}: {first.count:,} {unit}, at most {first.segments} segments"
    numbers: Json = first.plain() | {"runs": [one.plain() for one in measured]}
    about = first.subject.about()
    return Finding(
        "halting", title, about, _sentences(measured, unit), tables, numbers,
        lambda: _draw(measured, unit, quality, title),
    )  # fmt: skip


def _told(one: Measured) -> list[str]:
    """The measures of difficulty that tell puzzles or tokens apart."""
    return [name for name in one.groups if len(one.difficulty(name)) > 1]


def _own(one: Measured) -> Json:
    """Its point at the limit it was trained with, or at the last one that was run."""
    most = min(one.subject.max_segments, one.segments)
    return next({key: value for key, value in row.items() if key != "interval"} for row in one.curve()
                if row["max_segments"] == most)  # fmt: skip


def _row(bins: Reliability) -> list[Any]:
    told = bins.plain()
    return [told["count"], told["confidence"], told["right"], told["ece"]]


_OTHER = (
    ", not by the Q head: curves and depths are those of that rule, the calibration is that of the Q head beside it."
)
_RULES = {
    "q": "A {one} halts where the Q head says so.",
    "kl": "Here a token halts once its prediction moves by little (kl)" + _OTHER,
    "change": "Here a token halts once its state moves by little (change)" + _OTHER,
    "readout": "Here a token halts where a calibrated readout takes its prediction for settled (readout)" + _OTHER,
}


def _sentences(measured: list[Measured], unit: str) -> list[str]:
    first = measured[0]

    def shown(value: float) -> str:
        return f"{value:.1%} right" if unit == "puzzles" else f"{value:.3f} bits a token"

    said = [_ruled(first, unit), *_cost(first, unit, shown), *_trust(first)]
    if first.rule is not None and first.depths[:-1].any():
        said += [sentence for name in first.groups for sentence in _harder(first, name)]
    return said + _compared(measured, shown)


def _ruled(one: Measured, unit: str) -> str:
    """What ends a puzzle or a token."""
    if one.rule is None:
        return "Its tokens take a fixed number of segments and its Q head was never taught: nothing halts."
    if unit != "puzzles" and one.subject.model.config.halting == "fixed":
        return "It uses a fixed number of segments; this is where its Q head would halt if it were asked."
    if unit == "puzzles" and not one.taught:
        return "Its Q head was never taught and is as sure everywhere: there is no calibration to speak of."
    return _RULES[one.rule].format(one=unit[:-1])


def _cost(one: Measured, unit: str, shown: Callable[[float], str]) -> list[str]:
    """What halting saves and costs."""
    if one.rule is None or one.segments < 2:
        return []
    last = one.curve()[-1]
    mean, same = last["mean_segments"], max(1, round(last["mean_segments"]))
    said = f"With {one.segments} segments at most it takes {mean:.2f} on average: {shown(last['halting'])}. "
    if not one.depths[:-1].any():
        return [said + f"None halts earlier: every one of the {one.count:,} {unit} takes them all."]
    beside = shown(one.fixed[same - 1] / max(1, one.count))
    return [
        said + f"All of them at depth {one.segments}: {shown(last['fixed'])}; at depth {same}, about the same cost: "
        f"{beside}."
    ]  # fmt: skip


def _trust(one: Measured) -> list[str]:
    """Whether P(halt) can be trusted where it halts."""
    if not one.taught or not one.settled.count:
        return []
    _, confidence, right, ece = _row(one.settled)
    what = "the answer is right in"
    if one.subject.family == "text":
        config = one.subject.model.config
        gains = f"one more segment brings less than {config.q_gamma:g} nats in"
        what = "the likeliest token is right in" if config.q_target == "right" else gains
    trust = "too little" if confidence < right - 0.02 else "too much" if confidence > right + 0.02 else None
    found = "on average it is right about itself" if trust is None else f"it trusts itself {trust}"
    said = [f"Where it halts P(halt) is {confidence:.2f} on average and {what} {right:.1%}: ECE {ece:.3f}, {found}."]
    if one.scaled is not None:
        said.append(f"Scaled as its training measured (the confidence of 'hrm solve'): ECE {one.scaled.ece:.3f}.")
    return said


def _harder(one: Measured, name: str) -> list[str]:
    """Whether one end of a difficulty takes longer than the other."""
    groups = [group for group in one.difficulty(name) if group["count"] >= FEW]
    if len(groups) < 2:
        return []
    if one.labels[name] == KINDS:
        groups.sort(key=lambda group: group["mean_segments"])
    ends = groups[0], groups[-1]
    low, high = (group["mean_segments"] for group in ends)
    clear = abs(high - low) > 2 * math.hypot(*(group["standard_error"] for group in ends))
    said = f"By {name}: {low:.2f} segments for {ends[0]['group']}, {high:.2f} for {ends[1]['group']}"
    return [said + ("." if clear else ", which is no clear difference for so few.")]


def _compared(measured: list[Measured], shown: Callable[[float], str]) -> list[str]:
    """Of several runs: each at its own limit, and whether they saw the same."""
    if len(measured) == 1:
        return []
    parts = []
    for one in measured:
        own = _own(one)
        limit, mean = f"{called(one.subject)} (at most {own['max_segments']})", f"{own['mean_segments']:.2f}"
        parts.append(f"{limit} {mean} and {shown(own['halting'])}")
    listed = "; ".join(parts)
    said = [f"Mean segments and quality of each run at its own limit, as in Figure 5 of the HRM paper: {listed}."]
    if any(not same_data(measured[0].subject, one.subject) for one in measured[1:]):
        said.append("They did not see the same puzzles or text: name some for all of them with --data.")
    return said


def _draw(measured: list[Measured], unit: str, quality: str, title: str) -> Figure:
    first = measured[0]
    names = _told(first)
    figure, axes = canvas(3 + len(names), title=title, columns=3)
    for number, one in enumerate(measured):
        rows, how = one.curve(), look(number)
        x = [row["max_segments"] for row in rows]
        name = f"{called(one.subject)}, " if len(measured) > 1 else ""
        axes[0].plot(x, [row["halting"] for row in rows], label=f"{name}halting", **how)
        fixed: dict[str, Any] = {**how, "linestyle": ":", "linewidth": 1, "marker": "x"}
        axes[0].plot(x, [row["fixed"] for row in rows], label=f"{name}fixed depth", **fixed)
        axes[1].plot(x, [row["mean_segments"] for row in rows], label=f"{name}halting", **how)
        own = _own(one)
        ring: dict[str, Any] = {**how, "linestyle": "none", "marker": "o", "markersize": 12, "fillstyle": "none"}
        axes[0].plot([own["max_segments"]], [own["halting"]], **ring)
        axes[1].plot([own["max_segments"]], [own["mean_segments"]], **ring)
    axes[1].plot(x, x, color="0.5", linestyle=":", linewidth=1, label="fixed depth")
    for axis, label in ((axes[0], "share right" if quality == "right" else quality), (axes[1], "mean segments")):
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set(xlabel="segments at most (ring: as trained)", ylabel=label)
        axis.legend(frameon=False, fontsize=8)
    if quality == "right":
        shares(axes[0])
    axes[1].set_ylim(0, None)
    _draw_reliability(axes[2], first, unit)
    for axis, name in zip(axes[3:], names, strict=True):
        groups = first.difficulty(name)
        places = np.arange(len(groups))
        axis.bar(places, [group["mean_segments"] for group in groups], color=look(0)["color"], width=0.7)
        for place, group in zip(places, groups, strict=True):
            axis.annotate(f"{group['count']:,}", (place, group["mean_segments"]), (0, 2), textcoords="offset points",
                          ha="center", fontsize=7)  # fmt: skip
        axis.margins(y=0.1)
        axis.set_xticks(places, [str(group["group"]) for group in groups], rotation=30, fontsize=8, ha="right")
        axis.set(xlabel=f"{name} (above the bars: {unit})", ylabel="mean segments")
    return figure


def _draw_reliability(axis: Axes, one: Measured, unit: str) -> None:
    axis.plot([0, 1], [0, 1], color="0.5", linestyle=":", linewidth=1, label="as it should be")
    axis.set(xlabel=f"P(halt) (larger: more {unit})", ylabel="share of which it was so", xlim=(-0.03, 1.03),
             ylim=(-0.03, 1.03))  # fmt: skip
    lines = [("where it halts", one.settled)]
    lines += [(f"all, segment {i}", one.reliable[i - 1]) for i in sorted({1, len(one.reliable)}) if one.reliable]
    for number, (name, bins) in enumerate(lines if one.taught else []):
        told: Any = bins.plain()["bins"]
        x, y, counts = ([each[key] for each in told] for key in ("confidence", "right", "count"))
        colour = look(number)["color"]
        axis.plot(x, y, color=colour, linewidth=0.8, alpha=0.4)
        sizes = [12 + 150 * count / max(1, bins.count) for count in counts]
        axis.scatter(x, y, s=sizes, color=colour, marker=MARKS[number], alpha=0.7, linewidths=0,
                     label=f"{name}: ECE {bins.ece:.3f}")  # fmt: skip
    if not one.taught:
        axis.text(0.5, 0.5, "the Q head was never taught", ha="center", va="center", fontsize=9)
    for mark in axis.legend(fontsize=8, loc="best", framealpha=0.8, edgecolor="none").legend_handles[1:]:
        mark.set_sizes([30])  # type: ignore[union-attr]
