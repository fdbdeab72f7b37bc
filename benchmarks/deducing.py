"""What a solver that deduces is worth: one core, one puzzle at a time, beside rules alone and another solver.

    python benchmarks/deducing.py runs/sudoku-9x9 --data extreme_like_test_5k.csv.gz --out figures [--stride 10]
    python benchmarks/deducing.py … --only control | --only other --other OLD-RUN --limit 300

Sides: `solver` is the run; `control` the same search with naked and hidden singles in the model's place; `other` a
second run, such as an older solver. Every puzzle's row is appended to OUT/SIDE.jsonl as it is solved, so that the same
command continues where it was stopped. Times are those of the search alone, without reading and checking the question.
Writes OUT/result.json and OUT/curve.png, and prints a table.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sittings import add, rows_of
from hrm.core.recurrence import Carry
from hrm.files.digest import data_sha256
from hrm.puzzles import data
from hrm.puzzles.config import Strategy
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.lattice import Lattice, Packed
from hrm.puzzles.model import Board, Readout
from hrm.puzzles.solving import Solver, load
from hrm.puzzles.solving.engine import Deduce, Job, Rules, solve
from hrm.runs import durable

SIDES = ("solver", "control", "other")
FEW_VISITS, FEW_CALLS = 240, 10
MOST_CALLS = 20_000
"""Of the control at a puzzle."""


class Singles(nn.Module):
    """In a model's place: a call is one round of naked and hidden singles. Its kills are certain, it has no wishes."""

    def __init__(self, board: Board) -> None:
        super().__init__()
        self.board, self.lattice = board, Lattice(board.groups, board.cells, *board.symbols)
        self.vocabulary = board.vocabulary
        self.register_buffer("z_h_init", torch.zeros(1))

    def initial_carry(self, inputs: Tensor, task_ids: Tensor) -> Carry:
        """Nothing is remembered."""
        nothing = torch.zeros(len(inputs), self.lattice.cells * self.lattice.symbols, 1)
        return Carry(nothing, nothing.clone())

    def deduce(self, carry: Carry, packed: Packed, segments: int, every: bool) -> tuple[Carry, list[Readout]]:
        """Kill what a single symbol excludes, and what stands beside a symbol that has no other place in a group."""
        table, alive, pinned = self.lattice, packed.alive, packed.pinned
        excluded = (table.counts(pinned) > 0)[:, table.label].any(2)
        hidden = ((table.counts(alive) == 1) & table.needs)[:, table.label].any(2)
        # Two such symbols in one cell contradict each other: both die, and the search goes back.
        hidden &= alive
        places = table.by_cell(hidden).sum(2, keepdim=True)
        keep = (places == 0) | (table.by_cell(hidden) & (places == 1))
        keep = keep.flatten(1) & (~excluded | pinned) & alive
        odds = torch.where(keep, 50.0, -50.0)
        scores = torch.zeros(len(alive), table.cells, self.vocabulary)
        return carry, [Readout(scores, torch.zeros(len(alive), 2), odds)]


def searched(solver: Solver) -> tuple[Sequence[Any], Rules, int]:
    """Models, rules and visits of a segment."""
    schedule = solver.model.recurrence.schedule
    return solver.models, solver.rules(Strategy()), len(schedule.visits(1, 1))


def control_of(solver: Solver) -> tuple[Sequence[Any], Rules, int]:
    """The same search without a model; a call is one visit."""
    rules = replace(solver.rules(Strategy(max_segments=MOST_CALLS)), deduce=Deduce(1, 0.5))
    return [Singles(solver.model.board)], rules, 1


def measure(
    side: str, how: tuple[Sequence[Any], Rules, int], puzzles: PuzzleSet, chosen: range, file: Path,
    facts: dict[str, Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """One puzzle at a time; the rows of those chosen, also from earlier sittings."""
    models, rules, visits = how
    done = {row["puzzle"]: row for row in rows_of(file, facts)}
    left = [number for number in chosen if number not in done]
    if left:
        list(solve(models, [Job(puzzles.inputs[left[0]])], rules, 1))  # warms up
    for number in track(left, side, console=Console(stderr=True)):
        start, busy = time.perf_counter(), time.process_time()
        ((_, outcome),) = solve(models, [Job(puzzles.inputs[number])], rules, 1)
        busy, wall = time.process_time() - busy, time.perf_counter() - start
        assert outcome is not None
        done[number] = {
            "puzzle": number, "solved": outcome.accepted,
            "wrong": outcome.accepted and not np.array_equal(outcome.readout, puzzles.labels[number]),
            "calls": outcome.segments // rules.deduce.segments, "visits": outcome.segments * visits,
            "decisions": outcome.decisions, "ms": 1000 * wall, "cpu_ms": 1000 * busy,
        }  # fmt: skip
        add(file, done[number])
    return [done[number] for number in chosen if number in done]


def told(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a side."""
    n = len(rows)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    solved, few = columns["solved"].astype(bool), np.linspace(0, 1, 21)[1:]

    def spread(name: str) -> dict[str, float]:
        values = columns[name]
        levels = {"median": 50, "90 %": 90, "99 %": 99}
        return {"mean": float(values.mean()), **{k: float(np.percentile(values, p)) for k, p in levels.items()}}

    share = {
        "solved": solved, f"within {FEW_CALLS} calls": solved & (columns["calls"] <= FEW_CALLS),
        f"within {FEW_VISITS} visits": solved & (columns["visits"] <= FEW_VISITS),
        "without a decision": solved & (columns["decisions"] == 0),
    }  # fmt: skip
    needed = np.sort(columns["visits"][solved])
    return {
        "n": n, "wrong": int(columns["wrong"].sum()),
        **{name: float(values.mean()) for name, values in share.items()},
        **{name: spread(name) for name in ("ms", "cpu_ms", "calls", "visits", "decisions")},
        "visits needed by a share of all": {
            f"{each:.0%}": int(needed[max(0, int(np.ceil(each * n)) - 1)]) for each in few if each * n <= len(needed)
        },
    }  # fmt: skip


def compared(ours: list[dict[str, Any]], control: list[dict[str, Any]]) -> dict[str, Any]:
    """Decisions on the puzzles that both solve."""
    theirs = {row["puzzle"]: row for row in control if row["solved"]}
    both = [(row["decisions"], theirs[row["puzzle"]]["decisions"]) for row in ours
            if row["solved"] and row["puzzle"] in theirs]  # fmt: skip
    mine, other = (sum(values) / max(1, len(both)) for values in (zip(*both, strict=True) if both else ((), ())))
    return {"n": len(both), "solver": mine, "control": other, "share": mine / other if other else None}


def draw(sides: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Solved share against visits, one line a side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name, rows in sides.items():
        visits = np.sort([row["visits"] for row in rows if row["solved"]])
        axes.step(visits, 100 * np.arange(1, len(visits) + 1) / len(rows), where="post", label=f"{name} ({len(rows)})")
    axes.axvline(FEW_VISITS, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="visits of the model, rounds of the control", ylabel="solved, %", ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150, bbox_inches="tight")


def table(result: dict[str, Any]) -> str:
    """A line a figure, a column a side."""
    sides = {name: result[name] for name in SIDES if name in result}
    lines = [" " * 26 + "".join(f"{name:>12}" for name in sides)]

    def line(name: str, cells: list[str]) -> None:
        lines.append(f"{name:26}" + "".join(f"{cell:>12}" for cell in cells))

    every = list(sides.values())
    line("puzzles", [str(side["n"]) for side in every])
    line("wrong", [str(side["wrong"]) for side in every])
    for name in ("solved", f"within {FEW_CALLS} calls", f"within {FEW_VISITS} visits", "without a decision"):
        line(name, [f"{side[name]:.2%}" for side in every])
    for what in ("ms", "cpu_ms", "calls", "decisions"):
        for level in ("median", "mean", "90 %", "99 %"):
            line(f"{what}, {level}", [f"{side[what][level]:.1f}" for side in every])
    if "decisions" in result:
        found = result["decisions"]
        share = "-" if found["share"] is None else f"{found['share']:.3f}"
        counts = f"{found['solver']:.2f} against the control's {found['control']:.2f}"
        lines.append(f"decisions on the {found['n']} puzzles that both solve: {counts}, {share} of them")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder or shipped solver that deduces")
    parser.add_argument("--data", required=True, help="puzzles with answers")
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures")
    parser.add_argument("--other", help="run folder of another solver")
    parser.add_argument("--only", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--precision", help="default: as trained")
    parser.add_argument("--limit", type=int, help="number of puzzles")
    parser.add_argument("--stride", type=int, default=1, help="every STRIDE-th puzzle of the file")
    parser.add_argument("--offset", type=int, default=0, help="the first of them")
    args = parser.parse_args()
    torch.set_num_threads(1)
    solver = load(args.run, checkpoint=args.checkpoint, device="cpu", precision=args.precision)
    puzzles = data.read(args.data, solver.task, "test")
    chosen = range(args.offset, len(puzzles.inputs), args.stride)[: args.limit]
    args.out.mkdir(parents=True, exist_ok=True)
    source = {"data": Path(args.data).name, "sha256": data_sha256(Path(args.data))}
    sides: dict[str, list[dict[str, Any]]] = {}
    for side in SIDES:
        file = args.out / f"{side}.jsonl"
        if side == "other" and args.other is None:
            continue
        asked = solver if side != "other" else load(str(args.other), device="cpu")
        facts = source if side == "control" else source | {"run": asked.checkpoint, "dtype": str(asked.model.dtype)}
        how = control_of(asked) if side == "control" else searched(asked)
        if side in args.only:
            sides[side] = measure(side, how, puzzles, chosen, file, facts)
        elif file.is_file():
            known = {row["puzzle"]: row for row in rows_of(file, facts)}
            sides[side] = [known[number] for number in chosen if number in known]
    sides = {side: rows for side, rows in sides.items() if rows}
    result: dict[str, Any] = {
        **source, "run": args.run, "checkpoint": Path(solver.checkpoint).name,
        "parameters": sum(p.numel() for p in solver.model.parameters()),
        "dtype": str(solver.model.dtype), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "threads": 1, **{side: told(rows) for side, rows in sides.items()},
    }  # fmt: skip
    if "solver" in sides and "control" in sides:
        result["decisions"] = compared(sides["solver"], sides["control"])
    durable.write_json(args.out / "result.json", result)
    draw(sides, args.out / "curve.png")
    print(table(result))


if __name__ == "__main__":
    main()
