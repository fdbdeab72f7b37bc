"""Interrupt a training at random moments: it must always resume, lose no checkpoint, and end with the same weights.

    python benchmarks/kill_campaign.py [--of puzzles | books | pairs | ranks] [--kills 200] [--seed 0] [--json FILE]

A tiny run that saves after every step is started, killed with SIGKILL and resumed, until it ends; then the next one,
until the kills are used up. `books`: a learner reads two books, with a memory, new characters and new layers between
them; half of the interruptions are SIGTERM, at which it pauses. `pairs`: two processes write into one folder at the
same time, every verb with every other (see pairs.py). `ranks`: one of several processes that train together is killed
(see ranks.py); stopped and started again, it counts on. Most processes are forked after the imports, so that
kills hit the training; the others are started from nothing, so that kills hit the start of the program too. POSIX only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

os.environ["OMP_NUM_THREADS"] = "1"

# Imported before the forks, or each child would pay for it; the optimizers import torch._dynamo.
import torch
import torch._dynamo

from hrm.cli.main import main as hrm_command
from hrm.puzzles.config import Config
from hrm.runs import Run, checkpoint
from hrm.text.config import LearnConfig
from hrm.training.progress import CLOCKED

KEEP = 2
"""Checkpoints that are kept."""
FRESH = 1 / 8
"""Share of the processes that are started from nothing."""
TIMES = (*CLOCKED, "data", "steps_per_second", "characters_per_second")


class Puzzles:
    """48 steps on 4x4 Sudokus."""

    signals = (signal.SIGKILL,)
    kind: type = Config
    flags = (
        f"sudoku-4x4 --train.steps 48 --train.checkpoint-every 1 --train.keep {KEEP} --train.log-every 1 "
        "--train.eval-every 6 --train.eval-puzzles 10 --train.batch-size 8 --train.device cpu --arch.dim 8 "
        "--task.puzzles 40 --task.holdout 10 --optim.warmup-steps 2 --halting.max-segments 3"
    )

    def args(self, run: Path) -> list[str]:
        """The command that begins or resumes a run."""
        exists = (run / "run.json").is_file()
        return ["train", "--resume", str(run)] if exists else ["train", *self.flags.split(), "--out", str(run)]

    def facts(self, run: Path) -> dict[str, Any]:
        """What else two finished runs have in common."""
        return {"best": (Run.open(run, Config).best or {}).get("step")}

    def ended(self, run: Path) -> bool:
        """Whether a process that left without an error has done all there was to do."""
        return True


class Books:
    """Two books, the second in other letters; layers are added after the first."""

    signals = (signal.SIGKILL, signal.SIGTERM)
    kind: type = LearnConfig
    length = 250
    """Words of a book."""
    words: ClassVar = {"one.txt": "the cat sat on a mat and the dog ate it", "two.txt": "ÄPFEL UND BÄUME, ZWÖLF KÜHE!"}
    flags = (
        "--epochs 2 --length 24 --stride 12 --batch-size 4 --checkpoint-every 1 --log-every 1 --eval-characters 200 "
        "--grow-every 1000 --device cpu --arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 "
        "--arch.intermediate-size 32 --halting.max-segments 2"
    )

    def __init__(self, folder: Path) -> None:
        self.files = [folder / name for name in self.words]
        for file, words in zip(self.files, self.words.values(), strict=True):
            file.write_text(" ".join(random.Random(file.name).choices(words.split(), k=self.length)))

    def args(self, run: Path) -> list[str]:
        """The same command begins and resumes."""
        return ["learn", str(run), *map(str, self.files), *self.flags.split()]

    def facts(self, run: Path) -> dict[str, Any]:
        """What the books were worth, how it grew, and the tokens."""
        state = self._state(run)
        told = {name: state[name] for name in ("growth", "tokens", "model")}
        for entry in (*state["books"], *state["growth"]):
            for name in ("at", "learned_at", "finished_at"):
                entry.pop(name, None)
        return {"books": state["books"], **told}

    def ended(self, run: Path) -> bool:
        """Whether it has learned both, or only paused."""
        return [book["state"] for book in self._state(run)["books"]] == ["finished", "finished"]

    def _state(self, run: Path) -> dict[str, Any]:
        found = checkpoint.newest(run / "checkpoints", print)
        return {"books": []} if found is None else checkpoint.load(found, ())[1]


def start(args: list[str], log: Path, fresh: bool) -> int:
    """Run `hrm` with these arguments in a new process whose output is appended to a file; returns its id."""
    with log.open("ab") as output:
        if fresh:
            return subprocess.Popen([sys.executable, "-m", "hrm", *args], stdout=output, stderr=output).pid
        child = os.fork()
        if child == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(hrm_command(args))
        return child


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a child, or None if it still runs after that time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def uninterrupted(work: Puzzles | Books, folder: Path, fresh: bool) -> float:
    """Train without a kill; returns the seconds it took."""
    started = time.monotonic()
    code = wait(start(work.args(folder), folder.with_suffix(".log"), fresh), 600)
    if code != 0:
        sys.exit(f"the uninterrupted training failed:\n{folder.with_suffix('.log').read_text()}")
    return time.monotonic() - started


def ending(work: Puzzles | Books, folder: Path) -> dict[str, Any]:
    """All that two finished runs must have in common: the bytes of the last checkpoint, the metrics without times."""
    run = Run.open(folder, work.kind)
    last = run.checkpoint("latest")
    return {
        **{file.name: file.read_bytes() for file in sorted(last.glob("*.safetensors"))},
        "step": checkpoint.step_of(last),
        "metrics": [{k: v for k, v in record.items() if k not in TIMES} for record in run.records()],
        **work.facts(folder),
    }


def saved(folder: Path) -> set[int]:
    """Steps with a complete checkpoint."""
    return {checkpoint.step_of(path) for path in checkpoint.complete(folder / "checkpoints")}


def lost(work: Puzzles | Books, folder: Path, before: set[int]) -> list[str]:
    """Checkpoints that were complete before the kill and are gone, though neither `keep` nor the best explains it."""
    after = saved(folder)
    pruned = {step for step in before - after if sum(other > step for other in after) >= KEEP}
    best = Run.open(folder, work.kind).best
    named = set() if best is None else {best["step"]}
    return [f"step {step}" for step in sorted((before - after - pruned) | (named - after))]


def damaged(folder: Path) -> list[str]:
    """Checkpoints that look complete and are not."""
    found = []
    for path in checkpoint.complete(folder / "checkpoints"):
        try:
            checkpoint.verify(path)
        except checkpoint.DamagedCheckpoint as error:
            found.append(str(error))
    return found


def moment(folder: Path) -> str:
    """What a kill interrupted, as far as the run folder tells."""
    if not (folder / "run.json").is_file():
        return "before the run existed"
    if any(path.name.startswith(".tmp-") for path in (folder / "checkpoints").iterdir()):
        return "while saving or pruning"
    return "starting or between saves" if checkpoint.complete(folder / "checkpoints") else "before the first checkpoint"


def campaign(
    work: Puzzles | Books, folder: Path, rng: random.Random, kills: int, length: dict[bool, float], result: Counter[str]
) -> bool:
    """One training, interrupted at most `kills` times before it may end; False if it could not resume."""
    log = folder.with_suffix(".log")
    while True:
        fresh, number = rng.random() < FRESH, rng.choice(work.signals)
        known = saved(folder)
        child = start(work.args(folder), log, fresh)
        code = wait(child, rng.uniform(0, length[fresh]) if kills else 600)
        cut = code is None
        if cut:
            known |= saved(folder)
            os.kill(child, number)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not cut and code == 0:
            return True
        # Before it has begun, a signal ends it with the exit code of shells.
        if code not in (0, -number, 128 + number):
            print(f"\ncould not resume (exit code {code}):\n{log.read_text()[-2000:]}", file=sys.stderr)
            return False
        if code == 0 and work.ended(folder):
            return True
        kills -= 1
        result["kills"] += number == signal.SIGKILL
        result["interruptions"] += 1
        result["pauses"] += code == 0
        result["interrupted processes started from nothing"] += fresh
        result[moment(folder)] += 1
        if (folder / "run.json").is_file():
            result["lost checkpoints"] += report(lost(work, folder, known), "lost")
            result["damaged checkpoints"] += report(damaged(folder), "damaged")


def report(names: list[str], what: str) -> int:
    """Say which checkpoints are bad; returns how many."""
    for name in names:
        print(f"\n{what}: {name}", file=sys.stderr)
    return len(names)


def of_pairs(count: int, rng: random.Random, seed: int, file: Path) -> int:
    """Two processes in one folder, again and again."""
    import pairs

    import hrm.text.training.session  # noqa: F401

    started = time.monotonic()
    rows = (
        "pairs", "starts", "ended well", "killed", "refused: in use", "refused, told who is at work",
        "refused: nothing to do", "taken to the end", *pairs.FAILURES,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        result = pairs.campaign(
            count, rng, Path(folder), start, wait, FRESH, lambda found: write(file, "pairs", seed, started, found, rows)
        )
    print(file=sys.stderr)
    show(result, rows)
    return int(any(result[name] for name in pairs.FAILURES))


def of_ranks(kills: int, seed: int, file: Path) -> int:
    """Processes that train together lose one of them, again and again."""
    import ranks

    result: Counter[str] = Counter()
    started = time.monotonic()
    if file.is_file():
        before = json.loads(file.read_text())
        result.update({name: before[_key(name)] for name in ranks.ROWS})
        started -= before["seconds"]

    def keep(found: Counter[str]) -> None:
        write(file, "ranks", seed, started, found, ranks.ROWS, steps=ranks.STEPS)

    with tempfile.TemporaryDirectory() as folder:
        ranks.campaign(kills, random.Random(seed + result["kills"]), Path(folder), result, keep)
    show(result, ranks.ROWS)
    return int(any(result[name] for name in ranks.FAILURES))


def _key(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def show(result: Counter[str], rows: tuple[str, ...]) -> None:
    """Print a table."""
    for name in rows:
        print(f"{name:40}{result[name]:6}")


def write(
    file: Path, of: str, seed: int, started: float, result: Counter[str], rows: tuple[str, ...], **more: Any
) -> None:
    """Keep a table."""
    facts = {
        "of": of, **more, "seed": seed, "seconds": round(time.monotonic() - started, 1),
        "torch": torch.__version__, "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {_key(name): result[name] for name in rows}
    file.write_text(json.dumps({**kept, **facts}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", choices=("puzzles", "books", "pairs", "ranks"), default="puzzles")
    parser.add_argument(
        "--kills", type=int, default=200, help="interruptions, or pairs, in all (100 are asked of ranks)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments; the machine's speed changes them as well")
    parser.add_argument(
        "--json", type=Path, help="default: benchmarks/results/kill_campaign[_books|_pairs|_ranks].json"
    )
    args = parser.parse_args()
    name = "kill_campaign" if args.of == "puzzles" else f"kill_campaign_{args.of}"
    file = args.json or Path(__file__).parent / "results" / f"{name}.json"
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    started = time.monotonic()
    if args.of == "pairs":
        return of_pairs(args.kills, rng, args.seed, file)
    if args.of == "ranks":
        return of_ranks(args.kills, args.seed, file)
    result: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        work = Books(folder) if args.of == "books" else Puzzles()
        length = {fresh: uninterrupted(work, folder / f"straight-{fresh}", fresh) for fresh in (False, True)}
        # A resumed training has less to do, and one that ends by itself is no kill.
        length[False] /= 2
        wanted = ending(work, folder / "straight-False")
        result["uninterrupted runs that differ"] = int(ending(work, folder / "straight-True") != wanted)
        while result["interruptions"] < args.kills:
            run = folder / f"run-{result['campaigns']}"
            result["campaigns"] += 1
            if not campaign(work, run, rng, args.kills - result["interruptions"], length, result):
                result["runs that could not resume"] += 1
            elif (found := ending(work, run)) != wanted:
                result["different endings"] += 1
                print(f"\n{run} ended differently in {[k for k in wanted if found[k] != wanted[k]]}", file=sys.stderr)
            shutil.rmtree(run)
            print(f"\r{result['interruptions']}/{args.kills}, {result['campaigns']} trainings", end="", file=sys.stderr)
    print(file=sys.stderr)
    failures = (
        "runs that could not resume", "lost checkpoints", "damaged checkpoints", "different endings",
        "uninterrupted runs that differ",
    )  # fmt: skip
    rows = (
        "interruptions", "kills", "pauses", "campaigns", "interrupted processes started from nothing",
        "before the run existed", "before the first checkpoint", "while saving or pruning", "starting or between saves",
        *failures,
    )  # fmt: skip
    show(result, rows)
    write(file, args.of, args.seed, started, result, rows, steps=wanted["step"])
    return int(any(result[name] for name in failures))


if __name__ == "__main__":
    sys.exit(main())
