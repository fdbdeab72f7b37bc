"""`hrm analyze paths`: where thinking goes over many segments, where it ends, and how firmly it stays there."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hrm.core.calibration import interval
from hrm.core.probe import Spread
from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.insight.figures import Finding, Table
from hrm.insight.planes import draw
from hrm.insight.subject import Batch, Puzzles, Subject, Thinking, called
from hrm.puzzles.config import Strategy
from hrm.puzzles.solving.engine import NOISE, noise_of

STILL = 0.05
"""States nearer to each other than this share of their length count as the same. Rounding in bfloat16 alone moves a
state at rest by 3 %."""
LAGS = 16
"""How many segments back a state is compared; cycles of up to half of it are seen, each twice or more."""
LEVELS = (0.0, 0.1, 0.5, 1.0, 2.0)
"""Noise at a solved state, as a share of its scale; 0 shows who leaves by himself."""
KEPT = 256
"""Most puzzles or tokens whose whole path is kept."""
OTHERS = 8
"""Of these, as many keep their paths from other starts."""
KINDS = tuple((right, end) for right in ("right", "wrong") for end in ("fixed", "cycle", "moving"))


SAME = 0.98
"""Share of views with an equal answer from which a model counts as symmetric: rounding alone parts a few."""


class Start(NamedTuple):
    """From where a puzzle is thought about: as asked, with noise in the initial states, or through a symmetry."""

    name: str
    noise: int = 0
    view: int = 0


@dataclass
class Ends:
    """How every puzzle or token [u] ended from one start."""

    period: list[np.ndarray] = field(default_factory=list)
    """1: a fixed point; 0: still moving."""
    right: list[np.ndarray] = field(default_factory=list)
    answer: list[np.ndarray] = field(default_factory=list)
    """[u, cells] as it was asked."""
    residual: list[np.ndarray] = field(default_factory=list)
    """Relative change of the slow state in the last segment."""
    paths: list[np.ndarray] = field(default_factory=list)
    """[u, segments, dim] of some: z_h, the mean over positions for a puzzle."""

    def joined(self, name: str) -> np.ndarray:
        """Of all batches."""
        return np.concatenate(getattr(self, name))


def paths(
    subject: Subject,
    segments: int,
    limit: int,
    batch_size: int,
    restarts: int | None = None,
    views: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Finding:
    """The way of z_h over `segments` of `limit` puzzles, or of the tokens of as many windows, from every start; their
    ends; and what becomes of a solved state to which noise is added."""
    starts, count = _starts(subject, restarts, views), min(limit, subject.count)
    after = max(1, min(segments, subject.max_segments)) if subject.family == "puzzle" else min(segments, LAGS)
    ends = [Ends() for _ in starts]
    back = {level: [0, 0] for level in LEVELS}
    work, done = count * (len(starts) * segments + len(LEVELS) * after), 0
    for batch in subject.batches(batch_size, count):
        for start, end in zip(starts, ends, strict=True):
            kept = KEPT - sum(map(len, end.paths)) if start is starts[0] else OTHERS * (not end.paths)
            thinking, right = _follow(subject, batch, segments, start, seed, end, kept)
            done += len(batch.inputs) * segments
            progress(done / work)
            if start is starts[0]:
                for number, level in enumerate(LEVELS):
                    stays = _disturbed(subject, batch, thinking, level, number, seed, after)
                    back[level][0] += int((stays & right).sum())
                    back[level][1] += int(right.sum())
                    done += len(batch.inputs) * after
                    progress(done / work)
    return _finding(subject, segments, after, starts, ends, back, count)


def _starts(subject: Subject, restarts: int | None, views: int | None) -> list[Start]:
    """As asked, then the others; UserError for a kind that this model or task does not have."""
    first = subject.model.recurrence if isinstance(subject, Puzzles) else subject.model.model.recurrence
    if first.schedule.l_cycles == 0:
        raise UserError("a plain Transformer has no states that pass from segment to segment: it has no paths")
    if restarts and first.first_state:
        raise UserError("the input of this model is its first slow state, and noise would change it: --restarts 0")
    symmetric = isinstance(subject, Puzzles) and subject.task.uniforms
    if views and not symmetric:
        raise UserError("there are no symmetric views of this task: leave out --views")
    again = 0 if first.first_state else 3 if restarts is None else restarts
    seen = 0 if not symmetric else 3 if views is None else views
    return [
        Start("as asked"),
        *(Start("restarts", noise=number) for number in range(1, again + 1)),
        *(Start("views", view=number) for number in range(1, seen + 1)),
    ]


def _follow(
    subject: Subject, batch: Batch, segments: int, start: Start, seed: int, end: Ends, kept: int
) -> tuple[Thinking, np.ndarray]:
    """Think `segments` long and note how each unit ends; the thoughts, and which units [u] are right."""
    turned, undo = _turned(subject, batch, start.view)
    chosen = counted(subject, batch)
    thinking = subject.begin(turned, segments)
    if start.noise:
        thinking.carry = shaken(thinking.carry, batch, NOISE, seed, start.noise)
    states: deque[Tensor] = deque(maxlen=1 + min(LAGS, segments // 2))
    kept_at = kept_of(len(chosen))[: max(0, kept)]
    path = []
    for _ in range(segments):
        reading = thinking.segment()
        z = _units(subject, reading.carry.z_h, chosen)
        states.append(z)
        path.append((z.mean(1) if subject.family == "puzzle" else z.flatten(1))[torch.from_numpy(kept_at)].cpu())
    right = judged(subject, turned, reading)
    answers = reading.best.cpu().numpy()
    end.period.append(periods(list(states)))
    end.right.append(right)
    end.answer.append(
        np.stack([turn(row) for turn, row in zip(undo, answers, strict=True)])
        if subject.family == "puzzle"
        else answers.reshape(-1, 1)[chosen]
    )
    end.residual.append(_distance(states[-1], states[-2]).cpu().numpy() if len(states) > 1 else np.ones(len(right)))
    if len(kept_at):
        end.paths.append(torch.stack(path, 1).float().numpy())
    return thinking, right


def kept_of(units: int) -> np.ndarray:
    """Of the units of a batch, those whose paths are kept; the first of them also from other starts."""
    return np.linspace(0, units - 1, min(KEPT, units)).astype(int)


def counted(subject: Subject, batch: Batch) -> np.ndarray:
    """[u] the places of the units: every puzzle, or every token that has a next one, in the flattened batch."""
    if subject.family == "puzzle":
        return np.arange(len(batch.inputs))
    return np.flatnonzero((batch.labels != -100).flatten().cpu().numpy())


def judged(subject: Subject, batch: Batch, reading: Any) -> np.ndarray:
    """[u] whether each unit is right."""
    if isinstance(subject, Puzzles):
        return subject.solved(batch, reading)
    return reading.right.flatten().cpu().numpy()[counted(subject, batch)]


def _units(subject: Subject, z_h: Tensor, chosen: np.ndarray) -> Tensor:
    """[u, positions of a unit, dim]"""
    return z_h if subject.family == "puzzle" else z_h.flatten(0, 1)[torch.from_numpy(chosen)][:, None]


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """[u] |a - b| / |a| of states [u, positions, dim]."""
    a, b = a.float().flatten(1), b.float().flatten(1)
    return (a - b).norm(dim=1) / a.norm(dim=1).clamp(min=1e-12)


def periods(states: Sequence[Tensor], still: float = STILL) -> np.ndarray:
    """[u] the least number of segments after which the last state was there before, each time that many segments back;
    0 where there is none. Of states [u, positions, dim] after each of the last segments; at most half of them."""
    far = torch.stack([_distance(states[-1], states[-1 - lag]) for lag in range(1, len(states))]).cpu().numpy() \
        if len(states) > 1 else np.ones((0, len(states[-1])))  # fmt: skip
    found = np.zeros(far.shape[1], int)
    for period in range(max(1, len(far) // 2), 0, -1):
        if len(far):
            found[(far[period - 1 :: period] < still).all(0)] = period
    return found


def shaken(carry: Carry, batch: Batch, scale: float, seed: int, number: int) -> Carry:
    """States with noise of `scale` times their own scale in each row, the same that a restart of solving gets."""
    states = torch.stack(carry).clone()
    for row, question in enumerate(batch.inputs.cpu().numpy()):
        noise = noise_of(tuple(states.shape[2:]), seed, number, question).to(states.device, states.dtype)
        states[:, row] += scale * noise * states[:, row].square().mean((1, 2), keepdim=True).sqrt()
    return Carry(*states)


def _disturbed(
    subject: Subject, batch: Batch, thinking: Thinking, level: float, number: int, seed: int, after: int
) -> np.ndarray:
    """[u] who is right `after` segments on from the states with noise."""
    again = thinking.copy()
    if level:
        again.carry = shaken(again.carry, batch, level, seed, 1000 + number)
    for _ in range(after):
        reading = again.segment()
    return judged(subject, batch, reading)


def _turned(subject: Subject, batch: Batch, view: int) -> tuple[Batch, list[Callable[[np.ndarray], np.ndarray]]]:
    """The batch through a view, and how each row's answers are turned back."""
    if not view or not isinstance(subject, Puzzles):
        return batch, [lambda row: row] * len(batch.inputs)
    see = subject.solver.rules(Strategy()).view
    assert see is not None
    questions, labels = batch.inputs.cpu().numpy(), batch.labels.cpu().numpy()
    turns = [see(question, view) for question in questions]
    seen = [turn.apply(question) for turn, question in zip(turns, questions, strict=True)]
    known = [np.where(row[turn.source] < 0, row[turn.source], turn.apply(np.maximum(row, 0)))
             for turn, row in zip(turns, labels, strict=True)]  # fmt: skip
    inputs, right = (torch.from_numpy(np.stack(rows)).to(batch.inputs) for rows in (seen, known))
    return batch._replace(inputs=inputs, labels=right), [turn.undo for turn in turns]


class Plane(NamedTuple):
    """The two directions in which states spread most."""

    mean: np.ndarray
    axes: np.ndarray
    """[2, dim]"""
    shares: np.ndarray
    """[2] of the variance."""

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """[..., 2] where states [..., dim] lie."""
        return (states - self.mean) @ self.axes.T


def plane(states: np.ndarray) -> Plane:
    """Of [n, dim]; the largest entry of each direction is positive."""
    mean = states.mean(0)
    spread = Spread(torch.from_numpy(mean))
    spread.add(torch.from_numpy(states))
    values, vectors = torch.linalg.eigh(spread.covariance())
    axes = vectors.T.flip(0)[:2].numpy()
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    return Plane(mean, axes * np.sign(largest), (values.flip(0)[:2] / values.sum().clamp(min=1e-300)).numpy())


def kinds_of(period: np.ndarray, right: np.ndarray) -> Counter[tuple[str, str]]:
    """How many ended in which way."""
    ends = np.where(period == 1, "fixed", np.where(period > 1, "cycle", "moving"))
    return Counter(("right" if ok else "wrong", str(end)) for ok, end in zip(right, ends, strict=True))


def _finding(
    subject: Subject, segments: int, after: int, starts: list[Start], ends: list[Ends],
    back: dict[float, list[int]], count: int,
) -> Finding:  # fmt: skip
    puzzles = subject.family == "puzzle"
    unit = "puzzles" if puzzles else "tokens"
    first, names = ends[0], list(dict.fromkeys(start.name for start in starts))
    units = len(first.joined("right"))
    kinds = {
        name: sum((kinds_of(end.joined("period"), end.joined("right")) for start, end in zip(starts, ends, strict=True)
                   if start.name == name), Counter())
        for name in names
    }  # fmt: skip
    lengths = Counter(int(p) for p in first.joined("period") if p > 1)
    answers = np.stack([end.joined("answer") for end in ends])
    different = [len({row.tobytes() for row in answers[:, i]}) for i in range(units)]
    stable = [
        {"noise": level, "back": came, "of": of, "interval": list(interval(came, of))}
        for level, (came, of) in back.items()
    ]
    states = np.concatenate(first.paths).astype(np.float64)
    found = plane(states.reshape(-1, states.shape[-1]))
    numbers: Json = {
        "segments": segments, "count": count, "units": units, "after": after,
        "kinds": {name: {f"{right}, {end}": kinds[name][right, end] for right, end in KINDS} for name in names},
        "periods": {str(length): many for length, many in sorted(lengths.items())},
        "answers": {str(many): of for many, of in sorted(Counter(different).items())},
        "residual": {name: _median(first.joined("residual")[first.joined("right") == (name == "right")])
                     for name in ("right", "wrong")},
        "stable": stable, "variance": found.shares.tolist(),
        "right": {"as asked": int(first.joined("right").sum()),
                  "from any start": int(np.any([end.joined("right") for end in ends], 0).sum())},
        "views_as_asked": _same(starts, ends),
        "paths": [{"right": bool(right), "plane": np.round(found(path), 5).tolist()}
                  for path, right in zip(states[:24], _shown(first)[:24], strict=False)],
    }  # fmt: skip
    tables = {
        f"how {units:,} {unit} end after {segments} segments, by start": Table(
            ["start", *(f"{right}, {end}" for right, end in KINDS)],
            [[name, *(kinds[name][kind] for kind in KINDS)] for name in names],
        ),
        "different answers": Table(
            [f"from {len(starts)} starts", unit], [[many, of] for many, of in sorted(Counter(different).items())]
        ),
        f"right again {after} segments after noise at a solved state": Table(
            ["noise / state", "share", "from", "to", "of"],
            [[one["noise"], one["back"] / one["of"] if one["of"] else None, *one["interval"], one["of"]]
             for one in stable],
        ),
    }  # fmt: skip
    title = f"Where the thinking of {called(subject)} goes: {units:,} {unit}, {segments} segments"
    shown = _shown(first)
    early = kept_of(len(first.right[0]))[: min(OTHERS, len(first.paths[0]))]
    picked = max(range(len(early)), key=lambda i: different[early[i]])
    others = [(start.name, end.paths[0][picked]) for start, end in zip(starts, ends, strict=True)]
    return Finding(
        "paths", title, subject.about(), _sentences(numbers, unit, starts), tables, numbers,
        lambda: draw(title, unit, found, states, shown, others, kinds, stable, after),
    )  # fmt: skip


def _shown(first: Ends) -> np.ndarray:
    """Which of the paths that are kept end right."""
    found = []
    for right, path in zip(first.right, first.paths, strict=False):
        found.append(right[kept_of(len(right))[: len(path)]])
    return np.concatenate(found)


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _same(starts: list[Start], ends: list[Ends]) -> float | None:
    """The share of views that give the answer that the puzzle gets as it is asked."""
    asked = ends[0].joined("answer")
    shares = [
        (end.joined("answer") == asked).all(1).mean() for start, end in zip(starts, ends, strict=True) if start.view
    ]
    return float(np.mean(shares)) if shares else None


def _sentences(numbers: Json, unit: str, starts: list[Start]) -> list[str]:
    kinds, units = numbers["kinds"]["as asked"], numbers["units"]
    cycles = kinds["right, cycle"] + kinds["wrong, cycle"]
    lengths = f" (periods {', '.join(numbers['periods'])})" if numbers["periods"] else ""
    said = [
        f"Of {units:,} {unit} {kinds['right, fixed']:,} end at a right fixed point and "
        f"{kinds['wrong, fixed']:,} at a wrong one, {cycles:,} in a cycle{lengths}, and "
        f"{kinds['right, moving'] + kinds['wrong, moving']:,} still move after {numbers['segments']} "
        "segments."
    ]  # fmt: skip
    right, wrong = numbers["residual"]["right"], numbers["residual"]["wrong"]
    if right is not None and wrong is not None:
        said.append(
            f"In the last segment z_h of a right one moves by {right:.1%} of its length, of a wrong one by {wrong:.1%} "
            f"(medians): "
            + ("the wrong ones are the restless ones." if wrong > 2 * right else "rest does not tell right from wrong.")
        )  # fmt: skip
    if len(starts) > 1:
        told = numbers["right"]
        many = sum(of for count, of in numbers["answers"].items() if int(count) > 1)
        said.append(
            f"{told['as asked']:,} are right as asked and {told['from any start']:,} from at least one of "
            f"{len(starts)} starts; {many:,} get different answers from different starts."
        )
    if (share := numbers["views_as_asked"]) is not None:
        failed = units - numbers["right"]["as asked"]
        why = " This model is symmetric, up to rounding: a view is no new start for it."
        said.append(
            f"{share:.0%} of the symmetric views get the answer that the puzzle itself gets."
            + (why if share > SAME and failed > 2 else "")
        )
    told = [one for one in numbers["stable"] if one["of"] and one["noise"] in (0.5, 2.0)]
    if told:
        parts = [
            f"{one['back'] / one['of']:.0%} ({one['interval'][0]:.0%} to {one['interval'][1]:.0%}) after noise of "
            f"{one['noise']:g} times its scale" for one in told
        ]  # fmt: skip
        said.append(f"Noise at a solved state: right again {numbers['after']} segments later are {', '.join(parts)}.")
    return said
