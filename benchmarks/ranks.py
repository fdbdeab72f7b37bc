"""For kill_campaign.py: a random one of several processes is killed, and any number of processes resumes.

A training of 16 steps, of puzzles or of text, whole on each process or split, with checkpoints for which the steps wait
or not, lives many lives of 1, 2 or 4 processes.
In each life a random process is killed at a random moment; the others are sent SIGTERM a moment later, as torchrun
does. What it learned from (a hash of every row of every step) and its losses must be those of one uninterrupted
process. Where all lives had equally many processes, every bit must be that of an uninterrupted training of as many.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.fsdp
from safetensors.torch import load_file

import hrm.text.training.session  # noqa: F401
from hrm.cli.main import main as hrm_command
from hrm.puzzles.config import Config
from hrm.puzzles.training.trainer import Trainer
from hrm.runs import Run, checkpoint
from hrm.text.config import TextConfig
from hrm.text.training.trainer import TextTrainer
from hrm.training.progress import CLOCKED

STEPS, KILLS, PATIENCE = 16, 8, 30.0
"""Of a training, in a training at most, and seconds until all processes must have ended."""
COUNTS = (1, 2, 4)
CLOCKS = (*CLOCKED, "data", "changed")
SHARED = (
    f"--train.steps {STEPS} --train.checkpoint-every 1 --train.log-every 1 --train.eval-every 8 --train.eval-puzzles 4 "
    "--train.batch-size 4 --train.device cpu --train.precision float32 --train.keep 2 --optim.warmup-steps 2 "
    "--halting.max-segments 2"
)
FLAGS = {
    "puzzles": "sudoku-4x4 --optim.name adam_atan2 --arch.dim 8 --task.puzzles 40 --task.holdout 10",
    "text": "text-char --arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --text.length 16 "
    "--arch.intermediate-size 32 --text.holdout 0.2",
}
FAILURES = (
    "runs lost", "trainings with other rows", "trainings with other losses", "not equal to the bit",
    "processes that outlived another by 30 s",
)  # fmt: skip
ROWS = (
    "kills", "trainings", "of them with checkpoints beside the steps", "of them equal to the bit",
    "lives of 1 process", "lives of 2 processes",
    "lives of 4 processes", "killed before the first checkpoint", *FAILURES,
)  # fmt: skip


class Training:
    """One training in a folder of its own."""

    def __init__(self, folder: Path, kind: str, parallel: str, beside: bool = False) -> None:
        """`beside`: whether checkpoints are written during the next steps."""
        self.folder, self.kind, self.parallel, self.beside = folder, kind, parallel, beside
        self.run, self.rows, self.log = folder / "run", folder / "rows.jsonl", folder / "log"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "text").write_text("the fox sees the hen\nthe hen sees the fox\n" * 20)

    def args(self) -> list[str]:
        """The command that begins or resumes it."""
        if (self.run / "run.json").is_file() and (self.kind == "puzzles" or self.saved()):
            return ["train", "--resume", str(self.run)]
        data = ["--data", str(self.folder / "text")] if self.kind == "text" else []
        flags = f"{FLAGS[self.kind]} {SHARED} --train.parallel {self.parallel} --overwrite"
        flags += " --train.async-checkpoints" if self.beside else ""
        return ["train", *flags.split(), *data, "--out", str(self.run)]

    def saved(self) -> list[Path]:
        """Its complete checkpoints."""
        return checkpoint.complete(self.run / "checkpoints")

    def start(self, count: int) -> list[int]:
        """Begin or resume in this many processes; returns their ids."""
        args, children = self.args(), []
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        for rank in range(count):
            children.append(os.fork())
            if not children[-1]:
                with self.log.open("ab") as output:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                if count > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
                    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_PORT": port}
                _write_rows(self.rows)
                os._exit(hrm_command(args))
        return children

    def ending(self) -> dict[str, Any]:
        """What equal trainings have in common: tensors of the last checkpoint, metrics without times."""
        run = Run.open(self.run, Config if self.kind == "puzzles" else TextConfig)
        last = run.checkpoint("latest")
        records = [r for r in run.records() if r.get("event") != "resumed"]
        return {
            # The order of the names in a file differs from one start to another.
            **{
                f"{file.stem} {name}": (tuple(tensor.shape), tensor.numpy().tobytes())
                for file in last.glob("*.safetensors")
                for name, tensor in load_file(file).items()
            },
            "step": checkpoint.step_of(last),
            "metrics": [{k: v for k, v in record.items() if k not in CLOCKS} for record in records],
        }

    def losses(self) -> dict[int, float]:
        """By step."""
        metrics = self.ending()["metrics"]
        return {record["step"]: record["loss"] for record in metrics if "loss" in record and "event" not in record}

    def seen(self) -> dict[tuple[int, int], set[str]]:
        """The hashes of what was drawn for each row of each step, in any life."""
        found: dict[tuple[int, int], set[str]] = defaultdict(set)
        for line in self.rows.read_text().splitlines():
            step, first, hashes = json.loads(line)
            for row, value in enumerate(hashes, first):
                found[step, row].add(value)
        return found


def _write_rows(file: Path) -> None:
    """Let the trainers of this process write down what they draw."""

    def recorded(kind: Any, parts: Callable[[Any, Any], tuple[torch.Tensor, torch.Tensor]]) -> None:
        draw = kind.draw

        def drawn(self: Any) -> Any:
            batch = draw(self)
            rows = zip(*parts(self, batch), strict=True)
            hashes = [hashlib.sha256(b"".join(t.numpy().tobytes() for t in row)).hexdigest()[:16] for row in rows]
            with file.open("ab", buffering=0) as output:
                output.write(json.dumps([self.step_number, self.rows.start, hashes]).encode() + b"\n")
            return batch

        kind.draw = drawn

    recorded(Trainer, lambda trainer, batch: (trainer.slots.inputs, trainer.slots.labels))
    recorded(TextTrainer, lambda trainer, batch: (batch.ids, batch.labels))


def ended(children: list[int], seconds: float) -> dict[int, int]:
    """The exit codes of those processes that end within this time; returns at the first one that fails."""
    codes: dict[int, int] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(codes) < len(children) and not any(codes.values()):
        for child in set(children) - codes.keys():
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                codes[child] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return codes


def end_all(children: list[int]) -> bool:
    """End the rest as torchrun does; whether all left before they had to be killed."""
    time.sleep(0.1)
    left = running(children)
    for child in left:
        os.kill(child, signal.SIGTERM)
    until = time.monotonic() + PATIENCE
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = running(left)
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not left


def running(children: list[int]) -> list[int]:
    """Those that have not ended."""
    return [child for child in children if not os.waitpid(child, os.WNOHANG)[0]]


def straight(folder: Path, kind: str, parallel: str, count: int) -> tuple[Training, float]:
    """A training without a kill, and the seconds it took."""
    training, began = Training(folder, kind, parallel), time.monotonic()
    children = training.start(count)
    codes = ended(children, 600)
    if any(codes.values()) or len(codes) < count:
        end_all([child for child in children if child not in codes])
        raise SystemExit(f"the uninterrupted training failed:\n{training.log.read_text()[-2000:]}")
    return training, time.monotonic() - began


def live(training: Training, counts: tuple[int, ...], rng: random.Random, length: float, result: Counter[str]) -> bool:
    """All lives of a training until its end; False if it could not continue."""
    for kills in range(KILLS + 1):
        count = rng.choice(counts)
        result[f"lives of {count} process{'es' * (count > 1)}"] += 1
        children = training.start(count)
        codes = ended(children, rng.uniform(0, length) if kills < KILLS else 600)
        left = [child for child in children if child not in codes]
        if not any(codes.values()) and not left:
            return True
        if not any(codes.values()) and kills < KILLS:
            victim = rng.choice(left)
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            result["kills"] += 1
            result["killed before the first checkpoint"] += not training.saved()
            left.remove(victim)
            result["processes that outlived another by 30 s"] += not end_all(left)
            continue
        end_all(left)
        print(f"\ncould not continue:\n{training.log.read_text()[-2000:]}")
        return False
    return False


def campaign(
    kills: int, rng: random.Random, folder: Path, result: Counter[str], keep: Callable[[Counter[str]], None]
) -> None:
    """Trainings until there were this many kills in all; `keep` is called after each, with what is known by then."""
    known: dict[tuple[str, str, int], tuple[Training, float]] = {}

    def reference(kind: str, parallel: str, count: int) -> tuple[Training, float]:
        name = (kind, "ddp" if count == 1 else parallel, count)
        if name not in known:
            known[name] = straight(folder / "-".join(map(str, name)), *name)
        return known[name]

    while result["kills"] < kills:
        kind, parallel = rng.choice(list(FLAGS)), rng.choice(("ddp", "fsdp"))
        counts = rng.choice([COUNTS, COUNTS, (2,), (4,)])
        one, _ = reference(kind, parallel, 1)
        longest = max(reference(kind, parallel, count)[1] for count in counts)
        training = Training(folder / "mortal", kind, parallel, beside=rng.random() < 0.5)
        found: Counter[str] = Counter({"trainings": 1, "of them with checkpoints beside the steps": training.beside})
        if live(training, counts, rng, longest / 2, found):
            seen, losses, right = training.seen(), training.losses(), one.losses()
            found["trainings with other rows"] += seen != one.seen()
            close = losses.keys() == right.keys() and all(abs(losses[s] - right[s]) <= 1e-5 for s in right)
            found["trainings with other losses"] += not close
            if len(counts) == 1:
                same = training.ending() == reference(kind, parallel, counts[0])[0].ending()
                found["of them equal to the bit" if same else "not equal to the bit"] += 1
        else:
            found["runs lost"] += 1
        result.update(found)
        keep(result)
        if any(found[name] for name in FAILURES):
            kept = folder / f"failed-{result['trainings']}"
            shutil.move(training.folder, kept)
            print(f"\nkept: {kept}, {kind} {parallel} {counts}: {dict(found)}", flush=True)
        print(f"{result['kills']}/{kills} kills, {result['trainings']} trainings", flush=True)
