"""Time the solving engine: against running every puzzle to the last segment, and against the official evaluation loop.

    python benchmarks/engine.py RUN --data extreme_like_test_5k.csv.gz generated_minimal_test.csv.gz
    git clone https://github.com/sapientinc/HRM /tmp/HRM
    python benchmarks/engine.py --official /tmp/HRM --data extreme_like_test_5k.csv.gz

Both sides solve the same puzzles in one process, in turns, block by block; the ratio is that of the sums, and what is
known so far is written after each block. Early halting saves segments; `efficiency` is the share of that saving that
arrives as time: (puzzles per second, engine over fixed batches) over (16 over the mean number of segments).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from official import official_hrm

from hrm.core.halting import wants_to_halt
from hrm.puzzles import data
from hrm.puzzles.config import Strategy
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.measuring import is_right, jobs_of
from hrm.puzzles.measuring.sweep import SegmentReadouts, depth_curves
from hrm.puzzles.model import PuzzleModel, board_of, build
from hrm.puzzles.solving import Solver, engine, load
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.runs import durable
from hrm.settings import load_preset

T = TypeVar("T")


@torch.inference_mode()
def fixed_batches(solver: Solver, puzzles: PuzzleSet, segments: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Readouts [segments, n, cells] and halting values [segments, n, 2], every puzzle run to the last segment."""
    tokens, values = [], []
    for start in range(0, len(puzzles.inputs), batch_size):
        inputs = torch.from_numpy(puzzles.inputs[start : start + batch_size].astype(np.int64))
        ids = torch.from_numpy(puzzles.task_ids[start : start + batch_size].astype(np.int64))
        carry = solver.model.initial_carry(inputs, ids)
        readouts = []
        for _ in range(segments):
            carry, readout = solver.model.segment(carry, inputs, ids)
            readouts.append(readout)
        tokens.append(np.stack([readout.logits.argmax(-1).numpy() for readout in readouts]))
        values.append(np.stack([readout.q.float().numpy() for readout in readouts]))
    return np.concatenate(tokens, axis=1), np.concatenate(values, axis=1)


def with_engine(solver: Solver, puzzles: PuzzleSet, strategy: Strategy, batch_size: int) -> tuple[np.ndarray, int]:
    """Readouts [n, cells] and the number of segments."""
    readouts, segments = np.zeros_like(puzzles.inputs), 0
    for row, outcome in engine.solve(solver.models, jobs_of(puzzles), solver.rules(strategy), batch_size, False):
        assert outcome is not None
        readouts[row], segments = outcome.readout, segments + outcome.segments
    return readouts, segments


def rights(solver: Solver, puzzles: PuzzleSet, readouts: np.ndarray) -> np.ndarray:
    """Which readouts [n, cells] are right [n]."""
    rows = zip(puzzles.inputs, puzzles.labels, readouts, strict=True)
    return np.array([is_right(solver.task, *row) for row in rows])


def early_halting(solver: Solver, puzzles: PuzzleSet, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Fixed batches and the engine in turns, block by block: what is known after each pair of blocks.

    The Q head is judged on the segments that the fixed batches ran anyway: at its own depths, and at the same depths
    dealt out at random.
    """
    most, once = args.max_segments, Strategy(max_segments=args.max_segments, restarts=0, views=1, guesses=0)
    wall, cpu = defaultdict[str, float](float), defaultdict[str, float](float)
    segments = 0
    seen: list[tuple[np.ndarray, ...]] = []
    size = args.blocks_of
    blocks = [
        puzzles.take(np.arange(start, min(start + size, len(puzzles.inputs))))
        for start in range(0, len(puzzles.inputs), size)
    ]

    def timed(name: str, run: Callable[[], T]) -> T:
        start = time.perf_counter(), time.process_time()
        result = run()
        wall[name] += time.perf_counter() - start[0]
        cpu[name] += time.process_time() - start[1]
        return result

    for number, block in enumerate(blocks):
        sides = {
            "fixed": partial(fixed_batches, solver, block, most, args.batch_size),
            "engine": partial(with_engine, solver, block, once, args.batch_size),
        }
        # Who begins alternates, so that a machine which slows down favours nobody.
        results: dict[str, Any] = {name: timed(name, sides[name]) for name in sorted(sides, reverse=number % 2 == 0)}
        (readouts, q), (halted, spent) = results["fixed"], results["engine"]
        segments += spent
        right = np.stack([rights(solver, block, each) for each in readouts], axis=1)
        # Both values over all puzzles and segments as one batch.
        halts = [
            wants_to_halt(torch.from_numpy(q).flatten(0, 1), solver.q_continue, margin).view(q.shape[:2]).T.numpy()
            for margin in (0.0, 2.0)
        ]
        seen.append((right, *halts, rights(solver, block, halted)))
        right, *by_q, engine_right = (np.concatenate(part) for part in zip(*seen, strict=True))
        n, mean = len(right), segments / len(right)
        ratio = wall["fixed"] / wall["engine"]
        yield {
            "n": n,
            "fixed": {"accuracy": right[:, -1].mean(), "mean_segments": most, "puzzles_per_second": n / wall["fixed"]},
            "engine": {
                "accuracy": engine_right.mean(),
                "mean_segments": mean,
                "puzzles_per_second": n / wall["engine"],
                "ratio": ratio,
                "ratio_of_processor_time": cpu["fixed"] / cpu["engine"],
                "efficiency": ratio / (most / mean),
            },
            **{name: _by_q(right, halts) for name, halts in zip(("q", "q margin 2"), by_q, strict=True)},
        }


def _by_q(right: np.ndarray, halts: np.ndarray) -> dict[str, float]:
    """Halting where the Q head says so, and at the same depths in random order; both [n, segments]."""
    curves = {curve.name: curve for curve in depth_curves(SegmentReadouts(right, halts, halts), False)}
    return {
        "mean_segments": curves["the Q head halts"].mean_segments[-1],
        "accuracy": curves["the Q head halts"].accuracy[-1],
        "accuracy_at_random": curves["halting at random, same depths"].accuracy[-1],
    }


def official_loop(path: Path, weights: PuzzleModel, batch_size: int) -> Any:
    """The official model in evaluation mode: a function of a batch of questions that runs all 16 segments."""
    from hrm.puzzles.official import write

    model = official_hrm(path, batch_size).eval()
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), "sapient-hrm", load_preset("sudoku-extreme"), 81, dict(weights.state_dict()), 0)
        state = torch.load(file, weights_only=True)
    model.load_state_dict({name.removeprefix("_orig_mod.").removeprefix("model."): t for name, t in state.items()})

    @torch.inference_mode()
    def run(questions: np.ndarray) -> np.ndarray:
        batch = {
            "inputs": torch.from_numpy(questions.astype(np.int32)),
            "labels": torch.zeros(len(questions), 81, dtype=torch.int32),
            "puzzle_identifiers": torch.zeros(len(questions), dtype=torch.int32),
        }
        carry = model.initial_carry(batch)
        while True:
            carry, outputs = model(carry=carry, batch=batch)
            if bool(carry.halted.all()):
                return outputs["logits"].argmax(-1).numpy()

    return run


def against_official(puzzles: PuzzleSet, args: argparse.Namespace) -> dict[str, Any]:
    """The same 27M weights, all 16 segments, no early stop."""
    task, config = Sudoku(3, 3), load_preset("sudoku-extreme")
    model = build(config, board_of(task)).eval()
    model.dtype = torch.bfloat16
    solver = Solver(model, task)
    loop = official_loop(args.official, model, args.batch_size)
    nothing = engine.Rules(16)
    rates: dict[str, list[float]] = {"official": [], "hrm": []}
    for number in range(args.rounds + 1):  # the first round warms up
        part = puzzles.take(np.arange(args.batch_size * args.batches))
        start = time.perf_counter()
        size = args.batch_size
        for i in range(0, len(part.inputs), size):
            loop(part.inputs[i : i + size])
        middle = time.perf_counter()
        assert len(list(engine.solve(solver.models, jobs_of(part), nothing, size, ordered=False))) == len(part.inputs)
        end = time.perf_counter()
        if number:
            rates["official"].append(len(part.inputs) / (middle - start))
            rates["hrm"].append(len(part.inputs) / (end - middle))
    ratios = [a / b for a, b in zip(rates["hrm"], rates["official"], strict=True)]
    return {
        **{f"{name}_puzzles_per_second": statistics.median(values) for name, values in rates.items()},
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="run folder or shipped solver, for the part without the official code")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--limit", type=int, help="only this many puzzles of each file")
    parser.add_argument("--official", type=Path, help="a clone of the official HRM code, to time its evaluation loop")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2, help="batches a round, against the official loop")
    parser.add_argument("--max-segments", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3, help="against the official loop")
    parser.add_argument("--blocks-of", type=int, default=512, help="puzzles that one side solves before the other does")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if (args.run is None) == (args.official is None):
        parser.error("give a run, or --official with the official code")
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batch_size": args.batch_size,
        "rounds": args.rounds,
    }
    solver = load(args.run, device="cpu", precision=args.precision) if args.run else None
    for name in args.data:
        puzzles = data.read(name, solver.task if solver else Sudoku(3, 3), "test")
        puzzles = puzzles.take(np.arange(min(args.limit or len(puzzles.inputs), len(puzzles.inputs))))
        if solver is None:
            result["against official"] = against_official(puzzles, args)
        else:
            for found in early_halting(solver, puzzles, args):
                result[Path(name).name] = found
                if args.json:
                    durable.write_json(args.json, result)
                print(f"{Path(name).name}: {found['n']} puzzles, ratio {found['engine']['ratio']:.3f}", file=sys.stderr)
    print(json.dumps(result, indent=1))
    if args.json:
        durable.write_json(args.json, result)


if __name__ == "__main__":
    main()
