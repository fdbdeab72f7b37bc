"""A 4x4 Sudoku model that a few seconds of training leave half able: some puzzles solved at once, some never."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hrm.core.arch import ArchConfig, HaltingConfig
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.model import PuzzleModel, board_of, build
from hrm.puzzles.solving import Solver
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.runs import checkpoint
from hrm.runs.folder import Run
from hrm.training.config import TrainConfig

SUDOKU = Sudoku(2, 2)
CONFIG = Config(
    task=TaskConfig(box=(2, 2)),
    arch=ArchConfig(
        dim=16,
        fast_layers=1,
        slow_layers=1,
        h_cycles=1,
        l_cycles=1,
        expansion_multiple=16,
        horizon="last_cycle",
        task_positions=0,
        q_from="mean",
        positions="none",
        mixer="groups",
        tokens="candidates",
    ),
    halting=HaltingConfig(max_segments=6, q_continue=False),
    train=TrainConfig(precision="float32"),
)


def questions(count: int, seed: int = 1) -> list[str]:
    """Minimal 4x4 puzzles as text."""
    rng = np.random.default_rng(seed)
    return [SUDOKU.format(SUDOKU.generate(rng).question) for _ in range(count)]


@cache
def _trained(steps: int) -> PuzzleModel:
    rng = np.random.default_rng(0)
    puzzles = [SUDOKU.generate(rng) for _ in range(100)]
    x = torch.from_numpy(np.stack([p.question for p in puzzles])).long()
    y = torch.from_numpy(np.stack([p.answer for p in puzzles])).long()
    ids = torch.zeros(len(x), dtype=torch.long)
    model = build(CONFIG, board_of(SUDOKU))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        carry = model.initial_carry(x, ids) if step % 4 == 0 else carry.detach()
        carry, readout = model.segment(carry, x, ids)
        right = (readout.logits.argmax(-1) == y).all(1).float()
        halt = F.binary_cross_entropy_with_logits(readout.q[:, 0], right)
        loss = F.cross_entropy(readout.logits.flatten(0, 1), y.flatten()) + halt
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def model(steps: int = 80) -> PuzzleModel:
    """A copy of the half-trained model, free to be changed."""
    return deepcopy(_trained(steps))


def fix_q(net: PuzzleModel, halt: float, proceed: float) -> None:
    """Make the Q head say the same whatever it sees."""
    torch.nn.init.zeros_(net.q_head.weight)
    net.q_head.bias = torch.nn.Parameter(torch.tensor([halt, proceed]))


def solver(**settings: int) -> Solver:
    """The half-trained model with its task."""
    return Solver(model(), SUDOKU, **{"max_segments": 6, "q_continue": False, **settings})


def run_folder(path: Path) -> Path:
    """A run whose averaged weights are the half-trained model and whose raw weights solve nothing."""
    run = Run.create(path, CONFIG, {"cells": 16, "vocabulary": 6, "task_ids": 1})
    good, raw = model(), build(CONFIG, board_of(SUDOKU))
    groups = {"weights": raw.state_dict(), "ema": dict(good.named_parameters())}
    # The initial states are buffers, which are not averaged.
    groups["weights"] |= {name: buffer for name, buffer in good.state_dict().items() if name.endswith("_init")}
    checkpoint.save(run.checkpoints, 80, groups, {"step": 80})
    run.set_best(80, {"exact_accuracy": 0.5})
    return path
