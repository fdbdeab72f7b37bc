"""Does memory stay flat over a long stream? `hrm solve RUN FILE` on 200,000 puzzles, watched from outside.

    python benchmarks/stream.py runs/demo-4x4 [--puzzles 200000]

The puzzles are made by the run's task (symmetric variants of a few hundred), one line in a thousand is broken, and the
resident memory of the process is read after every 10,000 answers.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import Progress

from hrm.puzzles import tasks
from hrm.puzzles.config import Config
from hrm.puzzles.solvers import find
from hrm.runs import Run

EVERY = 10_000


def write_puzzles(run: Path, file: Path, count: int) -> None:
    """Lines of puzzles for the run's task, some broken."""
    task = tasks.build(Run.open(run, Config).config.task)
    rng = np.random.default_rng(0)
    originals = np.stack([task.generate(rng).question for _ in range(300)])
    with file.open("w") as out:
        for number in range(count):
            line = task.format(task.view(rng.random(task.uniforms)).apply(originals[number % len(originals)]))
            out.write((line if number % 1000 else line[:-1]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--puzzles", type=int, default=200_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    run = find(args.run)
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as bar:
        file = Path(folder) / "puzzles.txt"
        write_puzzles(run, file, args.puzzles)
        command = [sys.executable, "-m", "hrm", "solve", str(run), str(file), "--batch-size", "256"]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        watched, memory, statuses = psutil.Process(process.pid), [], {"invalid": 0, "unsolved": 0, "solved": 0}
        shown = bar.add_task("solving", total=args.puzzles)
        for number, line in enumerate(process.stdout, 1):
            statuses[next((status for status in ("invalid", "unsolved") if line.startswith(status)), "solved")] += 1
            if number % EVERY == 0:
                memory.append(watched.memory_info().rss / 2**20)
                bar.update(shown, completed=number)
        summary, code = process.stderr.read().strip(), process.wait()
    seconds = time.perf_counter() - start
    result = {
        "puzzles": args.puzzles,
        "exit_code": code,
        "statuses": statuses,
        "summary": summary.splitlines()[-1],
        "mib_after_each_10000": [round(value, 1) for value in memory],
        "mib_growth_after_the_first_10000": round(max(memory) - memory[0], 1),
        "puzzles_per_second": round(args.puzzles / seconds, 1),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
