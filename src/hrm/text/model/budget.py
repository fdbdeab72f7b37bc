"""The budget of a request: how many segments tokens may get and when they halt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache

from hrm.core.recurrence import Schedule
from hrm.files.reading import UserError
from hrm.text.arch import READOUT, Halting, Rule, State
from hrm.text.model.cache import HRMCache
from hrm.text.model.configuration import HRMConfig


class Request(TypedDict, total=False):
    """What may be asked for by name in `forward`, in `generate` and in a `GenerationConfig`; None: the model's own."""

    max_segments: int | None
    min_segments: int | None
    halting: str | None
    halting_rule: str | None
    exit_threshold: float | None
    schedule: Sequence[int] | None
    state: str | None
    retry_confidence: float | None
    retry_segments: int | None


class Budget(NamedTuple):
    """What the tokens of a request may spend, and when they stop earlier: a request's wishes, completed."""

    max_segments: int
    min_segments: int
    halting: str
    halting_rule: str
    exit_threshold: float
    schedule: Schedule
    state: str
    retry_confidence: float
    retry_segments: int
    q_continue: bool
    readout: tuple[float, ...] = ()

    @classmethod
    def of(cls, config: HRMConfig, **request: Unpack[Request]) -> Budget:
        """The configuration's budget with a request's changes; UserError for impossible ones."""
        chosen = {name: getattr(config, name) if (wish := request.get(name)) is None else wish for name in REQUEST}
        most, schedule = chosen["max_segments"], Schedule(*chosen["schedule"])
        other = request.get("halting") not in (None, "fixed", "readout")
        if other and config.halting == "readout" and request.get("exit_threshold") is None:
            said = f"halting '{chosen['halting']}' has no threshold of its own beside a readout"
            raise UserError(f"{said}: name exit_threshold (--exit-threshold)")
        chosen |= {"min_segments": min(chosen["min_segments"], most), "schedule": schedule}
        budget = cls(**chosen, q_continue=config.q_continue, readout=tuple(config.readout))
        for name, known in CHOICES.items():
            value = chosen[name]
            if value not in known:
                raise UserError(f"{name} '{value}' is none of {', '.join(known)}")
        if most < 1 or min(schedule.h_cycles, schedule.l_cycles + (not config.hierarchy)) < 1:
            raise UserError(f"max_segments {most} and schedule {tuple(schedule)} must be at least 1")
        if budget.halting == "readout" and len(budget.readout) != READOUT:
            raise UserError("halting 'readout' is what hrm calibrate fits, and this model has none: run it first")
        if most > 1 and not config.hierarchy:
            raise UserError("a model without hierarchy is visited once: use max_segments=1")
        return budget

    def sampled(self, draw: float) -> Budget:
        """The same budget with a number of segments from 1 to `max_segments`, uniform in `draw`, which is in [0, 1)."""
        segments = 1 + int(draw * self.max_segments)
        return self._replace(max_segments=segments, min_segments=min(self.min_segments, segments))

    def poisson(self, draw: float, mean: float) -> Budget:
        """The same budget with a number of segments from a Poisson distribution, within 1 and `max_segments`; `draw` is
        in [0, 1)."""
        segments, chance = 0, math.exp(-mean)
        below = chance
        while below <= draw and segments < self.max_segments:
            segments += 1
            chance *= mean / segments
            below += chance
        segments = max(1, segments)
        return self._replace(max_segments=segments, min_segments=min(self.min_segments, segments))

    def once(self) -> Budget:
        """The same budget with each stack visited once."""
        schedule = Schedule(1, min(1, self.schedule.l_cycles))
        return self._replace(max_segments=1, min_segments=1, schedule=schedule)

    def learning(self) -> Budget:
        """The budget of a training, in which a readout halts no token: it is fitted to what comes of it."""
        return self._replace(halting="fixed") if self.halting == "readout" else self

    @property
    def limit(self) -> int:
        """The most segments a token may get, second look included."""
        return self.max_segments + (self.retry_segments if self.retry_confidence > 0 else 0)

    @property
    def adaptive(self) -> bool:
        """Whether tokens may get different depths."""
        return (self.halting != "fixed" and self.limit > 1) or self.limit > self.max_segments

    @property
    def key(self) -> str:
        """Identifies schedule and rule: a cache is valid only for budgets with an equal key."""
        depth = self.halting_rule if self.adaptive else f"{self.max_segments} segments"
        return f"schedule {tuple(self.schedule)}, {depth}"

    def check(self, cache: Cache | None, slots: int, head: object) -> None:
        """UserError for a request that lacks what it needs, such as `slots` layers in a cache of fixed size."""
        if self.halting in ("kl", "readout") and head is None:
            lacks = "looks at predictions, and this model has no output layer"
            raise UserError(f"halting '{self.halting}' {lacks}: use q or change")
        fixed = cache is not None and cache.layer_class_to_replicate is None and not isinstance(cache, HRMCache)
        if cache is not None and fixed and len(cache) < slots:
            raise UserError(
                f"{type(cache).__name__} has {len(cache)} layers and this request needs {slots}: "
                "raise max_segments in the configuration that the cache is made from, or leave it to generate"
            )
        if self.state == "carry" and cache is not None and not isinstance(cache, HRMCache):
            raise UserError("state 'carry' keeps the last token's state in HRMCache: do not pass another cache")

    def probability(self, q: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b"]:
        """P(halt) from the Q head's two values: against continuing, or from the halting value alone (TRM)."""
        return torch.sigmoid(q[..., 0] - q[..., 1] if self.q_continue else q[..., 0])


REQUEST = tuple(Request.__annotations__)
"""The settings that a request can change."""
CHOICES = {"halting": get_args(Halting), "halting_rule": get_args(Rule), "state": get_args(State)}
