"""Tasks of Reasoning Gym from 10,000 examples: learned, then answered freshly at every depth, and best of n.

    python benchmarks/text_gym.py [text-spell-backward ...] [--work FOLDER] [--fresh 1000] [--best-of 8]
        [--questions 500] [--json FILE] [--plot FILE]

Each step is a command of hrm, printed before it runs: `train PRESET`, `eval --fresh` at every depth and with the Q
head's, `eval --task pairs --best-of`. What a folder of --work already holds is not made again, so that an interrupted
run resumes. Seconds are of this machine; processor seconds count what the process itself got.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

PRESETS = ("text-spell-backward", "text-string-insertion", "text-binary-matrix")
THRESHOLDS = ("0.5", "0.9", "0.99")


def hrm(*words: str) -> dict[str, float]:
    """Run a command of hrm; how long it took, and how much processor time."""
    print("$ hrm", shlex.join(words), flush=True)
    before, started = psutil.Process().cpu_times(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "hrm", *words], check=True, stdout=subprocess.DEVNULL)
    after = psutil.Process().cpu_times()
    processor = sum(after[2:4]) - sum(before[2:4])  # of children; on Windows there is no such number
    return {"seconds": time.perf_counter() - started, "processor_seconds": processor}


def made(file: Path, *words: str) -> dict[str, Any]:
    """The JSON that a command writes to `file`, unless it lies there already."""
    if not file.is_file():
        took = hrm(*words, "--json-file", str(file))
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | took))
    found = json.loads(file.read_text("utf-8"))
    return found | {"checkpoint": Path(found["checkpoint"]).name}


def learn(preset: str, work: Path) -> dict[str, float]:
    """Train a preset, or resume it; returns the total cost."""
    run, log = work / preset, work / f"{preset}-training.json"
    spent = json.loads(log.read_text("utf-8")) if log.is_file() else {"seconds": 0.0, "processor_seconds": 0.0}
    finished = (run / "result.json").is_file() and json.loads((run / "result.json").read_text())["state"] == "finished"
    if not finished:
        took = hrm(
            "train", *(["--resume", str(run)] if (run / "checkpoints").is_dir() else [preset, "--out", str(run)])
        )
        spent = {name: spent[name] + took[name] for name in spent}
        log.write_text(json.dumps(spent))
    return spent


def task(preset: str, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about one preset."""
    training, run = learn(preset, args.work), str(args.work / preset)
    batch = ("--batch-size", "32")
    depth = ("--halting", "q", "--exit-threshold", *THRESHOLDS, *batch)
    fresh = made(args.work / f"{preset}-fresh.json", "eval", run, "--fresh", str(args.fresh), *depth)
    drawn = ("--task", "pairs", "--best-of", str(args.best_of), "--temperature", str(args.temperature))
    drawn = (*drawn, "--fresh", str(args.questions), "--halting", "fixed", "--max-new-tokens", "64", *batch)
    best = made(args.work / f"{preset}-best-of.json", "eval", run, *drawn)
    lines = (Path(run) / "metrics.jsonl").read_text("utf-8").splitlines()
    curve = [record for record in map(json.loads, lines) if record.get("event") == "eval"]
    keep = ("step", "seconds", "loss", "exact_match", "exact_match_by_depth")
    return {
        "training": training,
        "curve": [{name: record[name] for name in keep} for record in curve],
        "fresh": fresh,
        "best_of": best,
    }


def table(found: dict[str, Any]) -> str:
    """Exact answers by depth, and by rank."""
    lines = [f"{'':<24}{'depth':<30}{'exact':>8}{'95 % interval':>18}{'at random':>11}"]
    for preset, one in found.items():
        rows = [(f"depth {row['segments']}", row) for row in one["fresh"]["fixed"]]
        rows += [(f"q {row['exit_threshold']:g}: {row['mean_segments']:.2f}", row) for row in one["fresh"]["adaptive"]]
        for name, row in rows:
            low, high = row["exact_match_interval"]
            other = f"{row['random']['exact_match']:>11.1%}" if "random" in row else ""
            lines.append(f"{preset:<24}{name:<30}{row['exact_match']:>8.1%}{low:>10.1%} -{high:>6.1%}{other}")
        best = one["best_of"]
        ranks = "  ".join(f"{name} {best[name]:.1%}" for name in ("one", "likelihood", "q", "q-drawn", "any"))
        lines.append(f"{preset:<24}best of {best['best_of']} on {best['n']}: {ranks}")
        took = one["training"]
        lines.append(f"{preset:<24}{took['seconds'] / 60:.1f} min, {took['processor_seconds']:.0f} s of processor time")
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Exact held-out answers while learning, at each depth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found), 3.6), layout="constrained")
    for axes, (preset, one) in zip(
        figure.subplots(1, len(found), sharey=True, squeeze=False)[0], found.items(), strict=True
    ):
        steps = [point["step"] for point in one["curve"]]
        depths = list(zip(*(point["exact_match_by_depth"] for point in one["curve"]), strict=True))
        for depth, shares in enumerate(depths, 1):
            axes.plot(steps, [100 * share for share in shares], "o-", ms=3, label=f"depth {depth}")
        axes.axhline(90, color="gray", lw=0.8, ls="--")
        axes.set(title=preset, xlabel="updates", ylim=(0, 101))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("exact held-out answers, %")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=PRESETS)
    parser.add_argument("--work", type=Path, default=Path("runs/text-gym"))
    parser.add_argument("--fresh", type=int, default=1000)
    parser.add_argument("--best-of", type=int, default=8)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/text_gym.json"))
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for preset in args.presets:
        found[preset] = task(preset, args)
        about = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        args.json.write_text(json.dumps({**about, "tasks": found}, indent=1) + "\n")
    print(table(found))
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
