"""`hrm analyze ablate`: what a result loses where a part of the model is knocked out, and retrained without it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hrm.core.calibration import interval
from hrm.core.recurrence import Carry, Reduced, Schedule
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.insight.figures import Finding, Table, canvas, look
from hrm.insight.subject import Puzzles, Subject, called, same_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WHOLE, KNOCKED, RETRAINED = "whole", "knocked out", "retrained"
Z = 1.959964


class Arm(NamedTuple):
    """One way to think, and what it changes."""

    name: str
    segments: int
    schedule: Schedule | None = None
    carried: Callable[[Carry, Carry], Carry] | None = None
    """What a segment begins from, given the states before the first one and those after the last one."""
    blanked: bool = False
    """Whether the task embedding is zero."""


class Scored(NamedTuple):
    """How good the readouts of the last segment are: the share right, or bits a token, with its 95 % interval."""

    name: str
    kind: str
    segments: int
    quality: float
    low: float
    high: float
    count: int
    rows: np.ndarray
    """[puzzles or windows, 2]: 1 for right or the bits of all its tokens, and 1 or their number."""


def arms(subject: Subject, segments: int) -> list[Arm]:
    """What can be knocked out of a model, the whole model first.

    Without H: z_h stays as it was at the start while L takes all its steps; at the end of a segment H makes one update,
    which is read out and forgotten. So H still translates for the head, but nothing ever comes back from it. Without L:
    z_l stays as it was at the start, and H updates alone. Without carry every segment begins from fresh states, which
    gives the first segment again: it is the same as one segment, and run as that. The other arms lose z_h or z_l alone
    between two segments."""
    own = subject.schedule
    found = [
        Arm(WHOLE, segments),
        Arm("without H", segments, own.without("H"), lambda first, last: Carry(first.z_h, last.z_l)),
        Arm("without L", segments, own.without("L")),
    ]
    if own.h_cycles > 1:
        found.append(Arm("1 cycle", segments, Schedule(1, own.l_cycles)))
    if own.l_cycles > 1:
        found.append(Arm("1 step a cycle", segments, Schedule(own.h_cycles, 1)))
    if min(own) > 1:
        found.append(Arm("1 cycle, 1 step", segments, Schedule(1, 1)))
    if segments > 1:
        found.append(Arm("without carry: one segment", 1))
        found.append(Arm("without carry of z_h", segments, None, lambda first, last: Carry(first.z_h, last.z_l)))
        found.append(Arm("without carry of z_l", segments, None, lambda first, last: Carry(last.z_h, first.z_l)))
    if subject.family == "puzzle" and subject.model.task_embedding is not None:
        found.append(Arm("task embedding blanked", segments, blanked=True))
    return found


def ablate(
    subject: Subject,
    retrained: Sequence[Subject],
    segments: int | None,
    limit: int,
    batch_size: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Finding:
    """Each arm over `limit` puzzles or windows at a fixed depth, then models that were trained in another form, as each
    was trained."""
    if subject.schedule.l_cycles < 1:
        raise UserError(f"{subject.name} is a plain Transformer: it has neither H nor L to knock out")
    for other in retrained:
        if other.family != subject.family:
            raise UserError(f"{subject.name} and {other.name} are of puzzles and text: compare runs of one kind")
    wanted: list[tuple[Subject, Arm, str]] = []
    for arm in arms(subject, segments or subject.max_segments):
        wanted.append((subject, arm, KNOCKED if arm.name != WHOLE else WHOLE))
    for other in retrained:
        wanted.append((other, Arm(changes(subject, other), other.max_segments), RETRAINED))
    scored = []
    for number, (which, arm, kind) in enumerate(wanted):
        scored.append(score(which, arm, kind, limit, batch_size))
        progress((number + 1) / len(wanted))
    return _finding(subject, scored, [other for other in retrained if not same_data(subject, other)])


def score(subject: Subject, arm: Arm, kind: str, limit: int, batch_size: int) -> Scored:
    """One arm."""
    found: list[np.ndarray] = []
    with blanked(subject.model) if arm.blanked else nullcontext():
        # Where attention shares keys and values, a reduced schedule keeps to the slots of the whole one.
        begun = None if isinstance(arm.schedule, Reduced) else arm.schedule
        for batch in subject.batches(batch_size, limit):
            thinking = subject.begin(batch, arm.segments, begun)
            first = thinking.carry
            for segment in range(arm.segments):
                if segment and arm.carried is not None:
                    thinking.carry = arm.carried(first, thinking.carry)
                reading = thinking.segment(arm.schedule)
            if isinstance(subject, Puzzles):
                right = subject.solved(batch, reading).astype(float)
                found.append(np.stack([right, np.ones_like(right)], 1))
            else:
                losses, counted = reading.loss.double().sum(1) / math.log(2), (batch.labels != -100).sum(1)
                found.append(torch.stack([losses, counted.double()], 1).cpu().numpy())
    rows = np.concatenate(found)
    total, count = rows.sum(0)
    quality = float(total / max(1, count))
    error = _error(rows[:, 0] - quality * rows[:, 1], count)
    ends = interval(round(total), round(count)) if isinstance(subject, Puzzles) else (quality - error, quality + error)
    return Scored(arm.name, kind, arm.segments, quality, *ends, round(count), rows)


def _error(gaps: np.ndarray, count: float) -> float:
    """Half a 95 % interval of a mean over `count`, of the distances of rows from it; NaN for one row, which tells
    nothing of how much others vary."""
    if len(gaps) < 2:
        return math.nan
    return float(Z * np.sqrt((gaps**2).sum()) / max(1, count))


class _Blank(nn.Module):
    """In place of a task embedding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, ids: Tensor) -> Tensor:
        return torch.zeros(len(ids), self.dim, device=ids.device)


@contextmanager
def blanked(model: Any) -> Iterator[None]:
    """A model without its task embedding."""
    before, model.task_embedding = model.task_embedding, _Blank(model.arch.dim)
    try:
        yield
    finally:
        model.task_embedding = before


def changes(one: Subject, other: Subject) -> str:
    """In what the form of another model differs, and the name of its run."""
    a, b = (_form(subject) for subject in (one, other))
    parts = [f"{name} {_plain(value)}" for name, value in b.items() if a.get(name) != value]
    return f"{called(other)}: {', '.join(parts) or 'of the same form'}"


def _form(subject: Subject) -> Json:
    arch = subject.model.arch if isinstance(subject, Puzzles) else subject.model.config.arch
    return {each.name: getattr(arch, each.name) for each in fields(arch)} | {"max_segments": subject.max_segments}


def _plain(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _finding(subject: Subject, scored: list[Scored], strangers: list[Subject]) -> Finding:
    puzzles, whole = subject.family == "puzzle", scored[0]
    quality, unit = ("right", "puzzles") if puzzles else ("bits a token", "tokens")
    rows = [[*one[:-2], *_loss(one, whole, puzzles)] for one in scored]
    table = Table(["model", "how", "segments", quality, "95 % from", "to", "loses", "± (95 %)"], rows)
    title = f"What {called(subject)} loses without its parts: {whole.count:,} {unit}"
    told = []
    for one in scored:
        loss, error = _loss(one, whole, puzzles)
        told.append({**one._asdict(), "loses": loss, "error": error})
        told[-1].pop("rows")
    numbers: Json = {"count": whole.count, "arms": told}
    says = _sentences(subject, scored)
    says += [f"{called(other)} did not see the same {unit}: name some for all with --data." for other in strangers]
    return Finding(
        "ablate", title, subject.about(), says, {f"at fixed depth, {whole.count:,} {unit}": table}, numbers,
        lambda: _draw(scored, quality, title),
    )  # fmt: skip


def _loss(one: Scored, whole: Scored, puzzles: bool) -> tuple[float, float | None]:
    """How much worse it is than the whole model (below 0: better), and half the 95 % interval of that, row by row;
    None for a model that saw others."""
    loss = whole.quality - one.quality if puzzles else one.quality - whole.quality
    if len(one.rows) != len(whole.rows) or not np.array_equal(one.rows[:, 1], whole.rows[:, 1]):
        return loss, None
    gaps = (one.rows - whole.rows)[:, 0] + (loss if puzzles else -loss) * whole.rows[:, 1]
    return loss, _error(gaps, whole.count)


def _sentences(subject: Subject, scored: list[Scored]) -> list[str]:
    puzzles, whole = subject.family == "puzzle", scored[0]

    def shown(value: float) -> str:
        return f"{value:.1%}" if puzzles else f"{value:.3f}"

    found = [(*_loss(one, whole, puzzles), one) for one in scored if one.kind == KNOCKED]
    found.sort(key=lambda each: -each[0])
    what = "are right" if puzzles else "bits a token"
    said = [
        f"Whole, {shown(whole.quality)} {what} after {whole.segments} segments. A bar shows the same model with a part "
        "knocked out, which it was never trained to do without; a retrained one had the time to find another way."
    ]
    clear = [one for loss, error, one in found if loss > 0 and loss > (error or 0.0)]
    if clear:
        said.append(
            "Clearly worse, worst first: " + "; ".join(f"{one.name} {shown(one.quality)}" for one in clear) + "."
        )
    if rest := [one.name for _, _, one in found if all(one is not other for other in clear)]:
        said.append("No loss that is larger than chance (95 %): " + "; ".join(rest) + ".")
    if not subject.model.recurrence.first_state:
        said.append("The input enters through L alone, so that without L the model sees nothing of it.")
    if puzzles and subject.model.task_embedding is None:
        said.append("It has no task embedding to blank.")
    retrained = [f"{one.name} {shown(one.quality)}" for one in scored if one.kind == RETRAINED]
    return said + (["Retrained: " + "; ".join(retrained) + "."] if retrained else [])


def _draw(scored: list[Scored], quality: str, title: str) -> Figure:
    figure, (axis,) = canvas(1, height=1.2 + 0.34 * len(scored), width=7.4, title=title)
    kinds = [WHOLE, KNOCKED, RETRAINED]
    for number, kind in enumerate(kinds):
        places = [i for i, one in enumerate(scored) if one.kind == kind]
        those = [scored[i] for i in places]
        if not those:
            continue
        # At the ends of an interval rounding may leave less than nothing.
        errors = [
            [max(0.0, one.quality - one.low) for one in those],
            [max(0.0, one.high - one.quality) for one in those],
        ]
        how: dict[str, Any] = {"color": look(number)["color"], "hatch": ("", "//", "..")[number], "edgecolor": "white"}
        caps = {"linewidth": 1, "capsize": 2}
        values = [one.quality for one in those]
        axis.barh(places, values, xerr=errors, label=kind, height=0.7, linewidth=0, error_kw=caps, **how)
    axis.axvline(scored[0].quality, color="0.4", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(scored)), [textwrap.fill(one.name, 36) for one in scored], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel=f"{quality} (lines: 95 % intervals)")
    axis.legend(frameon=False, fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")
    return figure
