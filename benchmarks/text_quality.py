"""Does thinking in segments pay in text? HRM against a Transformer of equal parameters, at equal tokens and FLOPs.

    python benchmarks/text_quality.py --data HRM_DATA/text/tinyshakespeare.txt [--tokenizer char] [--seeds 0 1 2]
        [--tokens 2000000] [--dim 256] [--segments 4] [--settings NAME=VALUE ...] [--arms hrm tokens flops thrifty]
        [--json FILE] [--plot FILE] [--work FOLDER] [--times] [--compile]

Arms: `hrm`; `tokens`, a Transformer of the same width and as many blocks, on as many tokens; `flops`, the same with as
many more steps as the HRM's training FLOPs pay for (torch's counter, both at full depth); `thrifty`, the HRM with the
keys of `text-80m`: grouped heads, shared by all cycles and depths. All see the text in the same order and are measured
on held-out text. Of the HRMs also: every fixed depth, tokens that choose theirs (Q head, and the change of the
prediction), the same depths dealt at random, and the time of each at batch 1 and 8. Finished parts are kept in --work,
so that an interrupted run can resume; `--times` only takes the times of kept models again, if the machine was busy.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hrm.core.kernels import packed
from hrm.settings import changed, load_preset
from hrm.text import data as corpus
from hrm.text.config import TextConfig, groups_of
from hrm.text.data import Packed
from hrm.text.measuring.losses import evaluate
from hrm.text.model import HRMCache, HRMConfig, HRMForCausalLM
from hrm.text.names import from_model, typed
from hrm.text.training.plan import count
from hrm.text.training.trainer import TextTrainer

ARMS = ("hrm", "tokens", "flops", "thrifty")
PLAIN = ("tokens", "flops")
PROMPT, STEPS = 32, 96


def shape(args: argparse.Namespace, arm: str, vocabulary: int) -> HRMConfig:
    """The model of an arm: as many blocks of the same width."""
    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": args.dim, "num_attention_heads": max(1, args.dim // 64),
        "fast_layers": args.layers, "slow_layers": args.layers, "norm": "pre", "gate": True,
        "max_position_embeddings": args.length, "tie_word_embeddings": vocabulary > 1000,
    }  # fmt: skip
    if arm in PLAIN:
        return HRMConfig(**common, hierarchy=False)
    if arm == "thrifty":
        heads = max(1, common["num_attention_heads"] // 2)
        common |= {"num_key_value_heads": heads, "share_cycles": True, "share_segments": True}
    config = changed(TextConfig(), from_model(common) | {"halting.max_segments": args.segments, "halting.kind": "q"})
    config = changed(config, typed(args.settings))
    return HRMConfig.of(**groups_of(config), vocab_size=vocabulary)


def train(args: argparse.Namespace, config: HRMConfig, packed: Packed, steps: int, seed: int) -> tuple[Any, float]:
    """A trained model and the seconds it took."""
    base = load_preset("text-char", TextConfig)
    course = replace(
        base.train,
        steps=steps,
        batch_size=args.batch_size,
        precision=args.precision,
        device="cpu",
        compile=args.compile,
    )
    optim = replace(base.optim, lr=args.lr, warmup_steps=max(1, steps // 20))
    text = replace(base.text, length=args.length)
    torch.manual_seed(seed)
    settings = replace(base, train=course, optim=optim, text=text, seed=seed)
    trainer = TextTrainer(settings, HRMForCausalLM(config), packed, Accelerator(cpu=True))
    start = time.perf_counter()
    for step in range(steps):
        trainer.step()
        if (step + 1) % max(1, steps // 5) == 0:
            print(f"  step {step + 1}/{steps}  {trainer.describe(trainer.metrics())}", flush=True)
    return trainer.model, time.perf_counter() - start


def reopen(args: argparse.Namespace, name: str) -> HRMForCausalLM:
    """A kept model, uncompiled, in the precision it was trained in."""
    model = HRMForCausalLM.from_pretrained(args.work / name).eval()
    model.compute_dtype = getattr(torch, args.precision)
    return model


def times(model: HRMForCausalLM, held: Packed, **request: Any) -> dict[str, float]:
    """Milliseconds a step of reading held-out text token by token, as decoding does, at batch 1 and 8."""
    ids = torch.from_numpy(next(held.windows(PROMPT + STEPS, rows=8)).input_ids)
    found = {}
    with torch.inference_mode():
        model(ids[:1, :PROMPT])  # casts the weights, which are packed below
    for rows in (1, 8):
        best, depth = math.inf, 0.0
        for _ in range(3):
            cache = HRMCache()
            with torch.inference_mode(), packed(model):
                model(ids[:rows, :PROMPT], past_key_values=cache, **request)
                start = time.perf_counter()
                steps = [model(ids[:rows, i : i + 1], past_key_values=cache, **request).depth
                         for i in range(PROMPT, PROMPT + STEPS)]  # fmt: skip
                best = min(best, (time.perf_counter() - start) / STEPS)
            depth = float(torch.cat(steps).float().mean())
        found |= {f"ms_per_token_batch_{rows}": 1000 * best, f"timed_segments_batch_{rows}": depth}
    return found


def measure(args: argparse.Namespace, model: HRMForCausalLM, tokenizer: Any, held: Packed, arm: str) -> dict[str, Any]:
    """Bits a byte at every depth, where tokens choose theirs, and what each costs."""
    limit = args.eval_tokens
    if arm in PLAIN:
        return {"bits_per_byte": evaluate(model, tokenizer, held, args.length, limit=limit)["bits_per_byte"]}
    result: dict[str, Any] = {"adaptive": []}
    for halting, thresholds in (("q", (0.3, 0.5, 0.7, 0.9)), ("kl", (0.3, 0.1, 0.03, 0.01))):
        found = evaluate(
            model, tokenizer, held, args.length, limit=limit, halting=halting, thresholds=thresholds,
            exit_threshold=thresholds[0], halting_rule="last_exited",
        )  # fmt: skip
        for row in found["adaptive"]:
            request = {"halting": halting, "exit_threshold": row["exit_threshold"]}
            kept = {name: row[name] for name in ("mean_segments", "bits_per_byte")}
            result["adaptive"].append({**request, **kept, "random": row["random"]["bits_per_byte"]})
        result["fixed"] = [
            {"segments": row["segments"], "bits_per_byte": row["bits_per_byte"]} for row in found["fixed"]
        ]
    result["bits_per_byte"] = min(row["bits_per_byte"] for row in result["fixed"])
    return result


def clock(model: HRMForCausalLM, held: Packed, result: dict[str, Any]) -> None:
    """Put the times into what `measure` found."""
    if "fixed" not in result:
        result |= times(model, held)
        return
    for row in result["fixed"]:
        row |= times(model, held, halting="fixed", max_segments=row["segments"])
    for row in result["adaptive"]:
        row |= times(model, held, halting=row["halting"], exit_threshold=row["exit_threshold"])


def mean(values: list[float]) -> list[float]:
    """Mean and two standard errors."""
    error = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return [statistics.mean(values), error]


def draw(runs: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Bits a byte against mean depth, and against the measured time of a token."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    colors = {"fixed depth": "C0", "adaptive, q": "C1", "adaptive, kl": "C3", "its depths at random": "C2"}
    for axis, key, label in (
        (axes[0], "mean_segments", "mean depth, segments"),
        (axes[1], "ms_per_token_batch_1", "ms a token, batch 1"),
    ):
        fixed = [[{**row, "mean_segments": row["segments"]} for row in run["fixed"]] for run in runs["hrm"]]
        lines = {"fixed depth": fixed}
        for halting in ("q", "kl"):
            chosen = [[row for row in run["adaptive"] if row["halting"] == halting] for run in runs["hrm"]]
            lines[f"adaptive, {halting}"] = chosen
            if key == "mean_segments" and halting == "q":
                dealt = [[{**row, "bits_per_byte": row["random"]} for row in each] for each in chosen]
                lines["its depths at random"] = dealt
        for name, each in lines.items():
            points = sorted(
                (statistics.mean(r[i][key] for r in each), statistics.mean(r[i]["bits_per_byte"] for r in each))
                for i in range(len(each[0]))
            )
            style = "x:" if name == "its depths at random" else "o-"
            axis.plot(*zip(*points, strict=True), style, color=colors[name], label=name)
        axis.set(xlabel=label, ylabel="held-out bits a byte")
    # Far away from the rest, a Transformer's level would leave no room to see it.
    levels = {arm: statistics.mean(run["bits_per_byte"] for run in runs[arm]) for arm in runs if arm in PLAIN}
    words = ", ".join(f"equal {arm} {level:.3f}" for arm, level in levels.items())
    figure.suptitle(f"a plain Transformer of equal parameters: {words}", fontsize=10)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", default="char")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3, help="of each module; a Transformer has twice as many")
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--settings", nargs="*", default=[], help="of the HRM: horizon=per_cycle([2]) ...")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the training of every arm")
    parser.add_argument("--eval-tokens", type=int, default=50_000)
    parser.add_argument("--work", type=Path, default=Path("runs/text-quality"))
    parser.add_argument("--times", action="store_true", help="take the times of kept models again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    kept, held_out = corpus.hold_out(corpus.documents(str(args.data)))
    tokenizer = corpus.make_tokenizer(args.tokenizer, kept)
    packs = []
    for name, items in (("train", kept), ("validation", held_out)):
        folder = args.work / name
        exists = (folder / "index.json").is_file()
        packs.append(
            Packed.open(folder, tokenizer)
            if exists
            else Packed.write(folder, tokenizer, corpus.encode(tokenizer, items))
        )
    training, held = packs
    shapes = {arm: shape(args, arm, len(tokenizer)) for arm in ARMS}
    cost = {arm: count(config, args.length)[1] for arm, config in shapes.items()}
    base = max(1, args.tokens // (args.batch_size * args.length))
    steps = dict.fromkeys(ARMS, base) | {"flops": round(base * cost["hrm"] / cost["flops"])}
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        for arm in args.arms:
            done = args.work / f"{arm}-{seed}.json"
            if not done.is_file():
                print(f"seed {seed} {arm}: {steps[arm]} steps of {cost[arm] * args.batch_size:.2e} FLOPs", flush=True)
                model, seconds = train(args, shapes[arm], training, steps[arm], seed)
                model.save_pretrained(args.work / f"{arm}-{seed}")
                model = reopen(args, f"{arm}-{seed}")
                found = measure(args, model, tokenizer, held, arm)
                clock(model, held, found)
                found |= {"training_seconds": seconds, "parameters": sum(p.numel() for p in model.parameters())}
                done.write_text(json.dumps(found))
            elif args.times:
                found = json.loads(done.read_text())
                clock(reopen(args, f"{arm}-{seed}"), held, found)
                done.write_text(json.dumps(found))
            runs.setdefault(arm, []).append(json.loads(done.read_text()))
            last = runs[arm][-1]
            print(f"seed {seed} {arm:7} {last['bits_per_byte']:.4f} bits a byte, {last['parameters']:,} parameters, "
                  f"{last['training_seconds']:.0f} s", flush=True)  # fmt: skip
    summary: dict[str, Any] = {arm: mean([run["bits_per_byte"] for run in each]) for arm, each in runs.items()}
    for arm, (value, error) in summary.items():
        print(f"{arm:7} {value:.4f} +- {error:.4f} bits a byte")
    if "hrm" in runs:
        for i, row in enumerate(runs["hrm"][0]["fixed"]):
            bits = mean([run["fixed"][i]["bits_per_byte"] for run in runs["hrm"]])
            speed = statistics.mean(run["fixed"][i]["ms_per_token_batch_1"] for run in runs["hrm"])
            print(f"fixed {row['segments']}  {bits[0]:.4f} +- {bits[1]:.4f}  {speed:.2f} ms")
        for i, row in enumerate(runs["hrm"][0]["adaptive"]):
            each = [run["adaptive"][i] for run in runs["hrm"]]
            bits, dealt = (mean([r[k] for r in each]) for k in ("bits_per_byte", "random"))
            depth, speed = (statistics.mean(r[k] for r in each) for k in ("mean_segments", "ms_per_token_batch_1"))
            print(
                f"{row['halting']} {row['exit_threshold']}  depth {depth:.2f}  {bits[0]:.4f} +- {bits[1]:.4f}, "
                f"at random {dealt[0]:.4f}  {speed:.2f} ms"
            )
    if args.plot and "hrm" in runs:
        draw(runs, args.plot)
    if args.json:
        facts = {"settings": {k: str(v) for k, v in vars(args).items() if k not in ("data", "work", "json", "plot")}}
        facts |= {"data": args.data.name, "steps": steps, "flops_per_row": cost, "torch": torch.__version__}
        facts |= {"machine": platform.processor() or platform.machine(), "summary": summary, "runs": runs}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
