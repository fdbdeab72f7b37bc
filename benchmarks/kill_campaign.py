"""Kill a training at random moments: it must always resume, lose no checkpoint, and end with the same weights.

    python benchmarks/kill_campaign.py [--kills 200] [--seed 0] [--json benchmarks/results/kill_campaign.json]

A tiny run that saves after every step is started, killed with SIGKILL and resumed, until it ends; then the next one,
until the kills are used up. Most processes are forked after the imports, so that kills hit the training; the others are
started from nothing, so that kills hit the start of the program too. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

# Imported before the forks, or each child would pay for it; the optimizers import torch._dynamo.
import torch
import torch._dynamo

import hrm.training.session  # noqa: F401
from hrm.cli.main import main as hrm_command
from hrm.runs import Run, checkpoint
from hrm.training.progress import CLOCKED

STEPS, KEEP = 48, 2
FLAGS = (
    f"sudoku-4x4 --train.steps {STEPS} --train.checkpoint-every 1 --train.keep {KEEP} --train.log-every 1 "
    "--train.eval-every 6 --train.eval-puzzles 10 --train.batch-size 8 --train.device cpu --arch.dim 8 "
    "--task.puzzles 40 --task.holdout 10 --optim.warmup-steps 2 --halting.max-segments 3"
).split()
FRESH = 1 / 8
"""Share of the processes that are started from nothing."""
TIMES = (*CLOCKED, "data")


def start(args: list[str], log: Path, fresh: bool) -> int:
    """Run `hrm` with these arguments in a new process whose output is appended to a file; returns its id."""
    with log.open("ab") as output:
        if fresh:
            return subprocess.Popen([sys.executable, "-m", "hrm", *args], stdout=output, stderr=output).pid
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(hrm_command(args))
        return child


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child, or None if it still runs after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def uninterrupted(folder: Path, fresh: bool) -> float:
    """Train without a kill; returns the seconds it took."""
    started = time.monotonic()
    code = wait(start(["train", *FLAGS, "--out", str(folder)], folder.with_suffix(".log"), fresh), 600)
    if code != 0:
        sys.exit(f"the uninterrupted training failed:\n{folder.with_suffix('.log').read_text()}")
    return time.monotonic() - started


def ending(folder: Path) -> dict[str, Any]:
    """All that two finished runs must have in common: the bytes of the last checkpoint, the metrics without times."""
    run = Run.open(folder)
    last = run.checkpoint("latest")
    return {
        **{file.name: file.read_bytes() for file in sorted(last.glob("*.safetensors"))},
        "step": checkpoint.step_of(last),
        "best": (run.best or {}).get("step"),
        "metrics": [{k: v for k, v in record.items() if k not in TIMES} for record in run.records()],
    }


def lost(folder: Path, before: set[str]) -> list[str]:
    """Checkpoints that were complete before the kill and are gone, though neither `keep` nor the best explains it."""
    after = {path.name for path in checkpoint.complete(folder / "checkpoints")}
    pruned = {name for name in before - after if sum(other > name for other in after) >= KEEP}
    best = Run.open(folder).best
    named = set() if best is None else {f"step_{best['step']:08d}"}
    return sorted((before - after - pruned) | (named - after))


def damaged(folder: Path) -> list[str]:
    """Checkpoints that look complete and are not."""
    found = []
    for path in checkpoint.complete(folder / "checkpoints"):
        try:
            checkpoint.verify(path)
        except checkpoint.DamagedCheckpoint as error:
            found.append(str(error))
    return found


def moment(folder: Path) -> str:
    """What a kill interrupted, as far as the run folder tells."""
    if not (folder / "run.json").is_file():
        return "before the run existed"
    if any(path.name.startswith(".tmp-") for path in (folder / "checkpoints").iterdir()):
        return "while saving or pruning"
    return "starting or between saves" if checkpoint.complete(folder / "checkpoints") else "before the first checkpoint"


def campaign(folder: Path, rng: random.Random, kills: int, length: dict[bool, float], result: Counter[str]) -> bool:
    """One training, killed at most `kills` times before it may end; False if it could not resume."""
    log = folder.with_suffix(".log")
    while True:
        fresh = rng.random() < FRESH
        exists = (folder / "run.json").is_file()
        args = ["train", "--resume", str(folder)] if exists else ["train", *FLAGS, "--out", str(folder)]
        known = {path.name for path in checkpoint.complete(folder / "checkpoints")}
        child = start(args, log, fresh)
        code = wait(child, rng.uniform(0, length[fresh]) if kills else 600)
        if code is None:
            complete = {path.name for path in checkpoint.complete(folder / "checkpoints")}
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == -signal.SIGKILL:
            kills -= 1
            result["kills"] += 1
            result["killed processes started from nothing"] += fresh
            result[moment(folder)] += 1
            if (folder / "run.json").is_file():
                result["lost checkpoints"] += report(lost(folder, known | complete), "lost")
                result["damaged checkpoints"] += report(damaged(folder), "damaged")
        elif code != 0:
            print(f"\ncould not go on (exit code {code}):\n{log.read_text()[-2000:]}", file=sys.stderr)
            return False
        else:
            return True


def report(names: list[str], what: str) -> int:
    """Say which checkpoints are bad; returns how many."""
    for name in names:
        print(f"\n{what}: {name}", file=sys.stderr)
    return len(names)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the machine's speed changes them as well")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "kill_campaign.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    started = time.monotonic()
    result: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        length = {fresh: uninterrupted(folder / f"straight-{fresh}", fresh) for fresh in (False, True)}
        # A resumed training has less to do, and one that ends by itself is no kill.
        length[False] /= 2
        wanted = ending(folder / "straight-False")
        result["uninterrupted runs that differ"] = int(ending(folder / "straight-True") != wanted)
        while result["kills"] < args.kills:
            run = folder / f"run-{result['campaigns']}"
            result["campaigns"] += 1
            if not campaign(run, rng, args.kills - result["kills"], length, result):
                result["runs that could not resume"] += 1
            elif (found := ending(run)) != wanted:
                result["different endings"] += 1
                print(f"\n{run} ended differently in {[k for k in wanted if found[k] != wanted[k]]}", file=sys.stderr)
            shutil.rmtree(run)
            print(f"\r{result['kills']}/{args.kills} kills, {result['campaigns']} trainings", end="", file=sys.stderr)
    print(file=sys.stderr)
    failures = (
        "runs that could not resume", "lost checkpoints", "damaged checkpoints", "different endings",
        "uninterrupted runs that differ",
    )  # fmt: skip
    rows = (
        "kills", "campaigns", "killed processes started from nothing", "before the run existed",
        "before the first checkpoint", "while saving or pruning", "starting or between saves", *failures,
    )  # fmt: skip
    for name in rows:
        print(f"{name:40}{result[name]:6}")
    facts = {
        "steps": STEPS, "seed": args.seed, "seconds": round(time.monotonic() - started, 1), "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(
        json.dumps({**{name.replace(" ", "_"): result[name] for name in rows}, **facts}, indent=1) + "\n"
    )
    return int(any(result[name] for name in failures))


if __name__ == "__main__":
    sys.exit(main())
