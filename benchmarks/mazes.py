"""Mazes of any size: how many a solver solves at each size, alone and one after another, and what each takes.

    python benchmarks/mazes.py maze --sizes 10 16 30 60 100 --count 200 --out mazes.json
    python benchmarks/mazes.py maze --data maze_30x30_hard_test.csv.gz

Mazes of a size are made here, with paths of 3.7 steps a side or more, as in Maze-Hard, or come from a file. Each is
solved by itself on one thread. `at once` counts those that need no second view of the maze; `by half` is the segment at
which half of them are solved.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrm.files import output
from hrm.files.output import to_json
from hrm.puzzles import data
from hrm.puzzles.solving import Solver, load
from hrm.puzzles.tasks.maze import Maze

STEPS_A_SIDE = 110 / 30


def measure(solver: Solver, task: Maze, questions: np.ndarray, labels: np.ndarray, **strategy: Any) -> dict[str, Any]:
    """Solve each puzzle by itself."""
    seconds, segments, first, solved, wrong, exact = [], [], 0, 0, 0, 0
    for question, label in zip(questions, labels, strict=True):
        text = task.format(question)
        cols = task.shape[1]
        drawn = "\n".join(text[at : at + cols] for at in range(0, len(text), cols))
        began = time.perf_counter()
        answer = solver.solve(drawn, **strategy)
        seconds.append(time.perf_counter() - began)
        segments.append(answer.segments)
        if answer.status == "solved":
            assert answer.answer is not None
            found = task.parse(answer.answer)
            solved, first = solved + 1, first + (answer.attempts == 1)
            wrong += not task.verdicts(question, found, label)["optimal"]
            exact += bool((found == label).all())
    n = len(questions)
    return {
        "shape": task.shape, "n": n, "solved": solved / n, "at_once": first / n, "exact": exact / n, "wrong": wrong,
        "mean_path": float((labels == task.vocabulary.index("o")).sum(1).mean()) + 1,
        "mean_segments": float(np.mean(segments)), "by_half": float(np.median(segments)),
        "seconds": {"median": float(np.median(seconds)), "mean": float(np.mean(seconds)), "most": max(seconds)},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 16, 30, 60])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--corridors", type=float, default=0.0, help="share of mazes that are winding corridors")
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    solver, results = load(args.run, device="cpu"), []
    for path in args.data:
        task = Maze(*data.infer(path).size, min_path=1)
        puzzles = data.read(path, task, "test").take(np.arange(args.limit or len(data.read(path, task, "test").inputs)))
        results.append({"data": Path(path).name} | measure(solver, task, puzzles.inputs, puzzles.labels))
        print(to_json(results[-1]), flush=True)
    for size in [] if args.data else args.sizes:
        task, rng = (
            Maze(size, size, int(size * STEPS_A_SIDE), corridors=args.corridors),
            np.random.default_rng(args.seed),
        )
        made = [task.generate(rng) for _ in range(args.count)]
        columns = (np.stack([puzzle[i] for puzzle in made]) for i in (0, 1))
        results.append(
            {"data": f"made with seed {args.seed}", "corridors": args.corridors} | measure(solver, task, *columns)
        )
        print(to_json(results[-1]), flush=True)
    if args.out is not None:
        output.write_json(args.out, {"threads": 1, "results": results})


if __name__ == "__main__":
    main()
