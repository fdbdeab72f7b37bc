"""How soon the studio's page is there, how fast its routes answer, and what a book of a gigabyte costs.

    python benchmarks/studio.py [--runs 20] [--rounds 50] [--megabytes 1000] [--json FILE]

A studio in a process of its own, with copies of a small learner as its runs; Chromium opens its page with an empty
cache each time. First paint: First Contentful Paint, from the start of the navigation; ready: the runs are shown.
Memory: the largest resident size of the studio while a book is sent to it in pieces and then read through, above that
before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

LEARNER = Path(__file__).parents[1] / "tests/golden/runs/learner"
LINE = b"Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do.\n"
ROUTES = ("/", "/app.js", "/studio/runs", "/studio/training?run=reader-0", "/studio/learners", "/v1/models")


@contextmanager
def studio(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """`hrm studio` and the address that lets one in."""
    command = [sys.executable, "-m", "hrm", "studio", str(folder), "--no-browser", "--port", "0"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        yield (
            psutil.Process(started.pid),
            next(line.strip() for line in iter(started.stdout.readline, "") if "token" in line),
        )
    finally:
        started.kill()
        started.communicate()


def milliseconds(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """Median and 95th percentile of some calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {"median": statistics.median(times), "p95": sorted(times)[int(0.95 * (len(times) - 1))]}


def pages(address: str, rounds: int) -> tuple[dict[str, float], str]:
    """Times of the first page in milliseconds, and the cookie."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    paint, ready, sent = [], [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        first = browser.new_context()
        page = first.new_page()
        page.goto(address)
        state = first.storage_state()
        for _ in range(rounds):
            context = browser.new_context(storage_state=state)
            page = context.new_page()
            start = time.perf_counter()
            page.goto(address.split("?")[0])
            page.locator(".run").first.wait_for()
            ready.append(1000 * (time.perf_counter() - start))
            paint.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            sent.append(
                page.evaluate("performance.getEntries().reduce((sum, each) => sum + (each.transferSize || 0), 0)")
            )
            context.close()
        browser.close()
    cookie = "; ".join(f"{each.get('name')}={each.get('value')}" for each in state.get("cookies", []))
    found = {"first_paint_ms": statistics.median(paint), "ready_ms": statistics.median(ready), "bytes": max(sent)}
    return found, cookie


def large(process: psutil.Process, host: str, cookie: str, megabytes: int) -> dict[str, Any]:
    """Send a book in pieces and let it be read through."""
    piece = LINE * (10**6 // len(LINE))
    size, before, most, over = len(piece) * megabytes, process.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.05):
            most = max(most, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    headers = {"cookie": cookie, "origin": f"http://{host}"}
    connection = http.client.HTTPConnection(host, timeout=3600)
    start = time.perf_counter()
    connection.putrequest("PUT", "/studio/books?name=large.txt")
    for name, value in (headers | {"content-length": str(size)}).items():
        connection.putheader(name, value)
    connection.endheaders()
    for _ in range(megabytes):
        connection.send(piece)
    answer = json.loads(connection.getresponse().read())
    sent, sent_most = time.perf_counter() - start, most
    start = time.perf_counter()
    body = json.dumps({"path": answer["path"]})
    connection.request("POST", "/studio/look", body, headers | {"content-type": "application/json"})
    last = json.loads(connection.getresponse().read().splitlines()[-1])
    read = time.perf_counter() - start
    over.set()
    watching.join()
    assert last["book"]["characters"] == size == answer["bytes"]
    return {
        "bytes": size, "sending_seconds": sent, "reading_seconds": read,
        "sending_mib": (sent_most - before) / 2**20, "reading_mib": (most - before) / 2**20,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "runs"
        for number in range(options.runs):
            shutil.copytree(LEARNER, folder / f"reader-{number}")
        start = time.perf_counter()
        with studio(folder) as (process, address):
            found: dict[str, Any] = {"runs": options.runs, "start_seconds": time.perf_counter() - start}
            found["page"], cookie = pages(address, max(3, options.rounds // 5))
            host = address.split("/")[2]
            connection = http.client.HTTPConnection(host)

            def ask(path: str) -> None:
                connection.request("GET", path, headers={"cookie": cookie})
                answer = connection.getresponse()
                assert answer.read() and answer.status == 200, path

            found["routes_ms"] = {}
            for path in ROUTES:
                ask(path)
                found["routes_ms"][path] = milliseconds(lambda path=path: ask(path), options.rounds)
            found["book"] = large(process, host, cookie, options.megabytes)
    found |= {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
    page, book = found["page"], found["book"]
    print(f"first paint {page['first_paint_ms']:.0f} ms, runs shown {page['ready_ms']:.0f} ms, {page['bytes']:,} bytes")
    for path, times in found["routes_ms"].items():
        print(f"{path:32} median {times['median']:6.1f} ms   p95 {times['p95']:6.1f} ms")
    print(
        f"a book of {book['bytes']:,} bytes: sent in {book['sending_seconds']:.1f} s (+{book['sending_mib']:.0f} MiB), "
        f"read through in {book['reading_seconds']:.1f} s (+{book['reading_mib']:.0f} MiB)"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
