"""Text: decoding and training speed against transformers' own hrm_text, and the memory of keys and values.

    python benchmarks/text.py [--threads 2] [--rounds 5] [--new 64] [--json FILE]

Both models have the same weights (80.8 M, bfloat16, d 512, 4+4 layers, H = L = 2, vocabulary 50,257) and the same fixed
depth. Runs alternate in one process, and each ratio is the median over the pairs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import CompileConfig, HrmTextConfig, HrmTextForCausalLM
from transformers.utils import logging

from hrm.text import hrm_text
from hrm.text.model import HRMCache, HRMConfig, HRMForCausalLM

RESULTS = Path(__file__).parent / "results" / "text.json"
PROMPT = 32
clock: Callable[[], float] = time.perf_counter


def models(**changes: Any) -> tuple[HrmTextForCausalLM, HRMForCausalLM]:
    """The two implementations with the same weights in bfloat16; of 80.8 M parameters, or with settings changed."""
    torch.manual_seed(0)
    shape: dict[str, Any] = dict(
        vocab_size=50257, hidden_size=512, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=8,
        head_dim=64, H_cycles=2, L_cycles=2, prefix_lm=False,
    )  # fmt: skip
    theirs = HrmTextForCausalLM(HrmTextConfig(**shape | changes))
    theirs.bfloat16()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        mine = hrm_text.read(Path(folder))
    # transformers carries gradient through every H update and the last steps of L; so does this, in one segment.
    mine.config.h_cycles, mine.config.max_segments, mine.config.q_weight = 2, 1, 0.0
    mine.model.recurrence.schedule = mine.config.schedule
    from hrm.core.recurrence import per_cycle

    mine.model.recurrence.horizon = per_cycle([2])
    return theirs.eval(), mine.eval()


def seconds(function: Callable[[], Any]) -> float:
    """Time of one call, by the clock that was asked for."""
    start = clock()
    function()
    return clock() - start


def compare(theirs: Callable[[], Any], mine: Callable[[], Any], work: int, rounds: int) -> dict[str, float]:
    """Rates of both and the median of the pairwise ratios; the first pair warms up.

    `others` is the share of the machine that other programs used meanwhile: above a few percent, measure again.
    """
    theirs()
    mine()
    busy, own, start = _busy(), time.process_time(), time.perf_counter()
    pairs = [(seconds(theirs), seconds(mine)) for _ in range(rounds)]
    spent = (time.perf_counter() - start) * psutil.cpu_count()  # type: ignore[operator]
    ratios = [a / b for a, b in pairs]
    return {
        "transformers": work / statistics.median(a for a, _ in pairs),
        "hrm": work / statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "lowest ratio": min(ratios),
        "highest ratio": max(ratios),
        "others": max(0.0, (_busy() - busy - (time.process_time() - own)) / spent),
    }


def _busy() -> float:
    """Seconds that all processors together have worked."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def decode(model: Any, rows: int, new: int, compiles: bool = False) -> Callable[[], Any]:
    """Generate `new` tokens a row, greedily."""
    ids = torch.randint(0, 50257, (rows, PROMPT), generator=torch.Generator().manual_seed(1))
    more: dict[str, Any] = {}
    if compiles:
        config = CompileConfig()
        if not isinstance(model, HRMForCausalLM):
            # transformers compiles only with a cache of fixed size, and on a CPU only where it is told to.
            config._compile_all_devices = True  # type: ignore[assignment]
            more["cache_implementation"] = "static"
        more["compile_config"] = config
    return lambda: model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0, **more)


def train(model: Any, rows: int, length: int) -> Callable[[], Any]:
    """One forward and backward pass."""
    ids = torch.randint(0, 50257, (rows, length), generator=torch.Generator().manual_seed(1))

    def step() -> None:
        model.train()
        model(ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad(set_to_none=True)
        model.eval()

    return step


@torch.no_grad()
def bytes_per_token() -> dict[str, float]:
    """Keys and values held per token in bfloat16, measured in the caches."""
    found = {}
    ids = torch.randint(0, 100, (1, 16))
    reference = {"norm": "pre", "gate": True, "join": "first_state", "h_cycles": 1, "max_segments": 2}
    for name, config in (
        ("hrm_text, d 512, 4+4, H=L=2", HRMConfig(**reference)),
        ("text-80m, 16 segments", HRMConfig.preset("text-80m")),
        ("text-80m without grouped heads", HRMConfig.preset("text-80m", num_key_value_heads=8)),
        ("text-80m without sharing between depths", HRMConfig.preset("text-80m", share_segments=False)),
        (
            "text-80m without sharing",
            HRMConfig.preset("text-80m", share_segments=False, share_cycles=False),
        ),
    ):
        model, cache = HRMForCausalLM(config).to(dtype=torch.bfloat16).eval(), HRMCache()
        model.model(ids, past_key_values=cache, halting="fixed")
        found[name] = cache.bytes_per_token()
    found["text-80m, 16 segments, share of hrm_text's"] = (
        found["text-80m, 16 segments"] / found["hrm_text, d 512, 4+4, H=L=2"]
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="count processor time: on a busy machine, with one thread")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new", type=int, default=64, help="tokens to generate per row")
    parser.add_argument("--rows", type=int, default=4, help="rows of a training step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a training row")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cpu:
        global clock
        clock = time.process_time
    logging.set_verbosity_error()

    theirs, mine = models()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        difference = float((theirs(ids).logits.float() - mine(ids).logits.float()).abs().max())
    result: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "threads": options.threads,
        "clock": "processor time" if options.cpu else "wall",
        "torch": torch.__version__,
        "largest difference of logits in bfloat16": difference,
        "keys and values, bytes per token": bytes_per_token(),
    }
    # "eager : compiled" is what a compiled request gives whoever runs transformers' model as it comes.
    for name, compiled in (("eager", (False, False)), ("eager : compiled", (False, True)), ("compiled", (True, True))):
        for rows in (1, 8):
            their_call = decode(theirs, rows, options.new, compiled[0])
            my_call = decode(mine, rows, options.new, compiled[1])
            work = rows * options.new
            result[f"decode, batch {rows}, {name}, tokens/s"] = compare(their_call, my_call, work, options.rounds)
    work = options.rows * options.length
    result[f"training, {options.rows}x{options.length}, tokens/s"] = compare(
        train(theirs, options.rows, options.length), train(mine, options.rows, options.length), work, options.rounds
    )
    print(f"{'':46}{'transformers':>14}{'hrm':>10}{'ratio':>8}{'others':>8}")
    for name, value in result.items():
        if isinstance(value, dict) and "ratio" in value:
            print(
                f"{name:46}{value['transformers']:14.1f}{value['hrm']:10.1f}{value['ratio']:8.2f}{value['others']:8.0%}"
            )
    for name, value in result["keys and values, bytes per token"].items():
        print(f"{name:48}{value:10,.0f} bytes per token" if value > 1 else f"{name:48}{value:10.3f}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
