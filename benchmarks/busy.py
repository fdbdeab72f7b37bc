"""How long `hrm demo` takes, alone and beside programs that keep every core busy, by the number of threads.

    python benchmarks/busy.py [--steps 30] [--busy 2] [--rounds 3] [--json benchmarks/results/busy.json]

`chosen` is what hrm decides by itself; the others set OMP_NUM_THREADS, `passive` also OMP_WAIT_POLICY (threads that
sleep while they wait). Whole processes are timed, with their start. Rounds go through all in turn, and the median
counts; `others` is the share of the machine that programs besides these used in the quiet rounds: above a few percent,
measure again. Exits with 1 where the chosen number takes more than twice its quiet time beside the busy programs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

SOURCE = Path(__file__).parents[1] / "src"
SETTINGS: dict[str, dict[str, str]] = {
    "chosen": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "all cores": {"OMP_NUM_THREADS": "{cores}"},
    "all cores, passive": {"OMP_NUM_THREADS": "{cores}", "OMP_WAIT_POLICY": "passive"},
}


@contextmanager
def busy(number: int) -> Iterator[None]:
    """So many programs that do nothing but count."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        time.sleep(0.5 if programs else 0.0)
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def demo(steps: int, setting: dict[str, str]) -> tuple[float, float]:
    """Seconds of a demo from its start to its end, and the share of the machine that others used meanwhile."""
    unset = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    cores = str(os.cpu_count())
    environment = unset | {"PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path[1:]])}
    environment |= {name: value.format(cores=cores) for name, value in setting.items()}
    with tempfile.TemporaryDirectory() as folder:
        out = ("--out", str(Path(folder) / "demo"), "--json")
        command = [sys.executable, "-m", "hrm", "demo", "--steps", str(steps), *out]
        before, own, start = _worked(), _children(), time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        others = _worked() - before - (_children() - own)
    return seconds, max(0.0, others / seconds / (os.cpu_count() or 1))


def _worked() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="programs beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    times: dict[str, dict[str, list[float]]] = {name: {"quiet": [], "busy": []} for name in args.only}
    others: list[float] = []
    for _ in range(args.rounds):
        for name in args.only:
            for kind, number in (("quiet", 0), ("busy", args.busy)):
                with busy(number):
                    seconds, used = demo(args.steps, SETTINGS[name])
                times[name][kind].append(seconds)
                others += [] if number else [used]
    rows: dict[str, Any] = {}
    print(f"{'':22}{'quiet':>8}{f'beside {args.busy}':>12}{'ratio':>8}")
    for name, found in times.items():
        quiet, beside = (statistics.median(found[kind]) for kind in ("quiet", "busy"))
        rows[name] = {"quiet": quiet, "busy": beside, "ratio": beside / quiet, "all": found}
        print(f"{name:22}{quiet:8.1f}{beside:12.1f}{beside / quiet:8.2f}")
    facts = {"steps": args.steps, "busy": args.busy, "rounds": args.rounds, "others": statistics.median(others)}
    facts |= {"cores": os.cpu_count(), "machine": platform.processor() or platform.machine()}
    print(
        "  ".join(
            f"{key} {value:.2f}" if isinstance(value, float) else f"{key} {value}" for key, value in facts.items()
        )
    )
    if args.json is not None:
        args.json.write_text(json.dumps({**facts, "settings": rows}, indent=1) + "\n")
    return int("chosen" in rows and rows["chosen"]["ratio"] > 2)


if __name__ == "__main__":
    sys.exit(main())
