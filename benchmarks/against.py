"""The training step of this checkout against another one's: seconds of the same small training, in turn.

    git worktree add ../before COMMIT && python benchmarks/against.py ../before

Both train a 9x9 model for 25 steps in float32 on one thread, with the libraries of the running Python. Measuring and
start-up do not count. The ratio is that of the medians; below 1 this checkout is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]
FLAGS = """
    sudoku-9x9 --task.puzzles 300 --task.holdout 20 --train.steps 25 --train.batch-size 32 --train.eval-every 1000
    --train.eval-puzzles 1 --optim.warmup-steps 5 --train.device cpu --train.precision float32
"""


def seconds(checkout: Path) -> float:
    """Seconds that the steps of a training took in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "hrm", "train", *FLAGS.split(), "--out", f"{folder}/run"]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return json.loads(Path(folder, "run/result.json").read_text())["training_seconds"]


def main() -> None:
    """Measure both in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="another checkout of this repository")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pairs = [(seconds(args.other.resolve()), seconds(HERE)) for _ in range(args.rounds)]
    before, now = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{before:.2f} s there, {now:.2f} s here: {now / before:.2f} times")


if __name__ == "__main__":
    main()
