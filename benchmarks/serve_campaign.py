"""Ask a server what nobody should, leave it in the middle, and ask it for long: it answers, forgets and stays small.

    python benchmarks/serve_campaign.py TEXT_RUN PUZZLE_RUN [--examples 1000] [--leaves 10000] [--requests 10000]
        [--only keys schema leaves memory] [--seed 0] [--json FILE]

keys    every route without a key, with a wrong and with the right one
schema  schemathesis: positive, negative and stateful, this many examples of each operation, against what the server
        says of itself; answers of 500 and above, and answers that are not as the schema says
leaves  clients that leave at a random moment, in streams and without; slots, requests that wait, tasks, files and
        threads before and after
memory  requests one after another; the server's memory after each twentieth of them

Each part is kept in the JSON file when it is done, and not repeated there: run it again to continue. The server is a
process of its own on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

KEY = "a-key-for-the-campaign"
HEADERS = {"Authorization": f"Bearer {KEY}"}
PARTS = ("keys", "schema", "leaves", "memory")
SECONDS = 5.0
"""Longest time of a request."""
CLIENTS = 16
"""Clients that leave, at once."""
SHORT = 8
"""Tokens of a text while requests are invented."""
CONFIG = """[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "408", "409", "429"]
[[operations]]
include-path = "/v1/chat/completions"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "408", "409", "429"]
"""
"""A puzzle may take longer than a request may, and a conversation may be one in which nobody has said a word."""
TOLD = 20
LINE = re.compile(r" POST \S+ (\d{3}|left) \d+ ms, key")
BUSY = ("slots", "waiting", "borrowed")


def serve(text: str, puzzles: str, most: int) -> None:
    """The server, with one route more that counts what it holds."""
    from fastapi import FastAPI

    from hrm.serve.app import create_app
    from hrm.serve.models import Models
    from hrm.serve.running import listening
    from hrm.serve.running import serve as answer
    from hrm.serve.settings import Settings, digest
    from hrm.serve.waiting import Limits

    models = Models({"text": text, "puzzles": puzzles}, Limits(16, 20_000, SECONDS), device="cpu")
    app: FastAPI = create_app(models, Settings(frozenset({digest(KEY)}), most_tokens=most))

    @app.get("/counts", include_in_schema=False)
    async def counts() -> dict[str, int]:
        process = psutil.Process()
        engines = [served.engine for served in models._loaded.values()]
        return {
            "slots": sum(len(getattr(engine, "active", getattr(engine, "_open", ()))) for engine in engines),
            "waiting": sum(len(getattr(engine, "queue", getattr(engine, "_queue", ()))) for engine in engines),
            "borrowed": sum(served.users for served in models._loaded.values()),
            "tasks": len(asyncio.all_tasks()), "threads": process.num_threads(), "files": process.num_fds(),
            "bytes": process.memory_info().rss,
        }  # fmt: skip

    with listening("127.0.0.1", 0) as (socket, address):
        print(address, flush=True)
        answer(app, socket, 1.0)


@contextmanager
def server(text: str, puzzles: str, most: int) -> Iterator[tuple[str, Path]]:
    """The address of a server, and its log."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [sys.executable, __file__, text, puzzles, "--serve", str(most)]
        with (
            log.open("w") as file,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process,
        ):
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip(), log
            finally:
                process.terminate()


def asked(rng: random.Random, tokens: int) -> tuple[str, dict[str, Any]]:
    """A path and a body."""
    depth = {"max_segments": rng.choice((1, 2, 4))} if rng.random() < 0.5 else {}
    how = {"model": "text", "max_tokens": tokens, "seed": rng.randrange(2**31), "stream": rng.random() < 0.5, **depth}
    match rng.randrange(4):
        case 0:
            return "/v1/completions", {**how, "prompt": "the ", "n": rng.randint(1, 3)}
        case 1:
            return "/v1/completions", {**how, "prompt": "the ", "logprobs": 3}
        case 2:
            return "/v1/chat/completions", {**how, "messages": [{"role": "user", "content": "the "}]}
        case _:
            return "/v1/solve", {"model": "puzzles", "puzzle": "2..14..232.41.2.", "stream": how["stream"]}


def keys(address: str, log: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Statuses of every route, by key."""
    found: dict[str, dict[str, int]] = {}
    with httpx.Client(base_url=address, timeout=60) as client:
        paths = client.get("/openapi.json", headers=HEADERS).json()["paths"]
        for path, method in [(path, method) for path, methods in paths.items() for method in methods]:
            given = {"none": {}, "wrong": {"Authorization": f"Bearer {KEY}x"}, "right": HEADERS}
            found[f"{method} {path}"] = {
                name: client.request(method, path.replace("{name}", "text"), headers=headers).status_code
                for name, headers in given.items()
            }
    closed = [route for route, by in found.items() if by["none"] == by["wrong"] == 401 and by["right"] < 500]
    return {"routes": found, "closed": len(closed), "open": sorted(found.keys() - set(closed))}


def schema(address: str, log: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What schemathesis says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "schema.json"
        described = httpx.get(f"{address}/openapi.json", headers=HEADERS).json()
        described["components"]["schemas"]["SolveRequest"]["properties"].pop("copies")  # for runs on ARC alone
        short = {"type": "integer", "minimum": 1, "maximum": SHORT}
        for name, form in described["components"]["schemas"].items():
            if name.endswith("Request"):  # existing models and short texts, so that something is computed
                form["properties"]["model"] = {"enum": ["puzzles" if name.startswith("Solve") else "text"]}
                for length in {"max_tokens", "max_completion_tokens"} & form["properties"].keys():
                    form["properties"][length] = {"anyOf": [short, {"type": "null"}]}
        vocabulary = client_vocabulary(address)
        narrow(described, "maximum", 2**31, vocabulary - 1)
        file.write_text(json.dumps(described))
        (Path(folder) / "schemathesis.toml").write_text(CONFIG)
        command = [
            str(Path(sys.executable).with_name("st")), "run", str(file), "--url", address,
            "-H", f"Authorization: Bearer {KEY}", "--mode", "all", "--max-examples", str(options.examples),
            "--seed", str(options.seed), "--continue-on-failure", "--suppress-health-check", "all",
            "--request-timeout", str(20 * SECONDS),
        ]  # fmt: skip
        before = len(log.read_text().splitlines())
        ran = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        lines = log.read_text().splitlines()[before:]
    said = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout)
    codes = Counter(found[1] for line in lines if (found := LINE.search(line)))
    failures = re.findall(r"❌ (ST\d+ .*?): (\d+)", said)
    cases = re.search(r"([\d,]+) generated", said)
    return {
        "examples": options.examples, "cases": int(cases[1].replace(",", "")) if cases else 0, "statuses": dict(codes),
        "errors of the server": sum(count for code, count in codes.items() if code.startswith("5") and code != "503"),
        "failures": {name: int(count) for name, count in failures}, "exit": ran.returncode, "said": said[-30_000:],
    }  # fmt: skip


def client_vocabulary(address: str) -> int:
    """How many tokens the model of text has, as it says where one is none."""
    asked = {"model": "text", "prompt": [2**31]}
    said = httpx.post(f"{address}/v1/completions", json=asked, headers=HEADERS, timeout=60).json()
    return int(said["error"]["message"].rsplit(" ", 1)[1].replace(",", ""))


def narrow(tree: Any, key: str, old: int, new: int) -> None:
    """Change a bound wherever a schema has it."""
    if isinstance(tree, dict):
        if tree.get(key) == old:
            tree[key] = new
        tree = list(tree.values())
    for each in tree if isinstance(tree, list) else ():
        narrow(each, key, old, new)


def leaves(address: str, log: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Counts before and after clients have left."""
    return asyncio.run(_leaves(address, log, options))


async def _leaves(address: str, log: Path, options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    left = Counter[str]()

    async def once(client: httpx.AsyncClient) -> None:
        path, body = asked(rng, 400)
        try:
            async with asyncio.timeout(rng.expovariate(1 / 0.15)), client.stream("POST", path, json=body) as answer:
                async for _ in answer.aiter_bytes():
                    pass
                left[str(answer.status_code)] += 1
        except TimeoutError:
            left["left"] += 1
        except httpx.HTTPError as error:
            left[type(error).__name__] += 1

    async def client(count: int) -> None:
        async with httpx.AsyncClient(base_url=address, headers=HEADERS, timeout=60) as client:
            for _ in range(count):
                await once(client)

    async with httpx.AsyncClient(base_url=address, headers=HEADERS, timeout=60) as watching:
        await asyncio.gather(*(client(5) for _ in range(CLIENTS)))
        before = await _quiet(watching)
        left.clear()
        start = time.monotonic()
        await asyncio.gather(*(client(options.leaves // CLIENTS) for _ in range(CLIENTS)))
        seconds = time.monotonic() - start
        after = await _quiet(watching)
    leaked = {
        name: after[name] - before[name] for name in ("slots", "waiting", "borrowed", "tasks", "threads", "files")
    }
    codes = Counter(found[1] for line in log.read_text().splitlines() if (found := LINE.search(line)))
    return {
        "leaves": options.leaves // CLIENTS * CLIENTS, "ended": dict(left), "seen by the server": dict(codes),
        "seconds": round(seconds), "before": before, "after": after, "leaked": leaked,
    }  # fmt: skip


async def _quiet(client: httpx.AsyncClient) -> dict[str, int]:
    """Counts, once nothing is under way."""
    found: dict[str, int] = {}
    for _ in range(100):
        await asyncio.sleep(0.2)
        found, before = (await client.get("/counts")).json(), found
        if not any(found[name] for name in BUSY) and found | {"bytes": 0} == before | {"bytes": 0}:
            break
    return found


def memory(address: str, log: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The server's memory while it answers."""
    rng, statuses, sizes = random.Random(options.seed), Counter[int](), []
    with httpx.Client(base_url=address, headers=HEADERS, timeout=60) as client:
        for number in range(options.requests):
            path, body = asked(rng, 2)
            statuses[client.post(path, json=body).status_code] += 1
            if (number + 1) % max(1, options.requests // TOLD) == 0:
                sizes.append(client.get("/counts").json()["bytes"])
    warm = sizes[max(0, len(sizes) // 10 - 1)]
    half = sizes[len(sizes) // 2 - 1]
    return {
        "requests": options.requests, "statuses": dict(statuses), "bytes": sizes,
        "growth after a tenth": sizes[-1] / warm - 1, "growth of the second half": sizes[-1] / half - 1,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("puzzles")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--leaves", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.text, options.puzzles, options.serve)
        return
    sizes = {name: vars(options)[name] for name in ("text", "puzzles", "examples", "leaves", "requests", "seed")}
    found: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}"}
    if options.json is not None:
        with suppress(FileNotFoundError):
            found = json.loads(options.json.read_text())
    for name in options.only:
        count = {"schema": "examples", "leaves": "leaves", "memory": "requests"}.get(name)
        size = {key: sizes[key] for key in ("text", "puzzles", "seed", count) if key is not None}
        if found.get(name, {}).get("size") == size:
            continue
        with server(options.text, options.puzzles, SHORT if name == "schema" else 10**6) as (address, log):
            start = time.monotonic()
            result = {"schema": schema, "leaves": leaves, "keys": keys, "memory": memory}[name](address, log, options)
        found[name] = {"size": size, "took": round(time.monotonic() - start), **result}
        print(f"{name:8}", *(f"{key} {value}" for key, value in summary(name, result).items()), sep="  ", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def summary(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The figures of the table."""
    shown = {
        "keys": ("closed", "open"), "schema": ("cases", "statuses", "errors of the server", "failures"),
        "leaves": ("leaves", "ended", "seen by the server", "leaked"),
        "memory": ("requests", "statuses", "growth after a tenth", "growth of the second half"),
    }  # fmt: skip
    return {key: result[key] for key in shown[name]}


if __name__ == "__main__":
    main()
