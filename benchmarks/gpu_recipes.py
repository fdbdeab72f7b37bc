"""Train a recipe on one machine with several seeds, in sittings of a few minutes, and measure what came out.

    python benchmarks/gpu_recipes.py sudoku-extreme-fast --data TRAIN.csv --test TEST.csv --seeds 0 1 2 --sitting 9
    python benchmarks/gpu_recipes.py sudoku-deduce --data TRAIN.csv --test TEST.csv --seeds 0 1 --sitting 9 --curve \\
        -- --train.batch-size 512 --train.minutes 15 --train.checkpoint-every 250 --train.keep 1000

First it says how long the training should take by its FLOPs. Then every seed is trained (`hrm train`, from the second
sitting on `--resume`) and its best checkpoint, chosen on training puzzles set aside, is measured on the test file
(`hrm eval`): at 16 and 64 segments and with restarts, or, where the model deduces, with its search, within 20 calls and
without decisions. With --curve every checkpoint kept is measured too, which tells the time to a share of the test file.
When a sitting is over the training saves itself; the same command resumes. After `--`, more flags for `hrm train`.
Writes RESULTS/RECIPE.json and RESULTS/RECIPE-SEED.jsonl.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SHARES = (0.50, 0.80, 0.87, 0.95, 0.99)
EVALUATIONS = {
    "16": ("--max-segments", "16"),
    "64": ("--max-segments", "64"),
    "64 and 8 restarts": ("--max-segments", "64", "--restarts", "8"),
}
DEDUCING = {
    "search": (),
    "120 segments": ("--max-segments", "120"),
    "no decisions": ("--guesses", "0"),
}
"""Where the model deduces, of six segments a call."""


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
    return reached([(r["exact_accuracy"], r["seconds"]) for r in records if r.get("event") == "eval"])


def reached(measured: list[tuple[float, float]]) -> dict[str, float | None]:
    """The first time at which each of SHARES was reached."""
    return {f"{share:.0%}": next((at for exact, at in measured if exact >= share), None) for share in SHARES}


def evaluations(run: Path) -> dict[str, tuple[str, ...]]:
    """How a run of its kind is measured."""
    return DEDUCING if yaml.safe_load((run / "config.yaml").read_text())["arch"].get("deduces") else EVALUATIONS


def curve(sitting: Sitting, args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Every kept checkpoint on the test file: the share solved after some seconds of training, and the time to each
    of SHARES."""
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    at = {record["step"]: record["seconds"] for record in logged if "seconds" in record and "step" in record}
    steps = sorted(int(path.name.removeprefix("step_")) for path in (run / "checkpoints").glob("step_*"))
    points = []
    for step in steps:
        found = measured(sitting, args, run, f"step {step}", ("--checkpoint", str(step)))
        seconds = max((value for number, value in at.items() if number <= step), default=0.0)
        points.append((found["solved"] / found["n"], seconds))
    return {"points": points, "time_to": reached(points)}


def trained(sitting: Sitting, args: argparse.Namespace, seed: int, run: Path) -> dict[str, Any]:
    """The result of a training, begun or continued; a run that was paused is not finished."""
    result = run / "result.json"
    if not result.is_file():
        begun = (run / "run.json").is_file()
        start = ("--resume", str(run)) if begun else (args.recipe, "--data", args.data, "--seed", str(seed))
        where = () if begun else ("--out", str(run), "--overwrite")
        sitting.run("train", *start, *where, *args.flags)
    return json.loads(result.read_text())


def measured(sitting: Sitting, args: argparse.Namespace, run: Path, name: str, flags: Sequence[str]) -> dict[str, Any]:
    """The run on the test file, its best checkpoint unless the flags say another; kept beside the run, so that it is
    measured once."""
    file = run.with_name(f"{run.name}-{name.replace(' ', '-')}.json")
    if not file.is_file():
        limit = ("--limit", str(args.limit)) if args.limit else ()
        batch = ("--batch-size", str(args.batch_size))
        sitting.run("eval", str(run), "--data", args.test, *flags, *batch, *limit, "--json-file", str(file))
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
    tests = list(rows[0]["test"])
    names = [*(f"{share:.0%}" for share in SHARES), "trained", *tests]
    lines = ["seed  " + "".join(f"{name:>19}" for name in names)]
    for row in rows:
        times = [row["time_to"][f"{share:.0%}"] for share in SHARES] + [row["training_seconds"]]
        cells = ["-" if at is None else f"{at / 60:.1f} min" for at in times]
        cells += [f"{row['test'][name]['exact_accuracy']:.2%}" for name in tests]
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
    parser.add_argument("--curve", action="store_true", help="measure every kept checkpoint on the test file")
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
            tests = {each: measured(sitting, args, run, each, how) for each, how in evaluations(run).items()}
            found = {"time_to": time_to(run / "metrics.jsonl"), "test": tests}
            if args.curve:
                found["test_curve"] = curve(sitting, args, run)
            rows.append({"seed": seed, **kept, **found})
            (args.results / f"{name}.json").write_text(json.dumps({**facts, "seeds": rows}, indent=1) + "\n")
    except Over:
        print(table(rows) if rows else "no seed is done yet")
        print(f"the sitting is over; resume with: {shlex.join(['python', *sys.argv])}")
        return 0
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
