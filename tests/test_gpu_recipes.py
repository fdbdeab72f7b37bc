"""The script that trains recipes in sittings goes on where it stopped and writes what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrm.cli.main import main

ROOT = Path(__file__).parents[1]
RECIPE = """
parent: sudoku-4x4
task: {holdout: 20}
train: {steps: 60, batch_size: 16, eval_every: 20, checkpoint_every: 10, device: cpu}
"""


@pytest.mark.slow
def test_a_recipe_is_trained_in_two_sittings_and_measured(tmp_path: Path) -> None:
    made = ["data", "build", "--box", "2", "2", "--puzzles", "60", "--test", "10", "--out", str(tmp_path / "train.csv")]
    assert main(made) == 0
    (tmp_path / "tiny.yaml").write_text(RECIPE)

    def sitting(minutes: float, *more: str) -> str:
        result = subprocess.run(
            [sys.executable, str(ROOT / "benchmarks/gpu_recipes.py"), "tiny.yaml", "--data", "train.csv",
             "--test", "train_test.csv", "--sitting", str(minutes), "--results", "results", "--limit", "4", *more],
            cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    seeds = "--seeds", "1", "--"
    first = sitting(0.3, *seeds, "--train.steps", "1000000")
    assert "estimate" in first and "resume with: python" in first
    assert (tmp_path / "runs/tiny-1/run.json").is_file()
    for _ in range(10):
        if "resume with" not in (printed := sitting(3.0, *seeds, "--train.steps", "60")):
            break
    written = json.loads((tmp_path / "results/tiny.json").read_text())
    assert [row["seed"] for row in written["seeds"]] == [1]
    for row in written["seeds"]:
        assert row["step"] >= 60 and row["training_seconds"] > 0
        assert {name: result["n"] for name, result in row["test"].items()} == {
            "16": 4,
            "64": 4,
            "64 and 8 restarts": 4,
        }
        assert row["time_to"].keys() == {"50%", "80%", "87%", "95%"}
        lines = (tmp_path / f"results/tiny-{row['seed']}.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == row["step"]
    assert any(line.startswith("seed") for line in printed.splitlines()) and printed.count("%") >= 3
