"""Real input: Sudoku-Extreme's thousand training puzzles with the published recipe, made small."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrm.cli.main import main as hrm
from hrm.puzzles.config import Config
from hrm.runs import Run
from tests.data import hrm_data
from tests.training import small

FLAGS = """
    --arch.dim 32 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.expansion-multiple 16
    --train.batch-size 16 --train.precision float32 --train.device cpu --train.checkpoint-every 50
    --optim.warmup-steps 20 --optim.lr 1e-3 --halting.max-segments 4
"""


@pytest.mark.slow
def test_training_on_sudoku_extreme_learns_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    puzzles = hrm_data() / "sudoku" / "sudoku_extreme_1k_train.csv"
    train = ["train", "sudoku-extreme", "--data", str(puzzles), *FLAGS.split()]
    assert hrm([*train, "--out", str(tmp_path / "straight"), "--train.steps", "90"]) == 0
    straight = Run.open(tmp_path / "straight", Config)
    resumed = small.resume(small.cut(straight, tmp_path / "resumed", 50))
    small.assert_same(straight, resumed, 90, {"weights", "optimizer", "slots"})
    losses = [record["loss"] for record in straight.records()]
    assert len(losses) == 9 and losses[-1] < 0.8 * losses[0]
    assert all(later < losses[0] for later in losses[5:])
