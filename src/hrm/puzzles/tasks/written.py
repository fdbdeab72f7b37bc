"""Puzzles as people write them: on one line or row by row, with borders, titles, comments and ratings around them.

Lines are read one by one, and a puzzle is given as soon as its last row has been read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from hrm.puzzles.tasks.puzzle import PuzzleError

if TYPE_CHECKING:
    from hrm.puzzles.tasks.maze import Maze
    from hrm.puzzles.tasks.sudoku import Sudoku
    from hrm.puzzles.tasks.task import Task

BLANKS = ".0*_xX-\u00b7"
"""Signs of a blank cell of a Sudoku."""
_LINES = "-*_"
"""Blanks that rules are drawn with, too."""
_BARS = "|\u2502\u2503\u2551\u00a6!"
_RULE = re.compile(r"[-=_*~+|:'`,.\s\u2500-\u257f]+")
_WORD = re.compile(rf"[^\s{_BARS},;:\[\](){{}}\"']+")
_SECTION = re.compile(r"\s*\[\s*([A-Za-z][\w .-]*)\]\s*")
_OTHERS = ("state", "pencil", "candidate", "marks", "solution", "progress", "setting")
"""How sections begin that hold something other than the puzzle."""
_TITLES = 20
"""Lines in a row that are taken for titles, until there are more."""

Span = tuple[int, int]
"""Where a cell stands in its line; the same number twice for an empty one."""


class WrittenPuzzle(NamedTuple):
    """A puzzle and where it begins. A broken one is given as well: its task's `parse` says what is wrong."""

    line: int
    """Counted from 1."""
    question: str
    """Nothing but its cells: one line, or one for each row."""
    answer: str = ""
    """The filled grid that stands behind the question on the same line."""


class Row(NamedTuple):
    """A line that is a row of a puzzle, or should be one."""

    line: int
    text: str
    spans: Sequence[Span]
    sign: str = ""
    """What a row of only this sign consists of, if it may as well be a rule between rows."""

    def cells(self) -> list[str]:
        return [self.text[start:end].strip() or "." for start, end in self.spans]


class Form:
    """What the lines of a task's puzzles look like; by default comments are all that stands between them."""

    rows: int
    band: int = 0
    """Rows that may stand apart from the others (Sudoku's bands), or 0."""
    gaps: bool = False
    """Whether an empty line may be a row."""
    signs: set[str]
    """The characters that a cell may be."""
    notes: tuple[str, ...] = ("#", ";", "//")
    """How comments begin."""

    def whole(self, line: str) -> tuple[Sequence[Span], str] | None:
        """The cells of a puzzle on one line, and the answer that stands behind it, or ""."""
        raise NotImplementedError

    def row(self, line: str) -> Sequence[Span] | None:
        """The cells of a row."""
        raise NotImplementedError

    def note(self, line: str) -> bool:
        """Whether the line is a comment or a rule."""
        return line.lstrip().startswith(self.notes)

    def compact(self, rows: Sequence[Row]) -> str:
        """The cells of rows, one line for each."""
        return "\n".join(row.text for row in rows)


def puzzles(lines: Iterable[str], task: Task) -> Iterator[WrittenPuzzle]:
    """The puzzles of a text, in their order, each as soon as it has been read."""
    form = task.form
    if task.any_size:
        yield from _mazes(lines, set(task.vocabulary[1:]), task.longest)
        return
    if form is None:  # a task with a text form of its own has one puzzle on each line
        numbered = ((number, line.rstrip("\r\n")) for number, line in enumerate(lines, 1))
        yield from (WrittenPuzzle(number, line) for number, line in numbered if line.strip(" \t"))
        return
    for rows, answer in _Reader(form, task.longest).read(lines):
        yield WrittenPuzzle(rows[0].line, form.compact(rows), answer)


def _mazes(lines: Iterable[str], signs: set[str], longest: int) -> Iterator[WrittenPuzzle]:
    """Mazes of any size, drawn row by row with empty lines between them, or each on a line of its own."""
    rows: list[tuple[int, str]] = []
    free: list[tuple[int, str]] = []
    """Lines of spaces above it: its first rows if it is as wide."""

    def close() -> Iterator[WrittenPuzzle]:
        found, rows[:], free[:] = list(rows), [], []
        if not found:
            return
        if all(line.count("S") == line.count("G") == 1 for _, line in found):
            yield from (WrittenPuzzle(number, line) for number, line in found)
        else:
            yield WrittenPuzzle(found[0][0], "\n".join(line for _, line in found))

    for number, raw in enumerate(lines, 1):
        line = raw.rstrip("\r\n")
        plain = set(line) <= signs
        if not line:
            yield from close()
        elif plain or (rows and not line.lstrip().startswith(MazeForm.notes)):
            if rows or not line.isspace():
                rows += [*([] if rows else [each for each in free if len(each[1]) == len(line)]), (number, line)]
            else:
                free.append((number, line))
        elif not line.lstrip().startswith(MazeForm.notes) and not _like_a_title(line, signs):
            yield WrittenPuzzle(number, line)
        if sum(len(line) for _, line in (*rows, *free)) > longest:
            yield from close()
    yield from close()


def spans(text: str, task: Task) -> list[Span] | None:
    """Where the cells of the only puzzle of a text stand in it, row after row; None unless there is exactly one."""
    form = task.form
    if form is None:
        return None
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    found = [rows for rows, _ in _Reader(form, task.longest).read(lines)]
    if len(found) != 1:
        return None
    cells = [(starts[row.line - 1] + a, starts[row.line - 1] + b) for row in found[0] for a, b in row.spans]
    return cells if len(cells) == task.shape[0] * task.shape[1] else None


class _Reader:
    """Puts lines together to puzzles: (rows, answer) each."""

    def __init__(self, form: Form, longest: int) -> None:
        self.form, self.longest = form, longest
        self.blocks: list[list[Row]] = []  # rows of the puzzle in the making; a new list after each empty line
        self.empty = 0  # empty lines between these
        self.lines: list[Row] = []  # rows of one sign, before it is known whether blanks are written so
        self.signs: set[str] = set()  # how blanks have been written so far
        self.titles: list[Row] = []
        self.drawn = False  # whether the last puzzle was given row by row
        self.skips = False  # in a section without puzzles

    def read(self, lines: Iterable[str]) -> Iterator[tuple[Sequence[Row], str]]:
        form = self.form
        for number, raw in enumerate(lines, 1):
            line = raw.rstrip("\r\n")
            if len(line) > self.longest:
                yield from self._close()
                yield from self._untitled()
                yield [Row(number, line, [(0, len(line))])], ""
            elif not line or (line.isspace() and form.row(line) is None):
                yield from self._gap()
            elif (section := _SECTION.fullmatch(line)) and form.row(line) is None:
                yield from self._close()
                self.skips = section[1].lower().startswith(_OTHERS)
            elif self.skips:
                continue
            elif whole := form.whole(line):
                yield from self._close()
                yield from self._untitled()
                self.drawn = False
                yield [Row(number, line, whole[0])], whole[1]
            elif (cells := form.row(line)) is not None:
                yield from self._row(Row(number, line, cells, _sign(line, cells, form)))
            elif form.note(line):
                continue
            elif _like_a_title(line, form.signs):
                yield from self._close()
                self.titles.append(Row(number, line, [(0, len(line))]))
                if len(self.titles) > _TITLES:
                    yield [self.titles.pop(0)], ""
            elif any(self.blocks):
                yield from self._row(Row(number, line, [(0, len(line))]))
            else:
                yield from self._untitled()
                yield [Row(number, line, [(0, len(line))])], ""
        yield from self._close()
        if not self.drawn:
            yield from self._untitled()

    def _row(self, row: Row) -> Iterator[tuple[Sequence[Row], str]]:
        """One more row; a whole puzzle if it was the last one."""
        if row.sign and row.sign not in self.signs:
            if not self.signs:
                self.lines.append(row)
            return
        if not row.sign and (signs := {cell for cell in row.cells() if cell in BLANKS} if self.form.band else set()):
            self.signs |= signs
            # Now it is known what the lines of one sign above were.
            lines, self.lines = self.lines, []
            for line in lines:
                if line.sign in self.signs:
                    self._add(line)
        self._add(row)
        block, earlier, most = self.blocks[-1], self.blocks[:-1], self.form.rows
        if any(earlier) and (len(block) >= most or (self.form.band and len(block) > self.form.band)):
            self.blocks, self.empty = [block], 0  # it stands alone, and what came before was no whole puzzle
            yield [row for part in earlier for row in part], ""
        alike = {len(part) for part in self.blocks}
        banded = len(alike) == 1 and alike <= {1, self.form.band} and not self.form.gaps
        if len(block) >= most or (banded and sum(map(len, self.blocks)) == most):
            yield from self._give()

    def _add(self, row: Row) -> None:
        if not self.blocks:
            self.titles = []
            self.blocks.append([])
        self.blocks[-1].append(row)

    def _gap(self) -> Iterator[tuple[Sequence[Row], str]]:
        """An empty line."""
        if not any(self.blocks):
            return
        if self._ripe():
            yield from self._give()
        elif self.form.band or self.form.gaps:
            self.empty += 1
            if self.blocks[-1]:
                self.blocks.append([])
            # An unfinished puzzle does not wait for its end over any number of lines.
            if self.empty > self.form.rows:
                yield from self._close()
        else:
            yield from self._close()

    def _ripe(self) -> bool:
        """Whether rows and empty lines, where these may be rows, make a whole puzzle."""
        rows = sum(map(len, self.blocks)) + self.empty
        return self.form.gaps and bool(self.blocks[-1]) and rows == self.form.rows

    def _close(self) -> Iterator[tuple[Sequence[Row], str]]:
        """What has been read of a puzzle, whole or not."""
        if any(self.blocks):
            yield from self._give()
        self.lines = []

    def _give(self) -> Iterator[tuple[Sequence[Row], str]]:
        rows = [row for block in self.blocks for row in block]
        if self._ripe() and self.empty:
            given = {row.line: row for row in rows}
            rows = [given.get(line, Row(line, "", ())) for line in range(rows[0].line, rows[-1].line + 1)]
        self.blocks, self.empty, self.lines, self.drawn = [], 0, [], True
        yield rows, ""

    def _untitled(self) -> Iterator[tuple[Sequence[Row], str]]:
        """Lines that looked like titles and are followed by nothing they could be the title of."""
        titles, self.titles = self.titles, []
        if not self.drawn:
            yield from (([title], "") for title in titles)


class SudokuForm(Form):
    """Sudoku as people, programs and books write it."""

    notes = ("#", ";", "//", "%")

    def __init__(self, task: Sudoku) -> None:
        self.n = self.rows = task.n
        self.band = task.box_rows
        self.values = task.values
        signs = "".join(key for key in self.values if len(key) == 1)
        self.signs = set(signs)
        self.alone = _each(range(task.n**2))  # the cells of a line that is nothing but a puzzle
        sign = re.escape(signs)
        self.run = re.compile(rf"(?<![\w{sign}])[{sign}]{{{task.n**2}}}(?![\w{sign}])")

    def whole(self, line: str) -> tuple[Sequence[Span], str] | None:
        if len(line) < self.n**2:
            return None
        if len(line) == self.n**2 and self.signs.issuperset(line):
            return self.alone, ""
        line = _uncommented(line)
        if first := self.run.search(line):
            second = self.run.search(line, first.end())
            answer = second[0] if second and not set(second[0]) & set(BLANKS) else ""
            return _each(range(*first.span())), answer
        cells = self._cells(line, self.n**2)
        return None if cells is None else (cells, "")

    def row(self, line: str) -> Sequence[Span] | None:
        line = _uncommented(line)
        cells = self._cells(line, self.n) or self._fields(line) or self._boxes(line)
        signs = {line[start:end] for start, end in cells or ()}
        return None if len(signs) > 1 and signs <= set(_LINES) else cells

    def note(self, line: str) -> bool:
        bare = line.strip()
        rule = _RULE.fullmatch(bare) is not None and not set(bare) <= set(". ,")
        return super().note(line) or not _uncommented(line).strip() or rule

    def compact(self, rows: Sequence[Row]) -> str:
        if rows[0].spans is self.alone:
            return rows[0].text
        cells = [[self._short(cell) for cell in row.cells()] if len(row.spans) > 1 else [row.text] for row in rows]
        between = " " if any(len(cell) > 1 for row in cells if len(row) > 1 for cell in row) else ""
        return "\n".join(between.join(row) for row in cells)

    def _short(self, cell: str) -> str:
        """One character for a cell of a small grid; candidates are a blank."""
        if len(cell) == 1 or (self.n > 9 and cell.isdecimal()):
            return cell
        return str(self.values[cell] - 1) if self.values.get(cell, 1) > 1 else "."

    def _cells(self, line: str, count: int) -> Sequence[Span] | None:
        """Cells that are words, or the characters of words."""
        words = list(_WORD.finditer(line))
        if len(words) == count and all(word[0] in self.values or self._candidates(word[0]) for word in words):
            return [word.span() for word in words]
        if sum(word.end() - word.start() for word in words) == count:
            places = [i for word in words for i in range(*word.span())]
            if all(line[i] in self.signs for i in places):
                return _each(places)
        return None

    def _fields(self, line: str) -> Sequence[Span] | None:
        """Cells between bars, commas, semicolons or tabs, where an empty one is blank."""
        for separators in (_BARS, ",", ";", "\t"):
            parts = _split(line, separators)
            if separators == _BARS and line.strip()[:1] in _BARS and line.strip()[-1:] in _BARS:
                parts = parts[1:-1]
            inside = [line[start:end].strip() for start, end in parts]
            if len(parts) == self.n and all(not field or field in self.values for field in inside):
                return [_trimmed(line, part) for part in parts]
        return None

    def _boxes(self, line: str) -> Sequence[Span] | None:
        """Cells in boxes of a fixed width between bars, where a space is blank: |53 | 7 |   | or | 5 3   |   7   |."""
        boxes = _split(line, _BARS)[1:-1]
        width = self.n // len(boxes) if boxes and self.n % len(boxes) == 0 else 0
        for step, first in ((1, 0), (2, 1)):
            if width and all(end - start == step * width + first for start, end in boxes):
                places = [start + first + step * i for start, _ in boxes for i in range(width)]
                others = {line[i] for start, end in boxes for i in range(start, end) if i not in places}
                if others <= {" "} and all(line[i] == " " or line[i] in self.signs for i in places):
                    return _each(places)
        return None

    def _candidates(self, word: str) -> bool:
        """Whether a word lists the digits that are still possible in a cell, as solvers print them."""
        return self.n <= 9 and len(word) > 1 and word.isdecimal() and "".join(sorted(set(word))) == word


class MazeForm(Form):
    """A row is a line of signs, whose spaces count."""

    gaps = True
    notes = (";", "//")

    def __init__(self, task: Maze) -> None:
        self.rows, self.cols = task.shape
        self.signs = set(task.vocabulary[1:])

    def whole(self, line: str) -> tuple[Sequence[Span], str] | None:
        fits = len(line) == self.rows * self.cols and set(line) <= self.signs
        return (_each(range(len(line))), "") if fits else None

    def row(self, line: str) -> Sequence[Span] | None:
        least = self.cols if line.isspace() else 1
        fits = least <= len(line) <= self.cols and set(line) <= self.signs
        return _each(range(len(line))) if fits else None


class GridForm(Form):
    """Numbers or characters: a row is what the task reads as one."""

    def __init__(self, task: Task) -> None:
        self.task, self.signs = task, set()
        self.rows, self.cols = task.shape

    def whole(self, line: str) -> tuple[Sequence[Span], str] | None:
        cells = self._cells(line, self.rows * self.cols)
        return None if cells is None or not self._known(line) else (cells, "")

    def row(self, line: str) -> Sequence[Span] | None:
        cells = self._cells(line, self.cols)
        return cells if cells is not None and self._known("\n".join([line] * self.rows)) else None

    def _cells(self, line: str, count: int) -> Sequence[Span] | None:
        words = [match.span() for match in re.finditer(r"\S+", line)]
        if len(words) == count:
            return words
        places = [i for start, end in words for i in range(start, end)]
        return _each(places) if len(places) == count else None

    def _known(self, text: str) -> bool:
        try:
            self.task.parse(text)
        except PuzzleError:
            return False
        return True


def _each(places: Iterable[int]) -> list[Span]:
    """The cells that are one character each."""
    return [(i, i + 1) for i in places]


def _split(line: str, separators: str) -> list[Span]:
    """What stands before, between and behind separators."""
    at = [-1, *(i for i, character in enumerate(line) if character in separators), len(line)]
    return [(start + 1, end) for start, end in pairwise(at)]


def _trimmed(line: str, part: Span) -> Span:
    """A part without the spaces around it; the middle of it where there is nothing else."""
    text = line[slice(*part)]
    if not text.strip():
        middle = (part[0] + part[1]) // 2
        return middle, min(middle + 1, part[1])
    return part[0] + len(text) - len(text.lstrip()), part[1] - len(text) + len(text.rstrip())


def _uncommented(line: str) -> str:
    """A line up to the sign that begins a comment."""
    return re.split(r"#|//", line, maxsplit=1)[0] if "#" in line or "/" in line else line


def _like_a_title(line: str, signs: set[str]) -> bool:
    """Whether a line has words, or is nothing but a number: the title of the puzzle below it."""
    words = re.findall(r"[^\W\d_]{3,}", line)
    return any(not set(word) <= signs for word in words) or re.fullmatch(r"\s*[(#]?\d{1,4}[.):]?\s*", line) is not None


def _sign(line: str, cells: Sequence[Span], form: Form) -> str:
    """The sign of a row of only this sign, if rules are drawn with it too."""
    found = {line[start:end] for start, end in cells}
    return found.pop() if form.band and len(found) == 1 and found <= set(_LINES) else ""
