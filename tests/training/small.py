"""A 4x4 training that takes a second, and what two equal trainings must have in common."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from hrm.cli.main import main as hrm
from hrm.core.arch import ArchConfig, HaltingConfig
from hrm.puzzles import data
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.model import board_of, build
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.puzzles.training.batches import Sampler
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint
from hrm.settings import to_yaml
from hrm.training.config import OptimConfig, TrainConfig
from hrm.training.progress import CLOCKED

torch.set_num_threads(1)

SUDOKU = Sudoku(2, 2)
CONFIG = Config(
    task=TaskConfig(box=(2, 2), puzzles=30, holdout=0),
    arch=ArchConfig(
        dim=16, heads=2, fast_layers=1, slow_layers=1, h_cycles=1, l_cycles=1, expansion_multiple=8, positions="learned"
    ),
    halting=HaltingConfig(max_segments=3),
    optim=OptimConfig(lr=1e-3, warmup_steps=4),
    train=TrainConfig(steps=30, batch_size=8, precision="float32", log_every=4, checkpoint_every=15, device="cpu"),
)
LEARNS: dict[str, Any] = {
    "task": {"holdout": 20, "puzzles": 100},
    "arch": {
        "dim": 16, "shared": True, "h_cycles": 1, "l_cycles": 4, "horizon": "last_cycle", "mixer": "groups",
        "tokens": "candidates", "positions": "none", "task_positions": 0, "q_from": "mean",
    },
    "halting": {"q_continue": False},
    "loss": {"kind": "softmax"},
    "optim": {"name": "muon", "lr": 3e-3, "weight_decay": 0.1},
}  # fmt: skip
"""Changes with which the small training solves some held-out puzzles within a hundred steps of 32."""
TEXT = (
    "text-char", "--arch.dim=16", "--arch.heads=2", "--arch.fast-layers=1", "--arch.slow-layers=1",
    "--arch.intermediate-size=32", "--halting.max-segments=2", "--text.length", "16", "--text.holdout", "0.2",
    "--train.batch-size", "2", "--train.log-every", "1", "--train.checkpoint-every", "2", "--train.eval-every", "4",
    "--train.eval-puzzles", "2", "--optim.warmup-steps", "2", "--optim.ema", "0.9", "--train.steps", "4",
)  # fmt: skip
"""Flags of a small training of text of four steps, which lack --data and --out."""
LONG_TEXT = (
    *TEXT, "--optim.schedule", "constant", "--train.batch-size", "4", "--train.steps", "20", "--train.keep", "9",
    "--train.checkpoint-every", "8", "--train.eval-every", "20",
)  # fmt: skip
"""The same for twenty steps and up to four processes."""
IGNORED = (*CLOCKED, "data")


def config(**changes: Any) -> Config:
    """The small training with some settings changed: config(optim={"ema": 0.9}, seed=1)."""
    groups = {
        name: replace(getattr(CONFIG, name), **value) if is_dataclass(getattr(CONFIG, name)) else value
        for name, value in changes.items()
    }
    return replace(CONFIG, **groups)


@cache
def puzzles(task_ids: int = 1) -> PuzzleSet:
    """Thirty 4x4 puzzles; with several task ids every row has one of those after the first, the blank one."""
    made = data.generate(SUDOKU, [30])[0]
    ids = np.arange(30, dtype=np.int32) % (task_ids - 1) + 1 if task_ids > 1 else made.task_ids
    return made._replace(task_ids=ids, num_task_ids=task_ids)


def trainer(config: Config = CONFIG, task_ids: int = 1) -> Trainer:
    """A trainer without a run folder."""
    sampler = Sampler(
        puzzles(task_ids), SUDOKU, config.train.batch_size, config.seed, config.task.augment, config.task.reveal
    )
    return Trainer(config, build(config, board_of(SUDOKU, task_ids)), sampler, Accelerator(cpu=True))


def command(path: Path, config: Config = CONFIG) -> list[str]:
    """Arguments of `hrm` that train this configuration into a run folder; the settings go through a file."""
    file = path.with_name(path.name + ".yaml")
    file.write_text(to_yaml(config))
    return ["train", str(file), "--out", str(path)]


def train(path: Path, config: Config = CONFIG) -> Run:
    """Train from the start to the end through the command line."""
    assert hrm(command(path, config)) == 0
    return Run.open(path, Config)


def resume(path: Path, *flags: str) -> Run:
    """Go on with a run."""
    assert hrm(["train", "--resume", str(path), *flags]) == 0
    return Run.open(path, Config)


def cut(run: Run, path: Path, step: int) -> Path:
    """A copy of a run as a kill after the checkpoint of `step` would have left it, later metrics still there."""
    shutil.copytree(run.path, path)
    for later in checkpoint.complete(path / "checkpoints"):
        if checkpoint.step_of(later) > step:
            shutil.rmtree(later)
    (path / "result.json").unlink(missing_ok=True)
    return path


def start(*args: str, module: str = "hrm", folder: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """`python -m hrm` (or another module, in a folder) in a process of its own, its output piped, one thread."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", module, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=folder,
    )


def metrics(run: Run) -> list[dict[str, Any]]:
    """The logged lines without times, places and the notes on resuming."""
    return [
        {key: value for key, value in record.items() if key not in IGNORED}
        for record in run.records()
        if record.get("event") != "resumed"
    ]


def state(run: Run, step: int) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """A checkpoint's tensors, and its state without times."""
    groups, counters = checkpoint.load(run.checkpoint(step))
    return groups, {name: value for name, value in counters.items() if name not in IGNORED}


def assert_same(left: Run, right: Run, step: int, groups: set[str] | None = None) -> None:
    """Two runs agree bit for bit at a step: weights, EMA, optimizer, slots, counters, and all metrics but times."""
    (tensors, counters), (others, other_counters) = state(left, step), state(right, step)
    assert set(tensors) == set(others) and (groups is None or set(tensors) == groups)
    assert counters == other_counters
    for group, named in tensors.items():
        assert named.keys() == others[group].keys()
        for name, tensor in named.items():
            assert torch.equal(tensor, others[group][name]), f"{group} {name} differs"
    assert metrics(left) == metrics(right)
