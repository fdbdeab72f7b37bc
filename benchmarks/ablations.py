"""What each part of learning to deduce is worth: 6x6 Sudoku, every arm trained for as many segments, three seeds.

    python benchmarks/ablations.py --out DIR [--segments 1600] [--seeds 3] [--arms base "no carry" ...]
    python benchmarks/ablations.py --out DIR --data 1k.csv --test test.csv.gz --segments 14000 --seeds 1 --dim 48

Trains every arm in DIR (started again, it continues), measures each on 500 minimal puzzles that no arm has seen, or,
with --data and --test, 9x9 puzzles of one file on 200 of another, and writes DIR/ablations.json and a table. Prints
also how much faster packed candidates are than all of them. An arm with longer calls makes fewer steps, so that all
compute about as much; `seconds` is the processor time of each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sittings import add, rows_of
from hrm.files.output import to_json
from hrm.puzzles import data
from hrm.puzzles.config import Config, Strategy
from hrm.puzzles.measuring import jobs_of
from hrm.puzzles.model import board_of, build
from hrm.puzzles.solving import engine, load
from hrm.puzzles.training.deducing import GROWING
from hrm.puzzles.training.session import train
from hrm.settings import changed, load_preset

ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "no symbol loss": {"deduction.symbol_weight": 0.0},
    "no kill loss": {"deduction.true_weight": 0.0, "deduction.false_weight": 0.0, "deduction.kill": 0.0},
    "asymmetry 1": {"deduction.true_weight": 1.0, "deduction.false_weight": 1.0},
    "asymmetry 32": {"deduction.true_weight": 8.0, "deduction.false_weight": 0.25},
    "no contradiction value": {"deduction.contradiction_weight": 0.0},
    "off-policy": {"deduction.on_policy": False},
    "no carry": {"deduction.carry": False},
    "1 segment a call": {"deduction.segments": 1, "deduction.first_segments": 1},
    "3 segments a call": {"deduction.segments": 3},
    "12 segments a call": {"deduction.segments": 12},
    "full length from the start": {"deduction.first_segments": 6},
    "nothing revealed": {"task.reveal": 0.0},
}
SEGMENTS = {(2, 3): (24, 120), (3, 3): (120, 600)}
"""The share solved is told within each of these, by the box."""
PUZZLES, HARD = 500, 200
"""Measured on: minimal 6x6 ones, or 9x9 ones of a file."""


def config_of(arm: str, seed: int, segments: int, dim: int, file: str | None) -> Config:
    """The recipe for 6x6, or for 9x9 from a file, with the changes of an arm, for this many segments of a batch."""
    base: dict[str, Any] = {
        "task.box": (2, 3), "task.puzzles": 1000, "task.holdout": 0, "arch.dim": dim, "seed": seed,
        "train.minutes": 0.0, "train.eval_every": 10**6, "train.checkpoint_every": 10**6, "train.log_every": 50,
        "train.precision": "float32", "optim.warmup_steps": 40, "optim.ema": 0.98,
    }  # fmt: skip
    if file is not None:
        base |= {"task.box": (3, 3), "data": file, "train.precision": "bfloat16", "optim.ema": 0.99}
    config = changed(load_preset("sudoku-deduce"), base | ARMS[arm])
    calls = config.deduction
    mean = GROWING * (calls.first_segments + calls.segments) / 2 + (1 - GROWING) * calls.segments
    return changed(config, {"train.steps": round(segments / mean)})


def measure(run: Path, puzzles: Any, within: tuple[int, ...]) -> dict[str, float]:
    """Shares solved within numbers of segments and without a decision, and the decisions a puzzle."""
    solver = load(run, "latest", precision="float32")
    rules = solver.rules(Strategy(max_segments=within[-1]))
    outcomes = [outcome for _, outcome in engine.solve(solver.models, jobs_of(puzzles), rules, 100)]
    assert all(outcome is not None for outcome in outcomes)
    solved = [outcome for outcome in outcomes if outcome is not None and outcome.accepted]
    wrong = sum(
        outcome is not None and outcome.accepted and not np.array_equal(outcome.readout, label)
        for outcome, label in zip(outcomes, puzzles.labels, strict=True)
    )
    return {
        **{f"within {most}": sum(o.segments <= most for o in solved) / len(outcomes) for most in within},
        "no decision": sum(o.decisions == 0 for o in solved) / len(outcomes),
        "decisions": sum(o.decisions for o in outcomes if o is not None) / len(outcomes),
        "wrong": wrong,
    }  # fmt: skip


def packing(repeats: int = 20) -> dict[str, float]:
    """Milliseconds of a call forward and backward on 32 puzzles 9x9 with a fifth of the candidates alive, packed and
    with all computed, in turns."""
    torch.manual_seed(0)
    from hrm.puzzles.tasks.sudoku import Sudoku

    task = Sudoku(3, 3)
    config = load_preset("sudoku-deduce")
    model = build(config, board_of(task))
    assert model.lattice is not None
    alive = torch.rand(32, 729) < 0.22
    alive[:, ::9] = True
    everything = torch.ones_like(alive)
    carry = model.initial_carry(alive, torch.zeros(32, dtype=torch.long))
    times: dict[str, list[float]] = {"packed": [], "all": []}
    for _ in range(repeats):
        for name, candidates in (("packed", alive), ("all", everything)):
            start = time.perf_counter()
            _, readouts = model.deduce(carry, model.lattice.pack(candidates), 6)
            readouts[-1].logits.clamp(-50, 50).sum().backward()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--segments", type=int, default=1600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--data", help="9x9 puzzles to learn from")
    parser.add_argument("--test", help="9x9 puzzles to measure on")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    if (options.data is None) != (options.test is None):
        parser.error("--data and --test go together: name a file to learn from and another to measure on")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log, facts = options.out / "ablations.jsonl", {"segments": options.segments, "dim": options.dim}
    if options.data is not None:
        facts |= {"data": Path(options.data).name, "test": Path(options.test).name}
    known = rows_of(log, facts)
    puzzles = None
    for seed in range(options.seeds):
        for arm in options.arms:
            if any((row["arm"], row["seed"]) == (arm, seed) for row in known):
                continue
            config = config_of(arm, seed, options.segments, options.dim, options.data)
            run = options.out / f"{arm.replace(' ', '-')}-{seed}"
            began = time.process_time()
            if train(config, run, overwrite=run.exists())["state"] != "finished":
                raise SystemExit(130)
            spent = time.process_time() - began
            if puzzles is None:
                from hrm.puzzles import tasks

                task = tasks.build(config.task)
                if options.test is None:
                    [puzzles] = data.generate(task, [PUZZLES], 1_000_003)
                else:
                    puzzles = data.read(options.test, task, "test").take(np.arange(HARD))
            row = {"arm": arm, "seed": seed, **measure(run, puzzles, SEGMENTS[config.task.box]), "seconds": spent}
            known.append(row)
            add(log, row)
            print(row, flush=True)
    names = [name for name in known[0] if name not in ("arm", "seed")]
    table = {}
    for arm in options.arms:
        rows = [row for row in known if row["arm"] == arm]
        table[arm] = {name: [row[name] for row in rows] for name in names}
        told = "  ".join(f"{name} {statistics.mean(table[arm][name]):.3f}" for name in names)
        print(f"{arm:28} {told}")
    speed = packing()
    print(f"a call: {speed['packed']:.0f} ms packed, {speed['all']:.0f} ms with all candidates")
    figures = {"arms": table, "milliseconds": speed, "seeds": options.seeds, **facts}
    (options.out / "ablations.json").write_text(to_json(figures))


if __name__ == "__main__":
    main()
