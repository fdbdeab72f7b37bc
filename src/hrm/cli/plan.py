"""hrm plan: what a training on text takes on a cluster: memory, time, money, and the lines that start it."""

from __future__ import annotations

import math
import re
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hrm.cli.looking import schedules_of, watched
from hrm.cli.options import Positional, TextSettings, first_named, parse
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.ranges import Range
from hrm.files.reading import UserError, nearest
from hrm.files.records import Json
from hrm.settings import changed, kind_of, load_preset, presets, settings
from hrm.text.config import TextConfig
from hrm.training.cluster import GPUS, sbatch, torchrun

if TYPE_CHECKING:
    from hrm.core.recurrence import Schedule

_USABLE = 0.92
"""Of a GPU's memory: the rest is taken by its driver, the communication and what lies between allocations."""


@dataclass(frozen=True)
class Options:
    """Say what a training on text takes: memory, FLOPs, days and price on these GPUs, and how it is started."""

    preset: Positional[str]
    """Text preset, YAML file or run folder."""
    gpus: Annotated[int, Range(1, 1_000_000)] = 1
    """GPUs in all."""
    gpu: str = "h100"
    """b200, h200, h100 or h100-80, a100 or a100-80, a100-40, l40s, 4090, 3090, mi300x."""
    gpus_per_node: Annotated[int, Range(1, 1024)] = 8
    """GPUs of a node."""
    utilisation: Annotated[float, Range(0.001, 1)] = 0.3
    """Share of the GPUs' FLOPs that a training reaches. An assumption: measure yours and give it here."""
    price: Annotated[float | None, Range(0, 10**6)] = None
    """Price of one GPU-hour, in any currency."""
    time: bool = False
    """Also measure how fast the model learns and writes on this machine, for several cycles x steps."""
    schedules: tuple[str, ...] = ()
    """Cycles x steps to measure beside the model's own; implies --time; default: 1x1 2x2 3x2 6x4."""
    script: Path | None = None
    """New file for a Slurm script that starts the training and resumes it."""
    json: bool = False
    """Print it as JSON."""
    config: TextSettings = field(default_factory=TextConfig)


def main(args: list[str]) -> int:
    """Run the verb."""
    named = first_named((Options,), args)
    if named and kind_of(named) is not TextConfig:
        load_preset(named)  # says what is wrong with it, if that is why
        texts = ", ".join(presets(TextConfig))
        raise UserError(
            f"{named} is no preset of text ({texts}): what its training takes, hrm train {named} --dry-run shows"
        )

    def base(options: Options) -> TextConfig:
        return load_preset(options.preset, TextConfig)

    options = parse("plan", Options, args, example="hrm plan gpt2-1.5b --gpus 64 --gpu h100", base=base, preset=named)
    if options.gpu.lower() not in GPUS:
        near = nearest(options.gpu.lower(), GPUS)
        raise UserError(f"--gpu {options.gpu} is not known{near or ': use ' + ', '.join(GPUS)}")
    if options.config.train.batch_size % options.gpus:
        batch = options.config.train.batch_size
        raise UserError(
            f"--gpus {options.gpus} does not divide --train.batch-size {batch}: each takes the same number of rows"
        )
    output.check("--script", options.script, (options.preset,))
    if options.script is not None and options.script.is_file():
        raise UserError(f"--script {options.script} exists: choose another file or remove it")
    schedules = schedules_of(options.schedules)
    found = _found(options)
    if options.time or schedules:
        found["timed"] = _timed(options, schedules, found["tokens"])
    if options.script is not None:
        output.write(options.script, found["sbatch"])
        print(f"wrote {options.script}: sbatch {shlex.quote(str(options.script))}", file=sys.stderr)
    if options.json:
        print(to_json(found))
    else:
        show(found)
    return 0


def _found(options: Options) -> Json:
    from hrm.text.training.plan import memory_of, plan

    config, gpu, gpus, train = options.config, GPUS[options.gpu.lower()], options.gpus, options.config.train
    each = train.batch_size // gpus
    asked = -(-each // train.accumulate)
    size, processes = int(_USABLE * gpu.gib * 2**30), gpus if train.parallel == "fsdp" else 1
    with Console(stderr=True).status("counting memory and FLOPs"):
        figures = plan(config, asked)
        other = replace(train, checkpoint_activations=not train.checkpoint_activations)
        ways = {train.checkpoint_activations: figures.memory}
        ways[other.checkpoint_activations] = memory_of(replace(config, train=other), asked)
    taken = ways[train.checkpoint_activations]
    most = taken.rows(size, processes)
    preset = load_preset(options.preset, TextConfig)
    # In as few parts as fit, unless a flag says how many and those fit.
    flagged = train.accumulate != preset.train.accumulate and asked <= most
    tried = range(-(-each // most), min(train.batch_size, each + 1) + 1) if most and not flagged else ()
    accumulate = next((n for n in tried if train.batch_size % n == 0), train.accumulate)
    rows = -(-each // accumulate)
    peak = gpu.flops_float32 if train.precision == "float32" else gpu.flops_16_bit
    tokens, per_token = figures.steps * figures.tokens_per_step, figures.flops_per_step / figures.tokens_per_step
    rate = gpus * peak * options.utilisation / per_token
    hours = tokens / rate / 3600
    name, command = _command(options, preset, accumulate)
    return {
        "preset": options.preset,
        "parameters": figures.parameters,
        "steps": figures.steps,
        "tokens_per_step": figures.tokens_per_step,
        "tokens": tokens,
        "flops_per_token": per_token,
        "flops": figures.flops_per_step * figures.steps,
        "parts": figures.parts,
        "gpus": gpus,
        "gpu": {**gpu, "flops_used": peak},
        "usable_bytes": size,
        "rows_per_gpu": each,
        "rows_at_once": rows,
        "accumulate": accumulate,
        "as_set": {"accumulate": train.accumulate, "rows_at_once": asked, "total": taken.total(asked, processes)},
        "memory": {
            "recomputed" if recomputed else "kept": {
                **memory.parts(rows, processes),
                "total": memory.total(rows, processes),
                "most_rows": memory.rows(size, processes),
            }
            for recomputed, memory in sorted(ways.items())
        },
        "activations": "recomputed" if train.checkpoint_activations else "kept",
        "fits": rows <= most,
        "cache_bytes_per_token": figures.key_value_bytes_per_token,
        "utilisation": options.utilisation,
        "tokens_per_second": rate,
        "days": hours / 24,
        "cost": None if options.price is None else hours * gpus * options.price,
        "torchrun": torchrun(command, gpus, options.gpus_per_node),
        "price": options.price,
        "sbatch": sbatch(name, command, gpus, options.gpus_per_node, math.ceil(1.5 * hours)),
    }


def _timed(options: Options, schedules: list[Schedule], tokens: int) -> Json:
    """What was measured here, with the hours that the whole training would take."""
    from hrm.text.training.timing import timed

    with watched("timing cycles x steps") as progress:
        found = timed(options.config, schedules, progress=progress)
    rows = [{**row, "hours": tokens / row.training / 3600} for row in found.schedules]
    return {**found, "schedules": rows}


def _command(options: Options, preset: TextConfig, accumulate: int) -> tuple[str, list[str]]:
    """What the run is called, and the arguments of `hrm` that start it."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(options.preset).name.removesuffix(".yaml").removesuffix(".yml"))
    command = ["train", options.preset, "--data", options.config.data or "CORPUS", "--out", f"runs/{name}"]
    return name, command + _flags(changed(options.config, {"train.accumulate": accumulate}), preset)


def _flags(config: TextConfig, preset: TextConfig) -> list[str]:
    """The settings that differ from the preset's, as words of a command."""
    words: list[str] = []
    known = settings(preset)
    for name, value in settings(config).items():
        group, dot, last = name.replace("_", "-").rpartition(".")
        if name == "data" or value == known[name]:
            continue
        words.append(f"--{group}{dot}no-{last}" if value is False else f"--{group}{dot}{last}")
        words += [] if isinstance(value, bool) else map(str, value if isinstance(value, tuple) else (value,))
    return words


def show(found: Json) -> None:
    """Print a plan for people."""
    console, gib = Console(highlight=False, markup=False, soft_wrap=True), 2**30
    gpu, rows, days = found["gpu"], found["rows_at_once"], found["days"]
    facts = [
        ("parameters", f"{found['parameters']:,}"),
        ("tokens", f"{found['tokens']:,} in {found['steps']:,} steps"),
        ("", f"of {found['tokens_per_step']:,}, {found['rows_per_gpu']:,} rows per GPU"),
        ("FLOPs", f"{found['flops']:.3e}, attention counted whole"),
        ("FLOPs per token", f"{found['flops_per_token']:.3e}"),
    ]
    for part in found["parts"]:
        facts.append(("", f"{part['flops_per_token']:.3e} {part['name']}, {part['visits']} visits"))
    if any(part["name"] == "fast stack" for part in found["parts"]):
        facts.append(("", "visits: how often a token passes through these layers;"))
        facts.append(("", "the fast stack takes each step, a slow one each cycle"))
    facts += [
        ("GPUs", f"{found['gpus']} x {gpu['name']}"),
        ("", f"{gpu['gib']} GiB, of which {found['usable_bytes'] / gib:.1f} are used"),
        ("", f"{gpu['flops_used'] / 1e12:,.0f} TFLOP/s ({gpu['source']})"),
    ]
    for name, way in found["memory"].items():
        states, copies, step = (way[key] / gib for key in ("weights_gradients_optimizer", "copies", "step"))
        many = f"{rows:,} rows" if rows > 1 else "1 row"
        facts += [
            (f"activations {name}", f"{way['total'] / gib:.2f} GiB with {many} at once; {way['most_rows']:,} rows fit"),
            ("", f"weights, gradients, optimizer {states:.2f}"),
            ("", f"copies {copies:.2f}, step {step:.2f}"),
        ]
    speed = f"{found['tokens_per_second']:,.0f} tokens/s"
    facts += [
        ("cache", f"{found['cache_bytes_per_token']:,} bytes per token at full depth"),
        ("speed", f"{speed} if {found['utilisation']:.1%} of the FLOPs are used"),
        ("time", f"{days:.1f} days" if days >= 2 else f"{24 * days:.1f} hours"),
    ]
    if found["cost"] is not None:
        facts.append(("cost", f"{found['cost']:,.0f} at {found['price']:g} per GPU-hour"))
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        console.print(f"{name:<{width}}{value}")
    asked = found["as_set"]
    if not found["fits"]:
        ways = "--train.checkpoint-activations or --train.parallel fsdp"
        console.print(f"\nThat does not fit: use {ways}.")
    elif asked["accumulate"] != found["accumulate"]:
        fits = "fits as well" if asked["total"] <= found["usable_bytes"] else "does not fit"
        rows = f"{asked['rows_at_once']:,} row{'s' * (asked['rows_at_once'] > 1)} at once"
        console.print(
            f"\nThis is with --train.accumulate {found['accumulate']}. As it is set, {asked['accumulate']}, with "
            f"{rows}, it takes {asked['total'] / gib:.2f} GiB and {fits}."
        )
    if "timed" in found:
        _show_timed(found["timed"])
    several = " (on each node, with HEAD and SLURM_JOB_ID as --script sets them)" if "HEAD" in found["torchrun"] else ""
    console.print(f"\nTo start it{several}:\n{found['torchrun']}")


def _show_timed(timed: Json) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("cycles x steps", "training, tokens/s", "generating, tokens/s", "the whole training"):
        table.add_column(name, justify="right")
    for row in timed["schedules"]:
        own = "*" if row["own"] else " "
        table.add_row(
            f"{row['h_cycles']}x{row['l_cycles']}{own}", f"{row['training']:,.0f}", f"{row['generating']:,.1f}",
            f"{row['hours']:,.1f} hours",
        )  # fmt: skip
    threads = f" with {timed['threads']} thread{'s'[: timed['threads'] > 1]}" if timed["device"] == "cpu" else ""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nMeasured here, on {timed['device']}{threads}, at full depth, {timed['seconds']:g} s each:")
    console.print(table)
    console.print("*: the recipe's own schedule", soft_wrap=True)
