"""Does memory stay flat over a long stream, and how fast is it? `hrm solve RUN FILE`, watched from outside.

    python benchmarks/stream.py runs/demo-4x4 [--puzzles 200000]
    python benchmarks/stream.py sudoku --data extreme_like_test_5k.csv.gz --puzzles 10000 --precision bfloat16

The puzzles are symmetric variants of those of the file, or of a few hundred that the run's task makes, one line in a
thousand is broken, and the resident memory of the process is read twenty times.
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

from hrm.puzzles import data, tasks
from hrm.puzzles.config import Config
from hrm.puzzles.solvers import find
from hrm.runs import Run


def write_puzzles(run: Path, file: Path, count: int, source: str | None) -> None:
    """Lines of puzzles for the run's task, some broken."""
    task = tasks.build(Run.open(run, Config).config.task)
    rng = np.random.default_rng(0)
    if source is None:
        originals = np.stack([task.generate(rng).question for _ in range(300)])
    else:
        originals = data.read(source, task, "test").inputs
    with file.open("w") as out:
        for number in range(count):
            line = task.format(task.view(rng.random(task.uniforms)).apply(originals[number % len(originals)]))
            out.write((line if number % 1000 else line[:-1]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--puzzles", type=int, default=200_000)
    parser.add_argument("--data", help="file of puzzles")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--precision", help="default: as trained")
    parser.add_argument("--max-segments", type=int, help="default: the solver's own")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    run, every = find(args.run), max(1, args.puzzles // 20)
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as bar:
        file = Path(folder) / "puzzles.txt"
        write_puzzles(run, file, args.puzzles, args.data)
        how = ["--batch-size", str(args.batch_size), "--checkpoint", args.checkpoint]
        how += [] if args.precision is None else ["--precision", args.precision]
        how += [] if args.max_segments is None else ["--max-segments", str(args.max_segments)]
        command = [sys.executable, "-m", "hrm", "solve", str(run), str(file), *how]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stderr is not None
        watched, memory, statuses = psutil.Process(process.pid), [], {"invalid": 0, "unsolved": 0, "solved": 0}
        shown = bar.add_task("solving", total=args.puzzles)
        for number, line in enumerate(process.stdout, 1):
            statuses[next((status for status in ("invalid", "unsolved") if line.startswith(status)), "solved")] += 1
            if number % every == 0:
                memory.append(watched.memory_info().rss / 2**20)
                bar.update(shown, completed=number)
        summary, code = process.stderr.read().strip(), process.wait()
    seconds = time.perf_counter() - start
    result = {
        "puzzles": args.puzzles,
        "data": args.data and Path(args.data).name,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "max_segments": args.max_segments,
        "exit_code": code,
        "statuses": statuses,
        "summary": summary.splitlines()[-1],
        f"mib_after_each_{every}": [round(value, 1) for value in memory],
        f"mib_growth_after_the_first_{every}": round(max(memory) - memory[0], 1),
        "puzzles_per_second": round(args.puzzles / seconds, 1),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
