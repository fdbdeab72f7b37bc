"""Judged texts side by side: a table for the terminal and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from hrm.files import output
from hrm.text.quality.cloze import Cloze, Filled
from hrm.text.quality.scale import COUNTED, GROUPS, Judged, Scale

_HEADS = {head.replace("-\n", ""): head for head in ("tri-\ngrams", "sen-\ntences", "repe-\ntition", "diver-\nsity")}
"""Broken, so that names have room beside them in a terminal of 80 columns."""
_ORDER = (*COUNTED, *(group for group in GROUPS if group not in COUNTED))


def table(judged: Sequence[Judged]) -> Table:
    """One row a text: overall with half its interval, the groups that enter it, and the share that is copied."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("", overflow="fold")
    for name in ("overall", *COUNTED, "copied"):
        shown.add_column(_HEADS.get(name, name), justify="right", no_wrap=True)
    for text in judged:
        overall, flagged = text.overall, text.flags
        half = "" if overall.high is None or overall.low is None else f" ± {(overall.high - overall.low) / 2:.1f}"
        shown.add_row(
            text.name,
            Text.assemble((_number(overall.score), "bold"), half),
            *(_number(text.groups[group].score, 0) for group in COUNTED),
            "" if text.copied is None else f"{text.copied:.1%}",
            style="red" if flagged else "",
        )
    return shown


def warnings_of(text: Judged) -> list[str]:
    """A sentence for each flag: how much is copied, and the longest copy."""
    kinds = {
        "copies": ("copied", "longest_copy", "stands word for word in the training text: a high score says little"),
        "repeats": ("repeated", "longest_repeat", "has stood in it before, word for word"),
    }
    said = []
    for share, longest, what in (kinds[flag] for flag in text.flags):
        copy = text[longest]
        such = repr(copy if len(copy) <= 60 else copy[:59] + "…")
        said.append(f"{text.name}: {text[share]:.0%} {what}; up to {len(copy):,} characters in a row, such as {such}")
    return said


def details(text: Judged) -> Table:
    """One row a measure: its value, what shuffled and natural text have, and the score with its interval."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("measure")
    for head in ("value", "shuffled", "natural", "score", "95%"):
        shown.add_column(head, justify="right")
    for name, one in text.measures.items():
        told = one.score is not None
        interval = f"{_number(one.low)} to {_number(one.high)}" if told else "tells nothing here"
        values = (f"{one[key]:.3f}" for key in ("value", "shuffled", "natural"))
        shown.add_row(name.replace("_", " "), *values, _number(one.score), interval)
    return shown


def ends(scale: Scale) -> str:
    """What 0 and 100 are, in a sentence."""
    return (
        f"100: the held-out half of {scale.name}, in blocks of {scale.size:,} characters; 0: the same with its "
        "characters shuffled (characters: all equally frequent, not in overall)"
    )


def cloze_table(filled: Mapping[str, Filled], cloze: Cloze) -> Table:
    """One row a text: its score with half the interval, and the three numbers; below them those of the ends."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("cloze", overflow="fold")
    for head in ("score", "top 1", "top 5", "log p", "words"):
        shown.add_column(head, justify="right", no_wrap=True)
    for name, one in filled.items():
        overall = one.overall
        half = "" if overall.high is None or overall.low is None else f" ± {(overall.high - overall.low) / 2:.1f}"
        values = f"{one.top_1.value:.1%}", f"{one.top_5.value:.1%}", f"{one.log_probability.value:.2f}"
        shown.add_row(name, Text.assemble((_number(overall.score), "bold"), half), *values, f"{one.words:,}")
    for name, (first, five, log_p) in (("held out", cloze.natural), ("its words shuffled", cloze.shuffled)):
        shown.add_row(name, "", f"{first:.1%}", f"{five:.1%}", f"{log_p:.2f}", "", style="dim")
    return shown


def cloze_ends(cloze: Cloze) -> str:
    """What a cloze asks, and what 0 and 100 are, in a sentence."""
    around = f"{cloze.order - 1} word{'s'[: cloze.order > 2]} to either side"
    return (
        f"cloze: a {cloze.order}-gram model of the known half guesses each word from {around}; 100: the held-out half, "
        "0: the same with the words of each block shuffled"
    )


def draw(judged: Sequence[Judged], scale: Scale, path: Path) -> None:
    """The same as a picture: a panel for overall and each group, a line for each text, bars for the intervals."""
    from matplotlib.figure import Figure

    panels = ("overall", *_ORDER)
    height = 1.3 + 0.32 * len(judged)
    figure = Figure(figsize=(12, height), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, width_ratios=[2, *[1] * (len(panels) - 1)])
    for axes, panel in zip(all_axes, panels, strict=True):
        axes.set_title(panel, fontsize=10)
        axes.set(xlim=(-4, 104), xticks=(0, 50, 100))
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(left=False, labelsize=9)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        for row, text in enumerate(judged):
            one = text.overall if panel == "overall" else text.groups[panel]
            if one.score is None:
                continue
            colour = "tab:red" if text.flags else "tab:blue"
            axes.plot((one.low, one.high), (row, row), color=colour, alpha=0.5, linewidth=3)
            axes.plot(one.score, row, "o", color=colour, markersize=5)
    labels = [f"{text.name} ({', '.join(text.flags)})" if text.flags else text.name for text in judged]
    all_axes[0].set_yticks(range(len(judged)), labels)
    all_axes[0].set_ylim(len(judged) - 0.5, -0.5)
    figure.supxlabel(f"0: shuffled, 100: held-out half of {scale.name}; red: copies or repeats itself", fontsize=9)
    output.write_figure(path, figure, 150)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
