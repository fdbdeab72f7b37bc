"""The answers to one puzzle, or one window of text, after every step of L: what pictures and pages tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from hrm.core.probe import Moment
from hrm.core.recurrence import Schedule
from hrm.files.records import Json
from hrm.insight.subject import Batch, PuzzleThinking, Reading, Subject, Thinking


class Scene(NamedTuple):
    """What is said after one visit; [p] each."""

    moment: Moment
    best: np.ndarray
    probability: np.ndarray
    """Of the likeliest token."""
    hope: np.ndarray
    """Of the right token; 1 where nothing counts."""
    right: np.ndarray
    residual: float
    """Relative change of the slow state since the visit before."""
    q: tuple[float, ...] = ()
    """A puzzle's values of halting and of continuing."""
    shares: np.ndarray | None = None
    """A puzzle's probabilities [p, vocabulary]."""


@dataclass
class Story:
    """Row `place` of a batch, visit by visit."""

    schedule: Schedule
    batch: Batch
    place: int
    scenes: list[Scene] = field(default_factory=list)

    def add(self, moment: Moment, reading: Reading, thinking: Thinking, before: Tensor | None) -> None:
        """The next visit; `before` are all slow states after the one before."""
        at, residual = self.place, 0.0
        if before is not None:
            old, new = before[at].double(), reading.carry.z_h[at].double()
            residual = float((new - old).norm() / old.norm())
        q, shares = (), None
        if isinstance(thinking, PuzzleThinking) and thinking.readout is not None:
            q = tuple(thinking.readout.q[at].tolist())
            shares = thinking.readout.logits[at].float().softmax(-1).cpu().numpy()
        columns = (reading.best, reading.probability, (-reading.loss).exp(), reading.right)
        best, probability, hope, right = (column[at].cpu().numpy() for column in columns)
        self.scenes.append(Scene(moment, best, probability, hope, right, residual, q, shares))

    @property
    def inputs(self) -> np.ndarray:
        """[p] what is thought about."""
        return self.batch.inputs[self.place].cpu().numpy()

    @property
    def labels(self) -> np.ndarray:
        """[p] what is right, -100 where nothing counts."""
        return self.batch.labels[self.place].cpu().numpy()

    @property
    def names(self) -> list[str]:
        """Of the visits, for people."""
        return [f"segment {name_of(scene.moment).replace(':', ',')}" for scene in self.scenes]

    def changed(self, number: int) -> np.ndarray:
        """[p] bool: what differs from the visit before, counted from 0; nothing in the first."""
        return self.scenes[number].best != self.scenes[max(0, number - 1)].best

    def chosen(self, most: int) -> list[int]:
        """At most `most` visits: the first, the last, and of those that change the answer some at even steps."""
        last = len(self.scenes) - 1
        moving = [i for i in range(1, last) if self.changed(i).any()]
        if len(moving) > most - 2:
            moving = [moving[round(i * (len(moving) - 1) / max(1, most - 3))] for i in range(most - 2)]
        return sorted({0, *moving, last})

    def plain(self) -> list[Json]:
        """Its JSON."""
        labels = self.labels
        return [
            {
                "visit": name_of(scene.moment), "right": int(scene.right.sum()), "of": int((labels != -100).sum()),
                "changed": int(self.changed(i).sum()) if i else None, "residual": scene.residual if i else None,
                "answer": scene.best.tolist(), "probability": [round(p, 4) for p in scene.probability.tolist()],
            }
            for i, scene in enumerate(self.scenes)
        ]  # fmt: skip


def called(subject: Subject) -> str:
    """The model in a few words: its run and step, or its folder."""
    path = Path(subject.name)
    return f"{path.parts[-3]}, {path.name}" if path.parent.name == "checkpoints" and len(path.parts) > 2 else path.name


def name_of(moment: Moment) -> str:
    """Segment, cycle and step, counted from 1."""
    return f"{moment.segment}: L{moment.visit.cycle + 1}.{moment.visit.step + 1}"


def whole(moment: Moment, schedule: Schedule) -> bool:
    """Whether the segment ends with this step, so that the model was trained to be read there."""
    return (moment.visit.cycle, moment.visit.step) == (schedule.h_cycles - 1, schedule.l_cycles - 1)
