"""What /v1/solve takes and returns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hrm.puzzles.config import Strategy
from hrm.serve.schema import Strict

MOST_PUZZLES = 10_000
Puzzle = Annotated[
    str | list[Any] | dict[str, Any],
    Field(
        description="Text in any form that `hrm solve` reads; or rows of text; or lists of cells, nested or flat, with "
        'null, 0 or "." for a blank; or, for a run on ARC, a task: {"id", "train", "test"}.',
        examples=["24........2.1...", [[2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0], [1, 0, 0, 0]]],
    ),
]


class SolveRequest(Strict):
    """One puzzle, or many, and how hard they are tried. What is not said is as `hrm solve` has it."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["puzzle"]}, {"required": ["puzzles"]}]})
    model: str = Field(max_length=200)
    puzzle: Puzzle = Field(default_factory=str)
    """One puzzle; or `puzzles`."""
    puzzles: list[Puzzle] = Field(default_factory=list, min_length=1, max_length=MOST_PUZZLES)
    max_segments: int | None = Field(None, ge=1, le=100_000)
    """Segments after which an attempt is given up."""
    restarts: int | None = Field(None, ge=0, le=1000)
    """New attempts from other initial states."""
    views: int | None = Field(None, ge=1, le=100)
    """Ways to look at a puzzle, taken in turn."""
    guesses: int | None = Field(None, ge=0, le=10_000)
    """After these, attempts with a blank or two filled in as the model guesses."""
    budget: int | None = Field(None, ge=1, le=10**9)
    """Segments that all attempts at a puzzle may take together."""
    stop: list[Literal["verifier", "q", "residual"]] = Field(["verifier"], max_length=3)
    """What ends an attempt early."""
    copies: int | None = Field(None, ge=1, le=100_000)
    """For a run on ARC: through how many of its copies a task is seen; each has one vote."""
    trace: bool = False
    """Tell every segment with the answer, 2,000,000 cells of a request at most."""
    stream: bool = False
    """Answer in lines of JSON, each puzzle as soon as it is there."""
    ordered: bool = False
    """In a stream: the answers in the order of the puzzles."""
    watch: bool = False
    """Stream every segment as soon as it is computed, too; no more of them than of a trace."""
    probabilities: bool = False
    """With `watch`: the probability of every symbol in every cell."""

    @model_validator(mode="after")
    def _one_or_many(self) -> SolveRequest:
        if ("puzzle" in self.model_fields_set) == ("puzzles" in self.model_fields_set):
            raise ValueError("give either puzzle or puzzles")
        return self

    @property
    def asked(self) -> list[Any]:
        """All puzzles of the request."""
        return self.puzzles or [self.puzzle]

    @property
    def strategy(self) -> Strategy:
        """How hard they are tried."""
        return Strategy(
            self.max_segments, self.restarts, self.views, self.guesses, self.budget, tuple(dict.fromkeys(self.stop))
        )


class Deduced(BaseModel):
    """What a call of a model that deduces made of a puzzle."""

    candidates: list[list[int | str]]
    """For each cell the symbols that are possible after it, as in `grid`."""
    killed: list[list[int | str]]
    """Those that were possible before it."""
    decided: list[int]
    """Cells, counted from 0, that the decisions which stand have pinned."""
    depth: int
    """Decisions that stand."""
    decisions: int
    """Made so far, also those taken back."""
    refused: bool
    """Whether the rules refuse what is left, so that the search goes back."""


class Traced(BaseModel):
    """A puzzle after a segment."""

    segment: int
    """Counted from 1 in each attempt."""
    attempt: int
    """Counted from 1."""
    grid: list[list[int | str]]
    """The readout: numbers from 1 for the first symbol, or characters."""
    confidence: float | None
    """The chance that the readout is right, as the model believes."""
    q: list[float | None]
    """The Q head's values of halting and of continuing."""
    residual: float | None
    """Relative change of the slow state in this segment."""
    wrong: list[int]
    """Cells, counted from 0, that break a rule."""
    deduced: Deduced | None = None
    """By a model that deduces; its segments come call by call."""


class SeenSegment(Traced):
    """A line of a watched stream."""

    object: Literal["segment"] = "segment"
    index: int
    """Place of the puzzle in the request."""
    probabilities: list[list[float | None]] | None = None
    """[cells, symbols] on request."""


class ArcGuess(BaseModel):
    """A grid that some of a task's copies agreed on."""

    grid: list[list[int]]
    votes: int
    confidence: float | None


class PuzzleAnswer(BaseModel):
    """What `hrm solve --json` tells of a puzzle."""

    object: Literal["answer"] = "answer"
    index: int
    """Place of the puzzle in the request."""
    status: Literal["solved", "answered", "unsolved", "invalid"]
    """solved: checked by the task's rules; answered: the task has none; unsolved: nothing acceptable was found;
    invalid: the question is wrong."""
    question: str
    answer: str | None = None
    """In the question's own form, if solved or answered."""
    reason: str | None = None
    """Why it is invalid."""
    segments: int = 0
    """Segments computed, over all attempts."""
    attempts: int = 1
    view: int = 0
    model: int = 0
    guess: int = 0
    decisions: int = 0
    confidence: float | None = 0.0
    grid: list[list[int | str]] | None = None
    """The last readout, also if unsolved."""
    trace: list[Traced] | None = None
    tests: list[list[ArcGuess]] | None = None
    """For a task of ARC: the two best guesses for each test input."""


class SolveUsage(BaseModel):
    """What the answers cost."""

    puzzles: int
    segments: int
    flops: float


class SolveResponse(BaseModel):
    """All answers, in the order of the puzzles."""

    object: Literal["solutions"] = "solutions"
    model: str
    answers: list[PuzzleAnswer]
    usage: SolveUsage


class SolveEnd(BaseModel):
    """The last line of a stream that went well."""

    object: Literal["end"] = "end"
    usage: SolveUsage


def _lines() -> dict[str, Any]:
    """The schema of a line of a stream."""
    place = "#/components/schemas/{model}"
    own = [each.model_json_schema(mode="serialization", ref_template=place) for each in (SeenSegment, SolveEnd)]
    for each in own:
        each.pop("$defs", None)
    known = [{"$ref": place.format(model=name)} for name in ("PuzzleAnswer", "ErrorBody")]
    return {"oneOf": [*own, *known], "description": "Every line is one of these; the last one is the end, or an error."}


LINES = {"application/x-ndjson": {"schema": _lines()}}
"""The content of a stream."""
