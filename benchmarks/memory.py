"""Peak memory of a training step against the number of cycles, steps and segments.

    python benchmarks/memory.py [--json benchmarks/results/memory.json]

Two measures. What autograd keeps for the backward pass: the bytes of all saved tensors but the weights, exact, through
torch's saved-tensor hooks. And the peak resident memory of a process of its own, forked after the imports, above what
it held before the first step; its noise is a few MiB. With the gradient horizon `last_step` neither grows; `last_cycle`
keeps every step of the last cycle and shows that growth would be seen. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from hrm.core.arch import ArchConfig, HaltingConfig
from hrm.puzzles.config import Config
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.model import board_of, build
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.puzzles.training.batches import Sampler
from hrm.puzzles.training.trainer import Trainer
from hrm.training.config import OptimConfig, TrainConfig

SIZES = (1, 2, 4, 8)
SETTINGS = ("h_cycles", "l_cycles", "max_segments")


def trainer(
    horizon: str, dim: int = 128, batch_size: int = 32, h_cycles: int = 2, l_cycles: int = 2, max_segments: int = 4
) -> Trainer:
    """A 9x9 HRM on random data; no puzzle halts early, and Q-continue costs its second forward."""
    rng = np.random.default_rng(0)
    puzzles = PuzzleSet(
        inputs=rng.integers(1, 11, (200, 81)), labels=rng.integers(2, 11, (200, 81)),
        task_ids=np.zeros(200, np.int32), groups=np.arange(200, dtype=np.int32), ratings=None, source="random",
    )  # fmt: skip
    config = Config(
        arch=ArchConfig(
            dim=dim, heads=4, fast_layers=1, slow_layers=1, horizon=horizon, h_cycles=h_cycles, l_cycles=l_cycles
        ),
        halting=HaltingConfig(max_segments=max_segments, q_continue=max_segments > 1, exploration=0.0),
        optim=OptimConfig(lr=0.0),
        train=TrainConfig(batch_size=batch_size, precision="float32"),
    )
    task = Sudoku(3, 3)
    sampler = Sampler(puzzles, task, batch_size, seed=0, augment=True, reveal=0.0)
    return Trainer(config, build(config, board_of(task)), sampler, Accelerator(cpu=True))


@contextmanager
def saved_bytes(model: torch.nn.Module) -> Iterator[list[int]]:
    """The sizes of all storages that autograd saves in the block, without the model's parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    # Held until the end, so that no address is used twice.
    seen: dict[int, torch.UntypedStorage] = {}
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage
            sizes.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield sizes


def most_saved(of: Trainer, steps: int) -> int:
    """The largest number of bytes that one of the next steps saves for its backward pass."""
    most = 0
    for _ in range(steps):
        with saved_bytes(of.model) as sizes:
            of.step()
        most = max(most, sum(sizes))
    return most


def peak_growth(of: Trainer, steps: int) -> int:
    """Bytes by which the peak resident memory of this process rises in the next steps."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(steps):
        of.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def measure(horizon: str, setting: str, size: int) -> dict[str, Any]:
    """Both measures, each in a process of its own, over one step more than a puzzle stays (three without a say)."""
    steps = size + 1 if setting == "max_segments" else 3
    saved = in_child(lambda: most_saved(trainer(horizon, **{setting: size}), steps))
    peak = in_child(lambda: peak_growth(trainer(horizon, **{setting: size}), steps))
    return {"horizon": horizon, "setting": setting, "size": size, "saved_bytes": saved, "peak_growth_bytes": peak}


def in_child(work: Any) -> int:
    """The number that a function returns in a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(work()).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    if not text:
        sys.exit("a measuring process died")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'horizon':12}{'setting':14}{'size':>5}{'saved MiB':>12}{'peak MiB':>12}")
    for horizon in ("last_step", "last_cycle"):
        for setting in SETTINGS:
            for size in SIZES:
                row = measure(horizon, setting, size)
                rows.append(row)
                saved, peak = row["saved_bytes"] / 2**20, row["peak_growth_bytes"] / 2**20
                print(f"{horizon:12}{setting:14}{size:5}{saved:12.2f}{peak:12.1f}", flush=True)
    # A single segment needs no second forward for Q-continue, so the comparison starts at two.
    flat = [row for row in rows if row["horizon"] == "last_step" and row["size"] > 1]
    saved, peak = ([row[key] for row in flat] for key in ("saved_bytes", "peak_growth_bytes"))
    facts = {
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "model": "dim 128, 1 + 1 layers, 9x9, batch 32, float32, Q-continue",
        "last_step_saved_ratio": max(saved) / min(saved),
        "last_step_peak_ratio": round(max(peak) / min(peak), 4),
    }
    print(
        f"last_step, largest / smallest: saved {facts['last_step_saved_ratio']}, peak {facts['last_step_peak_ratio']}"
    )
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    return int(facts["last_step_saved_ratio"] != 1 or facts["last_step_peak_ratio"] > 1.05)


if __name__ == "__main__":
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        # glibc then returns freed tensors to the system at once, so that the peak is that of the tensors in use.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    sys.exit(main())
