"""A text's answers after every step of L as a heat map: tokens across, visits down; a picture and a page."""

from __future__ import annotations

import html
import math
import re
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from hrm.files.output import to_json
from hrm.insight.story import Story, called, name_of, whole
from hrm.insight.subject import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS, LINES = 36, 2
"""Tokens in a line of the picture, and its lines."""


def tokens_of(subject: Text, ids: list[int]) -> list[str]:
    """Each token as text, with signs for white space that would not be seen."""
    signs = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "↵"})
    return [str(subject.tokenizer.decode([i])).translate(signs) for i in ids]


def draw(subject: Text, story: Story, title: str) -> Figure:
    """The last tokens of a window: the shade is the probability of the right next token, the text the likeliest one,
    bold where it is right."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

    places = np.flatnonzero(story.labels != -100)[-ACROSS * LINES :]
    lines = [places[i : i + ACROSS] for i in range(0, len(places), ACROSS)]
    visits, across = len(story.scenes), min(ACROSS, len(places))
    figure = Figure((max(6.0, 0.34 * across + 1.8), (0.27 * visits + 0.8) * len(lines) + 1.1), dpi=144,
                    layout="constrained")  # fmt: skip
    axes = figure.subplots(len(lines), 1, squeeze=False).ravel()
    names = [name_of(scene.moment) + (" *" if whole(scene.moment, story.schedule) else "") for scene in story.scenes]
    image = None
    for axis, line in zip(axes, lines, strict=True):
        hopes = np.full((visits, across), np.nan)
        hopes[:, : len(line)] = [scene.hope[line] for scene in story.scenes]
        image = axis.imshow(hopes, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for row, scene in enumerate(story.scenes):
            for column, (text, right) in enumerate(
                zip(tokens_of(subject, scene.best[line].tolist()), scene.right[line].tolist(), strict=True)
            ):
                axis.text(column, row, text[:6], fontsize=7 if len(text) < 3 else 4.5, ha="center", va="center",
                          weight="bold" if right else "normal",
                          color="black" if hopes[row, column] > 0.5 else "white")  # fmt: skip
        wanted = tokens_of(subject, story.labels[line].tolist())
        axis.xaxis.set_major_locator(FixedLocator(list(range(len(line)))))
        axis.yaxis.set_major_locator(FixedLocator(list(range(visits))))
        axis.set_xticklabels([text[:6] for text in wanted], fontsize=8 if max(map(len, wanted)) < 3 else 5)
        axis.set_yticklabels(names, fontsize=7)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_ylabel("segment: L step", fontsize=8)
    axes[-1].set_xlabel("the right next token; in the cells the likeliest one, bold where it is right", fontsize=9)
    assert image is not None
    bar = figure.colorbar(image, ax=list(axes), fraction=0.02, pad=0.01)
    bar.set_label("probability of the right token", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(
        f"What it would write after every step of L, {len(places)} tokens of {called(subject)}", fontsize=10
    )
    return figure


def files(subject: Text, story: Story) -> dict[str, bytes]:
    """The page about the whole window."""
    return {"answers.html": page(subject, story).encode()}


def page(subject: Text, story: Story) -> str:
    """A page of the heat map: one HTML file that needs no other and no network; arrows move from cell to cell."""
    labels = story.labels
    counted = labels != -100
    bits = [-sum(math.log2(max(1e-30, p)) for p in scene.hope[counted]) / max(1, counted.sum())
            for scene in story.scenes]  # fmt: skip
    data = {
        "read": tokens_of(subject, story.inputs.tolist()),
        "wanted": [text if known else None for text, known in
                   zip(tokens_of(subject, np.where(counted, labels, 0).tolist()), counted, strict=True)],
        "visits": [
            {
                "name": name_of(scene.moment), "whole": whole(scene.moment, story.schedule), "bits": round(cost, 3),
                "best": tokens_of(subject, scene.best.tolist()), "right": [int(right) for right in scene.right],
                "p": [round(float(p), 3) for p in scene.probability], "hope": [round(float(p), 3) for p in scene.hope],
            }
            for scene, cost in zip(story.scenes, bits, strict=True)
        ],
    }  # fmt: skip
    fields = {
        "title": html.escape(f"What {called(subject)} would write after every step"),
        "about": html.escape(
            f"{int(counted.sum())} tokens, {len(story.scenes)} visits. A cell holds the likeliest next token after a "
            "step of the fast module; its shade is the probability of the right one. * ends a segment, where the model "
            "was trained to be read."
        ),
        # A "<" could end the script element that holds the data.
        "data": to_json(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    template = resources.files("hrm.insight").joinpath("heat.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)
