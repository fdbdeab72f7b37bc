"""Time one training step of the 27M HRM against the official code beside it: same sizes, data, optimizer and process.

    git clone https://github.com/sapientinc/HRM /tmp/HRM
    python benchmarks/train_step.py --official /tmp/HRM [--compile] [--q-continue] [--rounds 5]

The official code runs with scaled_dot_product_attention in the place of flash-attn and with this package's AdamATan2,
since the published one needs CUDA. Steps alternate, and the ratio is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from official import official_hrm

from hrm.core.arch import ArchConfig, HaltingConfig
from hrm.puzzles.config import Config
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.model import board_of, build
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.puzzles.training.batches import Sampler
from hrm.puzzles.training.trainer import Trainer
from hrm.training.config import OptimConfig, TrainConfig
from hrm.training.devices import make_accelerator
from hrm.training.optim import AdamATan2


def official_step(path: Path, batch_size: int, compiled: bool, device: str = "cpu") -> Callable[[], None]:
    """A function that does one step of the official code on random data."""
    with torch.device(device):  # as the official program makes it
        model = official_hrm(path, batch_size)
    from models.losses import ACTLossHead  # type: ignore[import-not-found]

    head = ACTLossHead(model, "stablemax_cross_entropy").train()
    run = torch.compile(head, dynamic=False) if compiled else head
    optimizer = AdamATan2([p for p in head.parameters() if p.requires_grad], lr=1e-4, weight_decay=1.0)
    table = head.model.inner.puzzle_emb
    state: dict[str, object] = {}

    def step() -> None:
        with torch.device(device):
            batch = {
                "inputs": torch.randint(1, 11, (batch_size, 81)),
                "labels": torch.randint(2, 11, (batch_size, 81)),
                "puzzle_identifiers": torch.zeros(batch_size, dtype=torch.int32),
            }
            carry = state.get("carry") or head.initial_carry(batch)
        state["carry"], loss, _, _, _ = run(carry=carry, batch=batch, return_keys=[])
        (loss / batch_size).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():  # sign-SGD on the one task embedding
            table.weights.mul_(1 - 1e-4).sub_(1e-4 * table.local_weights.grad.sum(0).sign())
            table.local_weights.grad = None

    return step


def our_step(batch_size: int, compiled: bool, q_continue: bool, device: str = "cpu") -> Callable[[], None]:
    """A function that does one step of this package's trainer on random data."""
    task = Sudoku(3, 3)
    rng = np.random.default_rng(0)
    puzzles = PuzzleSet(
        inputs=rng.integers(1, 11, (1000, 81)),
        labels=rng.integers(2, 11, (1000, 81)),
        task_ids=np.zeros(1000, np.int32),
        groups=np.arange(1000, dtype=np.int32),
        ratings=None,
        source="random",
        num_task_ids=1,
    )
    config = Config(
        arch=ArchConfig(),
        halting=HaltingConfig(q_continue=q_continue),
        optim=OptimConfig(warmup_steps=0),
        train=TrainConfig(batch_size=batch_size, precision="bfloat16", compile=compiled, device=device),
    )
    sampler = Sampler(puzzles, task, batch_size, 0, augment=True, reveal=0.0)
    trainer = Trainer(config, build(config, board_of(task)), sampler, make_accelerator(config.train))
    return trainer.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--q-continue", action="store_true", help="ours with the second forward, as the official code has it"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    steps = {
        "official": official_step(args.official, args.batch_size, args.compile),
        "hrm": our_step(args.batch_size, args.compile, args.q_continue),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(args.warmup + args.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_number >= args.warmup:
                times[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(times["official"], times["hrm"], strict=True)]
    result = {
        "compiled": args.compile,
        "q_continue": args.q_continue,
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "official_seconds": statistics.median(times["official"]),
        "hrm_seconds": statistics.median(times["hrm"]),
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    for key, value in result.items():
        print(f"{key:18} {value:.3f}" if isinstance(value, float) else f"{key:18} {value}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
