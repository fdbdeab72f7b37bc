"""What a repeated layer is worth where text is read once: an exponent, for truncated and for full gradient.

    python benchmarks/worth.py --data tinyshakespeare.txt --out DIR [--seeds 3] [--json FILE]

Plain Transformers of 2 to 8 blocks and an HRM of two blocks (one L, one H) visited 2 and 4 times read the same
characters once. What a plain model of n blocks would reach is read between those measured, on a scale of log n. A model
of 2 blocks visited r times that is as good as n blocks has the exponent log(n / 2) / log r: 0 if repeating brings
nothing, 1 if it is as good as new layers (the question of arXiv 2604.21106; there one model fits all sizes at equal
FLOPs, here text is equal). The learning rate of each arm is the best of three after a third of the text with one seed;
of two as good, the smaller. What is finished is kept in DIR, and the same command continues; processes with other
--arms may share a DIR.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fair import DIM, HEADS, RATES
from hrm.files.output import write_json
from hrm.text.arch import HaltingConfig, TextArch
from hrm.text.config import CorpusConfig, TextConfig
from hrm.text.data.packed import Batch
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.training.trainer import TextTrainer
from hrm.training.config import OptimConfig, TrainConfig

LENGTH, ROWS = 128, 16
AS_GOOD = 0.01
"""Bits by which learning rates may differ and be as good; of those the smallest is taken."""
PLAIN = {f"plain {n}": {"fast_layers": n - n // 2, "slow_layers": n // 2, "hierarchy": False} for n in (2, 3, 4, 6, 8)}
LOOPS = {
    f"{gradient}, {times} times": {
        "fast_layers": 1, "slow_layers": 1, "h_cycles": times, "l_cycles": 1,
        "horizon": "last_step" if gradient == "truncated" else f"per_cycle({[1] * times})",
    }
    for gradient in ("truncated", "full")
    for times in (2, 4)
}  # fmt: skip
ARMS = PLAIN | LOOPS


class Characters:
    """Rows of a text, each read once in an order that depends on the seed."""

    def __init__(self, ids: np.ndarray, seed: int) -> None:
        self.rows = ids[: (len(ids) - 1) // LENGTH * LENGTH + 1]
        self.order = np.random.default_rng(seed).permutation((len(self.rows) - 1) // LENGTH)

    @property
    def steps(self) -> int:
        """Whole batches."""
        return len(self.order) // ROWS

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        """Rows of a step."""
        starts = self.order[step * size + np.arange(rows.start, rows.stop)] * length
        found = self.rows[starts[:, None] + np.arange(length + 1)]
        return Batch(found[:, :-1], found[:, 1:], np.broadcast_to(np.arange(length), (len(starts), length)).copy())


def learn(arm: str, rate: float, seed: int, share: float, train: np.ndarray, held: np.ndarray, size: int) -> Any:
    """Read a share of the text; returns bits a character on the held-out part, and what it took."""
    arch = TextArch(dim=DIM, heads=HEADS, norm="post", intermediate_size=2 * DIM, **ARMS[arm])
    data = Characters(train, seed)
    steps = max(1, round(data.steps * share))
    config = TextConfig(
        arch=arch, halting=HaltingConfig(weight=0.0), text=CorpusConfig(length=LENGTH), data="text", seed=seed,
        optim=OptimConfig(name="muon", lr=rate / 5, muon_lr=rate, warmup_steps=20, ema=0.0, weight_decay=0.0),
        train=TrainConfig(
            steps=steps, batch_size=ROWS, precision="bfloat16", compile=True, log_every=10**6, threads=1, device="cpu"
        ),
    )  # fmt: skip
    torch.manual_seed(seed)
    shape = HRMConfig.of(arch, config.halting, vocab_size=size, eos_token_id=0, pad_token_id=0)
    model = HRMForCausalLM(shape)
    trainer, began = TextTrainer(config, model, data, Accelerator(cpu=True)), time.process_time()
    while trainer.step_number < steps:
        trainer.step()
    seconds, nats, count = time.process_time() - began, 0.0, 0
    rest = Characters(held, 0)
    with trainer.as_measured() as measured, torch.inference_mode():
        for step in range(rest.steps):
            batch = rest.batch(0, step, range(ROWS), ROWS, LENGTH)
            ids, labels = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.labels)
            logits = measured(ids).logits.float()
            nats += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
            count += labels.numel()
    return {"arm": arm, "rate": rate, "seed": seed, "share": share, "steps": steps, "seconds": seconds,
            "bits": nats / count / math.log(2)}  # fmt: skip


def exponents(found: dict[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Of each looped arm, with two standard errors: leaving out one seed after the other (jackknife)."""
    seeds = range(len(next(iter(found.values()))))

    def of(name: str, some: Sequence[int]) -> float:
        mean = {arm: statistics.mean(each[seed] for seed in some) for arm, each in found.items()}
        plain = [(int(arm.split()[1]), mean[arm]) for arm in PLAIN]
        return math.log(depth_of(mean[name], plain) / 2) / math.log(int(name.split(", ")[1].split()[0]))

    told: dict[str, tuple[float, float]] = {}
    for name in LOOPS:
        parts = [of(name, [seed for seed in seeds if seed != left]) for left in seeds if len(seeds) > 1]
        squares = sum((each - statistics.mean(parts)) ** 2 for each in parts)
        error = 2 * math.sqrt(squares * (len(parts) - 1) / len(parts)) if parts else math.nan
        told[name] = of(name, seeds), error
    return told


def depth_of(bits: float, plain: list[tuple[int, float]]) -> float:
    """The number of blocks at which plain models would reach these bits, on straight lines over log n as far as deeper
    is better; where two blocks are better already, on the first of these lines, and at most the best depth."""
    known = [plain[0]]
    for n, loss in plain[1:]:
        if loss < known[-1][1]:
            known.append((n, loss))
    if len(known) == 1 or bits <= known[-1][1]:
        return float(known[-1][0])
    pairs = list(itertools.pairwise(known))
    (n, loss), (deeper, less) = next((pair for pair in pairs if pair[0][1] >= bits >= pair[1][1]), pairs[0])
    return float(n * (deeper / n) ** ((loss - bits) / (loss - less)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text; its last tenth is held out")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is finished")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="exponents need all of them")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    text = args.data.read_text("utf-8")
    table = {letter: i + 1 for i, letter in enumerate(sorted({*text}))}
    ids = np.array([table[letter] for letter in text], np.int64)
    train, held = ids[: len(ids) * 9 // 10], ids[len(ids) * 9 // 10 :]

    def part(arm: str, rate: float, seed: int, share: float) -> Any:
        file = args.out / f"{arm.replace(', ', '-').replace(' ', '-')}-{rate:g}-{seed}-{share:.2f}.json"
        if not file.is_file():
            write_json(file, learn(arm, rate, seed, share, train, held, len(table) + 1))
        one = json.loads(file.read_text("utf-8"))
        print(f"{arm:<20} {rate:g} seed {seed} {share:.2f}  {one['bits']:.4f} bits  {one['seconds']:.0f} s", flush=True)
        return one

    rates = {}
    for arm in args.arms:
        tried = {rate: part(arm, rate, 0, 1 / 3)["bits"] for rate in RATES}
        rates[arm] = min(rate for rate, bits in tried.items() if bits < min(tried.values()) + AS_GOOD)
    runs = [part(arm, rates[arm], seed, 1.0) for seed in range(args.seeds) for arm in args.arms]
    found: dict[str, list[float]] = {}
    for one in runs:
        found.setdefault(one["arm"], []).append(one["bits"])
    told = exponents(found) if set(args.arms) == set(ARMS) else {}
    for arm, bits in found.items():
        line = f"{arm:<20} rate {rates[arm]:g}  {statistics.mean(bits):.4f} bits"
        if arm in told:
            line += "  exponent {:.2f} +- {:.2f}".format(*told[arm])
        print(line)
    if args.json:
        write_json(args.json, {"data": args.data.name, "runs": runs, "exponents": told})


if __name__ == "__main__":
    main()
