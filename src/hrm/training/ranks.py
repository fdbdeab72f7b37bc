"""Processes that train together: how all of them end when one is lost, and how torchrun's restart resumes."""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import psutil
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object

from hrm.runs import checkpoint
from hrm.runs.folder import Run
from hrm.settings import Recipe
from hrm.training.interrupt import Terminated
from hrm.training.trainer import anyone

_NOTICED = 2.0
"""Seconds after which a process whose connections are closed has certainly ended."""


class RankLost(Exception):
    """Another process has died or does not answer; without a message where another one says so."""


@contextmanager
def together(path: Path, accelerator: Accelerator) -> Iterator[None]:
    """Train into a run folder; a call in every process. Inside, an error of communication that comes of the loss of
    another process becomes a RankLost."""
    if accelerator.num_processes == 1:
        yield
        return
    ids = dict(enumerate(gather_object([(os.getpid(), platform.node())])))
    try:
        yield
    except (RuntimeError, Terminated) as error:
        asked = isinstance(error, Terminated)  # perhaps by torchrun, which has noticed the loss first
        if not asked and not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        if not asked:  # it would come before this process could say why it ends
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        here = {rank: process for rank, (process, host) in ids.items() if host == platform.node()}
        lost = _lost(here, 0.0 if asked else _NOTICED)
        if asked and not lost:
            raise
        if accelerator.process_index != min(ids.keys() - lost.keys()):
            raise RankLost from error
        told = "; ".join(f"rank {rank} (process {here[rank]}) {how}" for rank, how in lost.items())
        told = told or "a rank on another machine has died or does not answer"
        saved = checkpoint.intact(path / "checkpoints") or "there is no checkpoint yet"
        raise RankLost(f"{told}, so all end; {saved}: resume with hrm train --resume {path}") from error


def _lost(here: dict[int, int], seconds: float) -> dict[int, str]:
    """How the ranks on this machine have ended that no longer run; waits so long for one that is about to end."""
    until = time.monotonic() + seconds
    while True:
        lost = {rank: how for rank, process in here.items() if (how := _end(process))}
        if lost or time.monotonic() > until:
            return lost
        time.sleep(0.05)


def _end(process: int) -> str | None:
    """How a process ended, as far as the system tells others than its parent; None while it runs."""
    try:
        status = psutil.Process(process).status()
        if status == psutil.STATUS_STOPPED:
            return "is stopped and does not answer"
        if status != psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError, ValueError, IndexError):  # Linux keeps the exit code until the parent asks for it
            code = os.waitstatus_to_exitcode(int(Path(f"/proc/{process}/stat").read_text().split()[-1]))
            if code < 0:
                return f"was killed by {signal.Signals(-code).name}"
    except psutil.NoSuchProcess:
        pass
    return "has ended (its own message or torchrun's report says why)"


def leave(lost: RankLost) -> NoReturn:
    """End this process with the sentence, if it has one."""
    if str(lost):
        print(f"hrm train: {lost}", file=sys.stderr, flush=True)
        time.sleep(_NOTICED)  # the others notice one after the other, and each that finds this one dead would speak
    os._exit(1)  # threads that still wait for the lost process would not let the interpreter end


def restarted(path: Path, kind: type[Recipe], accelerator: Accelerator) -> tuple[bool, bool]:
    """Whether torchrun has started its command again after it had made the run folder `path`, and whether that has a
    checkpoint to resume; a call in every process."""
    ours = saved = False
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if again and accelerator.is_main_process and (path / "run.json").is_file():
        # A run that is older than torchrun, its parent, is another one, which the command may not touch.
        began = int(psutil.Process(os.getppid()).create_time())
        ours = datetime.fromisoformat(Run.open(path, kind).created).timestamp() >= began
        saved = ours and bool(checkpoint.complete(path / "checkpoints"))
    return anyone(ours, accelerator), anyone(saved, accelerator)
