"""How a task looks in a picture: what is written in its cells, what fills them, where the thick lines run."""

from __future__ import annotations

from typing import NamedTuple

from hrm.puzzles.tasks import Task


class Look(NamedTuple):
    """The first three hold one entry per token."""

    labels: list[str]
    """Written in a cell; "" for padding, blanks and free cells."""
    names: list[str]
    """The token in words."""
    fills: list[str]
    """What colours the whole cell: "" (nothing), "wall", "path" or "end"."""
    blocks: list[int]
    """The box of each cell; empty where a task has none."""


def look(task: Task) -> Look:
    """How the cells of any task are drawn."""
    blocks = list(getattr(task, "blocks", task.groups[2].tolist() if task.name == "sudoku" else []))
    if task.name == "maze":
        names = {"?": "padding", "#": "wall", " ": "free", "S": "start", "G": "goal", "o": "path"}
        fills = {"#": "wall", "S": "end", "G": "end", "o": "path"}
        labels = [character if character in "SG" else "" for character in task.vocabulary]
        return Look(labels, [names[c] for c in task.vocabulary], [fills.get(c, "") for c in task.vocabulary], blocks)
    # Boards may name their tokens; in a large vocabulary the last characters only stand for numbers (tasks.grid).
    numbered = [str(token) for token in range(len(task.vocabulary))]
    written = getattr(task, "names", numbered if max(task.vocabulary) > "\uffff" else task.vocabulary)
    words = {getattr(task, "outside", 0): "outside"} | {0: "padding"}
    labels = ["" if i in words or label in (" ", ".") else label for i, label in enumerate(written)]
    names = [words.get(i, label or "blank") for i, label in enumerate(labels)]
    return Look(labels, names, [""] * len(labels), blocks)
