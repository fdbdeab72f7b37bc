"""What a question has found: a table, a picture, its numbers and what to see in it; and how all pictures look."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hrm.files.output import replacing, to_json
from hrm.files.records import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Told apart by the colour-blind (Okabe and Ito)."""
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 1)), (0, (1, 3)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
"""So that lines can be told apart without their colours."""


class Table(NamedTuple):
    """Rows of strings, numbers and None."""

    columns: list[str]
    rows: list[list[Any]]


@dataclass(frozen=True)
class Finding:
    """The answer to a question."""

    question: str
    """Name of the question; its files are called so."""
    title: str
    about: Json
    """Of which model and data it is."""
    says: list[str]
    """Sentences: what was found, and what to see in the picture."""
    tables: dict[str, Table]
    """By title."""
    numbers: Json
    """All that was measured."""
    draw: Callable[[], Figure] | None = None
    more: dict[str, bytes] = field(default_factory=dict)
    """Further files by name, such as a moving picture."""
    command: str = ""
    """What finds it again."""

    def plain(self) -> Json:
        """Its JSON."""
        return {
            "question": self.question, "command": self.command, "title": self.title, "about": self.about,
            "says": self.says, "tables": {name: table._asdict() for name, table in self.tables.items()}, **self.numbers,
        }  # fmt: skip

    def save(self, folder: Path) -> list[Path]:
        """Write its JSON, PNG, SVG and further files into a folder; returns them. A link or pipe of such a name, which
        may come with a stranger's run, is replaced and not followed."""
        contents = {f"{self.question}.json": (to_json(self.plain(), indent=2) + "\n").encode()}
        if self.draw is not None:
            figure = self.draw()
            for form in ("png", "svg"):
                contents[f"{self.question}.{form}"] = _saved(figure, form)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (contents | self.more).items():
            with replacing(folder / name) as file:
                file.write(content)
        return [folder / name for name in contents | self.more]


def svg(finding: Finding) -> bytes | None:
    """Its picture as SVG, if there is one."""
    return None if finding.draw is None else _saved(finding.draw(), "svg")


def _saved(figure: Figure, form: str) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=form, dpi=144)
    return content.getvalue()


def canvas(
    panels: int = 1, height: float = 3.4, width: float = 4.0, title: str = "", columns: int | None = None
) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side, or in rows of some columns, in the look of all of them."""
    from matplotlib.figure import Figure

    columns = min(columns or panels, panels)
    rows = -(-panels // columns)
    figure = Figure((width * columns + 0.4, height * rows), dpi=144, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for each in axes[:panels]:
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    for each in axes[panels:]:
        each.remove()
    if title:
        figure.suptitle(title, fontsize=11)
    return figure, axes[:panels]


def shares(axis: Axes) -> None:
    """Let an upright axis of shares end at 0 and 1, with a little room for marks."""
    low, high = axis.get_ylim()
    low, high = max(low, -0.05 * high), min(high, 1 + 0.05 * (1 - low))
    axis.set_ylim(low, high)
    # A tick at 1 may be a little more by rounding.
    axis.set_yticks([tick for tick in axis.get_yticks() if low <= tick <= high and -1e-9 <= tick <= 1 + 1e-9])
    axis.set_ylim(low, high)


def look(number: int, marks: bool = True) -> dict[str, Any]:
    """Colour, line and mark of the line with this number."""
    chosen: dict[str, Any] = {"color": COLOURS[number % 7], "linestyle": LINES[number % 7]}
    return chosen | ({"marker": MARKS[number % 7], "markersize": 4} if marks else {})
