"""One forward pass under way: what all its tokens have thought so far, and what someone wants to see of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hrm.core.layers import Context
from hrm.core.recurrence import Carry, Schedule, Stack
from hrm.text.model.dropout import Dropout
from hrm.text.model.kept import Kept
from hrm.text.model.selection import Everyone, Gathered, Masked

Visit = Callable[[Stack, Tensor, Context, int], Tensor]


class Watch:
    """What is kept of every visit, where someone asks: states [b, new, d], attention [b, new, heads, keys]."""

    def __init__(self, states: bool, attentions: bool) -> None:
        self.states: list[Tensor] | None = [] if states else None
        self.attentions: list[Tensor] | None = [] if attentions else None

    def visit(self, visit: Visit, thought: Thought, selection: Everyone, schedule: Schedule) -> Visit:
        """The same visit, whose states are kept where someone asked for them."""
        if self.states is None:
            return visit
        keep = self.keeper(self.states, schedule.h_cycles * (schedule.l_cycles + 1), thought.new, selection)

        def watched(stack: Stack, z: Tensor, context: Context, slot: int) -> Tensor:
            z = visit(stack, z, context, slot)
            keep(z)
            return z

        return watched

    def keeper(self, kept: list[Tensor], each: int, new: int, selection: Everyone) -> Callable[[Tensor], None]:
        """Adds [b', p', ...] of the last `new` tokens; halted ones keep what they had `each` entries before."""

        def keep(found: Tensor) -> None:
            kept.append(selection.show(kept[-each] if len(kept) >= each else None, found, new))

        return keep

    def hidden_states(self, thought: Thought) -> tuple[Tensor, ...] | None:
        """The input and the states."""
        return None if self.states is None else (thought.x[:, -thought.new :], *self.states)

    def attention_maps(self) -> tuple[Tensor, ...] | None:
        """The shares of attention, [b, heads, new, keys] each."""
        return None if self.attentions is None else tuple(shares.transpose(1, 2) for shares in self.attentions)


@dataclass
class Thought:
    """One forward pass under way: what all its tokens have thought so far."""

    inputs: dict[str, Tensor]
    """input_ids [b, p], or inputs_embeds [b, p, d] before scaling."""
    x: Tensor
    carry: Carry
    exited: Carry
    """The states at which tokens exited; of live tokens, the newest."""
    rope: tuple[Tensor, Tensor]
    causal: bool
    mask: Tensor | None
    kept: Kept | None
    depth: Tensor
    live: Tensor
    """[b, p]: tokens that go on."""
    retried: Tensor
    all_live: bool = True
    segment: int = 0
    new: int = 0
    """The last so many tokens are new; those before them may have to run deeper (rule `backfill`)."""
    blocks: Tensor | None = None
    """[b, p]: the prefix block of each token, -1 outside."""
    previous: tuple[Tensor, Tensor] | None = None
    """What the halting criterion compares with: which tokens were live [b, p], and what they predicted."""
    drop: Dropout | None = None
    logits: Tensor | None = None
    """Of the last segment, where supervision has asked for all of them."""
    watch: Watch | None = None

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.x.shape[1]

    def selection(self, gathers: bool) -> Everyone:
        """Which tokens the next segment computes. `gathers`: of those that freeze as they halt, only the live ones."""
        start = 0 if self.kept is None else self.kept.enter(self.segment)
        if self.all_live:
            return Everyone(start)
        freezes = self.kept is not None and self.kept.last_exited
        return Gathered(self.live) if freezes and gathers else Masked(self.live, freezes, start)

    def advance(self, selection: Everyone, new: Carry) -> None:
        """Take the states [b', p', d] that a segment gave the computed tokens."""
        self.carry, self.exited = selection.settle(self.carry, self.exited, new)
        self.depth = self.depth + self.live
        self.segment += 1

    def detach(self) -> None:
        """Cut the history between two segments (deep supervision)."""
        self.carry, self.exited = self.carry.detach(), self.exited.detach()
        if self.kept is not None:
            self.kept.detach()

    def forget(self) -> None:
        """Drop what the backward pass of a segment would need to compute it again: that pass is over."""
        if self.kept is not None:
            self.kept.forget()

    def halt(self, tokens: Tensor) -> None:
        """These tokens [b, p] go no deeper."""
        self.live = self.live & ~tokens
        self.all_live = False

    def shorten(self, length: int) -> None:
        """Forget all but the first tokens."""
        self.map(lambda t: t[:, :length])

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Select or repeat rows, or positions, of everything that is kept between forward passes."""
        self.x, self.live, self.retried = function(self.x), function(self.live), function(self.retried)
        self.carry = Carry(*map(function, self.carry))
        self.exited = Carry(*map(function, self.exited))
        self.rope = (function(self.rope[0]), function(self.rope[1]))
        self.depth = function(self.depth)
        self.blocks = None if self.blocks is None else function(self.blocks)

    def after(self, old: Thought) -> Thought:
        """This thought of new tokens behind an old one, whose tokens have halted; masks and keys are this one's."""

        def join(a: Tensor, b: Tensor) -> Tensor:
            return torch.cat((a, b.expand(len(a), *b.shape[1:])), dim=1)

        assert self.blocks is not None and old.blocks is not None
        return replace(
            self,
            x=join(old.x, self.x),
            carry=Carry(*map(join, old.carry, self.carry)),
            exited=Carry(*map(join, old.exited, self.exited)),
            rope=(join(old.rope[0], self.rope[0]), join(old.rope[1], self.rope[1])),
            depth=join(old.depth, self.depth),
            live=join(torch.zeros_like(old.live), self.live),
            retried=join(old.retried, self.retried),
            blocks=join(old.blocks, self.blocks),
            all_live=False,
        )
