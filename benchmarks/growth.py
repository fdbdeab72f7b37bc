"""Does growing pay? A learner that gets layers half way against one that never does and one that has them at once.

    python benchmarks/growth.py --data HRM_DATA/text [--seeds 0 1] [--arms grown small large] [--characters 1000000]
        [--volumes 4] [--passes 1] [--dim 64] [--settings NAME=VALUE ...] [--work FOLDER] [--json FILE]

Shakespeare, speeches, Python code and Wikipedia in equal shares are cut into volumes of the same mixture, so that no
memory is needed. `grown` gets two fast and one slow layer (the default of `hrm learn`) after half of the volumes;
`small` never grows, `large` has these layers from the start. All read the same characters and have the same training
FLOPs (torch's counter, the mean over the schedules that are drawn): what a smaller model saves it spends on more rows
of them. Held-out bits a character of all volumes at the end, in every mode of chat; and around the moment of growth.
Runs that were interrupted are taken up again (`--work`).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from continual import BOOKS

from hrm.settings import changed
from hrm.text.chat.modes import SCHEDULES
from hrm.text.config import LearnConfig, groups_of
from hrm.text.data import Packed, documents
from hrm.text.learned import Book
from hrm.text.learning.learner import Learner
from hrm.text.learning.memory import Memory
from hrm.text.learning.trainer import DEEP, MODES
from hrm.text.model import HRMConfig
from hrm.text.names import typed
from hrm.text.training.plan import count

SOURCES = ("shakespeare", "speeches", "python", "wikipedia")


def volumes(folder: Path, work: Path, characters: int, count: int) -> list[Path]:
    """Files, each with the same share of every source."""
    part = characters // count // len(SOURCES)
    texts = ["".join(t for file in BOOKS[name] for t in documents(str(folder / file))) for name in SOURCES]
    found = [work / f"volume-{i}.txt" for i in range(count)]
    work.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(found):
        file.write_text("\n".join(text[i * part : (i + 1) * part] for text in texts))
    return found


def row_flops(work: Path, form: tuple[str, ...], length: int) -> float:
    """Of learning one row, in the mean over the schedules and numbers of segments that a learner draws.

    Counting takes a while, so that it is kept in the work folder.
    """
    file = work / "flops.json"
    known: dict[str, float] = json.loads(file.read_text()) if file.is_file() else {}
    if (name := f"{length} {' '.join(form)}") not in known:
        recipe, whole = changed(LearnConfig(), typed(form)), 0.0
        config = HRMConfig.of(**groups_of(recipe), vocab_size=100)
        for schedule, share in MODES:
            deep = DEEP if schedule == (2, 2) else 0.0
            whole += share * (1 - deep) * count(config, length, schedule=schedule, max_segments=1)[1]
            if deep:
                whole += share * deep * count(config, length, schedule=schedule, max_segments=config.max_segments)[1]
        file.write_text(json.dumps(known | {name: whole}))
        return whole
    return known[name]


class Paced(Learner):
    """A learner that begins a row at every `pace`-th character, also where that is longer than a row."""

    pace = 1.0

    def _steps(self, book: Book, training: Packed) -> int:
        return max(1, int(training.count / self.pace / self.config.batch_size))


def run(arm: str, seed: int, args: argparse.Namespace, files: list[Path]) -> dict[str, Any]:
    """Learn all volumes in an arm's way."""
    path, layers = args.work / f"{arm}-{seed}", args.layers
    shape = [f"hidden_size={args.dim}", f"num_attention_heads={max(1, args.dim // 32)}", *args.settings]
    shape += [f"intermediate_size={5 * args.dim // 2}"]
    config = LearnConfig(
        epochs=1, stride=args.length, length=args.length, batch_size=args.batch_size, lr=args.lr, grow_every=0,
        precision=args.precision, device="cpu", seed=seed, memory=0.0, replay=0.0, checkpoint_every=100,
    )  # fmt: skip
    stacks = {"small": (layers, layers), "large": (layers + config.grow_fast, layers + config.grow_slow)}
    forms = {n: (*shape, f"fast_layers={fast}", f"slow_layers={slow}") for n, (fast, slow) in stacks.items()}
    cost = {name: row_flops(args.work, form, args.length) for name, form in forms.items()}
    half = len(files) // 2
    plan = ["small"] * half + ["large"] * (len(files) - half) if arm == "grown" else [arm] * len(files)
    wanted = half * cost["small"] + (len(files) - half) * cost["large"]
    # As many rows more, or fewer, as its FLOPs allow.
    config = changed(config, typed(forms[plan[0]]))
    learner = Paced.open(path, Memory()) if (path / "run.json").is_file() else Paced.create(path, config, Memory())
    assert isinstance(learner, Paced)
    learner.pace = args.length / args.passes * sum(cost[name] for name in plan) / wanted
    moment: dict[str, float] = {}
    for i, file in enumerate(files):
        if arm == "grown" and i == half and not any(entry["kind"] == "depth" for entry in learner.growth):
            before = [learner.bits(book, args.eval_characters) for book in learner.books]
            learner.grow()
            after = [learner.bits(book, args.eval_characters) for book in learner.books]
            moment = {"before": statistics.mean(before), "after": statistics.mean(after)}
            learner.run.log({"event": "moment", "step": learner.step_number, **moment})
        book = learner.learn(file)
        print(f"{arm} seed {seed}: {file.name}, {book['step']} updates, {_scores(book)}", flush=True)
    modes = {
        name: statistics.mean(learner.bits(book, args.eval_characters, schedule=schedule) for book in learner.books)
        for name, schedule in SCHEDULES.items()
    }
    spent = sum(b["step"] * args.batch_size * cost[n] for b, n in zip(learner.books, plan, strict=True))
    moments = [r for r in learner.run.records() if r.get("event") == "moment"]
    return {
        "arm": arm, "seed": seed, "parameters": learner.parameters, "updates": learner.step_number, "flops": spent,
        "characters_learned": learner.step_number * args.batch_size * args.length, "bits_per_character": modes,
        "after_each_volume": [b["scores"][-1]["bits_per_character"] for b in learner.books],
        "seconds": learner.seconds, "moment": {k: moments[-1][k] for k in ("before", "after")} if moments else None,
    }  # fmt: skip


def _scores(book: Book) -> str:
    return " ".join(f"{bits:.3f}" for bits in book["scores"][-1]["bits_per_character"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=["grown", "small", "large"])
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--volumes", type=int, default=4)
    parser.add_argument("--passes", type=float, default=1.0, help="how often the grown learner reads them")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3, help="fast and slow ones each, before growing")
    parser.add_argument("--settings", nargs="*", default=[], help="more of the model's, as NAME=VALUE")
    parser.add_argument("--length", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--eval-characters", type=int, default=16_000, help="held-out ones of each volume")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/growth"))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "growth.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    files = volumes(args.data, args.work, args.characters, args.volumes)
    rows: list[dict[str, Any]] = []
    options = {name: value for name, value in vars(args).items() if name not in ("data", "work", "json")}
    for seed in args.seeds:
        for arm in args.arms:
            started = time.perf_counter()
            rows.append(run(arm, seed, args, files))
            print(
                f"{arm} seed {seed}: {time.perf_counter() - started:.0f} s, {rows[-1]['bits_per_character']}",
                flush=True,
            )
            facts = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps({"options": options, **facts, "runs": rows}, indent=1) + "\n")
    print(f"{'':8}{'parameters':>12}{'updates':>9}{'FLOPs':>11}" + "".join(f"{name:>17}" for name in SCHEDULES))
    for arm in args.arms:
        own = [row for row in rows if row["arm"] == arm]
        head = f"{arm:8}{own[0]['parameters']:12,}{own[0]['updates']:9}{own[0]['flops']:11.3e}"
        for name in SCHEDULES:
            bits = [row["bits_per_character"][name] for row in own]
            error = 2 * statistics.stdev(bits) / math.sqrt(len(bits)) if len(bits) > 1 else math.nan
            head += f"{statistics.mean(bits):9.3f} ± {error:.3f}"
        print(head)
    for row in rows:
        if row["moment"]:
            before, after = row["moment"]["before"], row["moment"]["after"]
            print(f"seed {row['seed']}: {before:.6f} before and {after:.6f} after growing")


if __name__ == "__main__":
    main()
