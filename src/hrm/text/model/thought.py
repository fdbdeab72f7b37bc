"""The state of one forward pass between its segments, and records of its visits for those who ask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hrm.core.probe import Probe
from hrm.core.recurrence import Carry, Schedule, Visit, Watch
from hrm.text.model.dropout import Dropout
from hrm.text.model.key_values import KeyValueStore
from hrm.text.model.selection import AllTokens, LiveTokens, MaskedTokens


class VisitRecords:
    """Records of every visit, on request: states [b, new, d], attention weights [b, new, heads, keys]. `probe` is
    told the states."""

    def __init__(self, states: bool = False, attentions: bool = False, probe: Probe | None = None) -> None:
        self.states: list[Tensor] | None = [] if states else None
        self.attentions: list[Tensor] | None = [] if attentions else None
        self.probe = probe

    def watch(self, thought: Thought, selection: AllTokens, schedule: Schedule) -> Watch | None:
        """What is called after each visit of a segment; None if nobody asked for the states."""
        if self.states is None and self.probe is None:
            return None
        each, new = schedule.h_cycles * (schedule.l_cycles + 1), thought.new
        keep = None if self.states is None else self.keeper(self.states, each, new, selection)
        live = None if thought.all_live else thought.live[:, -new:]

        def watch(visit: Visit, carry: Carry) -> None:
            if keep is not None:
                keep(carry.z_l if visit.role == "L" else carry.z_h)
            if self.probe is not None:
                whole = zip(thought.carry, carry, strict=True)
                self.probe.see(visit, Carry(*(selection.show(old[:, -new:], z, new) for old, z in whole)), live)

        return watch

    def keeper(self, records: list[Tensor], each: int, new: int, selection: AllTokens) -> Callable[[Tensor], None]:
        """Returns a function that records [b', p', ...] for the last `new` tokens; halted ones repeat their record
        `each` entries before."""

        def keep(found: Tensor) -> None:
            records.append(selection.show(records[-each] if len(records) >= each else None, found, new))

        return keep

    def found(self, thought: Thought) -> dict[str, tuple[Tensor, ...]]:
        """What was asked for: `hidden_states` [b, new, d], the input first, and `attentions` [b, heads, new, keys]."""
        found = {} if self.states is None else {"hidden_states": (thought.x[:, -thought.new :], *self.states)}
        shares = self.attentions
        return found if shares is None else found | {"attentions": tuple(each.transpose(1, 2) for each in shares)}


@dataclass
class Thought:
    """The state of one forward pass: inputs, carries, depth and which tokens are still live."""

    inputs: dict[str, Tensor]
    """input_ids [b, p], or inputs_embeds [b, p, d] before scaling."""
    x: Tensor
    carry: Carry
    exited: Carry
    """The states at which tokens halted; for live tokens the newest."""
    rope: tuple[Tensor, Tensor]
    causal: bool
    mask: Tensor | None
    keys_values: KeyValueStore | None
    depth: Tensor
    live: Tensor
    """[b, p]: tokens that have not halted."""
    retried: Tensor
    all_live: bool = True
    segment: int = 0
    new: int = 0
    """Number of new tokens, at the end; the ones before may have to run deeper (rule `backfill`)."""
    blocks: Tensor | None = None
    """[b, p]: the prefix block of each token, -1 outside."""
    previous: tuple[Tensor | None, Tensor] | None = None
    """For criteria that look at predictions: of which tokens [b, p] (None: all) those after the last segment are."""
    drop: Dropout | None = None
    logits: Tensor | None = None
    """Logits of the last segment, if supervision computed those of all tokens."""
    watch: VisitRecords = field(default_factory=VisitRecords)

    def selection(self, gathers: bool) -> AllTokens:
        """Which tokens the next segment computes. `gathers`: only the live ones, if halted ones keep their states."""
        start = 0 if self.keys_values is None else self.keys_values.enter(self.segment)
        if self.all_live:
            return AllTokens(start)
        freezes = self.keys_values is not None and self.keys_values.last_exited
        return LiveTokens(self.live) if freezes and gathers else MaskedTokens(self.live, freezes, start)

    def advance(self, selection: AllTokens, new: Carry) -> None:
        """Take over the states [b', p', d] that a segment computed."""
        self.carry, self.exited = selection.settle(self.carry, self.exited, new)
        self.depth = self.depth + self.live
        self.segment += 1

    def detach(self) -> None:
        """Detach states and keys between two segments (deep supervision)."""
        self.carry, self.exited = self.carry.detach(), self.exited.detach()
        if self.keys_values is not None:
            self.keys_values.detach()

    def forget(self) -> None:
        """Drop what only activation checkpointing needs, once the backward pass of the segment is over."""
        if self.keys_values is not None:
            self.keys_values.forget()

    def halt(self, tokens: Tensor) -> None:
        """Halt these tokens [b, p]."""
        self.live = self.live & ~tokens
        self.all_live = False

    @property
    def all_halted(self) -> bool:
        """Whether no token is live."""
        return not bool(self.live.any())

    @property
    def written(self) -> bool:
        """Whether the text can be continued: all tokens have halted, or the last one where the others, whose keys are
        computed when a later token first needs them (rule `backfill`), would run for themselves alone."""
        lags = self.keys_values is not None and self.keys_values.lags
        return not bool(self.live[:, -1].any()) if lags else self.all_halted

    def shorten(self, length: int) -> None:
        """Drop all but the first `length` tokens."""
        self.map(lambda t: t[:, :length])

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply a selection or repetition of rows or positions to everything kept between forward passes."""
        self.x, self.live, self.retried = function(self.x), function(self.live), function(self.retried)
        self.carry = Carry(*map(function, self.carry))
        self.exited = Carry(*map(function, self.exited))
        self.rope = (function(self.rope[0]), function(self.rope[1]))
        self.depth = function(self.depth)
        self.blocks = None if self.blocks is None else function(self.blocks)

    def after(self, old: Thought) -> Thought:
        """Prepend an old thought, whose tokens have halted, to this one of new tokens, whose masks and keys stay."""

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat((a, b.expand(len(a), *b.shape[1:])), dim=1)

        assert self.blocks is not None and old.blocks is not None
        return replace(
            self,
            x=join(old.x, self.x),
            carry=Carry(*map(join, old.carry, self.carry)),
            exited=Carry(*map(join, old.exited, self.exited)),
            rope=tuple(map(join, old.rope, self.rope)),  # type: ignore[arg-type]
            depth=join(old.depth, self.depth),
            live=join(torch.zeros_like(old.live), self.live),
            retried=join(old.retried, self.retried),
            blocks=join(old.blocks, self.blocks),
            all_live=False,
        )
