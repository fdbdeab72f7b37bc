"""`hrm analyze steps`: how far the states move at every step, and what schedules of other sizes bring and cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hrm.core.probe import Moment, Motion, Probe, probing
from hrm.core.recurrence import Schedule
from hrm.files.records import Json
from hrm.insight.figures import Finding, Table, canvas, look, shares
from hrm.insight.subject import Puzzles, Subject, called

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MOVES = 1e-3
"""A relative change below this is that of a state that has settled."""


class Tried(NamedTuple):
    """A schedule, how good the readouts of the last segment are under it, and what it takes."""

    schedule: Schedule
    quality: float
    """Puzzles: the share that is right; text: bits a token."""
    seconds: float
    """Of a puzzle or a token, for all its segments."""


def steps(
    subject: Subject,
    segments: int,
    limit: int,
    batch_size: int,
    schedules: Sequence[Schedule] = (),
    progress: Callable[[float], None] = lambda share: None,
) -> Finding:
    """Motion of both states at every visit (Fig. 3 of HRM) over `limit` puzzles or windows, and the quality and time of
    each schedule; the model's own is always among them."""
    own, motion = subject.schedule, Motion()
    wanted = [own, *(one for one in dict.fromkeys(schedules) if one != own)]
    done, work = 0.0, sum(sum(1 for _ in one.visits(1, 1)) for one in wanted) * max(1, min(limit, subject.count))
    tried = []
    for schedule in wanted:
        right = loss = counted = count = 0.0
        start = time.perf_counter()
        for batch in subject.batches(batch_size, limit):
            with probing(subject.model, Probe(*([motion] if schedule is own else []))):
                *_, last = subject.think(batch, segments, None if schedule is own else schedule)
            labelled = batch.labels != -100
            right += float(subject.solved(batch, last).sum()) if isinstance(subject, Puzzles) else 0.0
            loss, counted = loss + float(last.loss.sum()), counted + int(labelled.sum())
            count += len(batch.inputs)
            done += len(batch.inputs) * len(schedule.visits(1, 1))
            progress(done / work)
        seconds = time.perf_counter() - start
        puzzles = subject.family == "puzzle"
        quality = right / count if puzzles else loss / math.log(2) / max(1.0, counted)
        tried.append(Tried(schedule, quality, seconds / (count if puzzles else max(1.0, counted))))
    return _finding(subject, segments, motion, tried, int(count))


def _finding(subject: Subject, segments: int, motion: Motion, tried: list[Tried], count: int) -> Finding:
    means = motion.means()
    unit = "puzzles" if subject.family == "puzzle" else "windows of text"
    quality = "share right" if subject.family == "puzzle" else "bits a token"
    cost = "ms a puzzle" if subject.family == "puzzle" else "ms a token"
    moved = [
        [moment.segment, f"{moment.visit.role}{moment.visit.cycle + 1}.{moment.visit.step + 1}"
         if moment.visit.role == "L" else f"H{moment.visit.cycle + 1}", *values.values()]
        for moment, values in means
    ]  # fmt: skip
    tables = {
        "states at every visit": Table(["segment", "visit", "size", "change", "turn"], moved),
        f"schedules, {segments} segments": Table(
            ["cycles x steps", quality, cost],
            [[f"{one.schedule.h_cycles} x {one.schedule.l_cycles}", one.quality, 1000 * one.seconds] for one in tried],
        ),
    }
    numbers: Json = {
        "segments": segments, "count": count,
        "visits": [_moment(moment) | values for moment, values in means],
        "schedules": [
            {"h_cycles": one.schedule.h_cycles, "l_cycles": one.schedule.l_cycles, "quality": one.quality,
             "seconds": one.seconds} for one in tried
        ],
    }  # fmt: skip
    title = f"How far the states of {called(subject)} move, mean over {count:,} {unit}"
    says = [*_sentences(means)]
    return Finding(
        "steps", title, subject.about(), says, tables, numbers, lambda: _draw(means, tried, title, quality, cost)
    )


def _moment(moment: Moment) -> Json:
    visit = moment.visit
    return {"segment": moment.segment, "role": visit.role, "cycle": visit.cycle + 1, "step": visit.step + 1}


def _sentences(means: list[tuple[Moment, dict[str, Any]]]) -> list[str]:
    """What the curves say of this model, from the numbers."""
    said = [
        "change: the length of what a visit adds to a state, divided by the length of the state; turn: the cosine of "
        "that step and the one before, 1 straight ahead, -1 straight back. Post-norm blocks keep the size of a state "
        "constant, so it says little there."
    ]
    last = means[-1][0].segment
    for role in "LH":
        moves = [(moment.segment, values["change"]) for moment, values in means if moment.visit.role == role]
        first, end = ([c for s, c in moves if s == wanted] for wanted in (1, last))
        if first and end and last > 1:
            a, b = sum(first) / len(first), sum(end) / len(end)
            said.append(f"{role} moves by {a:.1%} of its length a visit in segment 1 and by {b:.1%} in segment {last}.")
    # The first cycle begins at the initial state, and a settled state does not move at all.
    fast = [(m, v["change"]) for m, v in means if m.visit.role == "L" and (m.segment, m.visit.cycle) > (1, 0)]
    moving = [(m, change) for m, change in fast if change > MOVES]
    starts = [change for m, change in moving if m.visit.step == 0]
    rest = [change for m, change in moving if m.visit.step > 0]
    if starts and rest:
        times = (sum(starts) / len(starts)) / (sum(rest) / len(rest))
        said.append(
            f"After an update of H the first step of L is {times:.1f} times as large as the later ones: "
            + ("every update of H sets L moving again, as in Figure 3 of the HRM paper." if times > 1.2 else
               "an update of H does not set L moving, unlike in Figure 3 of the HRM paper.")
        )  # fmt: skip
    return said


def _draw(
    means: list[tuple[Moment, dict[str, Any]]], tried: list[Tried], title: str, quality: str, cost: str
) -> Figure:
    figure, axes = canvas(3 if len(tried) > 1 else 2, title=title)
    for name, label, axis in (("change", "relative change", axes[0]), ("turn", "turn (cosine)", axes[1])):
        for number, role in enumerate("LH"):
            points = [
                (i, values[name]) for i, (moment, values) in enumerate(means, 1)
                if moment.visit.role == role and values[name] is not None
            ]  # fmt: skip
            x, y = zip(*points, strict=True) if points else ((), ())
            axis.plot(x, y, label=f"z_{role.lower()}", **look(number))
        for i, (moment, _) in enumerate(means, 1):
            if moment.visit.cycle == moment.visit.step == 0 and moment.segment > 1:
                axis.axvline(i - 0.5, color="0.8", linewidth=0.8, zorder=0)
        axis.set(xlabel="visit (lines: segments begin)", ylabel=label)
    axes[0].set_yscale("log")
    axes[0].legend(frameon=False)
    if len(tried) == 1:
        return figure
    for number, one in enumerate(tried):
        how: dict[str, Any] = {**look(number), "linestyle": "none"}
        name = f"{one.schedule.h_cycles} x {one.schedule.l_cycles}"
        axes[2].plot([1000 * one.seconds], [one.quality], label=name, **how)
    axes[2].set(xlabel=cost, ylabel=quality, xlim=(0, None))
    if quality == "share right":
        shares(axes[2])
    axes[2].legend(frameon=False, title="cycles x steps", title_fontsize=8)
    return figure
