"""A training that is interrupted again and again loses nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_campaign.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")
@pytest.mark.parametrize(("of", "kills"), [("puzzles", 3), ("books", 2)])
def test_interruptions_lose_nothing_and_change_nothing(tmp_path: Path, of: str, kills: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--of", of, "--kills", str(kills), "--json", str(tmp_path / "kills.json")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert found["interruptions"] == kills
    for failure in ("runs_that_could_not_resume", "lost_checkpoints", "damaged_checkpoints", "different_endings"):
        assert found[failure] == 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")
def test_two_processes_in_one_run_folder_lose_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--of", "pairs", "--kills", "2", "--json", str(tmp_path / "pairs.json")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "pairs.json").read_text())
    assert found["pairs"] == 2 and not any(found[name] for name in ("lost_books", "lost_checkpoints", "lost_trainings"))
