"""Is anything called solved that is not? 10,000 puzzles, good and bad, judged by a checker that knows only the rules.

    python benchmarks/soundness.py sudoku --data HRM_DATA/sudoku [--strategies search]

Of 10,000: 2,000 puzzles with several solutions, 1,000 corrupted ones (a clue that contradicts another or the solution,
a cell too many or too few, other characters), the rest test puzzles. Every bad one must get its reason, no good one may
be refused, and no reported answer may break a rule. So it is with every strategy of the run's kind of model; what is
known is written after each.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import platform
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from hrm.puzzles.solving import Solver, load

CELLS = range(81)
ONCE = {"max_segments": 16, "restarts": 0, "views": 1, "guesses": 0}
WHOLE = {
    "one attempt": ONCE,
    "restarts": ONCE | {"restarts": 1},
    "views": ONCE | {"views": 2},
    "guesses": ONCE | {"guesses": 2},
    "q": ONCE | {"stop": ("q",)},
    "budget": ONCE | {"guesses": 4, "budget": 40},
}
"""For models that answer whole."""
DEDUCING = {
    "search": {},
    "no decisions": {"guesses": 0},
    "few decisions": {"guesses": 3, "views": 2},
    "budget": {"restarts": 1, "max_segments": 60, "budget": 100},
}
"""For models that deduce."""


def units() -> list[list[int]]:
    """Rows, columns and boxes."""
    rows = [[9 * r + c for c in range(9)] for r in range(9)]
    columns = [[9 * r + c for r in range(9)] for c in range(9)]
    boxes = [[27 * (b // 3) + 3 * (b % 3) + 9 * r + c for r in range(3) for c in range(3)] for b in range(9)]
    return rows + columns + boxes


def right(question: str, answer: str) -> bool:
    """Whether the givens are kept and every unit holds each digit once."""
    kept = all(q in (".", "0", a) for q, a in zip(question, answer, strict=True))
    return kept and all(sorted(answer[cell] for cell in unit) == list("123456789") for unit in units())


def corrupted(question: str, answer: str, dice: random.Random) -> tuple[str, str]:
    """A damaged puzzle and what its reason must begin with."""
    kind = dice.choice(["twice", "solution", "short", "long", "letter"])
    cell = dice.choice([i for i in CELLS if question[i] == "."])
    if kind == "twice":  # the same digit again in one of its units
        given = dice.choice([i for i in CELLS if question[i] != "."])
        cells = [i for unit in units() if given in unit for i in unit if question[i] == "."]
        cell, digit = dice.choice(cells), question[given]
        return question[:cell] + digit + question[cell + 1 :], "contradicting clues"
    if kind == "solution":  # a digit that the solution does not have there: nothing is left, unless it clashes at once
        digit = dice.choice([d for d in "123456789" if d != answer[cell]])
        clashes = any(question[i] == digit for unit in units() if cell in unit for i in unit)
        return question[:cell] + digit + question[cell + 1 :], "contradicting clues" if clashes else "no solution"
    if kind == "short":
        return question[:cell] + question[cell + 1 :], "expected 81 characters"
    if kind == "long":
        return question + dice.choice(".123"), "expected 81 characters"
    return question[:cell] + dice.choice("?!a&") + question[cell + 1 :], "'"


def judged(solver: Solver, expected: list[tuple[str, str]], name: str, strategy: dict[str, Any]) -> dict[str, Any]:
    """Every puzzle's answer held against what is expected of it."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    start = time.perf_counter()
    answers = solver.solve_many((text for text, _ in expected), **strategy)
    shown = track(answers, name, len(expected), console=Console(stderr=True))
    for (text, reason), answer in zip(expected, shown, strict=True):
        counts[answer.status] += 1
        if reason:
            counts[f"invalid: {reason}" if reason != "'" else "invalid: character"] += 1
            if answer.status != "invalid" or not (answer.reason or "").startswith(reason):
                failures.append(f"{text}: expected '{reason}', got {answer.status} '{answer.reason}'")
        elif answer.status == "invalid":
            failures.append(f"{text}: refused, '{answer.reason}'")
        elif answer.status == "solved" and not right(text, answer.answer or ""):
            failures.append(f"{text}: reported {answer.answer}")
    return {
        **strategy,
        "counts": dict(sorted(counts.items())),
        "failures": len(failures),
        "examples": failures[:5],
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", type=Path, required=True, help="folder of the Sudoku files")
    parser.add_argument("--puzzles", type=int, default=10_000)
    parser.add_argument("--strategies", nargs="+", help="some of them by name; default: all")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    dice = random.Random(0)
    with gzip.open(args.data / "serg_multi_solution_2k.txt.gz", "rt") as file:
        expected = [(text, "several solutions") for text in file.read().split()]
    good: list[tuple[str, str]] = []
    for name in ("extreme_like_test_5k", "generated_minimal_test", "clue17_test"):
        with gzip.open(args.data / f"{name}.csv.gz", "rt") as file:
            good += [(row["question"], row["answer"]) for row in csv.DictReader(file)]
    dice.shuffle(good)
    share = args.puzzles / 10_000
    several, damaged = int(2000 * share), int(1000 * share)
    expected = expected[:several] + [corrupted(*puzzle, dice) for puzzle in good[:damaged]]
    expected += [(question, "") for question, _ in good[damaged : args.puzzles - several]]
    dice.shuffle(expected)

    solver = load(args.run, checkpoint=args.checkpoint, device="cpu")
    known = DEDUCING if solver.deduces else WHOLE
    result: dict[str, Any] = {
        "n": len(expected),
        "failures": 0,
        "checkpoint": Path(solver.checkpoint).name,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "strategies": {},
    }
    for name in args.strategies or known:
        found = judged(solver, expected, name, known[name])
        result["failures"] += found["failures"]
        result["strategies"][name] = found
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
