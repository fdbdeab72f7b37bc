"""When a token of text stops thinking: its budget, and what its own states say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers.cache_utils import Cache

from hrm.core.halting import QHead
from hrm.core.layers import at_least_float32
from hrm.core.recurrence import Schedule
from hrm.files.reading import UserError
from hrm.text.model.cache import HRMCache

if TYPE_CHECKING:
    from hrm.text.model.configuration import HRMConfig
    from hrm.text.model.modeling import Thought

REQUEST = (
    "max_segments",
    "halting",
    "halting_rule",
    "exit_threshold",
    "min_segments",
    "schedule",
    "state",
    "retry_confidence",
    "retry_segments",
)
"""What a request may set, in `forward`, `generate` and `GenerationConfig`."""


class Budget(NamedTuple):
    """What the tokens of a request may spend, and when they stop earlier."""

    max_segments: int
    min_segments: int
    halting: str
    rule: str
    threshold: float
    q_continue: bool
    schedule: Schedule
    state: str
    retry_confidence: float
    retry_segments: int

    @classmethod
    def of(cls, config: HRMConfig, **request: Any) -> Budget:
        """The configuration's budget with a request's changes; UserError for one that cannot be met."""
        given = {name: value for name, value in request.items() if value is not None}

        def get(name: str) -> Any:
            return given.get(name, getattr(config, name))

        most = get("max_segments")
        budget = cls(
            max_segments=most,
            min_segments=min(get("min_segments"), most),
            halting=get("halting"),
            rule=get("halting_rule"),
            threshold=get("exit_threshold"),
            q_continue=config.q_continue,
            schedule=Schedule(*get("schedule")),
            state=get("state"),
            retry_confidence=get("retry_confidence"),
            retry_segments=get("retry_segments"),
        )
        for name, value, known in (
            ("halting", budget.halting, ("fixed", "q", "kl", "change")),
            ("halting_rule", budget.rule, ("last_exited", "backfill")),
            ("state", budget.state, ("reset", "carry")),
        ):
            if value not in known:
                raise UserError(f"{name} '{value}' is none of {', '.join(known)}")
        if most < 1 or min(budget.schedule.h_cycles, budget.schedule.l_cycles + (not config.hierarchy)) < 1:
            raise UserError(f"max_segments {most} and schedule {tuple(budget.schedule)} must be at least 1")
        if most > 1 and not config.hierarchy:
            raise UserError("a model without hierarchy is visited once: use max_segments=1")
        return budget

    def sampled(self, draw: float) -> Budget:
        """The same with a random number of segments, each from 1 to `max_segments` as likely; `draw` is in [0, 1)."""
        segments = 1 + int(draw * self.max_segments)
        return self._replace(max_segments=segments, min_segments=min(self.min_segments, segments))

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
        """What a cache must have been filled under for its keys to be the right ones."""
        depth = self.rule if self.adaptive else f"{self.max_segments} segments"
        return f"schedule {tuple(self.schedule)}, {depth}"

    def check(self, cache: Cache | None, slots: int, head: Any) -> None:
        """UserError for a request that lacks what it needs, such as `slots` layers in a cache of fixed size."""
        if self.halting == "kl" and head is None:
            raise UserError("halting 'kl' compares predictions, and this model has no output layer: use q or change")
        fixed = cache is not None and cache.layer_class_to_replicate is None and not isinstance(cache, HRMCache)
        if cache is not None and fixed and len(cache) < slots:
            raise UserError(
                f"{type(cache).__name__} has {len(cache)} layers and this request needs {slots}: "
                "raise max_segments in the configuration that the cache is made from, or leave it to generate"
            )
        if self.state == "carry" and cache is not None and not isinstance(cache, HRMCache):
            raise UserError("state 'carry' keeps the last token's state in HRMCache: do not pass another cache")

    def probability(self, q: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b"]:
        """P(halt) of the Q head's two values: against going on, or on its own (TRM)."""
        return torch.sigmoid(q[..., 0] - q[..., 1] if self.q_continue else q[..., 0])


def stops(
    thought: Thought,
    before: Float[Tensor, "b p d"],
    budget: Budget,
    q_head: QHead,
    head: Callable[[Tensor], Tensor] | None,
) -> Bool[Tensor, "b p"]:
    """Which live tokens halt after this segment; `before` are the states they had. Each looks at itself alone."""
    live, z = thought.live, thought.exited.z_h
    chosen, depth = z[live], thought.segment
    confidence = None
    wants = torch.zeros(len(chosen), dtype=torch.bool, device=z.device)
    if budget.halting == "q":
        wants = budget.probability(q_head(chosen)) > budget.threshold
    elif budget.halting == "change":
        change = torch.linalg.vector_norm(at_least_float32(chosen - before[live]), dim=-1)
        size = torch.linalg.vector_norm(at_least_float32(chosen), dim=-1)
        wants = (change < budget.threshold * size) & (depth > 1)
    elif budget.halting == "kl":
        assert head is not None
        new = torch.log_softmax(at_least_float32(head(chosen)), dim=-1)
        confidence = new.amax(-1).exp()
        if thought.previous is not None:
            was_live, old = thought.previous
            wants = (new.exp() * (new - old[live[was_live]])).sum(-1) < budget.threshold
        thought.previous = live, new
    wants = wants & (depth >= budget.min_segments) | (depth >= budget.max_segments)
    if budget.limit > budget.max_segments:
        assert head is not None
        if confidence is None:
            confidence = torch.softmax(at_least_float32(head(chosen)), dim=-1).amax(-1)
        again = wants & (confidence < budget.retry_confidence) & (depth < budget.limit)
        wants = wants & ~again
        retried = thought.retried.clone()
        retried[live] = retried[live] | again
        thought.retried = retried
    stop = torch.zeros_like(live)
    stop[live] = wants
    return stop
