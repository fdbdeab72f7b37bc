"""A 4x4 maze model that a few seconds of training leave able to solve mazes with short paths."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hrm.core.arch import ArchConfig, HaltingConfig
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.model import PuzzleModel, board_of, build
from hrm.puzzles.tasks.maze import Maze
from hrm.runs import checkpoint
from hrm.runs.folder import Run
from hrm.training.config import TrainConfig

MAZE = Maze(4, 4, min_path=1)
CONFIG = Config(
    task=TaskConfig(kind="maze", size=(4, 4), min_path=1),
    arch=ArchConfig(
        dim=32, fast_layers=1, slow_layers=1, h_cycles=1, l_cycles=1, heads=2, horizon="last_cycle", task_positions=0,
        positions="learned",
    ),
    halting=HaltingConfig(max_segments=4, q_continue=False),
    train=TrainConfig(precision="float32"),
)  # fmt: skip


@cache
def _trained(steps: int = 80) -> PuzzleModel:
    rng = np.random.default_rng(0)
    puzzles = [MAZE.generate(rng) for _ in range(64)]
    x = torch.from_numpy(np.stack([p.question for p in puzzles])).long()
    y = torch.from_numpy(np.stack([p.answer for p in puzzles])).long()
    ids = torch.zeros(len(x), dtype=torch.long)
    model = build(CONFIG, board_of(MAZE))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        carry = model.initial_carry(x, ids) if step % 3 == 0 else carry.detach()
        carry, readout = model.segment(carry, x, ids)
        loss = F.cross_entropy(readout.logits.flatten(0, 1), y.flatten()) + readout.q.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def run_folder(path: Path) -> Path:
    """A run with this model."""
    run = Run.create(path, CONFIG, {"cells": 16, "vocabulary": 6, "task_ids": 1})
    checkpoint.save(run.checkpoints, 1, {"weights": _trained().state_dict()}, {"step": 1})
    run.set_best(1, {"exact_accuracy": 0.5})
    return path
