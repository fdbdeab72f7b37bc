"""The script that trains recipes in sittings goes on where it stopped and writes what it measured."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hrm.cli.main import main

SCRIPT = Path(__file__).parents[1] / "benchmarks/gpu_recipes.py"
RECIPE = """
parent: sudoku-4x4
task: {holdout: 20}
train: {steps: 30, batch_size: 16, eval_every: 20, checkpoint_every: 10, device: cpu}
arch: {dim: 8}
halting: {max_segments: 2}
optim: {warmup_steps: 1}
"""
DEDUCING = """
parent: sudoku-deduce
task: {box: [2, 2], holdout: 20}
train: {steps: 2, minutes: 0, batch_size: 4, eval_every: 1, checkpoint_every: 1, log_every: 1, compile: false}
arch: {dim: 8}
deduction: {segments: 2}
optim: {warmup_steps: 1, schedule: constant}
"""


def loaded() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("gpu_recipes", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.slow
def test_a_recipe_that_deduces_is_trained_for_two_steps_and_each_checkpoint_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "build", "--box", "2", "2", "--puzzles", "60", "--test", "10", "--out", "train.csv"]) == 0
    Path("deducing.yaml").write_text(DEDUCING)
    script = loaded()

    def here(sitting: Any, *args: str) -> str:
        capsys.readouterr()
        assert main(list(args)) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(script.Sitting, "run", here)
    files = ["--data", "train.csv", "--test", "train_test.csv", "--results", "results"]
    monkeypatch.setattr("sys.argv", ["gpu_recipes.py", "deducing.yaml", *files, "--limit", "4", "--curve"])
    assert script.main() == 0
    result = json.loads(Path("results/deducing.json").read_text())
    [row] = result["seeds"]
    assert result["estimate"]["flops"] > 0 and row["step"] == 2
    assert {name: test["n"] for name, test in row["test"].items()} == dict.fromkeys(script.DEDUCING, 4)
    assert row["test"]["no decisions"]["mean_decisions"] == 0 == row["test"]["search"]["wrong"]
    assert [0 <= share <= 1 and seconds > 0 for share, seconds in row["test_curve"]["points"]] == [True, True]
    assert row["test_curve"]["time_to"].keys() == {"50%", "80%", "87%", "95%", "99%"}


@pytest.mark.slow
def test_a_recipe_is_trained_in_two_sittings_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "build", "--box", "2", "2", "--puzzles", "60", "--test", "10", "--out", "train.csv"]) == 0
    Path("tiny.yaml").write_text(RECIPE)
    script = loaded()
    in_a_process = script.Sitting.run
    checkpoints = Path("runs/tiny-1/checkpoints")

    class Popen(subprocess.Popen[str]):
        """Its time is up once it has written a checkpoint."""

        def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
            while timeout is not None and self.poll() is None:
                if list(checkpoints.glob("step_*")):
                    raise subprocess.TimeoutExpired(self.args, timeout)
                time.sleep(0.02)
            return super().communicate(input)

    names = {"Popen": Popen, "PIPE": subprocess.PIPE, "TimeoutExpired": subprocess.TimeoutExpired}
    monkeypatch.setattr(script, "subprocess", SimpleNamespace(**names))

    def here(sitting: Any, *args: str) -> str:
        """As the script does, but only the training that it stops gets a process of its own."""
        if "1000000" in args and "--dry-run" not in args:
            return in_a_process(sitting, *args)
        capsys.readouterr()
        assert main(list(args)) == 0
        return capsys.readouterr().out

    monkeypatch.setattr(script.Sitting, "run", here)

    def sitting(steps: int) -> str:
        command = ["gpu_recipes.py", "tiny.yaml", "--data", "train.csv", "--test", "train_test.csv", "--limit", "4"]
        more = ["--sitting", "60", "--results", "results", "--seeds", "1", "--", "--train.steps", str(steps)]
        monkeypatch.setattr("sys.argv", [*command, *more])
        assert script.main() == 0
        return capsys.readouterr().out

    printed = sitting(1000000)
    assert "resume with: python" in printed and not Path("results/tiny.json").is_file()
    before = [int(path.name.removeprefix("step_")) for path in checkpoints.glob("step_*")]
    steps = max(before) + 10
    printed = sitting(steps)
    [row] = json.loads(Path("results/tiny.json").read_text())["seeds"]
    assert row["seed"] == 1 and row["step"] == steps and row["training_seconds"] > 0
    assert {name: result["n"] for name, result in row["test"].items()} == dict.fromkeys(script.EVALUATIONS, 4)
    assert row["time_to"].keys() == {"50%", "80%", "87%", "95%", "99%"}
    assert json.loads(Path("results/tiny-1.jsonl").read_text().splitlines()[-1])["step"] == steps
    assert any(line.startswith("seed") for line in printed.splitlines()) and printed.count("%") >= 3
