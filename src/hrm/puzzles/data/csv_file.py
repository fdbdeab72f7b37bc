"""Files of puzzles as arrays: read in any of their forms, written as CSV (source, question, answer, rating)."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from itertools import compress, islice
from pathlib import Path

import numpy as np

from hrm.console import Console
from hrm.files import output
from hrm.files.reading import UserError, quoted
from hrm.progress import track
from hrm.puzzles.data import puzzle_file
from hrm.puzzles.data.puzzle_file import Row
from hrm.puzzles.data.puzzle_set import LocatedPuzzles, PuzzleSet
from hrm.puzzles.tasks import PuzzleError, Task

_CHUNK = 1 << 16


def load(path: Path, task: Task, report: Callable[[str], None], console: Console | None = None) -> LocatedPuzzles:
    """Read every puzzle that parses; `report` gets a sentence for each other row. If the file has no answers, the task
    finds them where it can. UserError if no puzzle is left."""
    tokens_of = _parser(task)
    parts: list[tuple[np.ndarray, ...]] = []
    graded = False
    with puzzle_file.text_of(path) as lines:
        stream = puzzle_file.rows(lines, path, task)
        while chunk := list(islice(stream, _CHUNK)):
            bad = {i: row.problem for i, row in enumerate(chunk) if row.problem}
            questions = tokens_of([row.question for row in chunk], "question", bad)
            answers = _answers(task, chunk, questions, tokens_of, bad, path, console)
            ratings = _ratings([row.rating for row in chunk], bad)
            graded = graded or any(row.rating for row in chunk)
            for i in sorted(bad):
                report(f"{path} line {chunk[i].line}: {bad[i]}; correct or remove the row")
            good = np.array([i for i in range(len(chunk)) if i not in bad], int)
            numbers = np.array([row.line for row in chunk])
            parts.append((questions[good], answers[good], ratings[good], numbers[good]))
    if not sum(len(part[0]) for part in parts):
        raise UserError(f"{path} holds no {task.name} puzzle of {task.shape[0]}x{task.shape[1]} cells")
    inputs, labels, ratings, numbers = (np.concatenate(column) for column in zip(*parts, strict=True))
    if (ratings == ratings.round()).all():
        ratings = ratings.astype(np.int32)
    number = np.arange(len(inputs), dtype=np.int32)
    puzzles = PuzzleSet(inputs, labels, np.zeros_like(number), number, ratings if graded else None, str(path))
    return LocatedPuzzles(puzzles, lambda row: f"{path} line {numbers[row]}")


def _answers(
    task: Task,
    chunk: Sequence[Row],
    questions: np.ndarray,
    tokens_of: Callable[[list[str], str, dict[int, str]], np.ndarray],
    bad: dict[int, str],
    path: Path,
    console: Console | None,
) -> np.ndarray:
    """The answers in the file, and for rows without one the answer that the task finds."""
    missing = [i for i, row in enumerate(chunk) if row.answer is None and i not in bad]
    if not missing:
        return tokens_of([row.answer or "" for row in chunk], "answer", bad)
    given = np.array([i for i, row in enumerate(chunk) if row.answer is not None], int)
    answers = np.zeros_like(questions)
    wrong: dict[int, str] = {}
    answers[given] = tokens_of([chunk[i].answer or "" for i in given], "answer", wrong)
    for i, problem in wrong.items():
        bad.setdefault(given[i], problem)
    for i in track(missing, f"solving {path.name}, which has no answers", console):
        try:
            found = task.solution(questions[i])
        except PuzzleError as error:
            bad[i] = f"the question is not well-posed ({error})"
            continue
        if found is None:
            raise UserError(
                f"{path} line {chunk[i].line}: there is no column 'answer' (nor 'solution'), and nothing can find "
                f"the answers of a {task.name}: add it"
            )
        answers[i] = found
    return answers


def _ratings(texts: Sequence[str], bad: dict[int, str]) -> np.ndarray:
    """Ratings as numbers, 0 where there is none; `bad` collects the reasons for invalid ones by index."""
    values = []
    for i, text in enumerate(texts):
        try:
            values.append(float(text or 0))
        except ValueError:
            bad.setdefault(i, f"rating {quoted(text)} is not a number")
            values.append(0.0)
    ratings = np.array(values)
    for i in np.flatnonzero(~((ratings >= -(2**31)) & (ratings < 2**31))).tolist():
        bad.setdefault(i, f"rating {quoted(texts[i])} is not a number below {2**31:,}")
    return ratings


def save(path: Path | str, task: Task, puzzles: PuzzleSet) -> None:
    """Write a CSV file (source, question, answer, rating), gzipped if its name ends in .gz. Equal puzzles give equal
    bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = Path(puzzles.source).name
    ratings = [""] * len(puzzles.inputs) if puzzles.ratings is None else puzzles.ratings.tolist()
    ratings = [int(rating) if isinstance(rating, float) and rating.is_integer() else rating for rating in ratings]
    with output.opened(path) as raw:
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        text = io.TextIOWrapper(packed, "utf-8", newline="")  # type: ignore[arg-type]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["source", "question", "answer", "rating"])
        for question, answer, rating in zip(puzzles.inputs, puzzles.labels, ratings, strict=True):
            writer.writerow([source, task.format(question), task.format(np.maximum(answer, 0)), rating])
        text.detach()  # writes what it still holds; the file itself is closed where it was opened
        if packed is not raw:
            packed.close()


def _parser(task: Task) -> Callable[[list[str], str, dict[int, str]], np.ndarray]:
    """A fast `task.parse` for many texts, [n, cells]; `bad` collects the reasons for failures by index."""
    cells = task.cells
    token = np.zeros(256, task.dtype)  # of each character; 0 sends the text to task.parse
    for code in range(128):
        try:
            token[code] = task.parse(chr(code) * cells)[0]
        except PuzzleError:
            continue

    def parse(texts: list[str], column: str, bad: dict[int, str]) -> np.ndarray:
        tokens = np.zeros((len(texts), cells), task.dtype)
        fits = np.array([len(text) == cells and text.isascii() for text in texts], bool)
        joined = "".join(compress(texts, fits)).encode("ascii")
        tokens[fits] = token[np.frombuffer(joined, np.uint8)].reshape(-1, cells)
        for i in np.flatnonzero(~tokens.all(axis=1)).tolist():
            try:
                tokens[i] = task.parse_bounded(texts[i])
            except PuzzleError as error:
                bad.setdefault(i, f"{column}: {error}")
        return tokens

    return parse
