"""The settings of a text model in groups: what its stacks are, how long its tokens think, what they learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hrm.core.arch import CommonArch, TokenLoss
from hrm.files.ranges import BELOW_ONE, Range

Halting = Literal["fixed", "q", "kl", "change", "readout"]
Rule = Literal["last_exited", "backfill"]
State = Literal["reset", "carry"]
Target = Literal["improvement", "right"]
Gradient = Literal["segment", "whole"]
Supervise = Literal["every", "last"]
READOUT = 6
"""Numbers of a fitted readout."""


@dataclass(frozen=True)
class TextArch(CommonArch):
    """The architecture on text: attention is causal, positions are rotary."""

    intermediate_size: Annotated[int | None, Range(1, 1_000_000)] = None
    """Inner width of the feed-forward layers; default: what expansion gives."""
    max_position_embeddings: Annotated[int, Range(1, 100_000_000)] = 2048
    """Tokens of context."""
    rope: tuple[str, ...] = ()
    """How rotary positions are scaled, each as NAME=VALUE: rope_type=yarn factor=4."""
    embedding_scale: Annotated[float | None, Range(0, 10**6)] = None
    """What embeddings are multiplied by; default: the square root of dim."""
    head_bias: bool = False
    """A bias per token on the output: a vocabulary can then grow without changing old predictions."""
    prefix_lm: bool = False
    """Prompts (token_type_ids of 1) are read in both directions."""
    share_cycles: bool = False
    """Later visits of a segment read the keys and values of a layer's first."""
    share_segments: bool = False
    """All depths read the keys and values of depth 1."""
    dropout: Annotated[float, Range(0, BELOW_ONE)] = 0.0
    """Share of the embedding's and every block's additions that is left out, the same ones in all segments."""


@dataclass(frozen=True)
class HaltingConfig:
    """How many segments a token gets, and how the Q head learns to tell."""

    max_segments: Annotated[int, Range(1, 1000)] = 1
    """Segments that a token gets at most."""
    min_segments: Annotated[int, Range(1, 1000)] = 1
    """Segments that a token gets at least."""
    kind: Halting = "fixed"
    """When a token stops earlier: never, at P(halt) > exit-threshold (q), once its prediction (kl, in nats) or state
    (change, as a share of its norm) changes by less than that, or at P(settled) > exit-threshold, as hrm calibrate fits
    it (readout)."""
    rule: Rule = "last_exited"
    """What deeper tokens read of a halted one: its last keys and values, or those of the depth it would have had."""
    exit_threshold: Annotated[float, Range(-(10**6), 10**6)] = 0.5
    """Where a token stops."""
    q_continue: bool = False
    """P(halt) weighs halting against continuing (HRM); off: the Q head has one value (TRM)."""
    state: State = "reset"
    """A generated token starts fresh, or from the last token's state."""
    retry_confidence: Annotated[float, Range(0, 10)] = 0.0
    """A halted token whose best next token is less probable than this gets more segments."""
    retry_segments: Annotated[int, Range(0, 1000)] = 0
    """How many more at most."""
    exploration: Annotated[float, Range(0, 1)] = 0.1
    """Share of the tokens that ignore the Q head in training, up to a random depth."""
    depth_sampling: bool = False
    """Every batch gets a random number of segments up to max-segments."""
    weight: Annotated[float, Range(0, 10**6)] = 0.1
    """Weight of the Q head's loss."""
    target: Target = "improvement"
    """What the Q head learns: whether another segment brings less than gamma, or whether the token is right."""
    gamma: Annotated[float, Range(-(10**6), 10**6)] = 0.01
    """Nats that another segment must bring."""
    depth_mean: Annotated[float, Range(0, 1000)] = 0.0
    """Every batch gets a number of segments from a Poisson distribution of this mean, within 1 and max-segments; 0: no
    such draw."""
    gradient: Gradient = "segment"
    """How far a loss is back-propagated: through its own segment as far as --arch.horizon says, or through every visit
    of all segments, which takes memory for each (less with --train.checkpoint-activations)."""
    supervise: Supervise = "every"
    """Which segments of a training have a loss: every one, or the last alone."""
    late: Annotated[float, Range(0, BELOW_ONE)] = 0.0
    """First share of a training, in which each stack runs only once; looping starts after it."""
    readout: Annotated[tuple[float, ...], Range(-(10**9), 10**9)] = ()
    """What hrm calibrate has fitted for --halting.kind readout: for the first segment a bias and the weight of entropy,
    for later ones a bias and the weights of entropy, of change in nats and of whether the likeliest token stayed."""


GROUPS: dict[str, type] = {"arch": TextArch, "halting": HaltingConfig, "loss": TokenLoss}
"""What makes a text model, by the names of the groups in recipes and flags."""
