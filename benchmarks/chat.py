"""How fast the small model of `hrm learn` writes: with its cache against a plain loop, and how soon `hrm chat` begins.

    python benchmarks/chat.py [--threads 1] [--rounds 3] [--new 64] [--json FILE]

A run of the default shape is made by `hrm learn` from a few lines; it has hardly learned anything, which costs as much.
Plain loop: the whole text through the model for every token, then the likeliest one; it has nothing else to do. Cached:
what chat and `hrm generate` do, greedily. Both write the same text, which is checked. First character: in a new
process, from the moment the model is loaded to the first piece of an answer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hrm.cli.main import main as hrm
from hrm.text.chat.modes import SCHEDULES
from hrm.text.load import load_text
from hrm.text.model import HRMForCausalLM
from hrm.text.writing.generation import Sampling, generate

PROMPT = "Alice was tired "
"""With 64 characters more, what a run of this shape remembers in a talk."""
BOOK = "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.\n" * 8
CHECKED = 16
"""Characters that are compared."""
FIRST = """
import sys, time
import torch
torch.set_num_threads(int(sys.argv[3]))
from dataclasses import replace
from hrm.text.chat.session import Session
from hrm.text.load import load_text
start = time.perf_counter()
session = Session(load_text(sys.argv[1], device="cpu"))
session.change(replace(session.settings, mode=sys.argv[2]))
loaded = time.perf_counter()
def take(said):
    print(loaded - start, time.perf_counter() - loaded)
    session.interrupt()
session.answer("Alice was", take)
"""


def seconds(work: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def plain(model: HRMForCausalLM, ids: list[int], new: int, **request: Any) -> list[int]:
    """The likeliest next token `new` times, each time from the whole text."""
    ids = list(ids)
    for _ in range(new):
        out = model(torch.tensor([ids]), use_cache=False, **request)
        ids.append(int(out.logits[0, -1].argmax()))
    return ids[-new:]


def decode(run: Path, new: int, rounds: int) -> dict[str, Any]:
    """Characters a second of both in every mode, in turns after one to warm up, and the median of the ratios."""
    loaded = load_text(run, device="cpu")
    model, tokenizer = loaded.model, loaded.tokenizer
    model.generation_config.eos_token_id = tokenizer.eos_token = None  # so that it writes on
    ids = tokenizer(PROMPT)["input_ids"]
    found = {}
    for name, schedule in SCHEDULES.items():
        request: dict[str, Any] = {"schedule": schedule, "max_segments": 1, "halting": "fixed"}
        sampling = Sampling(max_new_tokens=new, greedy=True)
        cached = [token.id for token in generate(model, tokenizer, PROMPT, sampling, **request).tokens][:CHECKED]
        same = cached == plain(model, ids, CHECKED, **request)  # type: ignore[arg-type]
        pairs = [
            (
                seconds(lambda request=request: plain(model, ids, new, **request)),  # type: ignore[arg-type]
                seconds(lambda request=request, how=sampling: generate(model, tokenizer, PROMPT, how, **request)),
            )
            for _ in range(rounds)
        ]
        ratios = [a / b for a, b in pairs]
        found[name] = {
            "plain": new / statistics.median(a for a, _ in pairs),
            "cached": new / statistics.median(b for _, b in pairs),
            "ratio": statistics.median(ratios), "lowest ratio": min(ratios), "same text": same,
        }  # fmt: skip
    return found


def first_character(run: Path, mode: str, threads: int, times: int) -> dict[str, float]:
    """Seconds in new processes: to load (without the imports), and from there to the first character."""
    command = [sys.executable, "-c", FIRST, str(run), mode, str(threads)]
    rows = [
        [float(x) for x in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]
        for _ in range(times)
    ]
    loading, waiting = zip(*rows, strict=True)
    return {
        "loading": statistics.median(loading),
        "first character": statistics.median(waiting),
        "slowest": max(waiting),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, nargs="+", default=[64], help="characters to write after 16")
    parser.add_argument("--starts", type=int, default=3, help="processes of which the first character is timed")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "chat.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        run, book = Path(temporary) / "run", Path(temporary) / "book.txt"
        book.write_text(BOOK)
        if hrm(["learn", str(run), str(book), "--epochs", "1", "--stride", "40", "--device", "cpu"]):
            sys.exit("the run could not be made")
        model = load_text(run, device="cpu").model
        result: dict[str, Any] = {
            "parameters": sum(p.numel() for p in model.parameters()), "threads": args.threads,
            "machine": platform.processor() or platform.machine(), "torch": torch.__version__,
            "first character": {m: first_character(run, m, args.threads, args.starts) for m in ("auto", "extreme")},
            "decode": {str(new): decode(run, new, args.rounds) for new in args.new},
        }  # fmt: skip
    print(f"{'':24}{'plain':>10}{'cached':>10}{'ratio':>8}{'lowest':>8}   characters/s")
    for new, modes in result["decode"].items():
        for name, row in modes.items():
            head = f"{name}, {new} characters"
            print(f"{head:24}{row['plain']:10.1f}{row['cached']:10.1f}{row['ratio']:8.2f}{row['lowest ratio']:8.2f}")
    for name, row in result["first character"].items():
        print(f"{name}: loaded in {row['loading']:.2f} s, first character {row['first character']:.2f} s after that")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
