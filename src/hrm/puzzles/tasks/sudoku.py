"""Sudoku of any box shape: 4x4, 6x6, 9x9, 16x16."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import permutations, product
from typing import TYPE_CHECKING, Self

import numpy as np

from hrm.files.reading import UserError, quoted
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import written
from hrm.puzzles.tasks.puzzle import Puzzle, PuzzleError
from hrm.puzzles.tasks.refinement import mixed, refined
from hrm.puzzles.tasks.search import sudoku_search
from hrm.puzzles.tasks.task import Task

if TYPE_CHECKING:
    from rich.console import RenderableType

PAD, BLANK, FIRST = 0, 1, 2
"""Tokens: padding, blank, and the first digit."""
CHECK_GUESSES = 200_000
"""Guesses after which `check` gives up: some ten seconds; the hardest known 9x9 puzzles need a few thousand."""
DIG_GUESSES = 10
"""Above 9x9 a generated puzzle keeps a clue whose removal is not proven harmless by this many guesses."""
EXACT_LAYOUTS = 2000
"""Up to this many arrangements of the columns (9x9 has 1,296) the canonical form is exact."""


class Sudoku(Task):
    """Sudoku with boxes of `box_rows` x `box_cols` cells; tokens 0 padding, 1 blank, 2.. the digits."""

    name = "sudoku"
    verifies = True
    blank = BLANK

    def __init__(self, box_rows: int, box_cols: int, extra_clues: float = 0.0):
        n = box_rows * box_cols
        if min(box_rows, box_cols) < 2 or n > 16:
            raise UserError(
                f"a Sudoku box of {box_rows} x {box_cols} is not possible (--task.box): "
                "use two numbers of at least 2 whose product is at most 16, such as 3 3"
            )
        self.box_rows, self.box_cols, self.n = box_rows, box_cols, n
        super().__init__(n, n, "?.123456789ABCDEFG"[: FIRST + n])
        self.symbols = range(FIRST, FIRST + n)
        row, column = np.divmod(np.arange(n * n), n)
        band, stack = row // box_rows, column // box_cols
        # Rows, columns, boxes; and, for what a box says about a row or column, the cells they share.
        self.groups = np.stack([row, column, band * box_rows + stack, row * box_rows + stack, column * box_cols + band])
        self.blocks = self.groups[2].tolist()
        self.extra_clues = extra_clues
        self.square = box_rows == box_cols  # only then does transposition map boxes to boxes
        self.uniforms = 3 * n + box_rows + box_cols + self.square
        self._units = np.argsort(self.groups[:3], axis=1, kind="stable").reshape(3 * n, n)  # the cells of each group

    @classmethod
    def of(cls, config: TaskConfig) -> Self:
        """One with the boxes of the settings."""
        return cls(*config.box, extra_clues=config.extra_clues)

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] uint8 of a grid in any of the forms in which people write one; . 0 * _ x - are blank. 10 to 16
        are A to G, or numbers between spaces."""
        cells: list[str] = list("".join(text.split()))
        tokens = [self.values.get(cell, PAD) for cell in cells]
        if len(cells) != self.n**2 or (PAD in tokens and "\n" in text):
            places = written.spans(text, self)
            if places is not None:
                cells = [text[start:end].strip() or "." for start, end in places]
                # What is in no list of values lists several: candidates of a blank cell.
                tokens = [self.values.get(cell, BLANK) for cell in cells]
        if len(cells) != self.n**2:
            raise PuzzleError(self._miscounted(text, len(cells)))
        if PAD in tokens:
            at = tokens.index(PAD)
            raise PuzzleError(f"{quoted(cells[at])} at {self.place(at)} is none of {self.vocabulary[BLANK:]}")
        return np.array(tokens, np.uint8)

    def _miscounted(self, text: str, found: int) -> str:
        """What is wrong with a text of too many or too few cells."""
        rows = [row for row in text.splitlines() if row.strip()]
        if len(rows) == self.n:
            for number, row in enumerate(rows, 1):
                if (count := len("".join(row.split()))) != self.n:
                    return f"row {number} has {count} cells instead of {self.n}: {quoted(row)}"
        return f"expected {self.n**2} characters for {self.n}x{self.n}, got {found}"

    @cached_property
    def values(self) -> dict[str, int]:
        """The token of everything that may be written in a cell: signs, small letters, numbers, words for nothing."""
        known = dict.fromkeys([*written.BLANKS, "00", "null", "None", "nan", "NaN"], BLANK)
        for token, sign in enumerate(self.vocabulary[FIRST:], FIRST):
            number = token - FIRST + 1
            known |= {sign: token, sign.lower(): token, str(number): token, f"{number:02}": token}
        return known

    @cached_property
    def form(self) -> written.Form:
        """Lines, rows with rules and borders between them, candidates in the cells."""
        return written.SudokuForm(self)

    def check(self, question: np.ndarray) -> None:
        """PuzzleError for contradicting clues, no solution or several; uses the search solver."""
        self.solution(question)

    def solution(self, question: np.ndarray) -> np.ndarray:
        """The only answer; PuzzleError for contradicting clues, no solution or several."""
        if question.shape != (self.n**2,) or question.min() < BLANK or question.max() >= FIRST + self.n:
            raise PuzzleError(f"expected {self.n**2} tokens from {BLANK} to {FIRST + self.n - 1}")
        for unit, kind in zip(self._units.tolist(), np.repeat(["row", "column", "box"], self.n), strict=True):
            seen: dict[int, int] = {}
            for cell in unit:
                if (token := int(question[cell])) == BLANK:
                    continue
                if token in seen:
                    raise PuzzleError(
                        f"contradicting clues: {self.vocabulary[token]} twice in a {kind}, "
                        f"at {self.place(seen[token])} and at {self.place(cell)}"
                    )
                seen[token] = cell
        solutions, found = self._search.solve((question - BLANK).tolist(), budget=CHECK_GUESSES)
        if len(solutions) == 2:
            raise PuzzleError("several solutions")
        if not found.complete:
            raise PuzzleError(f"too many possibilities to check: undecided after {CHECK_GUESSES} guesses")
        if not solutions:
            raise PuzzleError("no solution")
        return np.array(solutions[0], np.uint8) + BLANK

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether the answer keeps every given and holds each digit once per row, column and box."""
        digits = answer.astype(np.int64) - FIRST
        if digits.shape != question.shape or digits.min() < 0 or digits.max() >= self.n:
            return False
        if not np.all((question == BLANK) | (question == answer)):
            return False
        return bool(np.all(np.bitwise_or.reduce(1 << digits[self._units], axis=1) == (1 << self.n) - 1))

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """A random grid with clues removed in random order while the solution stays unique. Up to 9x9 the puzzle is
        minimal, no clue can go, unless some of the blanks are given as extra clues. The rating is the number of guesses
        in our search's proof that the solution is unique."""
        grid = self._search.fill(rng)
        clues = self._search.dig(grid, rng, float("inf") if self.n <= 9 else DIG_GUESSES)
        if self.extra_clues:
            shown = rng.random(len(grid)) < rng.random() * self.extra_clues
            clues = np.where(shown, grid, clues).tolist()
        rating = self._search.search(self._search.board(clues), limit=2).guesses
        return Puzzle(np.array(clues, np.uint8) + BLANK, np.array(grid, np.uint8) + BLANK, rating)

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """No digit at all, a given that changed, or a digit that its row, column or box holds twice."""
        digits = self.symbols
        wrong = (answer < digits.start) | (answer >= digits.stop) | ((question >= digits.start) & (question != answer))
        for labels in self.groups:
            place = labels * len(self.vocabulary) + answer
            wrong |= np.bincount(place)[place] > 1
        return wrong

    def symmetries(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One random element of the full symmetry group per row: digits, bands, stacks, rows, columns, transposition.
        Padding and blanks keep their names."""
        n, bands, stacks = self.n, self.box_cols, self.box_rows
        cuts = np.cumsum([n, bands, stacks, n, n])
        u_digits, u_bands, u_stacks, u_rows, u_columns, u_flip = np.split(uniforms, cuts, axis=1)
        rows = _order(u_bands, u_rows.reshape(-1, bands, self.box_rows))
        columns = _order(u_stacks, u_columns.reshape(-1, stacks, self.box_cols))
        source = rows[:, :, None] * n + columns[:, None, :]
        if self.square:
            source = np.where(u_flip[:, :, None] < 0.5, source.swapaxes(1, 2), source)
        symbols = np.concatenate(
            (np.tile([PAD, BLANK], (len(uniforms), 1)), np.argsort(u_digits, axis=1) + FIRST), axis=1
        )
        return source.reshape(len(source), n * n), symbols

    def canonical(self, puzzle: Puzzle) -> bytes:
        """Same bytes for every symmetric variant; where the answer is no answer, the question itself. Up to 9x9 exact:
        the lexicographically smallest solution grid, then the smallest clue mask among the symmetries that reach it.
        Above, an invariant that in principle different classes may share (`_fingerprint`)."""
        if not self.verify(puzzle.question, puzzle.answer):
            return puzzle.question.astype(np.uint8).tobytes()
        given = puzzle.question != BLANK
        digits = puzzle.answer.astype(np.int64) - FIRST
        return self._smallest(digits, given) if len(self._layouts) else self._fingerprint(digits, given)

    def invariants(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Of the question: colours refined in rows, columns, boxes and the cells of each digit, whatever its name."""
        return refined(self.groups, questions, self.symbols)

    def draw(
        self, question: np.ndarray, answer: np.ndarray | None = None, marked: Sequence[int] = ()
    ) -> RenderableType:
        """The grid with its boxes: givens bold, the answer's cells plain, `marked` cells red and followed by '!'."""
        from rich.box import SQUARE
        from rich.table import Table
        from rich.text import Text

        shown, wrong = question if answer is None else answer, set(marked)
        table = Table(box=SQUARE, show_header=False, show_lines=True, padding=(0, 0, 0, 1))
        for band in range(0, self.n, self.box_rows):
            boxes = []
            for stack in range(0, self.n, self.box_cols):
                box = Text()
                for row, column in product(range(band, band + self.box_rows), range(stack, stack + self.box_cols)):
                    cell = row * self.n + column
                    style = "bold red" if cell in wrong else "bold" if question[cell] != BLANK else ""
                    box.append(self.vocabulary[shown[cell]] + ("!" if cell in wrong else " "), style)
                    if column == stack + self.box_cols - 1 and row < band + self.box_rows - 1:
                        box.append("\n")
                boxes.append(box)
            table.add_row(*boxes)
        return table

    @cached_property
    def _search(self):
        return sudoku_search(self.box_rows, self.box_cols)

    @cached_property
    def _layouts(self) -> np.ndarray:
        """[arrangements, n] the column shown at each place, for all orders of stacks and columns in them; or none."""
        stacks, width = self.box_rows, self.box_cols
        inner = list(permutations(range(width)))
        outer = list(permutations(range(stacks)))
        if len(outer) * len(inner) ** stacks > EXACT_LAYOUTS:
            return np.empty((0, self.n), np.int64)
        choices = product(outer, product(inner, repeat=stacks))
        return np.array([[s * width + c for s, cs in zip(*choice, strict=True) for c in cs] for choice in choices])

    def _smallest(self, digits: np.ndarray, given: np.ndarray) -> bytes:
        """The smallest (solution, clue mask) over the group. A choice of first row and arrangement of the columns fixes
        the rest: digits are renamed so that the first row reads 0, 1, 2, ..., and rows and bands are sorted by their
        first cell. The second row alone excludes nearly all."""
        n, height, layouts = self.n, self.box_rows, self._layouts
        places = np.argsort(layouts, axis=1)  # where each column is shown
        grids, masks = digits.reshape(1, n, n), given.reshape(1, n, n)
        if self.square:
            grids, masks = (np.concatenate([x, x.swapaxes(1, 2)]) for x in (grids, masks))
        home = np.argsort(grids, axis=2)  # [grid, row, digit]: the column in which a row holds a digit
        pairs = [(a, b) for a, b in product(range(n), repeat=2) if a != b and a // height == b // height]
        g, first, second = np.array([(g, a, b) for g in range(len(grids)) for a, b in pairs]).T
        twin = home[g[:, None], first[:, None], grids[g, second]]  # the first row's column with the second row's digit

        pair, layout = (x.ravel() for x in np.indices((len(twin), len(layouts))))
        for place in range(n):
            values = places[layout, twin[pair, layouts[layout, place]]]
            least = values == values.min()
            pair, layout = pair[least], layout[least]
        at, columns = g[pair][:, None, None], layouts[layout][:, None, :]
        rows = np.arange(n)[None, :, None]
        renamed = places[layout[:, None, None], home[at, first[pair][:, None, None], grids[at, rows, columns]]]
        order = np.argsort(renamed[:, :, 0].reshape(-1, n // height, height), axis=2) + np.arange(0, n, height)[:, None]
        start = np.take_along_axis(renamed[:, :, 0], order[:, :, 0], axis=1)
        order = np.take_along_axis(order, np.argsort(start, axis=1)[:, :, None], axis=1).reshape(-1, n, 1)
        both = [np.take_along_axis(x, order, axis=1).reshape(-1, n * n) for x in (renamed, masks[at, rows, columns])]
        return min(row.tobytes() for row in np.concatenate(both, axis=1).astype(np.uint8))

    def _fingerprint(self, digits: np.ndarray, given: np.ndarray) -> bytes:
        """A hash of colours refined by what each cell sees in its row, column, box and among its digit's cells.
        Starting from given or not; symmetric variants agree, and different puzzles nearly always differ."""
        colours = given.astype(np.uint64)
        for _ in range(4):
            seen = []
            for labels in (*self.groups[:3], digits):
                sums = np.zeros(self.n, np.uint64)
                np.add.at(sums, labels, mixed(colours))
                seen.append(mixed(sums)[labels])
            rows, columns, boxes, same = seen
            colours = mixed(colours + mixed(rows + columns) + np.uint64(3) * boxes + np.uint64(5) * same)
        return hashlib.blake2b(np.sort(colours).tobytes(), digest_size=16).digest()


def _order(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Random orders [rows, groups*size] keeping groups together, from uniforms [rows, groups], [rows, groups, size]."""
    shuffled = np.argsort(outer, axis=1)[:, :, None] * inner.shape[2] + np.argsort(inner, axis=2)
    return shuffled.reshape(len(outer), -1)
