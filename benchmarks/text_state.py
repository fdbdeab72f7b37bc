"""Fresh states or carried ones: labels that are independent, labels that depend on the last one, and running text.

    python benchmarks/text_state.py --text alice.txt [--seeds 2] [--steps 300] [--json-file FILE]

A small model is trained as always, with fresh states, on each of three sets; then the same weights read what was held
out token by token, every token beginning fresh (`reset`) or in the state in which the last one ended (`carry`). Half of
the tokens that count in the labels' sets are the ends of answers, which are easy.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from hrm.cli.main import main as hrm

SHAPE = "--arch.dim 64 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 128"
SHAPE += " --halting.max-segments 2 --halting.kind fixed"


def labels(file: Path, rows: int, chained: bool, seed: int) -> Path:
    """Conversations of twelve words, each with a label: whether it has an odd number of a, or whether that changed."""
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        turns, last = [], False
        for _ in range(12):
            word = "".join(draw.choice("ab") for _ in range(3))
            odd = word.count("a") % 2 == 1
            last = odd != last if chained else odd
            turns += [{"role": "user", "content": word}, {"role": "assistant", "content": "+" if last else "-"}]
        lines.append(json.dumps({"messages": turns}))
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def measured(folder: Path, name: str, data: Path, steps: int, seed: int, *flags: str) -> dict[str, Any]:
    """A model trained on a set, read both ways."""
    run, out = folder / f"{name}-{seed}", folder / f"{name}-{seed}.json"
    common = f"--text.length 72 --train.batch-size 16 --optim.warmup-steps 20 --optim.lr 3e-3 --seed {seed}"
    common += f" --train.device cpu --train.steps {steps} --train.eval-every {steps} --train.log-every {steps}"
    train = ["train", "text-char", "--data", str(data), "--out", str(run), *common.split(), *flags]
    assert hrm([*train, *SHAPE.split()]) == 0
    read = ["--length", "72", "--state", "carry", "--limit", "1400", "--batch-size", "64", "--device", "cpu"]
    assert hrm(["eval", str(run), *read, "--json-file", str(out)]) == 0
    return json.loads(out.read_text("utf-8"))["states"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json-file", type=Path)
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chat = ("--text.kind", "chat", "--text.template", "{question} {answer}")
        for seed in range(args.seeds):
            independent = labels(folder / "independent.jsonl", 2000, False, seed)
            chained = labels(folder / "chained.jsonl", 2000, True, seed)
            for name, data, flags in (
                ("independent labels", independent, chat),
                ("labels after labels", chained, chat),
                ("running text", args.text, ()),
            ):
                states = measured(folder, name.replace(" ", "-"), data, args.steps, seed, *flags)
                found.append({"set": name, "seed": seed, **states})
    print(f"{'set':<22}{'seed':>5}{'reset, nats':>13}{'carry, nats':>13}{'reset, right':>14}{'carry, right':>14}")
    for row in found:
        numbers = [row[state][key] for key in ("loss", "token_accuracy") for state in ("reset", "carry")]
        print(f"{row['set']:<22}{row['seed']:>5}" + "{:>13.4f}{:>13.4f}{:>14.2%}{:>14.2%}".format(*numbers))
    if args.json_file:
        args.json_file.write_text(json.dumps(found, indent=2), "utf-8")


if __name__ == "__main__":
    main()
