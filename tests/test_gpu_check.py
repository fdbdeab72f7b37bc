"""The checks of a device run on a CPU too, one of them crashing or hanging takes no other with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CRASH = """
import os, sys, time
sys.path.insert(0, {benchmarks!r})
import gpu_check
gpu_check.__file__ = __file__
gpu_check.CHECKS["attention"] = (lambda check: os._exit(9), 60)
gpu_check.CHECKS["solve"] = (lambda check: time.sleep(100), 0.1)
sys.exit(gpu_check.main())
"""


@pytest.mark.slow
def test_every_check_says_how_it_ended(tmp_path: Path) -> None:
    script = tmp_path / "check.py"
    script.write_text(CRASH.format(benchmarks=str(ROOT / "benchmarks")))
    names = ("puzzle float16", "generate", "two processes", "solve", "attention", "machine")
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "out"), "--device", "cpu", "--tiny", "--only", *names],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    found = {row["name"]: row for row in json.loads((tmp_path / "out/check.json").read_text())["checks"]}
    assert list(found) == list(names), done.stderr
    states = {name: row["state"] for name, row in found.items()}
    assert states == dict.fromkeys(names, "ok") | {
        "attention": "FAILED", "solve": "FAILED", "two processes": "left out"
    }, found  # fmt: skip
    assert found["attention"]["says"] == "the process ended with code 9: see worker.log"
    assert done.returncode == 1 and "bad: solve, attention" in done.stdout
    assert "of the CPU's in three steps" in found["puzzle float16"]["says"]
    assert (tmp_path / "out/generate.log").read_text().startswith("$ hrm train")
