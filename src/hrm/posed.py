"""Puzzles asked of a model of text: written as rows of characters, answered as text, judged by the task's own rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.core import devices
from hrm.core.calibration import interval
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.puzzles.arc import files
from hrm.puzzles.data import storage
from hrm.puzzles.data.recognition import infer
from hrm.puzzles.tasks import Task, build
from hrm.puzzles.tasks.arc import grid_of
from hrm.text.measuring.subject import Written, subject_of
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling

RULES = {
    "sudoku": "Fill in each . so that every row, column and box holds every symbol once.",
    "maze": "Mark a shortest path from S to G with o; # is a wall.",
}
ARC_RULE = "Find the rule that turns input into output."
FREE, END = ".", "\n\n"
"""What stands for a space, which tokenizers and stop words would not keep; what follows an answer."""


class Posed(NamedTuple):
    """A puzzle as text, the answer of the file, and what tells a right answer from a wrong one."""

    question: str
    answer: str
    right: Callable[[str], bool]
    rule: str = ""
    riddle: str = ""
    """What it shares with other questions of one riddle (tasks of ARC); by default the question itself."""

    @property
    def shown(self) -> str:
        """The puzzle with its answer, as an example."""
        return f"{self.question}{self.answer}{END}"


def pose(path: Path | str) -> list[Posed]:
    """The puzzles of a file or dataset folder that have an answer (ARC: a question for each test input). UserError
    where there are none, or the task cannot be told."""
    path = Path(path)
    found = list(_arc(path) if path.name.endswith(files.SUFFIXES) else _grids(path))
    if not found:
        raise UserError(f"{path} has no puzzle with an answer: give one with answers")
    return found


def _grids(path: Path) -> Iterator[Posed]:
    try:
        task = build(infer(path))
    except UserError as error:
        problem = str(error).partition(";")[0]
        raise UserError(f"{problem}: give Sudokus, square mazes or tasks of ARC") from error
    puzzles = storage.read(path, task, "test" if (path / "test").is_dir() else "train")
    rule = RULES.get(task.name, "Solve the puzzle.")
    for question, label in zip(puzzles.inputs, puzzles.labels, strict=True):
        if (label >= 0).all():
            text = f"Puzzle:\n{written(task, question)}\n\nAnswer:\n"
            yield Posed(text, written(task, label), _judge(task, question, label), rule)


def written(task: Task, tokens: np.ndarray) -> str:
    """Tokens [cells] as rows of characters."""
    characters = "".join(task.vocabulary[token] for token in tokens.tolist()).replace(" ", FREE)
    width = task.shape[1]
    return "\n".join(characters[at : at + width] for at in range(0, len(characters), width))


def _judge(task: Task, question: np.ndarray, label: np.ndarray) -> Callable[[str], bool]:
    def right(text: str) -> bool:
        said = "".join(text.split())
        if len(said) != task.cells:
            return False
        # A sign that no token has becomes padding, which is in no right answer.
        signs = said.replace(FREE, " ") if " " in task.vocabulary else said
        answer = np.array([max(0, task.vocabulary.find(sign)) for sign in signs], task.dtype)
        return task.verify(question, answer) if task.verifies else bool((answer == label).all())

    return right


def _arc(path: Path) -> Iterator[Posed]:
    for task in files.read(path):
        shown = "".join(f"Input:\n{_rows(one.input)}\n\nOutput:\n{_rows(one.output)}\n\n" for one in task.train)
        for one in task.test:
            if one.output is not None:
                asked = f"{shown}Input:\n{_rows(one.input)}\n\nOutput:\n"
                yield Posed(asked, _rows(one.output), _same(one.output), ARC_RULE, task.id)


def _rows(grid: np.ndarray | None) -> str:
    assert grid is not None
    return "\n".join(" ".join(map(str, row)) for row in grid.tolist())


def _same(grid: np.ndarray) -> Callable[[str], bool]:
    def right(text: str) -> bool:
        try:
            found = grid_of([[int(cell) for cell in line.split()] for line in text.strip().splitlines()])
        except ValueError:
            return False
        return found.shape == grid.shape and bool((found == grid).all())

    return right


def prompts(posed: Sequence[Posed], shots: int, limit: int | None = None, seed: int = 0) -> list[str]:
    """The text that asks each puzzle, after `shots` others of the file with their answers; UserError if it has less."""
    riddles = [one.riddle or one.question for one in posed]
    kinds = {riddle: number for number, riddle in enumerate(dict.fromkeys(riddles))}
    own = np.array([kinds[riddle] for riddle in riddles])
    if shots >= len(kinds):
        raise UserError(f"--shots {shots} wants more other puzzles than the {len(kinds) - 1} that the file has")
    found = []
    for number, one in enumerate(islice(posed, limit)):
        draw = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
        # Of each other riddle one question at most: no puzzle stands beside itself, nor twice.
        order = draw.permutation(np.flatnonzero(own != own[number])) if shots else own[:0]
        _, first = np.unique(own[order], return_index=True)
        shown = "".join(posed[other].shown for other in order[np.sort(first)[:shots]])
        found.append(f"{one.rule}\n\n{shown}{one.question}")
    return found


def evaluate_posed(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    posed: Sequence[Posed],
    shots: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    **request: Unpack[Request],
) -> Json:
    """The share of the first `limit` puzzles that greedy answers solve, with its 95 % interval; what does not fit into
    the model's context with its answer (`fits` is the share that does) counts as wrong."""
    subject = subject_of(model, tokenizer, **request)
    ids = [subject.ids(text) for text in prompts(posed, shots, limit, seed)]
    room = [len(subject.ids(one.answer + END, alone=True)) for one in posed[: len(ids)]]
    start = time.perf_counter()
    fitting = [number for number in range(len(ids)) if len(ids[number]) + room[number] <= subject.length]
    order = sorted(fitting, key=lambda number: len(ids[number]))
    # Nothing of an answer's length is told to the model: each may be as long as the longest of them.
    longest = max(room, default=1)
    said: dict[int, Written] = {}
    while batch := order[:batch_size]:
        while len(batch) > 1 and max(len(ids[n]) for n in batch) + max(room[n] for n in batch) > subject.length:
            batch.pop()
        order = order[len(batch) :]
        most = min(longest, subject.length - max(len(ids[number]) for number in batch))
        sampling = Sampling(max_new_tokens=most, greedy=True, stop=(END,))
        said |= zip(batch, subject.write([ids[number] for number in batch], sampling), strict=True)
        if progress is not None:
            progress(len(said) / len(fitting))
    right = [number in said and posed[number].right(said[number].text) for number in range(len(ids))]
    texts = {number: written.text for number, written in said.items()}
    n = len(ids)
    return {
        "n": n, "solved": sum(right) / n, "solved_interval": list(interval(sum(right), n)), "fits": len(fitting) / n,
        **subject.thought([*said.values()], [right[number] for number in said]),
        "seconds": time.perf_counter() - start, "device": str(model.device), "dtype": devices.named(model.dtype),
        "answers": [{"said": texts.get(number), "right": right[number]} for number in range(n)],
    }  # fmt: skip
