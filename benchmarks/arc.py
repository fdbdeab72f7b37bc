"""20 real ARC tasks end to end on a CPU: data set, training, voting, submission, score.

    python benchmarks/arc.py --data arc_agi_1/training.jsonl.gz [--work runs/arc-20] [--json FILE] [flags of hrm train]

The tasks are the first 20, by their ids, whose grids have at most 10 rows and columns. Their demonstrations
are trained on, their test pairs never. Every stage is the command a person would type; what it took is measured from
outside, as seconds on the clock and as CPU-seconds of all its threads. An interrupted run resumes with the same
--work. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

LARGEST, COUNT = 10, 20


def stage(*args: str) -> dict[str, float]:
    """Run `hrm ARGS`; seconds and CPU-seconds."""
    before, start = psutil.Process().cpu_times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "hrm", *args], check=True, stdout=subprocess.DEVNULL)
    after = psutil.Process().cpu_times()
    used = sum(after[2:4]) - sum(before[2:4])  # of children; on Windows there is no such number
    return {"seconds": time.perf_counter() - start, "cpu_seconds": used}


def measure(source: str, work: Path, flags: list[str]) -> dict[str, Any]:
    """All stages, and what came out."""
    work.mkdir(parents=True, exist_ok=True)
    tasks, run, submission = work / "tasks.jsonl", work / "run", work / "submission.json"
    again = (run / "run.json").is_file()
    build = ["--data", source, "--largest", str(LARGEST), "--count", str(COUNT), "--out", str(tasks), "--overwrite"]
    start = ["--resume", str(run)] if again else ["arc-small", "--validation", str(tasks), "--out", str(run)]
    answer = [
        "--submission",
        str(submission),
        "--pictures",
        str(work / "pictures"),
        "--json-file",
        str(work / "eval.json"),
    ]
    stages = {
        "data set": stage("arc", "build", *build),
        "training": stage("train", *start, *flags),
        "voting": stage("arc", "eval", str(run), "--data", str(tasks), *answer),
        "scoring": stage("arc", "score", str(submission), "--data", str(tasks)),
    }
    result = json.loads((work / "eval.json").read_text())
    del result["checkpoint"], result["data"]  # where they lie on this machine
    ids = [json.loads(line)["id"] for line in tasks.read_text().splitlines()]
    steps = json.loads((run / "result.json").read_text())["step"]
    return {"stages": stages, "resumed": again, "result": result, "steps": steps, "flags": flags, "tasks": ids}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = os.environ.get("HRM_DATA")
    parser.add_argument("--data", default=folder and f"{folder}/arc_agi_1/training.jsonl.gz", required=not folder)
    parser.add_argument("--work", type=Path, default=Path("runs/arc-20"), help="folder for tasks, run and answers")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options, flags = parser.parse_known_args()
    figures = measure(options.data, options.work, flags)
    result, stages = figures["result"], figures["stages"]
    for name, took in stages.items():
        print(f"{name:<22}{took['seconds']:8.1f} s {took['cpu_seconds']:8.1f} CPU-s")
    total = {key: sum(took[key] for took in stages.values()) for key in ("seconds", "cpu_seconds")}
    print(f"{'together':<22}{total['seconds']:8.1f} s {total['cpu_seconds']:8.1f} CPU-s")
    for name in ("demonstrations_fitted", "pass@1", "pass@2"):
        print(f"{name.replace('_', ' '):<22}{result[name]:8.1%}")
    machine = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
    if options.json:
        options.json.write_text(json.dumps({**figures, "together": total, **machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
