"""The program works where a system lacks what POSIX has, and in processes that are spawned, as on Windows and macOS."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest

import hrm  # noqa: F401

LACKING = {
    os: ("fork", "mkfifo", "sched_getaffinity", "openpty", "killpg"),
    signal: ("SIGHUP", "SIGBREAK", "SIGALRM", "SIGUSR1", "SIGPIPE", "SIGKILL"),
}
"""What is looked for by name; filelock and the standard library have taken what they need by then."""
TRAIN = (
    "--train.steps 2 --train.batch-size 4 --train.device cpu --optim.warmup-steps 0 --arch.dim 8 --task.puzzles 16 "
    "--task.holdout 4 --train.eval-puzzles 2 --halting.max-segments 2"
)
LEARN = (
    "--epochs 1 --length 24 --stride 24 --batch-size 8 --eval-characters 100 --device cpu --arch.dim 16 "
    "--arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32 --halting.max-segments 1"
)


def work(folder: str) -> None:
    """Everything that writes, in a process of its own that lacks all of it."""
    from hrm.cli.main import main
    from hrm.runs import Run  # noqa: F401  (with all that torch brings along)

    for module, names in LACKING.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    os.chdir(folder)
    text = Path("text.txt")
    text.write_text("the cat sat on a mat and the dog ate it\n" * 60)
    for args in (
        ["train", "sudoku-4x4", "--out", "run", *TRAIN.split()],
        ["train", "--resume", "run", "--train.steps", "3"],
        ["data", "pack", "text.txt", "--out", "packed"],
        ["data", "build", "--box", "2", "2", "--puzzles", "4", "--out", "some.csv"],
        ["learn", "reader", "text.txt", *LEARN.split()],
        ["status", "reader", "--repair"],
        ["learn", "reader", "text.txt", "--fresh", *LEARN.split()],
        ["solve", "run", "some.csv", "--json"],
    ):
        assert (code := main(args)) == 0, f"{args} ended with {code}"


@pytest.mark.slow
def test_a_spawned_process_that_lacks_what_posix_has_does_all_its_work(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(str(tmp_path),))
    process.start()
    process.join(300)
    assert process.exitcode == 0
    assert {"run", "packed", "some.csv", "reader", "reader-1"} <= {path.name for path in tmp_path.iterdir()}


def test_the_program_imports_nothing_that_only_some_systems_have() -> None:
    only = ("fcntl", "termios", "tty", "pty", "resource", "pwd", "grp", "msvcrt", "winreg")
    source = Path(sys.modules["hrm"].__file__ or "").parent
    for file in source.rglob("*.py"):
        lines = file.read_text("utf-8").splitlines()
        found = [line for line in lines if line.split()[:1] in (["import"], ["from"]) and line.split()[1] in only]
        assert not found or any("suppress(ImportError)" in line or "except ImportError" in line for line in lines), file
