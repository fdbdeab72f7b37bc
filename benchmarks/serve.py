"""A server under load: what clients wait for, and what sharing segments by depth is worth beside fixed batches.

    python benchmarks/serve.py [--parts batching load overload crowd] [--width 256] [--rounds 2] [--out RESULT.json]

The model is random and never ends a text, so that every run writes the same number of tokens. The server is a process
of its own; the clients, in this one, speak HTTP with streams.

batching: 8 clients work off one list of requests, half of which think for 1 segment a token and half for 8, with 8 to
40 tokens each. Three servers take turns: by depth (the package's), in fixed batches (texts begin together, each token
waits for the deepest of the batch, the batch for its longest text; halted texts cost nothing), and one at a time.
load: 1, 8, 32 and 128 clients ask again as soon as they are answered.
overload: requests arrive at four times the rate that 8 clients reached; then a single client asks.
crowd: the likeliest texts of 48 requests, alone and together, in float32 and bfloat16: where they first differ, how far
the two best logits lay apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hrm.files.output import write_json

CLIENTS = (1, 8, 32, 128)
SEGMENTS = 8


class Ask(NamedTuple):
    """A request of the benchmark."""

    prompt: str
    tokens: int
    segments: int

    def body(self) -> dict[str, Any]:
        own = {"max_segments": self.segments, "halting": "fixed"}
        told = {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": "model", "prompt": self.prompt, "max_tokens": self.tokens, "seed": 1, **told, **own}


class Told(NamedTuple):
    """What came of one, in seconds."""

    status: int
    first: float
    total: float
    tokens: int


def asks(count: int, seed: int = 0, segments: tuple[int, ...] = (1, SEGMENTS)) -> list[Ask]:
    """Requests in turns of these depths, with prompts of 8 to 64 tokens."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz "
    return [
        Ask("".join(draw.choices(letters, k=draw.randint(8, 64))), draw.randint(8, 40), segments[i % len(segments)])
        for i in range(count)
    ]


def save(folder: Path, width: int) -> None:
    """A random model of characters."""
    import torch

    from hrm.text.data import make_tokenizer
    from hrm.text.model import HRMConfig, HRMForCausalLM

    tokenizer = make_tokenizer("char", ["".join(map(chr, range(32, 127)))])
    torch.manual_seed(0)
    model = HRMForCausalLM(
        HRMConfig(
            vocab_size=len(tokenizer), hidden_size=width, num_attention_heads=width // 32, fast_layers=2, slow_layers=2,
            h_cycles=2, l_cycles=2, norm="pre", max_segments=SEGMENTS, halting="fixed", head_bias=True,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = -1e4  # type: ignore[index]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def serve(folder: str, how: str, port: int, slots: int, waiting: int) -> None:
    """The server's process: the package's own, or one whose engine batches otherwise."""
    from hrm.serve.text import engine

    class Fixed(engine.TextEngine):
        """Texts begin together and wait for one another at every token."""

        def _admit(self) -> None:
            if not self.active:
                super()._admit()

        def _begin(self, texts: list[Any]) -> list[Any]:
            under_way = [text for text in texts if text.thought is not None]
            return under_way or super()._begin(texts)

    if how == "fixed":
        engine.TextEngine = Fixed  # type: ignore[misc]
    from hrm.cli.main import main

    slots = 1 if how == "one" else slots
    raise SystemExit(
        main(["serve", f"model={folder}", "--port", str(port), "--max-concurrent", str(slots), "--max-waiting",
              str(waiting), "--device", "cpu", "--precision", "float32"])
    )  # fmt: skip


@contextmanager
def server(folder: Path, how: str = "depth", slots: int = 8, waiting: int = 256, port: int = 8765) -> Iterator[str]:
    """Its address, once it is warm."""
    import httpx

    command = [sys.executable, __file__, "--serve", str(folder), how, str(port), str(slots), str(waiting)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                httpx.get(f"{address}/health", timeout=1)
                break
            except httpx.TransportError:
                time.sleep(0.25)
        asyncio.run(work_off(address, asks(2), 1))
        yield address
    finally:
        process.terminate()
        process.wait(60)


async def ask(client: Any, what: Ask) -> Told:
    """One request, its first token and its end."""
    start, first, tokens = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/v1/completions", json=what.body()) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - start
                tokens = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", tokens)
    total = time.perf_counter() - start
    if answer.status_code == 200 and tokens < what.tokens:
        raise RuntimeError(f"{tokens} of {what.tokens} tokens came")
    return Told(answer.status_code, first or total, total, what.tokens if answer.status_code == 200 else 0)


def client_of(address: str) -> Any:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=address, timeout=600, limits=limits)


async def work_off(address: str, work: list[Ask], clients: int, until: float = 0) -> list[Told]:
    """Clients that take the next of a list as soon as they are answered; with `until`, seconds in which they do."""
    left, told, end = iter(work), [], time.perf_counter() + until
    async with client_of(address) as client:

        async def one() -> None:
            for what in left:
                if until and time.perf_counter() > end:
                    return
                told.append(await ask(client, what))

        await asyncio.gather(*(one() for _ in range(clients)))
    return told


async def arrive(address: str, work: list[Ask], rate: float) -> list[Told]:
    """Requests that arrive at a rate, whatever becomes of the others."""
    async with client_of(address) as client:
        tasks = []
        for what in work:
            tasks.append(asyncio.create_task(ask(client, what)))
            await asyncio.sleep(1 / rate)
        return list(await asyncio.gather(*tasks))


def percentiles(values: list[float]) -> list[float]:
    """The 50th, 95th and 99th."""
    values = sorted(values)
    return [round(values[min(len(values) - 1, int(len(values) * share))], 3) for share in (0.5, 0.95, 0.99)]


def batching(folder: Path, rounds: int, count: int) -> dict[str, Any]:
    """Seconds for one list of requests, with three ways to batch."""
    took: dict[str, list[float]] = {"depth": [], "fixed": [], "one": []}
    for turn in range(rounds):
        for how in took:
            with server(folder, how) as address:
                start = time.perf_counter()
                told = asyncio.run(work_off(address, asks(count, seed=1), 8))
                took[how].append(time.perf_counter() - start)
            tokens = sum(each.tokens for each in told)
            print(f"  {turn + 1}  {how:6} {took[how][-1]:7.1f} s  {tokens / took[how][-1]:6.1f} tokens/s", flush=True)
    median = {how: statistics.median(seconds) for how, seconds in took.items()}
    gains = {how: median[how] / median["depth"] for how in ("fixed", "one")}
    print(f"  by depth: {gains['fixed']:.2f} times as fast as fixed batches, {gains['one']:.2f} as one at a time")
    return {"seconds": took, "against_fixed": gains["fixed"], "against_one": gains["one"], "requests": count}


def load(folder: Path, seconds: float) -> dict[str, Any]:
    """What more and more clients wait for."""
    found = {}
    with server(folder, slots=16) as address:
        for clients in CLIENTS:
            start = time.perf_counter()
            told = asyncio.run(work_off(address, asks(100_000, seed=2, segments=(1, 2, 4)), clients, seconds))
            rate = sum(each.tokens for each in told) / (time.perf_counter() - start)
            first, total = percentiles([e.first for e in told]), percentiles([e.total for e in told])
            found[clients] = {"requests": len(told), "first": first, "total": total, "tokens_per_second": rate}
            found[clients]["status"] = dict(Counter(each.status for each in told))
            print(f"  {clients:4} clients  first token {first} s, whole {total} s, {rate:6.1f} tokens/s", flush=True)
    return found


def overload(folder: Path, seconds: float) -> dict[str, Any]:
    """Four times what the server can do, and how soon it is well again."""
    with server(folder, waiting=16) as address:
        start = time.perf_counter()
        told = asyncio.run(work_off(address, asks(100_000, seed=3, segments=(1, 2, 4)), 8, seconds))
        rate = len(told) / (time.perf_counter() - start)
        usual = statistics.median(each.total for each in told)
        flood = asks(int(4 * rate * seconds), seed=4, segments=(1, 2, 4))
        told = asyncio.run(arrive(address, flood, 4 * rate))
        start = time.perf_counter()
        while True:
            after = asyncio.run(work_off(address, asks(1, seed=5, segments=(2,)), 1))[0]
            if after.status == 200 and after.total <= 2 * usual:
                break
        recovery = time.perf_counter() - start
    status = dict(Counter(each.status for each in told))
    print(f"  {rate:.2f} requests/s alone; at {4 * rate:.2f}: status {status}, well again after {recovery:.1f} s")
    return {"rate": rate, "status": status, "recovery": recovery}


def crowd(folder: Path) -> dict[str, Any]:
    """Whether a text in a crowd is the one alone."""
    from hrm.serve.text.engine import TextEngine
    from hrm.serve.text.writing import Wish, Writing
    from hrm.serve.waiting import Limits
    from hrm.text.load import load_text
    from hrm.text.writing.generation import Sampling, encode, generate

    found = {}
    for dtype in ("float32", "bfloat16"):
        loaded = load_text(folder, device="cpu", precision=dtype)
        engine = TextEngine(loaded, Limits(slots=16, waiting=100))
        work: list[Writing] = []
        over: SimpleQueue[Any] = SimpleQueue()
        for what in asks(48, seed=6):
            how = Sampling(max_new_tokens=what.tokens, greedy=True)
            request: Any = {"max_segments": what.segments, "halting": "change", "exit_threshold": 0.3}
            wish = Wish(encode(loaded.tokenizer, what.prompt, 1 << 20), how, request, top=2)
            work.append(Writing(wish, over.put, seconds=3600))
        engine.submit(*work)
        while any(each.end is None for each in work):
            over.get()
        engine.close()
        gaps = []
        for each in work:
            ids, alone = each.wish.ids, generate(loaded.model, loaded.tokenizer, each.wish.ids, each.wish.sampling,
                                                 **each.wish.request)  # fmt: skip
            pairs = enumerate(zip(each.completion.tokens, alone.tokens, strict=True))
            differs = next((i for i, (a, b) in pairs if a.id != b.id), None)
            if differs is not None:
                import torch

                with torch.inference_mode():
                    read = torch.tensor([ids + [token.id for token in alone.tokens[:differs]]])
                    best = loaded.model(read, **each.wish.request).logits[0, -1].float().topk(2).values
                gaps.append(float(best[0] - best[1]))
        found[dtype] = {"texts": len(work), "differ": len(gaps), "gaps": sorted(gaps)}
        print(
            f"  {dtype:8} {len(gaps)} of {len(work)} differ; there the best logits lay {sorted(gaps)} apart", flush=True
        )
    return found


def main() -> None:
    """Run the parts and print what they find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["batching", "load", "overload", "crowd"])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        folder, how, *numbers = options.serve
        serve(folder, how, *map(int, numbers))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    result: dict[str, Any] = {"machine": machine, "load": os.getloadavg()[0], "width": options.width}
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), options.width)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "batching": lambda: batching(Path(folder), options.rounds, options.requests),
            "load": lambda: load(Path(folder), options.seconds),
            "overload": lambda: overload(Path(folder), options.seconds),
            "crowd": lambda: crowd(Path(folder)),
        }
        for name in options.parts:
            print(name, flush=True)
            result[name] = parts[name]()
    if options.out:
        write_json(options.out, result)


if __name__ == "__main__":
    main()
