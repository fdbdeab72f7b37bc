"""A training that is interrupted again and again loses nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests import forks

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="the campaign forks")]
CAMPAIGN = """
import os, sys
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
sys.path.insert(0, {folder!r})
import kill_campaign
kill_campaign.Books.length = 60
sys.argv = ["kill_campaign.py", "--of", {of!r}, "--kills", "{kills}", "--json", "kills.json"]
sys.exit(kill_campaign.main())
"""


def campaign(folder: Path, of: str, kills: int) -> dict[str, Any]:
    script = Path(__file__).parents[2] / "benchmarks"
    forks.run(CAMPAIGN.format(folder=str(script), of=of, kills=kills), folder)
    return json.loads((folder / "kills.json").read_text())


@pytest.mark.parametrize(("of", "kills"), [("puzzles", 3), ("books", 2)])
def test_interruptions_lose_nothing_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, kills: int
) -> None:
    monkeypatch.chdir(tmp_path)
    found = campaign(tmp_path, of, kills)
    assert found["interruptions"] == kills
    for failure in ("runs_that_could_not_resume", "lost_checkpoints", "damaged_checkpoints", "different_endings"):
        assert found[failure] == 0


def test_two_processes_in_one_run_folder_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = campaign(tmp_path, "pairs", 2)
    assert found["pairs"] == 2 and not any(found[name] for name in ("lost_books", "lost_checkpoints", "lost_trainings"))
