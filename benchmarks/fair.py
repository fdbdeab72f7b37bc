"""Where thinking longer pays: named arms learn questions with hops, each with the same training FLOPs.

    python benchmarks/fair.py run --out DIR [--tasks sum permutations chain reach] [--arms hrm ...] [--seeds 3]
    python benchmarks/fair.py table --out DIR [--json FILE] [--plot FILE]

Every arm has the same width, rows, batches, optimizer and share of the training in which hops rise from 1 to 8. Its
learning rate is the one of RATES that is best on trained hops (1 to 8, the mean) after a third of the FLOPs with one
seed; then it is trained with each seed. An HRM and a looped model are measured with SEGMENTS segments, more than they
are trained with. What is finished is kept in DIR, and the same command continues. One thread; two processes with other
tasks or arms may share a DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hrm.files.output import write_json
from hrm.text.arch import HaltingConfig, TextArch
from hrm.text.config import CorpusConfig, TextConfig
from hrm.text.data import hops
from hrm.text.measuring.hops import by_hops
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.model.budget import Budget
from hrm.text.training.plan import count
from hrm.text.training.trainer import TextTrainer
from hrm.training.config import OptimConfig, TrainConfig

DIM, HEADS, HOPS, SEGMENTS, POINTS = 64, 4, 8, 16, 12
RISING = 0.3
"""Share of the steps in which hops rise."""
RATES = (0.005, 0.015, 0.045)
"""Muon's learning rates that are tried; AdamW's is a fifth of it."""
TASKS: dict[str, dict[str, Any]] = {
    "sum": {"length": 36, "batch": 64, "flops": 6e12, "asked": (1, 2, 4, 6, 8, 10, 12, 16)},
    "permutations": {"length": 36, "batch": 64, "flops": 1.2e13, "asked": (1, 2, 4, 6, 8, 10, 12, 16)},
    "chain": {"length": 98, "batch": 32, "flops": 6e12, "asked": (1, 2, 4, 6, 8, 10, 12)},
    "reach": {"length": 148, "batch": 16, "flops": 6e12, "asked": (1, 2, 4, 6, 8, 10, 12, 16)},
}
"""Tokens of a row, rows of a step, training FLOPs of a training, hops that are measured."""
FEW = {f"{task}-{count}": {**TASKS[task], "of": task, "examples": count, "flops": TASKS[task]["flops"] / 3}
       for task in ("sum", "permutations") for count in (1000, 10_000)}  # fmt: skip
"""The same from few different questions, at the rate that was best with endless ones, with a third of the FLOPs."""
WIDE = {"sum-256": {**TASKS["sum"], "of": "sum", "dim": 256, "heads": 8, "flops": 4e13, "rate": 0.015}}
"""A wider model of a task, for what adaptive depth saves (benchmarks/saving.py)."""
FORMS = TASKS | FEW | WIDE
_DEEP = {"max_segments": 12, "depth_mean": 8.0}
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "hrm": ({"fast_layers": 1, "slow_layers": 1, "h_cycles": 1, "l_cycles": 1}, _DEEP),
    "looped": ({"fast_layers": 1, "slow_layers": 0, "shared": True, "h_cycles": 1, "l_cycles": 1}, _DEEP),
    "transformer-2": ({"fast_layers": 1, "slow_layers": 1, "hierarchy": False}, {}),
    "transformer-4": ({"fast_layers": 2, "slow_layers": 2, "hierarchy": False}, {}),
    "transformer-8": ({"fast_layers": 4, "slow_layers": 4, "hierarchy": False}, {}),
}
"""Architecture and depth of each arm. transformer-2 has exactly as many parameters as hrm."""
BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "transformer-16": ({"fast_layers": 8, "slow_layers": 8, "hierarchy": False}, {}),
}
"""Asked afterwards: would as many blocks do as an answer of 8 segments visits?"""
DEPTH: dict[str, dict[str, Any]] = {
    "hrm, depth always 8": {"max_segments": 8, "depth_mean": 0.0},
    "hrm, loss at the last segment": {"supervise": "last"},
    "hrm, gradient through all": {"gradient": "whole"},
    "hrm, gradient through all, loss at the last": {"gradient": "whole", "supervise": "last"},
    "hrm, loops in the last third": {"late": 0.67},
}
"""Other ways to train the HRM: settings of its depth that differ. Each has a third of the FLOPs, and its best rate."""


def recipe(task: str, arm: str, rate: float, seed: int) -> TextConfig:
    """The settings of an arm; the number of steps is not known yet."""
    form = FORMS[task]
    shape, depth = (ARMS | BESIDE)[arm.partition(",")[0]]
    dim, heads = form.get("dim", DIM), form.get("heads", HEADS)
    arch = TextArch(dim=dim, heads=heads, norm="post", intermediate_size=2 * dim, max_position_embeddings=512, **shape)
    return TextConfig(
        arch=arch, halting=HaltingConfig(weight=0.0, **(depth | DEPTH.get(arm, {}))),
        text=CorpusConfig(kind="hops", length=form["length"], hops=HOPS, rising=RISING),
        optim=OptimConfig(name="muon", lr=rate / 5, muon_lr=rate, warmup_steps=20, ema=0.0, weight_decay=0.0),
        train=TrainConfig(
            batch_size=form["batch"], precision="bfloat16", compile=True, log_every=10**6, threads=1, device="cpu"
        ),
        data=task, seed=seed,
    )  # fmt: skip


def cost(config: TextConfig, shape: HRMConfig) -> float:
    """FLOPs of a step on average over the depths that it draws: torch's count of one and of two segments, and so on."""
    rows, length = config.train.batch_size, config.text.length
    one = count(shape, length, max_segments=1)[1]
    if shape.max_segments == 1:
        return float(one * rows)
    more = count(shape, length, max_segments=2)[1] - one
    budget = Budget.of(shape)
    draws = [(i + 0.5) / 1000 for i in range(1000)]
    drawn = [budget.poisson(draw, shape.depth_mean) if shape.depth_mean else budget for draw in draws]
    deep = one + more * (statistics.mean(each.max_segments for each in drawn) - 1)
    return rows * (shape.late * one + (1 - shape.late) * deep)


def learn(task: str, arm: str, rate: float, seed: int, share: float) -> tuple[dict[str, Any], HRMForCausalLM]:
    """Train an arm with a share of the FLOPs and ask it; returns the answers and what they cost."""
    config, flops = recipe(task, arm, rate, seed), FORMS[task]["flops"] * share
    name = FORMS[task].get("of", task)
    words = len(hops.task_of(name).words) + 1
    shape = HRMConfig.of(config.arch, config.halting, vocab_size=words, eos_token_id=0, pad_token_id=0)
    each = cost(config, shape)
    steps = max(1, round(flops / each))
    config = replace(config, train=replace(config.train, steps=steps))
    torch.manual_seed(seed)
    model = HRMForCausalLM(shape)
    examples = FORMS[task].get("examples", 10**8)
    data = hops.Hops(name, HOPS, examples, seed, config.text.length, round(RISING * steps))
    trainer = TextTrainer(config, model, data, Accelerator(cpu=True))
    budget = model.budget(max_segments=SEGMENTS if shape.hierarchy else 1)
    asked, curve, spent = FORMS[task]["asked"], list[dict[str, Any]](), 0.0
    for point in range(1, POINTS + 1):
        began = time.process_time()
        while trainer.step_number < round(steps * point / POINTS):
            trainer.step()
        spent += time.process_time() - began
        loss = trainer.metrics()["token_loss"]
        with trainer.as_measured() as measured:
            told = by_hops(measured, name, [n for n in (HOPS, 12) if n in asked], budget, 250, seed=1)
        curve.append({"seconds": spent, "flops": trainer.step_number * each, "loss": loss}
                     | {str(one.hops): one.accuracy for one in told})  # fmt: skip
        said = "  ".join(f"{one.hops} hops {one.accuracy:.1%}" for one in told)
        print(f"{task} {arm} {rate} seed {seed}: {point}/{POINTS}  {spent:.0f} s  loss {loss:.3f}  {said}", flush=True)
    with trainer.as_measured() as measured:
        found = [one.plain() for one in by_hops(measured, name, asked, budget, 250 if share < 1 else 1000)]
    return {
        "task": task, "arm": arm, "rate": rate, "seed": seed, "share": share, "steps": steps, "flops": steps * each,
        "parameters": sum(p.numel() for p in model.parameters()), "seconds": spent, "curve": curve, "asked": found,
    }, model  # fmt: skip


def part(out: Path, task: str, arm: str, rate: float, seed: int, share: float) -> dict[str, Any]:
    """A training, unless it is there already; the model of a whole one is kept."""
    name = f"{task}-{arm.replace(', ', '-').replace(' ', '-')}-{rate:g}-{seed}-{share:.2f}"
    file = out / f"{name}.json"
    if not file.is_file():
        found, model = learn(task, arm, rate, seed, share)
        if share == 1:
            model.save_pretrained(out / name)
        write_json(file, found)
    return json.loads(file.read_text("utf-8"))


def trained(found: dict[str, Any]) -> float:
    """Mean accuracy on hops that were trained."""
    return statistics.mean(one["accuracy"] for one in found["asked"] if one["hops"] <= HOPS)


def best_rate(out: Path, task: str, arm: str) -> float:
    """The learning rate that a third of the FLOPs and one seed say is best on trained hops."""
    return max(RATES, key=lambda rate: trained(part(out, task, arm, rate, 0, 1 / 3)))


def run(args: argparse.Namespace) -> None:
    """Train what is not there yet: all arms with one seed, then with the next."""
    for seed in range(args.seeds):
        for task, arm in itertools.product(args.tasks, args.arms):
            form = FORMS[task]
            rate = form.get("rate") or best_rate(args.out, form.get("of", task), arm)
            if arm not in DEPTH:
                part(args.out, task, arm, rate, seed, 1.0)


def whole(out: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The trainings there are, by task and arm, but for those with a third of the FLOPs."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for file in sorted(out.glob("*.json")):
        one = json.loads(file.read_text("utf-8"))
        if one["share"] == 1:
            found.setdefault(one["task"], {}).setdefault(one["arm"], []).append(one)
    return found


def ways(out: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """By task, the HRM and the other ways to train it, each with a third of the FLOPs and at its best learning rate."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted(out.glob("*.json")):
        one = json.loads(file.read_text("utf-8"))
        if one["share"] < 1 and one["arm"] in ("hrm", *DEPTH):
            arms = found.setdefault(one["task"], {})
            arms[one["arm"]] = max(one, arms.get(one["arm"], one), key=trained)
    return {task: arms for task, arms in found.items() if len(arms) > 1}


def skill(task: str, accuracy: float) -> float:
    """(accuracy - chance) / (1 - chance)."""
    chance = hops.task_of(FORMS[task].get("of", task)).chance
    return (accuracy - chance) / (1 - chance)


def at_time(runs: list[dict[str, Any]], seconds: float) -> float:
    """Mean accuracy at 12 hops once an arm has had this many processor seconds."""
    known = [[point["12"] for point in run["curve"] if point["seconds"] <= seconds] for run in runs]
    return statistics.mean(each[-1] if each else 0.0 for each in known)


def differences(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """Points of accuracy by hops, of the seeds that both have, with two standard errors."""
    pairs = [(one, two) for one in ours for two in others if one["seed"] == two["seed"]]
    cells = []
    for i, asked in enumerate(ours[0]["asked"]):
        each = [100 * (one["asked"][i]["accuracy"] - two["asked"][i]["accuracy"]) for one, two in pairs]
        error = f" +- {2 * statistics.stdev(each) / len(each) ** 0.5:.1f}" if len(each) > 1 else ""
        cells.append(f"{asked['hops']}: {statistics.mean(each):+.1f}{error}")
    return "  ".join(cells)


def table(out: Path) -> str:
    """Accuracy by hops: the mean of the seeds, and from which to which they go; skill at 12 hops at equal FLOPs and, as
    the curves say, in the time that the first arm took with its slowest seed."""
    lines = []
    for task, arms in whole(out).items():
        lines.append(
            f"{task}: chance {hops.task_of(FORMS[task].get('of', task)).chance:.1%}; asked hops, trained on 1 to {HOPS}"
        )
        least = max(run["seconds"] for run in next(iter(arms[arm] for arm in ARMS if arm in arms)))
        for arm in [name for name in (*ARMS, *BESIDE) if name in arms]:
            runs = arms[arm]
            cells = []
            for column in zip(*(run["asked"] for run in runs), strict=True):
                some = [100 * one["accuracy"] for one in column]
                cells.append(f"{column[0]['hops']}: {statistics.mean(some):.1f} ({min(some):.0f}-{max(some):.0f})")
            seconds = statistics.mean(run["seconds"] for run in runs)
            far = statistics.mean(one["accuracy"] for run in runs for one in run["asked"] if one["hops"] == 12)
            skills = f"skill {skill(task, far):.2f}, in {least:.0f} s {skill(task, at_time(runs, least)):.2f}"
            about = f"{runs[0]['parameters']:>8,}  {len(runs)} seeds  {seconds:4.0f} s  rate {runs[0]['rate']:g}"
            lines.append(f"  {arm:<14} {about}  {skills}  {'  '.join(cells)}")
        if task in FEW:
            lines += [f"  hrm - {arm}: {differences(arms['hrm'], arms[arm])}" for arm in arms if arm != "hrm"]
    for task, kinds in ways(out).items():
        lines.append(f"{task}: ways to train depth, a third of the FLOPs, one seed")
        for arm in [name for name in ("hrm", *DEPTH) if name in kinds]:
            run = kinds[arm]
            cells = [f"{one['hops']}: {one['accuracy']:.1%}" for one in run["asked"]]
            lines.append(f"  {arm:<44} {run['seconds']:4.0f} s  rate {run['rate']:g}  {'  '.join(cells)}")
    return "\n".join(lines)


def draw(out: Path, path: Path) -> None:
    """Accuracy by hops, and at 12 hops by processor time."""
    from matplotlib.figure import Figure

    found = {task: arms for task, arms in whole(out).items() if task in TASKS}
    figure = Figure(figsize=(4 * len(found), 6.4), layout="constrained")
    grid = figure.subplots(2, len(found), squeeze=False)
    for column, (task, arms) in enumerate(found.items()):
        for number, arm in enumerate((*ARMS, *BESIDE)):
            if arm not in arms:
                continue
            runs, colour = arms[arm], f"C{number}"
            asked = [[100 * one["accuracy"] for one in run["asked"]] for run in runs]
            counts = [one["hops"] for one in runs[0]["asked"]]
            means, low, high = ([f(c) for c in zip(*asked, strict=True)] for f in (statistics.mean, min, max))
            grid[0][column].plot(counts, means, "o-", ms=3, color=colour, label=arm)
            grid[0][column].fill_between(counts, low, high, color=colour, alpha=0.2, lw=0)
            for run in runs:
                points = run["curve"]
                grid[1][column].plot(
                    [p["seconds"] for p in points], [100 * p["12"] for p in points], "-", lw=1, color=colour
                )
        for axes, what in ((grid[0][column], "hops"), (grid[1][column], "processor seconds of training")):
            axes.axhline(100 * hops.task_of(FORMS[task].get("of", task)).chance, color="gray", lw=0.8, ls=":")
            axes.set(xlabel=what, ylim=(0, 102))
            axes.grid(alpha=0.3)
        grid[0][column].axvline(HOPS, color="gray", lw=0.8, ls="--")
        grid[0][column].set(title=task, xticks=TASKS[task]["asked"])
    grid[0][0].set_ylabel("right, %")
    grid[1][0].set_ylabel("right at 12 hops, %")
    handles = {name: line for axes in grid[0] for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    grid[0][0].legend(handles.values(), handles.keys(), frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True, help="folder of what is finished")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(FORMS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=[*ARMS, *BESIDE, *DEPTH])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--plot", type=Path, help="file for a picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.what == "run":
        run(args)
    print(table(args.out))
    if args.json:
        write_json(args.json, {"arms": whole(args.out), "ways": ways(args.out)})
    if args.plot:
        draw(args.out, args.plot)


if __name__ == "__main__":
    main()
