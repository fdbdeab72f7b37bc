"""Train a recipe on one machine with several seeds, in sittings of a few minutes, and measure what came out.

    python benchmarks/gpu_recipes.py sudoku-extreme-fast --data TRAIN.csv --test TEST.csv --seeds 0 1 2 --sitting 9

First it says how long the training should take by its FLOPs. Then every seed is trained (`hrm train`, from the second
sitting on `--resume`) and its best checkpoint, chosen on training puzzles set aside, is measured on the test file
(`hrm eval`) at 16 and 64 segments and with restarts. When a sitting is over the training saves itself; the same
command resumes. After `--`, more flags for `hrm train`. Writes RESULTS/RECIPE.json and RESULTS/RECIPE-SEED.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARES = (0.50, 0.80, 0.87, 0.95)
EVALUATIONS = {
    "16": ("--max-segments", "16"),
    "64": ("--max-segments", "64"),
    "64 and 8 restarts": ("--max-segments", "64", "--restarts", "8"),
}


class Over(Exception):
    """The sitting is over."""


class Sitting:
    """Runs `hrm` until its time is up; then asks it to save and stop."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes

    def run(self, *args: str) -> str:
        """What `hrm` printed; Over when the time was up before it had finished, SystemExit when it failed."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise Over
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent / "src"), *sys.path[1:]])}
        command = [sys.executable, "-m", "hrm", *args]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                out, _ = process.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                process.communicate()
                raise Over from None
        if process.returncode:
            raise SystemExit(process.returncode)
        return out


def time_to(metrics: Path) -> dict[str, float | None]:
    """Seconds of training until a share of the held-out puzzles was first solved, for each of SHARES."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    measured = [(r["exact_accuracy"], r["seconds"]) for r in records if r.get("event") == "eval"]
    return {f"{share:.0%}": next((at for exact, at in measured if exact >= share), None) for share in SHARES}


def trained(sitting: Sitting, args: argparse.Namespace, seed: int, run: Path) -> dict[str, Any]:
    """The result of a training, begun or continued; a run that was paused is not finished."""
    result = run / "result.json"
    if not result.is_file():
        begun = (run / "run.json").is_file()
        start = ("--resume", str(run)) if begun else (args.recipe, "--data", args.data, "--seed", str(seed))
        where = () if begun else ("--out", str(run), "--overwrite")
        sitting.run("train", *start, *where, *args.flags)
    return json.loads(result.read_text())


def measured(sitting: Sitting, args: argparse.Namespace, run: Path, name: str) -> dict[str, Any]:
    """The run's best checkpoint on the test file; kept beside the run, so that it is measured once."""
    file = run.with_name(f"{run.name}-{name.replace(' ', '-')}.json")
    if not file.is_file():
        limit = ("--limit", str(args.limit)) if args.limit else ()
        batch = ("--batch-size", str(args.batch_size))
        sitting.run("eval", str(run), "--data", args.test, *EVALUATIONS[name], *batch, *limit, "--json-file", str(file))
    return json.loads(file.read_text())


def machine() -> str:
    """The accelerator, or the processor and its cores."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"


def estimate(sitting: Sitting, args: argparse.Namespace) -> dict[str, Any]:
    """What the training computes, and how long that takes at a share of the device's peak."""
    plan = json.loads(sitting.run("train", args.recipe, *args.flags, "--dry-run", "--json"))
    flops = plan["flops_per_step"] * plan["steps"]
    minutes = flops / (args.tflops * 1e12 * args.utilisation) / 60
    memory = sum(plan["memory"].values()) / 2**30
    size = f"{plan['parameters']:,} parameters, {plan['steps']:,} steps of {plan['flops_per_step']:.2e} FLOPs"
    speed = f"{args.utilisation:.0%} of {args.tflops:g} TFLOP/s"
    print(
        f"{args.recipe}: {size}, about {memory:.1f} GiB; estimate {minutes:.1f} minutes a seed at {speed}", flush=True
    )
    return {"flops": flops, "minutes": minutes, "tflops": args.tflops, "utilisation": args.utilisation}


def table(rows: list[dict[str, Any]]) -> str:
    """Seed, time to each share of the held-out puzzles, training time and accuracies on the test file."""
    names = [*(f"{share:.0%}" for share in SHARES), "trained", *EVALUATIONS]
    lines = ["seed  " + "".join(f"{name:>19}" for name in names)]
    for row in rows:
        times = [row["time_to"][f"{share:.0%}"] for share in SHARES] + [row["training_seconds"]]
        cells = ["-" if at is None else f"{at / 60:.1f} min" for at in times]
        cells += [f"{row['test'][name]['exact_accuracy']:.2%}" for name in EVALUATIONS]
        lines.append(f"{row['seed']:<6}" + "".join(f"{cell:>19}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="preset, or a YAML file of settings")
    parser.add_argument("--data", required=True, help="training puzzles")
    parser.add_argument("--test", required=True, help="test puzzles; never used to choose anything")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sitting", type=float, default=9.0, help="minutes after which to save and stop")
    parser.add_argument("--limit", type=int, default=0, help="measure only the first N test puzzles")
    parser.add_argument("--batch-size", type=int, default=512, help="puzzles in a batch when measuring")
    parser.add_argument("--tflops", type=float, default=989.0, help="peak of the device: an H100's in bfloat16")
    parser.add_argument("--utilisation", type=float, default=0.25, help="share of the peak that is taken to be reached")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where runs are kept between sittings")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    ours, flags = (lambda a: (a[: a.index("--")], a[a.index("--") + 1 :]) if "--" in a else (a, []))(sys.argv[1:])
    args = parser.parse_args(ours)
    args.flags = flags
    name = Path(args.recipe).stem
    rows: list[dict[str, Any]] = []
    facts = {"recipe": name, "data": args.data, "test": args.test, "flags": flags, "machine": machine()}
    args.results.mkdir(parents=True, exist_ok=True)
    facts["estimate"] = estimate(Sitting(60), args)
    sitting = Sitting(args.sitting)
    try:
        for seed in args.seeds:
            run = args.runs / f"{name}-{seed}"
            result = trained(sitting, args, seed, run)
            shutil.copyfile(run / "metrics.jsonl", args.results / f"{name}-{seed}.jsonl")
            kept = {key: result[key] for key in ("step", "training_seconds", "measuring_share")}
            tests = {evaluation: measured(sitting, args, run, evaluation) for evaluation in EVALUATIONS}
            rows.append({"seed": seed, **kept, "time_to": time_to(run / "metrics.jsonl"), "test": tests})
            (args.results / f"{name}.json").write_text(json.dumps({**facts, "seeds": rows}, indent=1) + "\n")
    except Over:
        print(table(rows) if rows else "no seed is done yet")
        print(f"the sitting is over; resume with: {shlex.join(['python', *sys.argv])}")
        return 0
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
