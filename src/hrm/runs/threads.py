"""The number of threads for a computation on the CPU, chosen once when it begins.

Threads that share an operation wait for each other in a busy loop. If another program takes the core of one of them,
all wait until it gets the core back: 30 steps of the demo took 41 seconds with two threads beside two busy programs,
and 13 with one; alone 7.3 and 8.0. So a small model gets one thread, since other programs may start later, and a large
one as many as there are free cores.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from hrm.files.reading import UserError

SMALL = 1 << 26
"""Below this many multiplications a visit (positions times weights) a second thread gains next to nothing."""
MOST = 1024
_WATCHED = 0.25
"""Seconds over which the load of the cores is measured."""
_own = torch.get_num_threads()
"""The thread count in effect: torch's own choice until `settle` sets one."""
_settled: int | None = None


def settle_for(model: nn.Module, positions: int, wanted: int = 0) -> str:
    """Set the threads for a model that works on this many positions at a time, if it is on a CPU; returns a note."""
    if next(model.parameters()).device.type != "cpu":
        return ""
    return settle(work_of(model, positions), wanted)[1]


def work_of(model: Any, positions: int) -> int:
    """Multiplications of a model when both stacks process this many positions, or of one without them all weights."""
    stacks = getattr(getattr(model, "model", model), "recurrence", model)
    return positions * sum(p.numel() for p in stacks.parameters())


def settle(work: int, wanted: int = 0) -> tuple[int, str]:
    """Set torch's threads for operations of this much `work` (see SMALL); returns their number and why. `wanted` is the
    number that a flag or the run gives (0: none), because the last bits of sums depend on it. OMP_NUM_THREADS overrides
    all of this."""
    global _own, _settled
    if not 0 <= wanted <= MOST:
        raise UserError(f"--threads {wanted} is not possible: use a number from 1 to {MOST}, or 0 to leave it open")
    if torch.get_num_threads() != _settled:
        _own = torch.get_num_threads()
    number, why = _choose(work, wanted, _own)
    if number != torch.get_num_threads():
        torch.set_num_threads(number)
    _settled = number
    return number, f"{number} thread{'s' if number > 1 else ''} ({why})"


def _choose(work: int, wanted: int, most: int) -> tuple[int, str]:
    if os.environ.get("OMP_NUM_THREADS", "").strip():
        return most, "OMP_NUM_THREADS says so"
    if wanted:
        return wanted, "as set, or as the run began"
    if work < SMALL:
        return 1, "more are no faster with so small a model"
    cores = min(most, _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    number = max(1, min(cores, free_cores()))
    return number, "as many as there are free cores" if number < cores else "as many as there are cores"


def _cores() -> int:
    """Cores that this process may use: of the machine, by its affinity, by the quota of its container."""
    cores = len(_allowed())
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no quota file
        return cores


def _allowed() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def free_cores() -> int:
    """How many of this process's cores no other program uses at the moment; a load of a quarter core counts as free."""
    busy = psutil.cpu_percent(_WATCHED, percpu=True)
    allowed = [core for core in _allowed() if core < len(busy)]
    return int(len(allowed) - sum(busy[core] for core in allowed) / 100 + 0.25)
