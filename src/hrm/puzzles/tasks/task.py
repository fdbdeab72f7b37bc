"""The base of every task: all that the rest of the package asks of puzzles of one kind, each part with a default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from string import ascii_letters, digits
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np

from hrm.files.reading import UserError, quoted
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import written
from hrm.puzzles.tasks.puzzle import Puzzle, PuzzleError, Symmetry

if TYPE_CHECKING:
    from rich.console import RenderableType

LETTERS = digits + ascii_letters
"""A character for each number up to 61."""
UNSURE = 0.5
"""A guess is made in a blank whose likeliest symbol is less likely than this."""


class Look(NamedTuple):
    """How the cells of a task are drawn. The first three hold one entry per token."""

    labels: list[str]
    """Written in a cell; "" for padding, blanks and free cells."""
    names: list[str]
    """The token in words."""
    fills: list[str]
    """What colours the whole cell: "" (nothing), "wall", "path" or "end"."""
    blocks: list[int]
    """The box of each cell; empty where a task has none."""


class Lesson(NamedTuple):
    """What a model should say of a puzzle after some segments."""

    labels: np.ndarray
    """[cells] tokens, from `len(vocabulary)` on hints."""
    ended: bool
    """Whether nothing new comes after this."""


class Task:
    """Puzzles of one kind: what a grid is, which answers are right, how puzzles are made, varied and drawn. It never
    knows what a hidden state is. The rules are `verify`, or `conflicts`, which also marks the wrong cells."""

    name: str = ""
    """In messages; by default that of the class."""
    verifies: bool = False
    """Whether rules tell a right answer from a wrong one; if not (ARC), nothing is ever `solved`."""
    blank: int | None = None
    """The token of a cell that the answer fills in; None where there is no such token (mazes)."""
    outside: int = 0
    """The token of a cell that is no part of the puzzle; 0 where there is none."""
    uniforms: int = 0
    """Random numbers that `symmetries` takes per puzzle; 0 where there is none but the puzzle itself."""
    hints: str = ""
    """Words that a model says of a cell beside the vocabulary while it is on its way to the answer, taught by `lesson`;
    "" for a task without lessons, which teaches the answer alone."""
    hinted: int = 0
    """The token that they all mean in an answer."""
    any_size: bool = False
    """Whether questions of other shapes are read as well: see `fitting`."""
    embedded: bool = False
    """Whether a question belongs to one of many riddles with an embedding each (ARC), so that alone it is none."""
    blocks: Sequence[int] = ()
    """The box of each cell: drawings have a thick line where it changes."""
    origin: str = ""
    """The file and class of a task of one's own, for messages."""
    aliases: ClassVar[Mapping[str, str]] = {}
    """Other characters that `parse` reads as a token: {"_": "."}."""

    shape: tuple[int, int]
    """Rows and columns."""
    names: list[str]
    """What each token is called; token 0 is padding."""
    vocabulary: str
    """The same as one character each."""
    symbols: range
    """Tokens that an answer cell may hold; Sudoku: the digits. By default all but the padding."""
    groups: np.ndarray
    """[partitions, cells] integer label of each cell's group; by default its row and its column."""

    def __init__(self, rows: int, cols: int, names: Sequence[str]) -> None:
        """`names` are those of the tokens, "?" for padding first: a list, or a text with one character for each."""
        self.name = self.name or type(self).__name__.lower()
        self.shape = rows, cols
        self.names = list(names)
        self.vocabulary = _characters(self.names)
        self.symbols = range(1, len(self.names))
        self.groups = np.indices(self.shape).reshape(2, -1)

    @classmethod
    def of(cls, config: TaskConfig) -> Self:
        """The task for the settings of a run, such as its `size`; by default the class called without arguments."""
        return cls()  # type: ignore[call-arg]

    @property
    def cells(self) -> int:
        """How many a grid has."""
        return self.shape[0] * self.shape[1]

    @property
    def dtype(self) -> type[np.generic]:
        """The type of tokens in arrays."""
        return np.uint8 if len(self.vocabulary) <= 256 else np.int32

    # Text

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] of a question or answer: names between white space, or one character per cell (a is 10).
        PuzzleError for a wrong length or name."""
        (rows, cols), words = self.shape, text.split()
        fields = words if len(words) == self.cells else list("".join(words))
        if len(fields) != self.cells:
            found = f"{len(words)} words or {len(fields)} characters"
            raise PuzzleError(f"expected {self.cells} cells, {rows} rows of {cols}, got {found}")
        for at, field in enumerate(fields):
            if self._known.get(field, 0) == 0:
                names = self.names[1:]
                listed = " ".join(names if len(names) < 20 else [*names[:10], "...", names[-1]])
                raise PuzzleError(f"{quoted(field)} at {self.place(at)} is none of {listed}")
        return np.array([self._known[field] for field in fields], self.dtype)

    def parse_bounded(self, text: str) -> np.ndarray:
        """`parse`, and PuzzleError at once for a text far longer than any puzzle; for what comes from files."""
        if len(text) > self.longest:
            (rows, cols), found = self.shape, f"{len(text):,} characters"
            raise PuzzleError(f"expected {self.cells} cells, {rows} rows of {cols}, got {found}")
        return self.parse(text)

    def of_any_size(self) -> Task:
        """The same task with `any_size` set, if its rules hold in any shape (mazes)."""
        return self

    def fitting(self, text: str) -> Task:
        """The task whose shape a question's text has, where `any_size` is set; PuzzleError if that cannot be told."""
        return self

    def of_shape(self, rows: int, cols: int) -> Task:
        """The task for puzzles of another shape; only where `any_size` is set."""
        return self

    @property
    def longest(self) -> int:
        """Characters of the longest text that may be a puzzle, with all that people draw around its cells."""
        return 10_000 + 64 * self.cells

    def format(self, tokens: np.ndarray) -> str:
        """The text form that `parse` reads: one character per cell, or names between spaces where one is longer."""
        names = [self.names[token] for token in tokens.tolist()]
        return (" " if max(map(len, self.names)) > 1 else "").join(names)

    @cached_property
    def form(self) -> written.Form | None:
        """What its puzzles look like in a file of text; None for a form of its own, one puzzle on each line."""
        return written.GridForm(self) if self.shape[0] > 1 else None

    def place(self, cell: int) -> str:
        """Where a cell is, in words."""
        return f"row {cell // self.shape[1] + 1}, column {cell % self.shape[1] + 1}"

    # Rules

    def check(self, question: np.ndarray) -> None:
        """PuzzleError with the reason unless the question is well-posed; by default only its size and tokens count.
        Searching for solutions is allowed here, and in `generate`."""
        if question.shape != (self.cells,) or question.min() < 0 or question.max() >= len(self.vocabulary):
            raise PuzzleError(f"expected {self.cells} tokens below {len(self.vocabulary)}")

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """[cells] bool: cells of an answer that contradict the question or break a rule, without search."""
        return np.zeros(answer.shape, bool)

    @property
    def marks(self) -> bool:
        """Whether `conflicts` knows rules."""
        return self.verifies and type(self).conflicts is not Task.conflicts

    def wrong(self, question: np.ndarray, answer: np.ndarray) -> list[int]:
        """The cells that `conflicts` marks; none where no rule is known."""
        return np.flatnonzero(self.conflicts(question, answer)).tolist() if self.marks else []

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether the answer is right, judged by the rules alone, never by a label; by default: without a conflict."""
        return self.marks and answer.shape == question.shape and not self.conflicts(question, answer).any()

    def judge(self, question: np.ndarray, answer: np.ndarray) -> bool | None:
        """A second reading of the rules, for `hrm eval` where several answers are right; None: the label judges."""
        return None

    def verdicts(self, question: np.ndarray, answer: np.ndarray, label: np.ndarray) -> dict[str, bool]:
        """What else `hrm eval` counts of an answer, by name; `optimal` among them judges in place of the label."""
        return {}

    # Puzzles

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """A new well-posed puzzle; UserError where only data says what the puzzles are."""
        raise UserError(f"a {self.name} task has no generator: give your data set with --data PATH")

    def solution(self, question: np.ndarray) -> np.ndarray | None:
        """The answer, found by search, of several the one that `generate` would give; with it, files of questions alone
        will do. None where nothing finds it; PuzzleError unless the question is well-posed."""
        return None

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The same bytes for every symmetric variant of a puzzle, different bytes for different classes."""
        return puzzle.question.astype(np.int32).tobytes()

    def invariants(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """A number [n] uint64 per puzzle that symmetric variants share and different puzzles seldom do. A fast one
        spares most canonical forms; by default it is a hash of them."""
        forms = (self.canonical(Puzzle(*pair)) for pair in zip(questions, answers, strict=True))
        return np.array([int.from_bytes(blake2b(form, digest_size=8).digest(), "little") for form in forms], np.uint64)

    def lesson(self, question: np.ndarray, visits: int) -> Lesson:
        """What a model of a cell's neighbours should say after this number of visits of L, each of which carries news
        one cell far; of a task with `hints`."""
        raise NotImplementedError

    # Symmetries

    def symmetries(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each cell comes from [rows, cells], and the new name of each token [rows, vocabulary]. One random
        symmetry for each row of `uniforms` [rows, self.uniforms] in [0, 1); by default nothing changes."""
        return tuple(np.tile(np.arange(n), (len(uniforms), 1)) for n in (self.cells, len(self.vocabulary)))  # type: ignore[return-value]

    def augment(
        self, questions: np.ndarray, answers: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """[rows, cells] arrays with the symmetry of each row applied; labels below 0, which do not count, stay."""
        if not self.uniforms:
            return questions, answers
        source, symbols = self.symmetries(uniforms)
        renames = bool((symbols != np.arange(symbols.shape[1])).any())

        def moved(grids: np.ndarray) -> np.ndarray:
            cells = np.take_along_axis(grids, source, axis=1)
            if not renames:
                return cells
            renamed = np.take_along_axis(symbols, np.maximum(cells, 0).astype(np.int64), axis=1)
            return np.where(cells < 0, cells, renamed).astype(grids.dtype)

        return moved(questions), moved(answers)

    def view(self, uniforms: np.ndarray) -> Symmetry:
        """The symmetry that `augment` applies to one puzzle for these [self.uniforms] numbers."""
        source, symbols = self.symmetries(uniforms[None])
        return Symmetry(source[0], symbols[0])

    @property
    def can_guess(self) -> bool:
        """Whether `guess` can make one: there are blanks, or the task has a way of its own."""
        return self.blank is not None or type(self).guess is not Task.guess

    def guess(self, question: np.ndarray, shares: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The question [cells] made easier by a guess, from the model's probabilities [cells, vocabulary]: here a blank
        that it is not sure of, filled in as it believes."""
        symbols = self.symbols
        blanks = np.flatnonzero(question == self.blank)
        if not len(blanks):
            return question
        shares = shares[blanks, symbols.start : symbols.stop].astype(np.float64)
        shares /= shares.sum(1, keepdims=True)
        unsure = np.flatnonzero(shares.max(1) < UNSURE)
        cell = random.choice(unsure) if len(unsure) else shares.max(1).argmin()
        guessed = question.copy()
        guessed[blanks[cell]] = symbols[random.choice(len(symbols), p=shares[cell])]
        return guessed

    def show(
        self, questions: np.ndarray, answers: np.ndarray, task_ids: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs [rows, cells] and their task ids as a training batch shows them; `uniforms` is [rows, 4] in [0, 1). For
        tasks whose puzzles have embeddings of their own (ARC): augmented copies have other ids."""
        return questions, answers, task_ids

    # Drawings

    def draw(
        self, question: np.ndarray, answer: np.ndarray | None = None, marked: Sequence[int] = ()
    ) -> RenderableType:
        """A rich renderable of the grid, row by row, painted cell by cell; `marked` cells are wrong."""
        from rich.text import Text

        tokens, wrong = (question if answer is None else answer).tolist(), set(marked)
        given = [token not in (self.blank, 0) for token in question.tolist()]
        painted = [self.paint(token, given[cell], cell in wrong) for cell, token in enumerate(tokens)]
        width, text = max(len(sign) for sign, _ in painted), Text(no_wrap=True)
        for cell, (sign, style) in enumerate(painted):
            text.append("\n" if cell and cell % self.shape[1] == 0 else "").append(sign.rjust(width), style)
        return text

    def paint(self, token: int, given: bool, wrong: bool) -> tuple[str, str]:
        """The text of a cell and its style in rich's words: by default the token's name, givens bold, cells outside the
        puzzle empty, wrong ones red and followed by '!'."""
        name = "" if token in (0, self.outside) else self.names[token]
        return name + ("!" if wrong else " "), "bold red" if wrong else "bold" if given else ""

    def look(self) -> Look:
        """How pages and pictures draw its cells."""
        words = {self.outside: "outside"} | {0: "padding"}
        labels = ["" if i in words or label in (" ", ".") else label for i, label in enumerate(self.names)]
        names = [words.get(i, label or "blank") for i, label in enumerate(labels)]
        return Look(labels, names, [""] * len(labels), list(self.blocks))

    @cached_property
    def _known(self) -> dict[str, int]:
        """The token of everything that `parse` reads."""
        token = {name: token for token, name in enumerate(self.names)}
        characters = {character: token for token, character in enumerate(self.vocabulary)}
        return characters | token | {alias: token[name] for alias, name in self.aliases.items()}


def _characters(names: Sequence[str]) -> str:
    """One character for each token: its name, a letter for a number of two digits, or one that nothing else is."""
    taken = {name for name in names if len(name) == 1}
    found = []
    for token, name in enumerate(names):
        letter = LETTERS[int(name)] if name.isdecimal() and int(name) < len(LETTERS) else ""
        # From a plane without white space.
        found.append(name if len(name) == 1 else letter if letter and letter not in taken else chr(0x10000 + token))
    return "".join(found)
