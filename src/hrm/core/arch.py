"""Every setting of the architecture, and which of them cannot work together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hrm.files.ranges import BELOW_ONE, Range
from hrm.files.reading import UserError, quoted

Join = Literal["every_step", "first_state"]
Norm = Literal["post", "pre"]
Unit = Literal["swiglu", "bounded", "conv"]
MOST_BLOCKS = 4000
"""Blocks that a segment may visit."""


@dataclass(frozen=True)
class CommonArch:
    """The two stacks and the loop between them, as models of puzzles and of text have them."""

    dim: Annotated[int, Range(1, 65_536)] = 512
    """Width of the states."""
    heads: Annotated[int, Range(1, 4096)] = 8
    """Attention heads."""
    kv_heads: Annotated[int | None, Range(1, 4096)] = None
    """Key and value heads; default: as many as heads."""
    fast_layers: Annotated[int, Range(1, 1000)] = 4
    """Blocks of the fast module L."""
    slow_layers: Annotated[int, Range(0, 1000)] = 4
    """Blocks of the slow module H."""
    shared: bool = False
    """One stack of fast-layers blocks plays both roles (TRM)."""
    hierarchy: bool = True
    """Off: a plain Transformer of fast-layers + slow-layers blocks, visited once."""
    h_cycles: Annotated[int, Range(1, 1000)] = 2
    """Cycles per segment, N."""
    l_cycles: Annotated[int, Range(1, 1000)] = 2
    """Steps of L per cycle, T."""
    horizon: str = "last_step"
    """What is back-propagated: last_step, last_cycle, trailing(k) or per_cycle([1, 2])."""
    join: Join = "every_step"
    """Where the input enters: at every step of L, or once as the first slow state."""
    norm: Norm = "post"
    """RMSNorm after each residual sum, or before each branch and once at the stack's exit."""
    norm_eps: Annotated[float, Range(0, 1)] = 1e-5
    """Added to the mean square under RMSNorm's root."""
    gate: bool = False
    """Element-wise sigmoid gate on the attention output."""
    expansion: Annotated[float, Range(0, 256)] = 4.0
    """SwiGLU width: round(expansion * dim * 2/3), up to a multiple of expansion-multiple."""
    expansion_multiple: Annotated[int, Range(1, 65_536)] = 256
    """The inner width is rounded up to a multiple of this."""
    unit: Unit = "swiglu"
    """Of the feed-forward layers: silu(g) * v; sigmoid(g) * rms(g * v), which no input makes large; or silu(g) * v
    after which a convolution adds the position before (URM)."""
    rope_base: Annotated[float, Range(1, 10**12)] = 10000.0
    """Base of the rotary frequencies."""
    tied: bool = False
    """The token embedding is also the output layer."""

    def inner(self, dim: int) -> int:
        """The inner width of a feed-forward layer over vectors of this width."""
        return math.ceil(round(self.expansion * dim * 2 / 3) / self.expansion_multiple) * self.expansion_multiple


@dataclass(frozen=True)
class ArchConfig(CommonArch):
    """The architecture on a grid (HRM, arXiv 2506.21734; TRM, arXiv 2510.04871), and all that the recurrence knows."""

    mixer: Literal["attention", "mlp", "groups", "neighbours"] = "attention"
    """How positions exchange information: attention, an MLP over positions, pooling over the task's groups, or over the
    four neighbours of a cell, so that the weights fit a grid of any size."""
    tokens: Literal["cells", "candidates"] = "cells"
    """One state per cell, or one per cell and symbol (exact symmetry between symbols)."""
    deduces: bool = False
    """Read of each candidate whether it can stay, and compute only candidates that are still possible."""
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    """What a position may look at."""
    positions: Literal["rope", "learned", "groups", "none"] = "rope"
    """Rotary, learned per position, learned per row, column and box, or none."""
    task_positions: Annotated[int, Range(0, 1024)] = 1
    """Positions taken by the task embedding in front of the grid; 0 for none."""
    q_from: Literal["first", "mean"] = "first"
    """What the Q head reads: the first position's slow state, or the mean over positions."""


@dataclass(frozen=True)
class HaltingConfig:
    """When a puzzle leaves its slot in training (HRM section 2, adaptive computation time)."""

    max_segments: Annotated[int, Range(1, 100_000)] = 16
    """A puzzle halts after this many segments at the latest, M_max."""
    exploration: Annotated[float, Range(0, 1)] = 0.1
    """Probability of a random minimum number of segments, drawn again at every segment; with --task.waves that of one
    more segment once a maze is done."""
    q_continue: bool = True
    """Learn the value of continuing by a second forward pass (HRM); off: halt when q_halt > 0 (TRM)."""
    weight: Annotated[float, Range(0, 10**6)] = 0.5
    """Weight of the halting losses."""


@dataclass(frozen=True)
class TokenLoss:
    """The token loss."""

    label_smoothing: Annotated[float, Range(0, BELOW_ONE)] = 0.0
    """Share of the target spread over the whole vocabulary."""
    z_loss: Annotated[float, Range(0, 10**6)] = 0.0
    """Weight of the squared log-normaliser."""


def parse_horizon(text: str) -> tuple[str, Any]:
    """A gradient horizon and its argument: ("last_step", None), ("trailing", 3), ("per_cycle", [1, 2])."""
    match = re.fullmatch(
        r"(last_step|last_cycle)|(trailing)\((\d{1,6})\)|(per_cycle)\(\[(\d{1,6}(?:\s*,\s*\d{1,6})*)\]\)",
        text.strip()[:10_000],
    )
    if match is None:
        known = "use last_step, last_cycle, trailing(k) or per_cycle([1, 2])"
        raise UserError(f"unknown gradient horizon {quoted(text)} (--arch.horizon): {known}")
    plain, trailing, passes, per_cycle, steps = match.groups()
    if trailing:
        return trailing, int(passes)
    return (per_cycle, [int(step) for step in steps.split(",")]) if per_cycle else (plain, None)


def blocks_of(arch: Any) -> int:
    """How many blocks a segment goes through."""
    slow = arch.fast_layers if arch.shared else arch.slow_layers
    return arch.h_cycles * (arch.l_cycles * arch.fast_layers + slow) if arch.hierarchy else 1


def problems(arch: ArchConfig, halting: HaltingConfig) -> Iterator[str]:
    """One sentence per combination that cannot work: the flag, why, and what to use."""
    mixer, attends = arch.mixer, arch.mixer == "attention"
    yield from common_problems(arch, halting.max_segments, attends, rotary=attends and arch.positions == "rope")
    if not attends:
        if arch.positions == "rope":
            yield f"--arch.positions rope turns queries, and --arch.mixer {mixer} has none: use --arch.positions none"
        if arch.attention != "bidirectional":
            yield f"--arch.attention {arch.attention} needs --arch.mixer attention: {mixer} looks at every position"
        if arch.gate:
            yield f"--arch.gate multiplies the output of attention, and --arch.mixer is {mixer}: use --arch.no-gate"
    if mixer in ("groups", "neighbours") and arch.task_positions > 0:
        yield f"--arch.mixer {mixer} pools cells, and a task embedding is none: use --arch.task-positions 0"
    if mixer == "neighbours":
        if arch.positions in ("learned", "groups"):
            yield f"--arch.positions {arch.positions} fits one size, --arch.mixer neighbours any: use none"
        if arch.tokens == "candidates":
            yield "--arch.tokens candidates has no neighbours: use --arch.tokens cells, or --arch.mixer groups"
        if arch.unit == "conv":
            yield "--arch.unit conv looks at the cell before, in the row above as well: use --arch.unit swiglu"
    if arch.deduces and (arch.tokens, mixer) != ("candidates", "groups"):
        yield "--arch.deduces kills candidates by their groups: use --arch.tokens candidates --arch.mixer groups"
    if arch.deduces and not arch.hierarchy:
        yield "--arch.deduces thinks in segments, and --arch.no-hierarchy has one visit: use --arch.hierarchy"
    if arch.tokens == "candidates":
        if arch.positions == "groups":
            yield "--arch.tokens candidates has no embedding per row and column: use --arch.positions none"
        if arch.unit == "conv":
            yield "--arch.tokens candidates has no position before another: use --arch.unit swiglu, or cells"
        if arch.tied:
            yield "--arch.tokens candidates reads one number per state, not a vocabulary: use --arch.no-tied"
    if halting.q_continue and halting.max_segments == 1:
        yield "--halting.max-segments 1 leaves no next segment to value: use --halting.no-q-continue"


def common_problems(arch: CommonArch, max_segments: int, attends: bool = True, rotary: bool = True) -> Iterator[str]:
    """Those that models of puzzles and of text share; `attends`: with attention, `rotary`: with rotary positions."""
    horizon, argument = parse_horizon(arch.horizon)
    dim, heads = arch.dim, arch.heads

    if attends and dim % heads:
        fitting = max(dim // heads, 1) * heads
        yield f"--arch.dim {dim} is not divisible by --arch.heads {heads}: use --arch.dim {fitting} or other heads"
    if attends and arch.kv_heads is not None and heads % arch.kv_heads:
        yield f"--arch.kv-heads {arch.kv_heads} does not divide --arch.heads {heads}: use a divisor of {heads}"
    if rotary and dim // heads % 2:
        yield f"rotary positions need an even --arch.dim / --arch.heads, not {dim // heads}: change one"
    if arch.expansion <= 0:
        yield f"--arch.expansion {arch.expansion} leaves no inner width: use 4"

    if arch.hierarchy and not arch.shared and arch.slow_layers == 0:
        yield "--arch.slow-layers 0 leaves no slow module: use at least 1, or --arch.shared"
    if not arch.hierarchy and arch.shared:
        yield "--arch.no-hierarchy has one stack anyway: drop --arch.shared"
    if (visits := blocks_of(arch)) > MOST_BLOCKS:
        cycles = f"--arch.h-cycles {arch.h_cycles} and --arch.l-cycles {arch.l_cycles}"
        yield f"{cycles} visit {visits:,} blocks in a segment: lower one, to {MOST_BLOCKS:,} blocks at most"
    if horizon == "trailing" and argument < 2:
        yield f"--arch.horizon {arch.horizon} leaves the last update of H without gradient: use trailing(2) or more"
    if horizon == "per_cycle" and len(argument) > arch.h_cycles:
        yield f"--arch.horizon {arch.horizon} lists more cycles than --arch.h-cycles {arch.h_cycles}: shorten the list"
    if horizon == "per_cycle" and max(argument) > arch.l_cycles:
        yield f"--arch.horizon {arch.horizon} wants more steps than --arch.l-cycles {arch.l_cycles}: use fewer"
    if not arch.hierarchy and max_segments > 1:
        yield f"--arch.no-hierarchy is visited once: use --halting.max-segments 1, not {max_segments}"
