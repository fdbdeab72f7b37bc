"""What a process keeps of a model that is split over processes: bytes of weights, gradients, optimizer; its peak.

    python benchmarks/sharding.py --processes 2 [--json benchmarks/results/sharding.json]

Trains a text model for three steps in one process, then split over several, with blocks kept whole from their first
visit to the backward pass and with blocks dropped after each visit. Bytes are of the slowest to shrink: the process
that keeps most. Peaks are of the whole process, interpreter and libraries included.

Then what checkpoints cost: how long the loop stands still for one, and all of 24 steps with four checkpoints, written
while the steps wait and while they continue, against the same steps with the last one only. Medians of three
trainings, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

STEPS = ("--train.steps", "3", "--optim.warmup-steps", "1", "--train.log-every", "1", "--train.device", "cpu")
SHAPE = (
    "--arch.dim",
    "512",
    "--arch.heads",
    "8",
    "--arch.fast-layers",
    "3",
    "--arch.slow-layers",
    "3",
    "--optim.ema",
    "0.99",
)
BATCH = ("--train.batch-size", "4", "--text.length", "64", "--train.eval-puzzles", "2")


def work(into: Path, args: list[str]) -> int:
    """A training in this process, of which the bytes that it holds at its last step are written to a file."""
    import torch

    from hrm.cli.main import main
    from hrm.training.optim import local
    from hrm.training.updates import Updates

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    time_saves(into)
    step = Updates.step

    def counted(self: Updates, *given: Any) -> bool:
        grads = sum(local(p.grad).nbytes for p in self.model.parameters() if p.grad is not None)
        done = step(self, *given)
        states = [value for part in self.optimizers for state in part.state.values() for value in state.values()]
        kept = {
            "weights": [*self.model.parameters()],
            "averages": [*self.ema.average.values()] if self.ema else [],
            "optimizer": states,
        }
        found.update({name: sum(local(t).nbytes for t in tensors) for name, tensors in kept.items()}, gradients=grads)
        found["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        # Now, because one of several processes does not come back from `main`.
        (into / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))
        return done

    Updates.step = counted  # type: ignore[method-assign]
    return main(args)


def time_saves(into: Path) -> None:
    """Write to a file how long the loop stood still for each checkpoint, and how long it ran in all."""
    from hrm.training.loop import TrainingLoop

    stood: list[float] = []
    save, train = TrainingLoop.save, TrainingLoop._train

    def saved(self: TrainingLoop) -> None:
        began = time.perf_counter()
        save(self)
        stood.append(time.perf_counter() - began)

    def trained(self: TrainingLoop) -> bool:
        self.accelerator.wait_for_everyone()
        began = time.perf_counter()
        finished = train(self)
        if self.accelerator.is_main_process:
            took = {"stood": stood[:-1], "seconds": time.perf_counter() - began}
            (into / "time").write_text(json.dumps(took))
        return finished

    TrainingLoop.save, TrainingLoop._train = saved, trained  # type: ignore[method-assign]


def measured(processes: int, *flags: str, of: str = "*.json") -> dict[str, Any]:
    """The most bytes that a process keeps, by kind; or what the main one wrote to the file `of`."""
    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "text.txt"
        text.write_text("the fox sees the hen and the hen sees the fox\n" * 400)
        train = ["train", "text-char", "--data", str(text), "--out", f"{place}/run", *STEPS, *SHAPE, *BATCH, *flags]
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launch if processes > 1 else []), __file__, "--worker", place, *train]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if of == "time":
            return json.loads((Path(place) / of).read_text())
        rows = [json.loads(file.read_text()) for file in Path(place).glob("*.json")]
        return {name: max(row[name] for row in rows) for name in rows[0]}


def checkpoints(processes: int) -> dict[str, dict[str, float]]:
    """Seconds that checkpoints cost, by how they are written."""
    common = ["--train.steps", "24", "--train.eval-puzzles", "0", "--text.holdout", "0", "--train.keep", "1"]
    common += ["--halting.max-segments", "1", "--text.length", "32", "--train.batch-size", "2"]
    common += ["--train.parallel", "fsdp"] if processes > 1 else []
    ways = {
        "the last one only": ["--train.checkpoint-every", "1000"],
        "the steps wait": ["--train.checkpoint-every", "6"],
        "the steps continue": ["--train.checkpoint-every", "6", "--train.async-checkpoints"],
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for _ in range(1):
        for name, flags in ways.items():
            runs[name].append(measured(processes, *common, *flags, of="time"))
    return {
        name: {
            "seconds of 24 steps": round(median(run["seconds"] for run in found), 3),
            "stood still for each": round(median(map(mean, (run["stood"] or [0.0] for run in found))), 4),
        }
        for name, found in runs.items()
    }


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        return work(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    fsdp = ("--train.parallel", "fsdp")
    found = {
        "one process": measured(1),
        "split": measured(args.processes, *fsdp),
        "split, dropped after each visit": measured(args.processes, *fsdp, "--train.reshard"),
    }
    one = found["one process"]
    kinds = ("weights", "averages", "gradients", "optimizer")
    for name, row in found.items():
        share = sum(row[kind] for kind in kinds) / sum(one[kind] for kind in kinds)
        parts = "  ".join(f"{kind} {row[kind] / 2**20:.1f}" for kind in kinds)
        print(f"{name:<34}{parts} MiB: {share:.1%}; peak {row['peak'] / 2**20:.0f} MiB")
    cost = {str(count): checkpoints(count) for count in (1, args.processes)}
    for count, ways in cost.items():
        for name, row in ways.items():
            print(f"checkpoints, {count} process(es), {name:<18} " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))
    if args.json:
        facts = {"processes": args.processes, **found, "seconds of checkpoints, by processes": cost}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
