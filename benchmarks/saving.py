"""What adaptive depth saves on questions of mixed difficulty, and whether a calibrated readout keeps its promise.

    python benchmarks/saving.py --models DIR --task sum|sum-256 --out FILE [--hops 12] [--segments 16] [--promise 0.5]

The models are those that `benchmarks/fair.py` kept in DIR, the HRM of each seed. Each is calibrated on held-out
questions of 1 to --hops hops, then asked fresh ones. Loss: 2,000 fresh questions of each number of hops, at full depth,
by the readout, and with the same depths dealt out to the questions at random. Time: 240 questions in random order, one
after another and in 8 slots that are filled as soon as a question is answered, by the engine of `hrm serve`; full and
adaptive depth in turn, on one thread, the median ratio of the rounds. What FILE holds of a model is kept, and its times
are measured again.
"""

from __future__ import annotations

import argparse
import json
import queue
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrm.files.output import write_json
from hrm.serve.text.engine import TextEngine
from hrm.serve.text.writing import Wish, Writing
from hrm.serve.waiting import Limits
from hrm.text.data.hops import Hops, questions, task_of, tokenizer_of_task
from hrm.text.load import TextModel
from hrm.text.measuring.calibrating import calibrate, lost_between
from hrm.text.measuring.losses import halt_at
from hrm.text.model import Budget, HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling

ROUNDS, STREAM, FRESH = 5, 240, 2000


@torch.inference_mode()
def answers(
    model: HRMForCausalLM, task: str, hops: int, budget: Budget, deal: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which fresh questions are answered right [n], and the depth of their last token [n]; `deal`: these depths, which
    every token of a question then has."""
    asked = questions(task, hops, FRESH, seed=77)
    tokens, wanted = torch.from_numpy(asked.tokens), asked.labels[:, -1]
    right, depths = [], []
    for first in range(0, FRESH, 250):
        some = tokens[first : first + 250]
        thought = model.begin(input_ids=some, budget=budget)
        if deal is None:
            model.think(thought, budget)
        else:
            each = torch.from_numpy(deal[first : first + 250])[:, None].expand(-1, some.shape[1])
            halt_at(model, thought, each, budget)
        right.append(model.lm_head(thought.exited.z_h[:, -1]).argmax(-1).numpy() == wanted[first : first + 250])
        depths.append(thought.depth[:, -1].numpy())
    return np.concatenate(right), np.concatenate(depths)


def stream(engine: TextEngine, asked: list[list[int]], request: Request) -> float:
    """Seconds that the engine takes for these prompts, of each of which it says the next token."""
    ended: queue.Queue[Any] = queue.Queue()
    sampling = Sampling(max_new_tokens=1, greedy=True)
    began = time.perf_counter()
    engine.submit(*(Writing(Wish(ids, sampling, request), ended.put) for ids in asked))
    left = len(asked)
    while left:
        left -= isinstance(ended.get(), Writing)
    return time.perf_counter() - began


def timed(loaded: TextModel, asked: list[list[int]], slots: int, full: Request, own: Request) -> dict[str, Any]:
    """Seconds at full and at adaptive depth, and the ratio, in turn."""
    engine = TextEngine(loaded, Limits(slots=slots, waiting=len(asked)))
    stream(engine, asked[:20], own)
    rounds = [(stream(engine, asked, full), stream(engine, asked, own)) for _ in range(ROUNDS)]
    engine.close()
    ratios = [adaptive / whole for whole, adaptive in rounds]
    return {"full": [a for a, _ in rounds], "adaptive": [b for _, b in rounds], "ratio": statistics.median(ratios)}


def saved(folder: Path, segments: int) -> HRMForCausalLM:
    """A model that takes this number of segments."""
    model = HRMForCausalLM.from_pretrained(folder).eval()
    model.config.max_segments, model.config.halting = segments, "fixed"
    model.config.halting_rule = "backfill"  # trained at full depth, it knows no keys of tokens that halted
    return model


def times(folder: Path, task: str, run: dict[str, Any], most: int) -> dict[str, Any]:
    """Of a measured model, one question after another and in 8 slots; questions have 1 to `most` hops."""
    model, tokenizer, rng = saved(folder, run["segments"]), tokenizer_of_task(task), np.random.default_rng(run["seed"])
    asked = [questions(task, int(hops), 1, seed=1000 + i).tokens[0].tolist()
             for i, hops in enumerate(rng.integers(1, most + 1, STREAM))]  # fmt: skip
    model.config.halting, model.config.readout = "readout", tuple(run["calibration"]["readout"])
    loaded = TextModel(model, tokenizer, str(folder))
    request = Request(halting="readout", exit_threshold=run["calibration"]["chosen"]["exit_threshold"])
    full = Request(halting="fixed")
    return {f"batch {slots}": timed(loaded, asked, slots, full, request) for slots in (1, 8)}


def measure(folder: Path, task: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One model, but for its times."""
    model = saved(folder, args.segments)
    tokenizer, length = tokenizer_of_task(task), task_of(task).length(args.hops)
    # One answer a question, as many questions of each number of hops, as in the stream.
    held = Hops(task, args.hops, args.hops * args.questions, seed, length, held_out=True, alone=True)
    found = calibrate(model, tokenizer, held, length, args.promise, batch_size=16)
    chosen = found.chosen
    if chosen is None:
        return {"task": task, "seed": seed, "calibration": found.plain()}
    full = model.budget()
    assert chosen.exit_threshold is not None
    own = full._replace(halting="readout", readout=tuple(found.readout), exit_threshold=chosen.exit_threshold)
    whole, halted, dealt, depths = [], [], [], []
    for hops in range(1, args.hops + 1):
        whole.append(answers(model, task, hops, full)[0])
        right, depth = answers(model, task, hops, own)
        halted.append(right)
        depths.append(depth)
    others = np.random.default_rng(seed).permutation(np.concatenate(depths)).reshape(len(depths), -1)
    for hops, deal in enumerate(others, 1):
        dealt.append(answers(model, task, hops, full, deal)[0])
    lost, most = lost_between(np.concatenate(whole), np.concatenate(halted))
    return {
        "task": task, "seed": seed, "promised": args.promise, "calibration": found.plain(),
        "accuracy": {"full": float(np.mean(whole)), "readout": float(np.mean(halted)), "random": float(np.mean(dealt))},
        "lost": lost, "lost_at_most": most, "mean_segments": float(np.mean(depths)), "segments": args.segments,
        "mean_segments_by_hops": [float(each.mean()) for each in depths],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder of benchmarks/fair.py")
    parser.add_argument("--task", required=True)
    parser.add_argument("--hops", type=int, default=12, help="questions have 1 to this many")
    parser.add_argument("--segments", type=int, default=16, help="full depth")
    parser.add_argument("--promise", type=float, default=0.5, help="percentage points that may be lost")
    parser.add_argument("--questions", type=int, default=1000, help="to calibrate on, of each number of hops")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(args.out.read_text("utf-8"))["runs"] if args.out.is_file() else []
    runs = {run["seed"]: run for run in known}
    for folder in sorted(args.models.glob(f"{args.task}-hrm-*-1.00")):
        task, seed = args.task.partition("-")[0], int(folder.name.split("-")[-2])
        if seed not in runs:
            runs[seed] = measure(folder, task, seed, args)
        one = runs[seed]
        if "accuracy" not in one:
            print(f"seed {seed}: no threshold keeps the promise")
            continue
        one["time"] = times(folder, task, one, args.hops)
        write_json(args.out, {"runs": [runs[seed] for seed in sorted(runs)]})
        shares = "  ".join(f"{name} {each:.2%}" for name, each in one["accuracy"].items())
        ratios = "  ".join(f"{name}: {each['ratio']:.2f} of the time" for name, each in one["time"].items())
        print(f"seed {one['seed']}: {shares}  lost {one['lost']:.2f} (at most {one['lost_at_most']:.2f}) points  "
              f"depth {one['mean_segments']:.1f} of {one['segments']}  {ratios}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
