"""What watching a model costs: forward passes with the probe's statistics beside passes without, in turns.

    python benchmarks/probe.py [--repeats 7] [--out RESULT.json]

Statistics are the motion of both states at every visit, and the covariance of both at the end of every segment. Shapes:
the solver that comes with the package, HRM of 27 M parameters on 9x9, and a character model. Then a million states are
streamed into one covariance, and the growth of the process is measured.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hrm.core.probe import Moment, Motion, Probe, Spread, probing
from hrm.core.recurrence import Carry
from hrm.files.output import write_json
from hrm.puzzles.config import Config
from hrm.puzzles.model import board_of, build
from hrm.puzzles.solving import load
from hrm.puzzles.tasks import build as task_of
from hrm.settings import load_preset
from hrm.text.config import TextConfig, groups_of
from hrm.text.model import HRMConfig, HRMForCausalLM

SEGMENTS = 4


class Spreads:
    """The covariance of both states at the end of each segment."""

    def __init__(self) -> None:
        self.of = {"H": Spread(), "L": Spread()}

    def begin(self, carry: Carry) -> None:
        pass

    def see(self, moment: Moment, carry: Carry, live: Tensor | None) -> None:
        if moment.visit.role == "H" and moment.visit.cycle == self.last:
            self.of["H"].add(carry.z_h)
            self.of["L"].add(carry.z_l)

    last = 0


def puzzles(model: Any, rows: int) -> Callable[[], object]:
    """A thought about random puzzles."""
    inputs = torch.randint(1, model.board.vocabulary, (rows, model.board.cells))
    ids = torch.zeros(rows, dtype=torch.long)

    def think() -> None:
        carry = model.initial_carry(inputs, ids)
        for _ in range(SEGMENTS):
            carry, _ = model.segment(carry, inputs, ids)

    return think


def shapes() -> dict[str, tuple[Any, Callable[[], object]]]:
    """Models and a forward pass of each."""
    solver = load("sudoku", device="cpu").model
    config = load_preset("sudoku-extreme", Config)
    large = build(config, board_of(task_of(config.task))).eval()
    text = load_preset("text-char", TextConfig)
    chars = HRMForCausalLM(HRMConfig.of(**groups_of(text), vocab_size=96)).eval()
    ids = torch.randint(0, 96, (4, 256))
    return {
        "shipped solver, 16 puzzles": (solver, puzzles(solver, 16)),
        "HRM 27 M, 8 puzzles": (large, puzzles(large, 8)),
        "text-char, 4 x 256 characters": (
            chars, lambda: chars(input_ids=ids, halting="fixed", max_segments=SEGMENTS, use_cache=False)
        ),
    }  # fmt: skip


def timed(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(model: Any, think: Callable[[], object], repeats: int) -> dict[str, float]:
    """Processor seconds of a pass, watched and not, the median of the ratios of neighbours."""
    inner = model if hasattr(model, "probe") else model.model
    spreads = Spreads()
    spreads.last = inner.recurrence.schedule.h_cycles - 1
    probe = Probe(Motion(), spreads)
    pairs = []
    with torch.inference_mode():
        think()
        for _ in range(repeats):
            plain = timed(think)
            with probing(model, probe):
                pairs.append((plain, timed(think)))
    ratios = [watched / plain for plain, watched in pairs]
    return {"plain": statistics.median(a for a, _ in pairs), "ratio": statistics.median(ratios), "worst": max(ratios)}


def million(dim: int = 512) -> dict[str, float]:
    """Growth of the process while a million states pass."""
    spread, states = Spread(), torch.randn(4096, dim)
    spread.add(states)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    while spread.count < 1_000_000:
        spread.add(states)
    seconds = time.perf_counter() - start
    return {"states": spread.count, "dim": dim, "mebibytes_more": (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, "seconds": seconds}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    found: dict[str, Any] = {"machine": f"{platform.system()} {platform.machine()}", "million": million()}
    print(found["million"])
    for name, (model, think) in shapes().items():
        found[name] = measure(model, think, args.repeats)
        print(f"{name}: {found[name]['plain']:.2f} s, watched {found[name]['ratio']:.3f} of it")
    if args.out:
        write_json(args.out, found)


if __name__ == "__main__":
    main()
