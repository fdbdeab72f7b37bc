"""Time the solving engine: against running every puzzle to the last segment, and against the official evaluation loop.

    python benchmarks/engine.py RUN --data extreme_like_test_5k.csv.gz generated_minimal_test.csv.gz
    git clone https://github.com/sapientinc/HRM /tmp/HRM
    python benchmarks/engine.py --official /tmp/HRM --data extreme_like_test_5k.csv.gz

Both sides solve the same puzzles in one process, in turns, and the ratio is taken round by round. Early halting saves
segments; `efficiency` is the share of that saving that arrives as time: (puzzles per second, engine over fixed batches)
over (16 over the mean number of segments).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from official import official_hrm

from hrm import data
from hrm.config import Strategy, load_preset
from hrm.data import PuzzleSet
from hrm.evaluation import is_right, jobs_of
from hrm.evaluation.sweep import depth_curves, read_all
from hrm.models.puzzle import PuzzleModel, board_of, build
from hrm.solving import Solver, engine, load
from hrm.tasks.sudoku import Sudoku


@torch.inference_mode()
def fixed_batches(model: PuzzleModel, puzzles: PuzzleSet, segments: int, batch_size: int) -> np.ndarray:
    """Readouts [n, cells] after the last segment, batch after batch."""
    readouts = []
    for start in range(0, len(puzzles.inputs), batch_size):
        inputs = torch.from_numpy(puzzles.inputs[start : start + batch_size].astype(np.int64))
        ids = torch.from_numpy(puzzles.task_ids[start : start + batch_size].astype(np.int64))
        carry = model.initial_carry(inputs, ids)
        for _ in range(segments):
            carry, readout = model.segment(carry, inputs, ids)
        readouts.append(readout.logits.argmax(-1).numpy())
    return np.concatenate(readouts)


def with_engine(solver: Solver, puzzles: PuzzleSet, strategy: Strategy, batch_size: int) -> tuple[np.ndarray, float]:
    """Readouts [n, cells] and the mean number of segments."""
    readouts, segments = np.zeros_like(puzzles.inputs), 0
    for row, outcome in engine.solve(solver.models, jobs_of(puzzles), solver.rules(strategy), batch_size, False):
        assert outcome is not None
        readouts[row], segments = outcome.readout, segments + outcome.segments
    return readouts, segments / len(puzzles.inputs)


def accuracy(solver: Solver, puzzles: PuzzleSet, readouts: np.ndarray) -> float:
    rows = zip(puzzles.inputs, puzzles.labels, readouts, strict=True)
    return float(np.mean([is_right(solver.task, *row) for row in rows]))


def early_halting(solver: Solver, puzzles: PuzzleSet, args: argparse.Namespace) -> dict[str, Any]:
    """Fixed batches, the verifier and the Q head in turns."""
    n, most = len(puzzles.inputs), args.max_segments
    once = Strategy(max_segments=most, restarts=0, views=1)
    stops = {"verifier": once, "q": replace(once, stop=("q",)), "q margin 2": replace(once, stop=("q",), margin=2.0)}
    rates: dict[str, list[float]] = {name: [] for name in ("fixed", *stops)}
    found: dict[str, Any] = {}
    for _ in range(args.rounds):
        start = time.perf_counter()
        readouts = fixed_batches(solver.model, puzzles, most, args.batch_size)
        rates["fixed"].append(n / (time.perf_counter() - start))
        found["fixed"] = {"accuracy": accuracy(solver, puzzles, readouts), "mean_segments": float(most)}
        for name, strategy in stops.items():
            start = time.perf_counter()
            readouts, mean = with_engine(solver, puzzles, strategy, args.batch_size)
            rates[name].append(n / (time.perf_counter() - start))
            found[name] = {"accuracy": accuracy(solver, puzzles, readouts), "mean_segments": mean}
    for name, values in found.items():
        ratios = [a / b for a, b in zip(rates[name], rates["fixed"], strict=True)]
        values |= {"puzzles_per_second": statistics.median(rates[name]), "ratio": statistics.median(ratios)}
        values["efficiency"] = values["ratio"] / (most / values["mean_segments"])
    readings = read_all(solver, puzzles, most, args.batch_size, lambda share: None)
    curves = {curve.name: curve for curve in depth_curves(readings, solver.task.verifies)}
    by_q, at_random = curves["the Q head halts"], curves["halting at random, same depths"]
    found["halting"] = {
        "mean_segments": by_q.mean_segments[-1],
        "by_q": by_q.accuracy[-1],
        "at_random": at_random.accuracy[-1],
    }
    return found


def official_loop(path: Path, weights: PuzzleModel, batch_size: int) -> Any:
    """The official model in evaluation mode: a function of a batch of questions that runs all 16 segments."""
    from hrm.interop import write

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
    parser.add_argument("--limit", type=int, help="only the first so many puzzles of each file")
    parser.add_argument("--official", type=Path, help="a clone of the official HRM code, to time its evaluation loop")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--batches", type=int, default=2, help="batches a round, against the official loop")
    parser.add_argument("--max-segments", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if (args.run is None) == (args.official is None):
        parser.error("give a run, or --official with the official code")
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
            result[Path(name).name] = {"n": len(puzzles.inputs), **early_halting(solver, puzzles, args)}
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
