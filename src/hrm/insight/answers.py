"""`hrm analyze answers`: what a model would say after every step of L, head(H(z_h, z_l)) (Fig. 7 of HRM)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from hrm.core.probe import Moment
from hrm.core.recurrence import Schedule
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.insight import grids, heat
from hrm.insight.figures import Finding, Table
from hrm.insight.story import Story, name_of, whole
from hrm.insight.subject import Batch, Puzzles, Reading, Subject, Text, Thinking
from hrm.puzzles.tasks import PuzzleError

HELPS = 1.005
"""Bits that are dearer by less than this are as good."""


@dataclass
class Visited:
    """What the answers after one visit are like; sums over puzzles or windows."""

    count: int = 0
    """Cells to be filled in, or tokens."""
    right: int = 0
    loss: float = 0.0
    """Nats."""
    puzzles: int = 0
    solved: int = 0
    cells: int = 0
    """Cells or tokens whose change since the visit before is known."""
    changed: int = 0
    gained: int = 0
    """Wrong before, right now."""
    lost: int = 0
    """Right before, wrong now."""


@dataclass
class _Course:
    """The answers to a batch so far."""

    best: Tensor | None = None
    right: Tensor | None = None
    z_h: Tensor | None = None


@dataclass
class Watched:
    """All that was seen."""

    visits: dict[Moment, Visited] = field(default_factory=dict)
    story: Story | None = None


def moments_of(schedule: Schedule, segments: int) -> list[Moment]:
    """Every step of L; UserError where there is none."""
    steps = [visit for visit in schedule.visits(1, 1) if visit.role == "L"]
    if not steps:
        raise UserError("a plain Transformer has no steps of L: it answers once, and there is nothing in between")
    return [Moment(segment, visit) for segment in range(1, segments + 1) for visit in steps]


def readings(thinking: Thinking, schedule: Schedule, segments: int) -> Iterator[tuple[Moment, Reading, Thinking]]:
    """What it would say after every step of L, and the thoughts that say so. Each is computed from the beginning of its
    segment: a segment of N cycles of T steps costs as much as about N T / 2 of them. The last step of each is the
    segment itself."""
    for moment in moments_of(schedule, segments):
        visit = moment.visit
        trial = thinking.copy()
        yield moment, trial.segment(schedule.until(visit.cycle, visit.step)), trial
        if (visit.cycle, visit.step) == (schedule.h_cycles - 1, schedule.l_cycles - 1):
            thinking = trial


def answers(
    subject: Subject,
    segments: int,
    limit: int,
    batch_size: int,
    row: int = 1,
    prompt: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Finding:
    """The answers to `limit` puzzles or windows after every step of L, and the story of one of them: the one in `row`,
    or of a `prompt`, which then is the only one."""
    asked = None if prompt is None else [_asked(subject, prompt)]
    count = 1 if asked else min(limit, subject.count)
    if row > count:
        raise UserError(f"--row {row} is not among the {count} that are looked at: raise --limit, or give more --data")
    moments = moments_of(subject.schedule, segments)
    seen, work = Watched({moment: Visited() for moment in moments}), count * len(moments)
    done = 0
    for batch in asked or subject.batches(batch_size, count):
        place = row - 1 - batch.first
        story = Story(subject.schedule, batch, place) if 0 <= place < len(batch.inputs) else None
        course, counted = _Course(), _counted(subject, batch)
        for moment, reading, thinking in readings(subject.begin(batch, segments), subject.schedule, segments):
            _count(seen.visits[moment], course, reading, counted)
            if isinstance(subject, Puzzles):
                seen.visits[moment].solved += int(subject.solved(batch, reading).sum())
            if story is not None:
                story.add(moment, reading, thinking, course.z_h)
            course.best, course.right, course.z_h = reading.best, reading.right, reading.carry.z_h
            done += len(batch.inputs)
            progress(done / work)
        seen.story = story or seen.story
    return _finding(subject, segments, seen, count, row, prompt is not None)


def _counted(subject: Subject, batch: Batch) -> Tensor:
    """[b, p] the cells that the answer fills in, or the tokens that are to be predicted."""
    counted = batch.labels != -100
    blank = subject.task.blank if isinstance(subject, Puzzles) else None
    return counted if blank is None else counted & (batch.inputs == blank)


def _count(visited: Visited, course: _Course, reading: Reading, counted: Tensor) -> None:
    visited.count += int(counted.sum())
    visited.right += int((reading.right & counted).sum())
    visited.loss += float((reading.loss * counted).sum(dtype=torch.float64))
    visited.puzzles += len(counted)
    if course.best is not None and course.right is not None:
        visited.cells += counted.numel()
        visited.changed += int((reading.best != course.best).sum())
        visited.gained += int((reading.right & ~course.right & counted).sum())
        visited.lost += int((~reading.right & course.right & counted).sum())


def _asked(subject: Subject, prompt: str) -> Batch:
    """A question of one's own with its answer as far as search finds one, or a text whose every token is predicted."""
    if isinstance(subject, Text):
        ids = subject.tokenizer(prompt)["input_ids"]
        longest = subject.model.config.max_position_embeddings
        if not 2 <= len(ids) <= longest:
            raise UserError(f"--prompt has {len(ids)} tokens: give 2 to {longest}")
        tokens = torch.tensor([ids], device=subject.model.device)
        labels = torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -100)), 1)
        places = torch.arange(len(ids), device=tokens.device)[None]
        return Batch(0, tokens, labels, {"position_ids": places, "token_type_ids": torch.zeros_like(tokens)})
    assert isinstance(subject, Puzzles)
    task = subject.task
    if task.embedded:
        raise UserError(f"--prompt asks a single puzzle, and every riddle of a {task.name} run is its own: use --row")
    try:
        question = task.parse_bounded(prompt)
        task.check(question)
        answer = task.solution(question)
    except PuzzleError as error:
        raise UserError(f"--prompt is no puzzle of this run: {error}") from error
    device = subject.model.z_h_init.device
    inputs = torch.from_numpy(question.astype(np.int64)).to(device)[None]
    labels = torch.full_like(inputs, -100) if answer is None else torch.from_numpy(answer.astype(np.int64)).to(device)
    return Batch(0, inputs, labels.view_as(inputs), {"task_ids": torch.zeros(1, dtype=torch.long, device=device)})


def _finding(subject: Subject, segments: int, seen: Watched, count: int, row: int, prompted: bool) -> Finding:
    puzzles, story = isinstance(subject, Puzzles), seen.story
    assert story is not None
    rows, visits = [], []
    for moment, one in seen.visits.items():
        means = {
            "right": one.right / one.count if one.count else None,
            "bits": None if puzzles else one.loss / math.log(2) / max(1, one.count),
            "changed": one.changed / one.puzzles if one.cells else None,
            "solved": one.solved / one.puzzles if puzzles else None,
            "gained": one.gained / one.puzzles if one.cells else None,
            "lost": one.lost / one.puzzles if one.cells else None,
        }
        visit = moment.visit
        visits.append({"segment": moment.segment, "cycle": visit.cycle + 1, "step": visit.step + 1} | means)
        kept = ["right", "changed", "gained", "lost", "solved"] if puzzles else ["bits", "right", "changed"]
        mark = " *" if whole(moment, subject.schedule) else ""
        rows.append([name_of(moment) + mark, *(means[name] for name in kept)])
    unit, cell = ("puzzles", "cells") if puzzles else ("windows of text", "tokens")
    columns = (
        ["right", f"{cell} changed", "set right", "set wrong", "solved"]
        if puzzles
        else ["bits a token", "right", f"{cell} changed"]
    )
    title = f"What it would answer after every step of L: {'the prompt' if prompted else f'{count:,} {unit}'}"
    tables = {
        f"mean of {'the prompt' if prompted else f'{count:,} {unit}'} (* ends a segment)": Table(
            ["visit", *columns], rows
        )
    }
    numbers: Json = {
        "segments": segments, "count": count, "row": None if prompted else row, "visits": visits,
        "shown": story.plain(),
    }  # fmt: skip
    if isinstance(subject, Puzzles):
        draw, more = partial(grids.draw, subject, story, title), grids.files(subject, story)
        cells = "cells" if subject.task.blank is None else "cells to be filled in"
        said = _of_puzzles(list(seen.visits.values()), subject.schedule, count, cells)
    else:
        assert isinstance(subject, Text)
        draw, more = partial(heat.draw, subject, story, title), heat.files(subject, story)
        said = _of_text(list(seen.visits.values()), subject.schedule)
    said.append(
        "The model was trained to be read at the end of a segment (*). Every other answer is what its slow module "
        "would have made of the fast state by then."
    )
    return Finding("answers", title, subject.about(), said, tables, numbers, draw, more)


def _of_puzzles(visits: list[Visited], schedule: Schedule, count: int, cells: str) -> list[str]:
    """What happens to the cells that count, which `cells` names."""
    first, last = visits[0], visits[-1]
    said = []
    if last.count:
        said.append(
            f"After the first step {first.right / first.count:.1%} of the {cells} are right, after the "
            f"last {last.right / last.count:.1%}; {last.solved} of {count:,} puzzles are solved then."
        )
    changed, gained, lost = (sum(getattr(one, name) for one in visits) for name in ("changed", "gained", "lost"))
    if changed:
        said.append(
            f"Of all changes after the first answer {gained / changed:.0%} set a cell right, {lost / changed:.0%} set "
            f"a right one wrong, and the rest put one wrong symbol for another: "
            + ("it mostly fills in and seldom takes back." if lost < 0.25 * gained else
               "it guesses and takes back, as in Figure 7 of the HRM paper.")
        )  # fmt: skip
    steps = schedule.h_cycles * schedule.l_cycles
    moved = [sum(one.changed for one in visits[i : i + steps]) for i in range(0, len(visits), steps)]
    if len(moved) > 2 and sum(moved):
        half = next(i for i in range(len(moved)) if sum(moved[: i + 1]) >= 0.5 * sum(moved)) + 1
        said.append(
            f"Half of all changes are made by segment {half} of {len(moved)}; in the last one a puzzle "
            f"changes {moved[-1] / count:.1f} cells on average."
        )
    return said


def _of_text(visits: list[Visited], schedule: Schedule) -> list[str]:
    first, last, unit = visits[0], visits[-1], math.log(2)
    best = min(range(len(visits)), key=lambda i: visits[i].loss)
    bits = [one.loss / unit / max(1, one.count) for one in (first, last)]
    steps = schedule.h_cycles * schedule.l_cycles
    said = [
        f"After the first step the right token costs {bits[0]:.3f} bits, after the last {bits[1]:.3f}; it is the "
        f"likeliest one {first.right / max(1, first.count):.1%} and {last.right / max(1, last.count):.1%} of the time."
    ]
    moved = [one.changed / max(1, one.cells) for one in visits[1:]]
    if moved:
        most = max(range(len(moved)), key=lambda i: moved[i])
        said.append(
            f"A visit changes the likeliest token of {sum(moved) / len(moved):.1%} of the places on average, most in "
            f"visit {most + 2} of {len(visits)} ({moved[most]:.1%}), and {moved[-1]:.1%} in the last."
        )
    if last.loss > HELPS * visits[best].loss:
        where = f"visit {best + 1} (segment {best // steps + 1})"
        said.append(f"The cheapest answer is that of {where}: what comes after it does not help.")
    return said
