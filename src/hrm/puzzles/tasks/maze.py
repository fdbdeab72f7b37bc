"""Mazes on a grid: mark a shortest path from S to G (Maze-Hard is 30x30 with 110 steps or more)."""

from __future__ import annotations

import copy
from functools import cached_property, lru_cache
from math import isqrt
from typing import Self

import numpy as np

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import written
from hrm.puzzles.tasks.puzzle import Puzzle, PuzzleError
from hrm.puzzles.tasks.refinement import refined
from hrm.puzzles.tasks.search import MazeSearch
from hrm.puzzles.tasks.task import Lesson, Look, Task
from hrm.puzzles.tasks.wave import Wave

PAD, WALL, FREE, START, GOAL, PATH = range(6)
"""Tokens."""
_STYLES = {WALL: "bright_black on bright_black", START: "bold cyan", GOAL: "bold cyan", PATH: "green"}
WALLS = (0.30, 0.45)
"""Range of the share of walls; Maze-Hard lies between 0.28 and 0.45 and its walls are independent of one another."""
MOST_JOINED = 12
"""Most cells that are opened to join corridors."""
MOST_CELLS = 1 << 18
"""Cells of the largest maze that is read where any size is."""
TRIES = 100_000
"""Random grids looked at before a minimum path is called impossible: about ten seconds."""


class Maze(Task):
    """Mazes of `rows` x `cols` cells whose shortest path has at least `min_path` steps when generated."""

    name = "maze"
    uniforms = 1
    verifies = True

    def __init__(
        self, rows: int, cols: int, min_path: int, least_size: tuple[int, int] | None = None,
        corridors: float = 0.0, waves: bool = False,
    ) -> None:  # fmt: skip
        if min(rows, cols) < 2:
            raise UserError(f"a maze of {rows} x {cols} is not possible (--task.size): use at least 2 2")
        super().__init__(rows, cols, "?# SGo")
        self.min_path, self.least_size = min_path, least_size or (rows, cols)
        self.corridors = corridors
        self.hints, self.hinted = "v<>^" if waves else "", FREE
        row, column = self.groups
        if rows % 2 == cols % 2 == 0:
            # Dominoes: with these a pooling mixer reaches each cell's four neighbours (around the edge, at the edge).
            pairs = [row * (cols // 2) + (column + odd) % cols // 2 for odd in (0, 1)]
            pairs += [column * (rows // 2) + (row + odd) % rows // 2 for odd in (0, 1)]
            self.groups = np.stack([row, column, *pairs])
        cells = np.arange(rows * cols).reshape(rows, cols)
        flips = [cells, cells[::-1], cells[:, ::-1], cells[::-1, ::-1]]
        if rows == cols:
            flips += [flip.T for flip in flips]
        self._symmetries = np.stack([flip.ravel() for flip in flips])
        self._answers = lru_cache(maxsize=1 << 14)(self._answer)  # room for all variants of the 1000 of Maze-Hard
        self._waves = lru_cache(maxsize=1 << 10)(self._wave)  # of those in training slots

    @classmethod
    def of(cls, config: TaskConfig) -> Self:
        """Those of the size of the settings."""
        return cls(*config.size, config.min_path, config.least_size, config.corridors, config.waves)

    def parse(self, text: str) -> np.ndarray:
        """Tokens [cells] uint8 of '#', ' ', 'S', 'G' and 'o', in one line or row by row; spaces count. A row that ends
        early is filled up with free cells, since editors cut spaces at the end of lines."""
        rows, cols = self.shape
        lines = text.strip("\r\n").splitlines()
        if len(lines) == rows:
            if long := [i for i, line in enumerate(lines, 1) if len(line) > cols]:
                raise PuzzleError(f"row {long[0]} has more than {cols} characters")
            lines = [line.ljust(cols) for line in lines]
        characters = "".join(lines)
        if len(characters) != rows * cols:
            raise PuzzleError(f"expected {rows * cols} characters for {rows}x{cols}, got {len(characters)}")
        tokens = np.array([self.vocabulary.find(character) for character in characters])
        if (wrong := np.flatnonzero(tokens < WALL)).size:
            at = int(wrong[0])
            raise PuzzleError(f"'{characters[at]}' at row {at // cols + 1}, column {at % cols + 1} is none of '# SGo'")
        return tokens.astype(np.uint8)

    def of_any_size(self) -> Maze:
        """The same task with `any_size` set."""
        task = copy.copy(self)
        task.any_size = True
        return task

    def fitting(self, text: str) -> Maze:
        """As many rows as the text has lines, as many columns as the longest; one line is a square maze."""
        if not self.any_size:
            return self
        lines = text.strip("\r\n").splitlines() or [""]
        rows, cols = len(lines), max(map(len, lines))
        if rows == 1:
            rows = cols = isqrt(cols)
            if rows * cols != len(lines[0]):
                raise PuzzleError(
                    f"a maze on one line is a square, and {len(lines[0])} is none: draw it in 2 rows or more"
                )
        if min(rows, cols) < 2 or rows * cols > MOST_CELLS:
            raise PuzzleError(
                f"a maze has 2 rows and columns or more and at most {MOST_CELLS:,} cells, not {rows}x{cols}"
            )
        return self.of_shape(rows, cols)

    def of_shape(self, rows: int, cols: int) -> Maze:
        """Mazes of another shape."""
        return _of_shape(rows, cols)

    @property
    def longest(self) -> int:
        """Characters of the longest text that may be a maze."""
        return 2 * MOST_CELLS if self.any_size else super().longest

    @cached_property
    def form(self) -> written.Form:
        """Rows of signs, in which spaces are cells."""
        return written.MazeForm(self)

    def check(self, question: np.ndarray) -> None:
        """PuzzleError unless there is one S, one G and a way between them, and no path is marked yet."""
        for name, token in (("S", START), ("G", GOAL)):
            if (count := int((question == token).sum())) != 1:
                raise PuzzleError(f"expected one {name}, found {count}")
        if not np.isin(question, (WALL, FREE, START, GOAL)).all():
            raise PuzzleError("a question holds only '#', ' ', 'S' and 'G'; it has a marked path or padding")
        if self._distance(question) is None:
            raise PuzzleError("no way from S to G")

    def solution(self, question: np.ndarray) -> np.ndarray:
        """One of the shortest paths, the one that `augment` keeps to; PuzzleError unless the question is sound."""
        self.check(question)
        return self._answer(question.astype(np.uint8).tobytes())

    def valid(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether the answer marks one chain of free cells from S to G, of any length. The chain neither branches nor
        touches itself (cells that are neighbours in the grid follow one another), so that the marks can be read in one
        way only; every shortest path is such a chain."""
        if answer.shape != question.shape or not np.all((answer == question) | ((question == FREE) & (answer == PATH))):
            return False
        marks = MazeSearch(np.isin(answer, (START, GOAL, PATH)).reshape(self.shape))
        ends = int(np.flatnonzero(answer == START)[0]), int(np.flatnonzero(answer == GOAL)[0])
        waves = marks.waves(*ends)
        one_each = all(wave & (wave - 1) == 0 for wave in waves)
        return bool(one_each and waves[-1] == marks.bit(ends[1]) and len(waves) == (answer == PATH).sum() + 2)

    def verify(self, question: np.ndarray, answer: np.ndarray) -> bool:
        """Whether the answer marks a path from S to G, and no path is shorter."""
        return self.valid(question, answer) and int((answer == PATH).sum()) + 1 == self._distance(question)

    def conflicts(self, question: np.ndarray, answer: np.ndarray) -> np.ndarray:
        """A wall or an end that changed, a mark without two marked neighbours, or an end without exactly one."""
        changed = (answer != question) & ~((question == FREE) & (answer == PATH))
        marked = np.isin(answer, (START, GOAL, PATH)).reshape(self.shape)
        edge = np.pad(marked, 1).astype(int)
        near = (edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]).ravel()
        return changed | ((answer == PATH) & (near != 2)) | (np.isin(answer, (START, GOAL)) & (near != 1))

    def verdicts(self, question: np.ndarray, answer: np.ndarray, label: np.ndarray) -> dict[str, bool]:
        """valid: is it a path; optimal: one as short as the label's. Walked step by step, apart from the verifier."""
        marks = (question == FREE) & (answer == PATH)
        valid = bool(np.all((answer == question) | marks))
        here, end = int(np.flatnonzero(question == START)[0]), int(np.flatnonzero(question == GOAL)[0])
        left = {*np.flatnonzero(marks).tolist(), end}
        rows, columns = self.shape
        while valid and here != end:
            row, column = divmod(here, columns)
            beside = [((row - 1) * columns + column, row > 0), ((row + 1) * columns + column, row < rows - 1)]
            beside += [(here - 1, column > 0), (here + 1, column < columns - 1)]
            ways = [cell for cell, inside in beside if inside and cell in left]
            valid = len(ways) == 1
            if valid:
                here = ways[0]
                left.remove(here)
        valid = valid and not left
        return {"valid": valid, "optimal": valid and int(marks.sum()) <= int((label == PATH).sum())}

    def generate(self, rng: np.random.Generator) -> Puzzle:
        """Random walls, start and goal until the shortest path is long enough; the rating is its number of steps."""
        rows, cols = self.shape
        varies = self.least_size != self.shape
        for _ in range(TRIES if self.min_path < rows * cols else 0):
            corridors = self.corridors > 0 and rng.random() < self.corridors
            walls = np.zeros(self.shape, bool) if corridors else rng.random(self.shape) < rng.uniform(*WALLS)
            if varies:
                walls |= self._outside(rng)
            if corridors:
                walls = ~_corridors(~walls, rng)
            search = MazeSearch(~walls)
            if walls.all():
                continue
            waves = search.waves(int(rng.choice(np.flatnonzero(~walls))))
            if 2 * len(waves) < self.min_path:  # no two cells here are further apart than twice this
                continue
            # long paths are rare: start at one of the cells that are furthest from a random one
            start = int(rng.choice(search.cells(waves[-1])))
            goals = [goal for wave in search.waves(start)[max(self.min_path, 1) :] for goal in search.cells(wave)]
            if not goals:
                continue
            goal = int(rng.choice(goals))
            if rng.random() < 0.5:
                start, goal = goal, start
            question = np.where(walls, WALL, FREE).astype(np.uint8).ravel()
            question[[start, goal]] = START, GOAL
            answer = self._answer(question.tobytes())
            return Puzzle(question, answer, int((answer == PATH).sum()) + 1)
        raise UserError(
            f"found no {rows}x{cols} maze with a shortest path of {self.min_path} steps (--task.min-path): "
            "ask for fewer steps or a larger --task.size"
        )

    def augment(
        self, questions: np.ndarray, answers: np.ndarray, uniforms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One of the 8 symmetries of a square, or the 4 of a rectangle, per row. Answers are searched again by the rule
        of `MazeSearch.path`, which those of Maze-Hard follow: a turned answer is another of the shortest paths, and
        which one depends on the turn, which a model cannot see."""
        questions, answers = super().augment(questions, answers, uniforms)
        marked = ((answers == questions) | ((questions == FREE) & (answers == PATH))).all(axis=1)
        ends = [(questions == token).sum(axis=1) == 1 for token in (START, GOAL)]
        for row in np.flatnonzero(marked & ends[0] & ends[1]):
            answers[row] = self._answers(questions[row].astype(np.uint8).tobytes())
        return questions, answers

    def lesson(self, question: np.ndarray, visits: int) -> Lesson:
        """Arrows towards G as far as a wave from there has come, then the marks that follow them from S."""
        labels, free = question.astype(np.int64), question == FREE
        if not (question == GOAL).any():  # a slot that is still empty
            return Lesson(labels, False)
        wave = self._waves(question.astype(np.uint8).tobytes())
        for visit, said in ((wave.arrives, len(self.vocabulary) + wave.arrow), (wave.marked, PATH)):
            labels = np.where(free & (visit <= visits), said, labels)
        return Lesson(labels, wave.ends <= visits)

    def symmetries(self, uniforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turns and reflections, 8 of a square and 4 of a rectangle."""
        source = self._symmetries[(uniforms[:, 0] * len(self._symmetries)).astype(np.int64)]
        return source, np.tile(np.arange(len(self.vocabulary)), (len(uniforms), 1))

    def invariants(self, questions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Of the question: colours refined in rows, columns and dominoes."""
        return refined(self.groups, questions)

    def canonical(self, puzzle: Puzzle) -> bytes:
        """The smallest of the question's 8 (square) or 4 images; the answer is one of several and does not count."""
        return min(image.tobytes() for image in puzzle.question.astype(np.uint8)[self._symmetries])

    def paint(self, token: int, given: bool, wrong: bool) -> tuple[str, str]:
        """Two characters: walls '##', the path 'oo'; a wrong cell red and followed by '!'."""
        character = self.vocabulary[token]
        if wrong:
            return (character if character != " " else ".") + "!", "bold red"
        return character * 2, _STYLES.get(token, "")

    def look(self) -> Look:
        """Walls, the path and its ends fill their cells; only the ends have letters."""
        labels = [sign if sign in "SG" else "" for sign in self.vocabulary]
        names = ["padding", "wall", "free", "start", "goal", "path"]
        return Look(labels, names, ["", "wall", "", "end", "end", "path"], [])

    def _outside(self, rng: np.random.Generator) -> np.ndarray:
        """[rows, cols] bool: all but a rectangle of a random size at a random place."""
        outside = np.ones(self.shape, bool)
        sides = [int(rng.integers(least, most + 1)) for least, most in zip(self.least_size, self.shape, strict=True)]
        top, left = (int(rng.integers(most - side + 1)) for side, most in zip(sides, self.shape, strict=True))
        outside[top : top + sides[0], left : left + sides[1]] = False
        return outside

    def _answer(self, question: bytes) -> np.ndarray:
        """The question's tokens with the path that `MazeSearch.path` chooses."""
        answer = np.frombuffer(question, np.uint8).copy()
        start, goal = int(np.flatnonzero(answer == START)[0]), int(np.flatnonzero(answer == GOAL)[0])
        answer[MazeSearch((answer != WALL).reshape(self.shape)).path(start, goal)] = PATH
        return answer

    def _wave(self, question: bytes) -> Wave:
        tokens = np.frombuffer(question, np.uint8)
        start, goal = (int(np.flatnonzero(tokens == end)[0]) for end in (START, GOAL))
        return Wave((tokens > WALL).reshape(self.shape), start, goal)

    def _distance(self, question: np.ndarray) -> int | None:
        start, goal = int(np.flatnonzero(question == START)[0]), int(np.flatnonzero(question == GOAL)[0])
        return MazeSearch((question != WALL).reshape(self.shape)).distance(start, goal)


def _corridors(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Free cells [rows, cols] bool: corridors dug without ever meeting, then a few cells opened that join two."""
    rows, cols = inside.shape
    free = np.zeros((rows + 2, cols + 2), bool)
    cells = [(int(row) + 1, int(col) + 1) for row, col in np.argwhere(inside)]
    may = {*cells}
    at = cells[int(rng.integers(len(cells)))]
    free[at] = True
    ends, straying = [at], rng.uniform(0.0, 0.3)

    def beside(cell: tuple[int, int]) -> list[tuple[int, int]]:
        row, col = cell
        return [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]

    def touching(cell: tuple[int, int]) -> int:
        return sum(map(free.__getitem__, beside(cell)))

    while ends:
        at = int(rng.integers(len(ends))) if rng.random() < straying else len(ends) - 1
        ways = [way for way in beside(ends[at]) if way in may and not free[way] and touching(way) == 1]
        if ways:
            free[way := ways[int(rng.integers(len(ways)))]] = True
            ends.append(way)
        else:
            ends.pop(at)
    walls = [cell for cell in cells if not free[cell] and touching(cell) > 1]
    for i in rng.permutation(len(walls))[: int(rng.integers(1, MOST_JOINED + 1))].tolist():
        free[walls[i]] = True
    return free[1:-1, 1:-1]


@lru_cache(maxsize=64)
def _of_shape(rows: int, cols: int) -> Maze:
    return Maze(rows, cols, min_path=1)
