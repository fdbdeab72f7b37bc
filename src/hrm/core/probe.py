"""What a model's states do at every visit of the recurrence: handed over as they come, kept only as far as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hrm.core.recurrence import Carry, Visit


class Moment(NamedTuple):
    """A visit in the course of a puzzle or a text; segments are counted from 1."""

    segment: int
    visit: Visit

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts moments as they come."""
        return self.segment, self.visit.cycle, self.visit.step

    def of(self, carry: Carry) -> Tensor:
        """The state that the visit has just changed."""
        return carry.z_l if self.visit.role == "L" else carry.z_h


class Observer(Protocol):
    """Is shown states [rows, positions, dim]; `live` [rows, positions] says which tokens had not halted, None: all."""

    def begin(self, carry: Carry) -> None:
        """The states before the first segment."""

    def see(self, moment: Moment, carry: Carry, live: Tensor | None) -> None:
        """The states after a visit; a halted token shows those at which it halted."""


class Probe:
    """Passes a model's states on to observers, of the rows, positions and moments that are chosen."""

    def __init__(
        self,
        *observers: Observer,
        rows: Any = slice(None),
        positions: Any = slice(None),
        moments: Callable[[Moment], bool] | None = None,
    ) -> None:
        """`rows` and `positions` index the first two axes of the states, one after the other; `moments` says which
        visits are of interest."""
        self.observers, self.rows, self.positions, self.moments = observers, rows, positions, moments
        self.segment = self.begun = 0

    def begin(self, carry: Carry) -> None:
        """Initial states: segments are counted from here."""
        self.segment, self.begun = 0, len(carry.z_h)
        for observer in self.observers:
            observer.begin(Carry(*map(self._chosen, carry)))

    @torch.no_grad()
    def see(self, visit: Visit, carry: Carry, live: Tensor | None = None) -> None:
        """The states after a visit; ValueError for rows that did not begin together, as in solving a stream."""
        if len(carry.z_h) != self.begun:
            raise ValueError("a probe watches rows that begin together: solve one puzzle at a time under it")
        self.segment += visit.cycle == visit.step == 0
        moment = Moment(self.segment, visit)
        if self.moments is None or self.moments(moment):
            chosen = Carry(*map(self._chosen, carry))
            for observer in self.observers:
                observer.see(moment, chosen, None if live is None else self._chosen(live))

    def _chosen(self, t: Tensor) -> Tensor:
        return t[self.rows][:, self.positions]


@contextmanager
def probing(model: nn.Module, probe: Probe) -> Iterator[Probe]:
    """Whatever the model computes in here, the probe is told: a PuzzleModel, or a causal model also while it writes."""
    inner: Any = model if hasattr(model, "probe") else model.model
    before, inner.probe = inner.probe, probe
    try:
        yield probe
    finally:
        inner.probe = before


class States:
    """Keeps the state that each visit changed, in its own precision on the CPU."""

    def __init__(self) -> None:
        self.first: Carry | None = None
        self.kept: list[tuple[Moment, Tensor]] = []

    def begin(self, carry: Carry) -> None:
        self.first = Carry(*(z.detach().cpu().clone() for z in carry))

    def see(self, moment: Moment, carry: Carry, live: Tensor | None) -> None:
        self.kept.append((moment, moment.of(carry).detach().cpu().clone()))


class Motion:
    """Means over tokens, for each moment: the size of the state that was changed, |z| / sqrt(dim); its relative change,
    |z - z'| / |z'| with z' the same state before (Fig. 3 of HRM); and the cosine of this change and the one before."""

    NAMES = ("size", "change", "turn")

    def __init__(self) -> None:
        self.sums: dict[Moment, Tensor] = {}
        """Number of tokens, then the sums of the three, and the number of tokens that have a turn."""
        self._last: dict[str, Tensor] = {}
        self._step: dict[str, Tensor] = {}

    def begin(self, carry: Carry) -> None:
        self._last, self._step = {"H": carry.z_h, "L": carry.z_l}, {}

    def see(self, moment: Moment, carry: Carry, live: Tensor | None) -> None:
        role, z = moment.visit.role, moment.of(carry)
        before, z = (_wide(self._last[role]), _wide(z)) if role in self._last else (torch.zeros_like(z), _wide(z))
        step = z - before
        moved, size, start = step.norm(dim=-1), z.norm(dim=-1), before.norm(dim=-1)
        counts = torch.ones_like(size) if live is None else live.to(size)
        turn, turned = torch.zeros_like(size), torch.zeros_like(size)
        if (old := self._step.get(role)) is not None and old.shape == step.shape:
            scale = moved * old.norm(dim=-1)
            turn = (step * old).sum(-1) / scale.clamp(min=torch.finfo(scale.dtype).tiny)
            turned = (scale > 0).to(size)
        change = moved / start.clamp(min=torch.finfo(start.dtype).tiny) * (start > 0)
        values = (torch.ones_like(size), size / z.shape[-1] ** 0.5, change, turn * turned, turned)
        found = torch.stack([(value * counts).sum(dtype=torch.float64) for value in values]).cpu()
        self.sums[moment] = self.sums.get(moment, torch.zeros(5, dtype=torch.float64)) + found
        self._last[role], self._step[role] = z, step

    def means(self) -> list[tuple[Moment, dict[str, float | None]]]:
        """By moment in their order; None for a turn that there was nothing before."""
        found = []
        for moment, (tokens, size, change, turn, turned) in sorted(self.sums.items(), key=lambda item: item[0].order):
            n = float(tokens) or 1.0
            means = {"size": float(size) / n, "change": float(change) / n}
            found.append((moment, means | {"turn": float(turn / turned) if turned else None}))
        return found


class Spread:
    """Streamed covariance of states: a count, a sum and a matrix of products, however many states there are."""

    def __init__(self, shift: Tensor | None = None) -> None:
        """`shift` [dim] is subtracted from all, so that sums stay exact; spreads of one shift can be added."""
        self.count, self.shift = 0, shift
        self.sum: Tensor | None = None
        self.products: Tensor | None = None

    def add(self, states: Tensor) -> None:
        """States [..., dim]."""
        z = _wide(states.detach()).flatten(0, -2)
        if self.shift is None:
            self.shift = z.mean(0) if len(z) else z.new_zeros(z.shape[-1])
        z = z - self.shift
        total, products = z.sum(0, dtype=torch.float64), (z.T @ z).double()
        self.count += len(z)
        self.sum = total if self.sum is None else self.sum + total
        self.products = products if self.products is None else self.products + products

    def __add__(self, other: Spread) -> Spread:
        """That of the states of both, which must have the same shift."""
        found = Spread(self.shift)
        found.count = self.count + other.count
        assert self.sum is not None and self.products is not None
        assert other.sum is not None and other.products is not None
        found.sum, found.products = self.sum + other.sum, self.products + other.products
        return found

    def covariance(self) -> Tensor:
        """[dim, dim] in float64, divided by the number of states less one."""
        assert self.sum is not None and self.products is not None
        mean = self.sum / self.count
        return (self.products - self.count * torch.outer(mean, mean)) / max(1, self.count - 1)

    def participation_ratio(self) -> float:
        """(sum of eigenvalues)^2 / sum of their squares: in how many directions the states spread (Fig. 8 of HRM)."""
        matrix = self.covariance()
        squares = float(matrix.square().sum())  # of a symmetric matrix, that of its eigenvalues
        return float(matrix.trace()) ** 2 / squares if squares > 0 else 0.0


def _wide(z: Tensor) -> Tensor:
    return z if z.dtype in (torch.float32, torch.float64) else z.float()
