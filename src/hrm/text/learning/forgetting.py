"""What a learner forgets: every book's held-out score after every book."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from hrm.files import output
from hrm.files.records import Json, Record
from hrm.text.learned import Book


@dataclass(frozen=True)
class Forgetting(Record):
    """What a learner's readings brought and cost; a book that is read again is another reading."""

    books: list[str]
    readings: list[str]
    matrix: list[list[float]]
    """`matrix[i][j]`: held-out bits a character on book j after reading i."""
    rise: list[float | None]
    """Relative, from right after a book was last learned to the end; None for the book that was read last."""
    worst: list[float | None]
    """The same to the worst measurement in between (the stability gap)."""
    mean_rise: float | None
    curves: list[list[list[float]]]
    """`curves[j]`: [update, rise] of book j since it was learned."""
    updates: list[float]
    seconds: list[float]
    """What each reading cost."""
    memory_bytes: list[int]
    """What is kept of the books at the end of each reading."""


def forgetting(books: Iterable[Book], records: Iterable[Json] = ()) -> Forgetting:
    """What is known of a learner's books after each reading; `records` are its run's, and tell the seconds."""
    done = [book for book in books if book.scores]
    taken = [(score, number) for number, book in enumerate(done) for score in book.scores]
    taken.sort(key=lambda pair: pair[0].update or 0)
    readings = [(number, [score for score, _ in each]) for number, each in groupby(taken, lambda pair: pair[1])]
    matrix = [scores[-1].bits_per_character for _, scores in readings]
    last = {number: i for i, (number, _) in enumerate(readings)}
    rises: list[float | None] = []
    worst: list[float | None] = []
    curves: list[list[list[float]]] = []
    for j in range(len(done)):
        then = matrix[last[j]][j]
        later = [score for _, scores in readings[last[j] + 1 :] for score in scores]
        curve = [[score.update or 0, score.bits_per_character[j] / then - 1] for score in later]
        curves.append([[readings[last[j]][1][-1].update or 0, 0.0], *curve])
        rises.append(curve[-1][1] if curve else None)
        worst.append(max(rise for _, rise in curve) if curve else None)
    known = [rise for rise in rises if rise is not None]
    ends = [scores[-1] for _, scores in readings]
    clock = [(record["step"], record["seconds"]) for record in records if "seconds" in record]
    spent = [max((s for step, s in clock if step <= (end.update or 0)), default=0.0) for end in ends]
    return Forgetting(
        books=[book.name for book in done],
        readings=[done[number].name for number, _ in readings],
        matrix=matrix, rise=rises, worst=worst, mean_rise=sum(known) / len(known) if known else None, curves=curves,
        updates=_steps([end.update or 0 for end in ends]), seconds=_steps(spent),
        memory_bytes=[end.memory_bytes or 0 for end in ends],
    )  # fmt: skip


def cost(found: Forgetting, reading: int) -> str:
    """In a few words, what a reading cost and how much is kept after it."""
    minutes, kept = found.seconds[reading] / 60, found.memory_bytes[reading] / 1000
    return f"{found.updates[reading]:,} updates, {minutes:.1f} min, {kept:,.1f} kB kept"


def draw(found: Forgetting, file: Path) -> None:
    """Plot the matrix, one row after each reading with its cost, and the rise of each book over the updates."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    rows, columns = len(found.readings), len(found.books)
    grid = np.full((rows, columns), np.nan)
    for i, row in enumerate(found.matrix):
        grid[i, : len(row)] = row
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(1.1 * columns + 9, max(3.2, 0.6 * rows + 1.6)), constrained_layout=True, width_ratios=(1, 1)
    )
    image = left.imshow(grid, cmap="viridis_r", aspect="auto")
    for i, j in zip(*np.nonzero(~np.isnan(grid)), strict=True):
        color = "white" if image.norm(grid[i, j]) > 0.4 else "black"
        left.text(j, i, f"{grid[i, j]:.2f}", ha="center", va="center", color=color)
    left.set(xticks=range(columns), yticks=range(rows), xlabel="held-out bits a character of", ylabel="after learning")
    left.set_xticklabels(found.books, rotation=30, ha="right")
    left.set_yticklabels([f"{name}\n{cost(found, i)}" for i, name in enumerate(found.readings)], fontsize=8)
    figure.colorbar(image)
    for name, curve in zip(found.books, found.curves, strict=True):
        right.plot([at for at, _ in curve], [100 * rise for _, rise in curve], "o-", ms=3, label=name)
    right.axhline(0, color="0.7", lw=0.8, zorder=0)
    right.set(xlabel="updates", ylabel="rise since it was learned, %")
    right.legend(fontsize=8)
    output.write_figure(file, figure, 110)
    plt.close(figure)


def _steps(totals: list[float]) -> list[float]:
    return [now - before for before, now in zip([0, *totals], totals, strict=False)]
