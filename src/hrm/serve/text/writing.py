"""What a text engine is asked for, and what it hands out token by token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from hrm.serve.waiting import Ticket
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Completion, Sampling, Token


@dataclass(frozen=True)
class Wish:
    """A text to continue, and how. The same wish means the same text, alone or in a crowd."""

    ids: list[int]
    """The tokens of the prompt, at least one and fewer than the model's positions."""
    sampling: Sampling = field(default_factory=Sampling)
    request: Request = field(default_factory=Request)  # type: ignore[arg-type]
    """The budget, where it differs from the model's own."""
    top: int = 0
    """How many of the likeliest tokens are told with each."""
    memory: int | None = None
    """Tokens that it reads at most, default: all positions. A text that outgrows them continues from its last half."""
    natural: int | None = None
    """End with a sentence, once this many characters are written."""


class Written(NamedTuple):
    """A token as soon as its text is certain, and the likeliest in its place: (id, log-probability), best first."""

    token: Token
    top: tuple[tuple[int, float], ...] = ()


class Writing(Ticket[Written]):
    """A text being written. Once it has ended, `completion` is whole; its `end` is `end` (the model ended it), `stop`,
    `length` or `sentence`."""

    def __init__(
        self, wish: Wish, deliver: Callable[[Written | Ticket[Written]], None], owner: str = "", seconds: float = 600
    ) -> None:
        super().__init__(deliver, owner, seconds)
        self.wish = wish
        self.completion = Completion()
        self.cached = 0
        """Tokens of the prompt that an earlier text had left in a cache: no segment was computed for them."""
        self.segments = 0
        """Segments computed for it, over all its tokens, those of the prompt included."""
        self.flops = 0.0
        """Floating-point operations of these."""


class Step(NamedTuple):
    """What an engine did in one segment, for the metrics."""

    requests: int
    """How many shared it."""
    tokens: int
    """Tokens that it computed."""
    written: int
    """Tokens drawn after it."""
    depth: int
    """Segments of the drawn tokens, summed."""
    seconds: float
