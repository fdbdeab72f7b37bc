"""hrm plan: what a training on text takes on a cluster: memory, time, money, and the lines that start it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from hrm.cli.options import Positional, TextSettings, first_named, parse
from hrm.console import Console
from hrm.files import output
from hrm.files.output import to_json
from hrm.files.ranges import ABOVE_ZERO, Range
from hrm.files.reading import UserError, nearest
from hrm.files.records import Json
from hrm.settings import kind_of, load_preset, presets
from hrm.text.config import TextConfig
from hrm.training.cluster import GPUS, sbatch, torchrun

_USABLE = 0.92
"""Of a GPU's memory: the rest is taken by its driver, the communication and what lies between allocations."""


@dataclass(frozen=True)
class Options:
    """Say what a training on text takes: memory, FLOPs, days and price on these GPUs, and how it is started."""

    preset: Positional[str]
    """Text preset, YAML file or run folder."""
    gpus: Annotated[int, Range(1, 1_000_000)] = 1
    """How many there are in all."""
    gpu: str = "h100"
    """Which; an unknown name is answered with those that are known."""
    gpus_per_node: Annotated[int, Range(1, 1024)] = 8
    """How many a node has."""
    utilisation: Annotated[float, Range(ABOVE_ZERO, 1)] = 0.3
    """Share of the GPU's FLOPs that a training reaches. An assumption: measure yours and give it here."""
    price: Annotated[float | None, Range(0, 10**6)] = None
    """Of a GPU for an hour, in any currency."""
    script: Path | None = None
    """Also write the Slurm script to this file."""
    json: bool = False
    """Print it as JSON."""
    config: TextSettings = field(default_factory=TextConfig)


def main(args: list[str]) -> int:
    """Run the verb."""
    named = first_named((Options,), args)
    if named and kind_of(named) is not TextConfig:
        texts = ", ".join(presets(TextConfig))
        raise UserError(
            f"hrm plan is for models of text ({texts}): what training {named} takes, hrm train {named} --dry-run shows"
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
    output.check("--script", options.script)
    found = _found(options)
    if options.script is not None:
        output.write(options.script, found["sbatch"])
    if options.json:
        print(to_json(found))
    else:
        show(found)
    return 0


def _found(options: Options) -> Json:
    from hrm.text.training.plan import memory_of, plan

    config, gpu, gpus, train = options.config, GPUS[options.gpu.lower()], options.gpus, options.config.train
    each = train.batch_size // gpus
    rows = -(-each // train.accumulate)
    size, processes = int(_USABLE * gpu.gib * 2**30), gpus if train.parallel == "fsdp" else 1
    with Console(stderr=True).status("counting memory and FLOPs"):
        figures = plan(config, rows)
        other = replace(train, checkpoint_activations=not train.checkpoint_activations)
        ways = {train.checkpoint_activations: figures.memory}
        ways[other.checkpoint_activations] = memory_of(replace(config, train=other), rows)
    most = ways[train.checkpoint_activations].rows(size, processes)
    peak = gpu.flops_float32 if train.precision == "float32" else gpu.flops_16_bit
    tokens, per_token = figures.steps * figures.tokens_per_step, figures.flops_per_step / figures.tokens_per_step
    rate = gpus * peak * options.utilisation / per_token
    hours = tokens / rate / 3600
    name = Path(options.preset).name.removesuffix(".yaml").removesuffix(".yml")
    parts = next((n for n in range(1, train.batch_size) if train.batch_size % n == 0 and each <= n * most), None)
    command = ["train", options.preset, "--data", "CORPUS", "--out", f"runs/{name}"]
    command += ["--train.accumulate", str(parts)] if parts and parts != train.accumulate else []
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
        "rows_at_once": rows,
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
        "sbatch": sbatch(name, command, gpus, options.gpus_per_node, max(1, math.ceil(hours))),
    }


def show(found: Json) -> None:
    """Print a plan for people."""
    console, gib = Console(highlight=False, markup=False, soft_wrap=True), 2**30
    gpu, rows = found["gpu"], found["rows_at_once"]
    facts = [
        ("parameters", f"{found['parameters']:,}"),
        ("tokens", f"{found['tokens']:,} in {found['steps']:,} steps of {found['tokens_per_step']:,}"),
        ("FLOPs", f"{found['flops']:.3e}, {found['flops_per_token']:.3e} per token, attention counted whole:"),
    ]
    for part in found["parts"]:
        facts.append(("", f"{part['flops_per_token']:.3e} in the {part['name']} ({part['visits']} visits)"))
    facts.append(
        ("GPUs", f"{found['gpus']} x {gpu['name']}: {gpu['gib']} GiB, {gpu['flops_used'] / 1e12:,.0f} TFLOP/s")
    )
    facts.append(("", gpu["source"]))
    for name, way in found["memory"].items():
        states, copies, step = (way[key] / gib for key in ("weights_gradients_optimizer", "copies", "step"))
        mark = ", as set" if name == found["activations"] else ""
        facts += [
            (f"activations {name}{mark}", f"{way['total'] / gib:.2f} GiB per GPU with {rows:,} row(s) at once:"),
            ("", f"weights, gradients, optimizer {states:.2f}, copies {copies:.2f}, step {step:.2f}"),
            ("", f"at most {way['most_rows']:,} rows at once in {found['usable_bytes'] / gib:.1f} GiB"),
        ]
    facts += [
        ("cache", f"{found['cache_bytes_per_token']:,} bytes per token at full depth"),
        ("speed", f"{found['tokens_per_second']:,.0f} tokens/s if {found['utilisation']:.0%} of the FLOPs are used"),
        ("time", f"{found['days']:.2f} days"),
        *([] if found["cost"] is None else [("cost", f"{found['cost']:,.0f}")]),
    ]
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        console.print(f"{name:<{width}}{value}")
    if not found["fits"]:
        ways = "raise --train.accumulate, or use --train.checkpoint-activations or --train.parallel fsdp"
        console.print(f"\nThat does not fit: {ways}.")
    console.print(f"\n{found['torchrun']}")
