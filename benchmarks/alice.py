"""Does the learner write Alice as well as a plain Transformer of the same size and time?

    python benchmarks/alice.py --data HRM_DATA/text/alice.txt [--seeds 0] [--epochs 12] [--transformer-epochs 36 18]
        [--dim 128] [--settings NAME=VALUE ...] [--transformer NAME=VALUE ...] [--arms hrm transformer]
        [--work FOLDER] [--json FILE]
    python benchmarks/alice.py --data ... --arms late once --late-epochs 8 --transformer-epochs 12 --seeds 0 1 2

The HRM is what `hrm learn` makes of the book with these settings. The Transformer has as many blocks of the same width
and the same learner; it may read the book more often, so that it gets at least the HRM's processor time. Since more
epochs than are good for it would hold it back, several numbers of them can be given, and the best counts. `late` is the
HRM whose loops begin in the last quarter, `once` the same without any, each stack visited once, as often read as the
Transformer. Held-out bits a character (the last tenth of each block of the book), samples, processor seconds and, for
the HRM, the modes of `hrm chat`. One thread each, so that two arms may run side by side. Finished parts are kept in
`--work`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from hrm.settings import changed
from hrm.text.chat.modes import SCHEDULES
from hrm.text.config import LearnConfig
from hrm.text.learning.learner import Learner
from hrm.text.names import typed

WHOLE = 10**6
"""Characters to measure on: all that are held out."""


def learn(args: argparse.Namespace, arm: str, epochs: int, seed: int) -> dict[str, Any]:
    """Read the book this many times; returns the scores."""
    own = ("hierarchy=False", "max_segments=1", *args.transformer) if arm == "transformer" else args.settings
    own = (*own, *{"late": ("late=0.75", "max_segments=1"), "once": ("late=0.999999", "max_segments=1")}.get(arm, ()))
    shape = (f"hidden_size={args.dim}", f"num_attention_heads={args.dim // 32}", *own)
    config = LearnConfig(
        epochs=epochs, length=args.length, stride=args.length, lr=args.lr, embedding_lr=args.lr / 2,
        precision=args.precision, device="cpu", seed=seed, eval_characters=WHOLE, checkpoint_every=10**6,
    )  # fmt: skip
    config = changed(config, typed(shape))
    path = args.work / f"{arm}-{epochs}-{seed}"
    shutil.rmtree(path, ignore_errors=True)  # half a run has half a time
    learner = Learner.create(path, config)
    seconds = time.process_time()

    def say(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            done, left = f"{event['book_step']}/{event['steps']}", event["left"] / 60
            print(f"  {arm} {done}  {event['bits']:.3f} bits  {left:.1f} min left", flush=True)

    book = learner.learn(args.data, say=say)
    seconds = time.process_time() - seconds
    modes = {} if arm in ("transformer", "once") else SCHEDULES
    schedule = SCHEDULES["fast"] if arm == "once" else None  # it knows no other one
    return {
        "epochs": epochs, "updates": book["step"], "seconds": seconds, "parameters": learner.parameters,
        "bits_per_character": learner.bits(book, WHOLE, schedule=schedule),
        "modes": {name: learner.bits(book, WHOLE, schedule=schedule) for name, schedule in modes.items()},
        "after_each_epoch": [score["bits_per_character"][0] for score in book["scores"]],
        "sample": learner.sample(600)[0],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["hrm", "transformer"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--late-epochs", type=int, nargs="+", default=[8])
    parser.add_argument("--transformer-epochs", type=int, nargs="+", default=[36, 18])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--length", type=int, default=80)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--settings", nargs="*", default=["horizon=per_cycle([2])", "dropout=0.1"])
    parser.add_argument("--transformer", nargs="*", default=["dropout=0.2"], help="its settings")
    parser.add_argument("--work", type=Path, default=Path("runs/alice"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for arm in args.arms:
            counts = {"hrm": [args.epochs], "late": args.late_epochs}.get(arm, args.transformer_epochs)
            for epochs in counts:
                done = args.work / f"{arm}-{epochs}-{seed}.json"
                if not done.is_file():
                    done.write_text(json.dumps({"arm": arm, "seed": seed, **learn(args, arm, epochs, seed)}))
                last = json.loads(done.read_text())
                runs.append(last)
                modes = "  ".join(f"{name} {bits:.3f}" for name, bits in last["modes"].items())
                print(
                    f"seed {seed} {arm:11} {epochs:3} epochs  {last['seconds']:5.0f} s  "
                    f"{last['parameters']:,} parameters  {last['bits_per_character']:.4f} bits  {modes}",
                    flush=True,
                )
    if args.json:
        facts = {"settings": {k: str(v) for k, v in vars(args).items() if k not in ("data", "work", "json")}}
        facts |= {"data": args.data.name, "torch": torch.__version__}
        facts |= {"machine": platform.processor() or platform.machine(), "runs": runs}
        args.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
