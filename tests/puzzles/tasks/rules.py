"""The rules of the puzzles once more, written plainly on text, independent of the code under test."""

import csv
import gzip
from collections import deque
from pathlib import Path

DIGITS = "123456789ABCDEFG"


def units(box_rows: int, box_cols: int) -> list[list[int]]:
    """The cells of every row, column and box."""
    n = box_rows * box_cols
    rows = [[r * n + c for c in range(n)] for r in range(n)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    corners = [(r, c) for r in range(0, n, box_rows) for c in range(0, n, box_cols)]
    boxes = [[(r + i) * n + c + j for i in range(box_rows) for j in range(box_cols)] for r, c in corners]
    return rows + columns + boxes


def sudoku_right(question: str, answer: str, box_rows: int, box_cols: int) -> bool:
    """Whether every row, column and box of the answer is complete and the givens are kept."""
    wanted = set(DIGITS[: box_rows * box_cols])
    complete = all({answer[cell] for cell in unit} == wanted for unit in units(box_rows, box_cols))
    return complete and all(q in (".", a) for q, a in zip(question, answer, strict=True))


def sudoku_solutions(question: str, box_rows: int, box_cols: int, limit: int = 2) -> list[str]:
    """Up to `limit` solutions by plain backtracking on the cell with the fewest digits left."""
    n = box_rows * box_cols
    peers: list[set[int]] = [set() for _ in question]
    for unit in units(box_rows, box_cols):
        for cell in unit:
            peers[cell] |= set(unit) - {cell}
    found: list[str] = []

    def go(grid: list[str]) -> None:
        blanks = [cell for cell, character in enumerate(grid) if character == "."]
        if not blanks:
            found.append("".join(grid))
            return
        left = {cell: set(DIGITS[:n]) - {grid[peer] for peer in peers[cell]} for cell in blanks}
        cell = min(blanks, key=lambda cell: len(left[cell]))
        for digit in sorted(left[cell]):
            if len(found) < limit:
                go([*grid[:cell], digit, *grid[cell + 1 :]])

    go(list(question))
    return found


def maze_steps(question: str, columns: int, walkable: str = " SG") -> int | None:
    """Steps on a shortest way from S to G over the walkable characters."""
    start, goal = question.index("S"), question.index("G")
    distance = {start: 0}
    queue = deque([start])
    while queue:
        cell = queue.popleft()
        row, column = divmod(cell, columns)
        for r, c in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            near = r * columns + c
            inside = 0 <= r < len(question) // columns and 0 <= c < columns
            if inside and near not in distance and question[near] in walkable:
                distance[near] = distance[cell] + 1
                queue.append(near)
    return distance.get(goal)


def maze_shortest(question: str, answer: str, columns: int) -> bool:
    """Whether the marks are a path, as few as can be, on free cells of the question."""
    unmarked = answer.replace("o", " ") == question
    return unmarked and maze_steps(answer, columns, "oG") == maze_steps(question, columns) == answer.count("o") + 1


def maze_first(question: str, columns: int) -> str:
    """The answer that a breadth-first search from S finds first, looking down, left, right, up from each cell."""
    start, goal = question.index("S"), question.index("G")
    found, queue = {start: -1}, [start]
    for here in queue:
        column = here % columns
        steps = [(columns, True), (-1, column > 0), (1, column < columns - 1), (-columns, True)]
        for there in (here + step for step, inside in steps if inside):
            if 0 <= there < len(question) and question[there] != "#" and there not in found:
                found[there] = here
                queue.append(there)
    answer, cell = list(question), found[goal]
    while cell != start:
        answer[cell] = "o"
        cell = found[cell]
    return "".join(answer)


def table(path: Path, rows: int) -> list[dict[str, str]]:
    """The first rows of a CSV file, compressed or not."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return [row for row, _ in zip(csv.DictReader(file), range(rows), strict=False)]
