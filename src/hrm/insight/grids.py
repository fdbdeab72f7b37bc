"""A puzzle's answers after every step of L: grids side by side, a page to step through, a moving picture."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from hrm.files.npy import IGNORE
from hrm.insight.story import Story, called, name_of, whole
from hrm.insight.subject import Puzzles
from hrm.puzzles.measuring import is_right
from hrm.puzzles.pictures.gif import gif
from hrm.puzzles.pictures.page import Steps, page
from hrm.puzzles.solving.answer import Answer, as_grid
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks.arc import BLACK, PALETTE, Arc

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = 8
FILLS = {"": "#ffffff", "wall": "#45433f", "path": "#8fd6b8", "end": "#0d5c46"}
GIVEN, MODEL, WRONG, FRESH = "#1d1c1a", "#0072B2", "#D55E00", "#E69F00"
MEANS = ("differs from the answer", "differ from the answer", "Cells in which this is not the right answer.")


def wrong_cells(subject: Puzzles, story: Story, number: int) -> list[int]:
    """The cells that are not right after a visit, counted from 0; without an answer those that break a rule."""
    question, labels, best = story.inputs, story.labels, story.scenes[number].best
    if not (labels != -100).any():
        return subject.task.wrong(question, best)
    if is_right(subject.task, question, np.where(labels == -100, IGNORE, labels), best):  # another shortest path
        return []
    return np.flatnonzero((labels != -100) & (best != labels)).tolist()


def files(subject: Puzzles, story: Story) -> dict[str, bytes]:
    """The page, and the moving picture if Pillow is installed."""
    segments = [
        Segment(story.inputs, scene.best, number, 1, scene.q, scene.residual, scene.shares)  # type: ignore[arg-type]
        for number, scene in enumerate(story.scenes, 1)
    ]
    wrong = [wrong_cells(subject, story, number) for number in range(len(segments))]
    known = (story.labels != -100).any()
    means = MEANS if known else Steps().means
    about = (
        f"What {called(subject)} would answer after every step of its fast module: head(H(z_h, z_l)). It was trained "
        "to be read at the end of a segment."
    )
    steps = Steps("visit", story.names, wrong, means, about)
    answer = _answer(subject, story)
    found = {"answers.html": page(subject.solver, answer, segments, steps).encode()}
    if find_spec("PIL") is not None:
        found["answers.gif"] = gif(subject.solver, answer, segments, steps)
    return found


def _answer(subject: Puzzles, story: Story) -> Answer:
    task, question, last = subject.task, story.inputs, story.scenes[-1]
    accepted = task.verify(question, last.best) if task.verifies else True
    status = "unsolved" if not accepted else "solved" if task.verifies else "answered"
    return Answer(
        status, task.format(question), task.format(last.best) if accepted else None, segments=last.moment.segment,
        confidence=subject.solver.confidence(last.q), grid=as_grid(task, last.best),
    )  # fmt: skip


def draw(subject: Puzzles, story: Story, title: str) -> Figure:
    """The question and the grid after chosen visits: changed cells framed, wrong ones crossed out."""
    from matplotlib.figure import Figure

    chosen = story.chosen(PANELS - 1)
    columns = min(4, len(chosen) + 1)
    rows = math.ceil((len(chosen) + 1) / columns)
    height, width = subject.task.shape
    figure = Figure((2.9 * columns, (2.75 * height / width + 0.35) * rows + 0.7), dpi=144, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.axis("off")
    _grid(panels[0], subject, story.inputs, story.inputs, [], np.zeros(len(story.inputs), bool))
    panels[0].set_title("question", fontsize=9)
    for panel, number in zip(panels[1:], chosen, strict=False):
        scene, wrong = story.scenes[number], wrong_cells(subject, story, number)
        fresh = story.changed(number)
        _grid(panel, subject, story.inputs, scene.best, wrong, fresh)
        ends = " *" if whole(scene.moment, story.schedule) else ""
        moved = f", {int(fresh.sum())} changed" if number else ""
        panel.set_title(f"{name_of(scene.moment)}{ends}, {len(wrong)} wrong{moved}", fontsize=9)
    figure.suptitle(f"One puzzle after chosen steps of L, of {called(subject)}", fontsize=11)
    figure.supxlabel(
        "segment: L cycle.step (* ends a segment); crossed out: wrong; framed: changed by this visit; bold: given",
        fontsize=9,
    )
    return figure


def _grid(
    panel: Axes, subject: Puzzles, question: np.ndarray, tokens: np.ndarray, wrong: list[int], fresh: np.ndarray
) -> None:
    from matplotlib.patches import Rectangle

    task, look = subject.task, subject.task.look()
    height, width = task.shape
    longest = max(map(len, look.labels))
    size = min(11.0, 150 / width / max(1.0, 0.8 * longest))
    for cell, token in enumerate(tokens.tolist()):
        row, column = divmod(cell, width)
        painted = isinstance(task, Arc) and token >= BLACK
        fill = PALETTE[token - BLACK] if painted else FILLS[look.fills[token]]
        panel.add_patch(Rectangle((column, row), 1, 1, facecolor=fill, edgecolor="0.75", linewidth=0.4))
        given, end = token == question[cell], look.fills[token] == "end"
        if look.labels[token] and not painted:
            colour = "white" if end else GIVEN if given else MODEL
            weight = "bold" if given else "normal"
            panel.text(column + 0.5, row + 0.54, look.labels[token], fontsize=size, color=colour, weight=weight,
                       ha="center", va="center")  # fmt: skip
        if fresh[cell]:
            panel.add_patch(Rectangle((column + 0.08, row + 0.08), 0.84, 0.84, fill=False, edgecolor=FRESH,
                                      linewidth=min(1.6, 24 / width)))  # fmt: skip
    for cell in wrong:
        row, column = divmod(cell, width)
        panel.plot(
            [column + 0.12, column + 0.88], [row + 0.88, row + 0.12], color=WRONG, linewidth=min(1.6, 24 / width)
        )
    blocks = look.blocks
    for cell in range(height * width) if blocks else ():
        row, column = divmod(cell, width)
        if column and blocks[cell] != blocks[cell - 1]:
            panel.plot([column, column], [row, row + 1], color="0.2", linewidth=1)
        if row and blocks[cell] != blocks[cell - width]:
            panel.plot([column, column + 1], [row, row], color="0.2", linewidth=1)
    panel.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="0.2", linewidth=1.2))
    panel.set(xlim=(-0.05, width + 0.05), ylim=(height + 0.05, -0.05), aspect="equal")
