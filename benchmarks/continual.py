"""Learn five books in a row and see what is forgotten: the default memory against none, all at once, and other rivals.

    python benchmarks/continual.py --data HRM_DATA/text [--seeds 0 1 2] [--arms default naive joint ewc generated]
        [--characters 200000] [--stride 20] [--epochs 1] [--settings hidden_size=128 ...] [--report]
        [--json FILE] [--plot FILE]

Every arm learns the same number of first characters of Alice and Looking-Glass, Shakespeare, speeches, Python code and
Wikipedia in this order, with the same model, updates and rows of the new book. `matrix[i][j]` are held-out bits a
character on book j after learning book i. Forgetting of a book is the relative rise of its bits from right after it was
learned to the end; the gain on the newest book is what learning it brought, relative to training on all books at once.
Runs can be interrupted and are taken up again (`--work`).
"""

from __future__ import annotations

import argparse
import gzip
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrm.settings import changed
from hrm.text.config import LearnConfig
from hrm.text.data import Batch, Packed, ReadOptions
from hrm.text.learning.learner import Learner
from hrm.text.learning.memory import DreamMemory, Memory, ReplayRows, Reservoir
from hrm.text.learning.trainer import BookTrainer
from hrm.text.model import HRMForCausalLM
from hrm.text.names import typed

BOOKS = {
    "alice": ("alice.txt", "looking_glass.txt"),
    "shakespeare": ("tinyshakespeare.txt",),
    "speeches": ("state_of_the_union_1945_1998.txt.gz",),
    "python": ("python_code.txt.gz",),
    "wikipedia": ("wiki_demo.txt.gz",),
}
EWC = 2000.0
"""Weight of the quadratic pull; not tuned."""


class Elastic(Memory):
    """Elastic weight consolidation (arXiv 1612.00796): weights that mattered for old books are held where they were."""

    def __init__(self, weight: float = EWC) -> None:
        self.weight = weight
        self.fisher: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}

    def remember(
        self, book: int, tokens: np.ndarray, characters: int, length: int, seed: int, model: HRMForCausalLM
    ) -> None:
        """Mean squared gradients over rows of the book, added to those of the books before."""
        rng = np.random.default_rng([seed, book])
        model.zero_grad()
        squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        for start in rng.integers(0, len(tokens) - length - 1, 64):
            row = torch.from_numpy(tokens[start : start + length + 1].astype(np.int64))[None]
            model(row[:, :-1], labels=row[:, :-1], max_segments=1, halting="fixed").loss.backward()
            for name, p in model.named_parameters():
                if p.grad is not None:
                    squares[name] += p.grad.square() / 64
            model.zero_grad()
        self.fisher = {n: s + _padded(self.fisher.get(n), s) for n, s in squares.items()}
        self.anchor = {name: p.detach().clone() for name, p in model.named_parameters()}

    def pull(self, model: HRMForCausalLM) -> None:
        """Add the gradient of weight / 2 * fisher * (p - anchor)^2."""
        for name, p in model.named_parameters():
            if name in self.fisher and p.grad is not None:
                old = self.anchor[name]
                pull = self.fisher[name] * (p.detach()[: len(old)] - old) if p.ndim else 0.0
                p.grad[: len(old)] += self.weight * pull


class Generated(DreamMemory):
    """What the model itself writes from the first characters of kept pieces, and nothing of the books' own text."""

    def rows(self, count: int, length: int, rng: np.random.Generator, book: int) -> ReplayRows | None:
        """Dreams, and what follows in them."""
        if self.dreams is None:
            return None
        found = self.dreams[rng.integers(0, len(self.dreams), count)]
        return ReplayRows(found[:, :-1], found[:, 1:])


class Mixed:
    """Rows of several books in turn: joint training."""

    def __init__(self, books: list[Packed]) -> None:
        self.books = books
        self.count = sum(book.count for book in books)

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        """Row r of the run is of book r modulo their number."""
        parts = []
        for row in rows:
            number = step * size + row
            book = self.books[number % len(self.books)]
            parts.append(book.batch(seed, number // len(self.books), range(1), 1, length))
        return Batch(*map(np.concatenate, zip(*parts, strict=True)))


def _padded(old: Tensor | None, like: Tensor) -> Tensor:
    if old is None or old.shape == like.shape:
        return torch.zeros_like(like) if old is None else old
    new = torch.zeros_like(like)
    new[: len(old)] = old
    return new


def books(folder: Path, work: Path, characters: int) -> list[Path]:
    """The first characters of every book as files."""
    found = []
    for name, files in BOOKS.items():
        text = ""
        for file in files:
            raw = (folder / file).read_bytes()
            text += (gzip.decompress(raw) if file.endswith(".gz") else raw).decode()
        path = work / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text[:characters])
        found.append(path)
    return found


def sequence(arm: str, path: Path, files: list[Path], config: LearnConfig, limit: int) -> dict[str, Any]:
    """Learn the books one after another with an arm's memory."""
    memories = {"default": None, "naive": Memory(), "ewc": Elastic(), "generated": Generated(config.memory)}
    memory = (memories | {"reservoir": Reservoir(config.memory)})[arm]
    begun = (path / "run.json").is_file()
    learner = Learner.open(path, memory, config) if begun else Learner.create(path, config, memory)
    matrix = json.loads((path / "matrix.json").read_text()) if (path / "matrix.json").is_file() else []
    before = []
    for i, file in enumerate(files):
        entry = learner.learn(file)
        before.append(entry["bits_per_character_before"])
        if len(matrix) <= i:
            matrix.append([learner.bits(book, limit) for book in learner.books])
            (path / "matrix.json").write_text(json.dumps(matrix))
    tensors = learner.memory.pack()
    return {
        "matrix": matrix,
        "before": before,
        "memory_bytes": sum(t.numel() for t in tensors.values()),
        "seconds": learner.seconds,
        "updates": learner.step_number,
    }


def joint(path: Path, files: list[Path], config: LearnConfig, limit: int) -> dict[str, Any]:
    """All books at once, as many updates as all of them get one after another."""
    learner, start = Learner.create(path, config), time.perf_counter()
    for file in files:
        learner._enter(file, None, ReadOptions()).state = "finished"
    mixed = Mixed([Packed.open(learner._folder(book) / "train") for book in learner.books])
    bias = learner.model.lm_head.bias
    assert bias is not None
    bias.data.zero_()  # nothing was learned that new characters could disturb
    book = learner.books[0]
    steps = sum(learner._steps(b, Packed.open(learner._folder(b) / "train")) for b in learner.books)
    trainer = BookTrainer(learner, book, mixed, steps)  # type: ignore[arg-type]
    for _ in range(steps):
        trainer.step()
    return {
        "matrix": [[learner.bits(b, limit) for b in learner.books]],
        "seconds": time.perf_counter() - start,
        "updates": steps,
    }


def forgetting(matrix: list[list[float]]) -> list[float]:
    """Relative rise of every book but the last, from right after it was learned to the end."""
    return [matrix[-1][j] / matrix[j][j] - 1 for j in range(len(matrix) - 1)]


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Means over the seeds with intervals of two standard errors."""
    found: dict[str, dict[str, Any]] = {}
    reference = [run["matrix"][-1][-1] for run in runs.get("joint", [])]
    for arm, each in runs.items():
        last = [run["matrix"][-1][-1] for run in each]
        found[arm] = {"seeds": len(each), "newest_bits": _mean(last), "seconds": _mean([r["seconds"] for r in each])}
        found[arm]["final_bits"] = [_mean([run["matrix"][-1][j] for run in each]) for j in range(len(BOOKS))]
        if arm == "joint":
            continue
        rises = [forgetting(run["matrix"]) for run in each]
        found[arm]["mean_rise"] = _mean([statistics.mean(r) for r in rises])
        found[arm]["worst_rise"] = _mean([max(r) for r in rises])
        found[arm]["memory_bytes"] = _mean([run["memory_bytes"] for run in each])
        if reference:
            # What the book brought, from the same point: the model that has read the other four.
            gains = [
                (run["before"][-1] - end) / (run["before"][-1] - goal)
                for run, end, goal in zip(each, last, reference, strict=False)
            ]
            found[arm]["share_of_joint_gain"] = _mean(gains)
    return found


def _mean(values: list[float]) -> list[float | None]:
    error = 2 * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return [statistics.mean(values), error]


def draw(runs: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Bits a character of every book as the books go by, a line for each arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BOOKS), figsize=(15, 3.2), constrained_layout=True)
    for j, (name, axis) in enumerate(zip(BOOKS, axes, strict=True)):
        for color, (arm, each) in enumerate(runs.items()):
            if arm == "joint":
                axis.axhline(statistics.mean(r["matrix"][0][j] for r in each), color="0.5", ls="--", label="joint")
                continue
            lines = np.array([[run["matrix"][i][j] for i in range(j, len(BOOKS))] for run in each])
            axis.plot(range(j + 1, len(BOOKS) + 1), lines.mean(0), "o-", color=f"C{color}", label=arm)
        axis.set(title=name, xlabel="books read", xticks=range(1, len(BOOKS) + 1))
    axes[0].set_ylabel("held-out bits a character")
    axes[0].legend()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["default", "naive", "joint"])
    parser.add_argument("--characters", type=int, default=200_000)
    parser.add_argument("--stride", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--settings", nargs="*", default=["hidden_size=128", "num_attention_heads=4"])
    parser.add_argument("--memory", type=float, default=LearnConfig().memory)
    parser.add_argument("--replay", type=float, default=LearnConfig().replay)
    parser.add_argument("--lr", type=float, default=2e-3, help="twice the default: twice as narrow, and one pass")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--eval-characters", type=int, default=16000)
    parser.add_argument("--work", type=Path, default=Path("runs/continual"))
    parser.add_argument("--report", action="store_true", help="run nothing, only tell what was run")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    files = books(args.data, args.work / "books", args.characters)
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in args.seeds:
        for arm in args.arms:
            done = args.work / f"{arm}-{seed}.json"
            if not done.is_file() and args.report:
                continue
            if not done.is_file():
                config = LearnConfig(
                    epochs=args.epochs, stride=args.stride, memory=args.memory,
                    replay=args.replay, lr=args.lr, embedding_lr=args.lr / 2, precision=args.precision, seed=seed,
                    device="cpu", grow_every=0,
                    log_every=200, checkpoint_every=10**6, eval_characters=4000,
                )  # fmt: skip
                config = changed(config, typed(args.settings))
                path = args.work / f"{arm}-{seed}"
                run = joint if arm == "joint" else lambda *rest, arm=arm: sequence(arm, *rest)
                done.write_text(json.dumps(run(path, files, config, args.eval_characters)))
            runs.setdefault(arm, []).append(json.loads(done.read_text()))
            last = runs[arm][-1]
            bits = " ".join(f"{value:.3f}" for value in last["matrix"][-1])
            rise = "" if arm == "joint" else " ".join(f"{r:+.1%}" for r in forgetting(last["matrix"]))
            print(f"seed {seed} {arm:10} bits {bits}  rise {rise}  {last['seconds']:.0f} s", flush=True)
    found = summary(runs)
    for arm, row in found.items():
        parts = [
            f"{key} {value[0]:.4g}" + ("" if value[1] is None else f" +- {value[1]:.2g}")
            for key, value in row.items()
            if key not in ("seeds", "final_bits")
        ]
        print(f"{arm:10} {'  '.join(parts)}")
    if args.plot:
        draw(runs, args.plot)
    if args.json:
        facts = {"settings": {k: str(v) for k, v in vars(args).items() if k not in ("data", "work", "json", "plot")}}
        facts |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
        args.json.write_text(json.dumps({**facts, "summary": found, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
