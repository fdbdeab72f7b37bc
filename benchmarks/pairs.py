"""Two processes write into one run folder: every pair of verbs, one begun a random moment after the other.

Part of `kill_campaign.py --of pairs`. A pair begins with no folder, a paused training of puzzles or of text, or a
learner whose second book is paused. One of the two may be refused, with exit code 2 and a sentence; in a quarter of the
pairs the first is killed. Then the run is taken to its end by a third process, and nothing may be lost on the way.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hrm.files.reading import UserError
from hrm.runs import checkpoint
from hrm.training.progress import CLOCKED

_PUZZLES = (
    "--train.steps 12 --train.checkpoint-every 1 --train.keep 20 --train.log-every 1 --train.eval-every 6 "
    "--train.eval-puzzles 4 --train.batch-size 4 --train.device cpu --arch.dim 8 --task.puzzles 24 --task.holdout 4 "
    "--optim.warmup-steps 2 --halting.max-segments 2"
)
_TEXT = (
    "--text.length 24 --train.steps 8 --train.checkpoint-every 1 --train.keep 20 --train.log-every 1 "
    "--train.eval-every 4 --train.eval-puzzles 2 --train.batch-size 4 --train.device cpu --optim.warmup-steps 2 "
    "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32 "
    "--halting.max-segments 1"
)
_BOOKS = (
    "--epochs 1 --length 24 --stride 24 --batch-size 8 --checkpoint-every 1 --log-every 1 --eval-characters 100 "
    "--device cpu --arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32 "
    "--halting.max-segments 1"
)
STATES = {
    "nothing": ("train", "train --overwrite", "train text", "learn", "learn --fresh"),
    "puzzles": ("train", "train --resume", "train --overwrite", "train text --overwrite"),
    "text": ("train text", "train --resume", "train text --overwrite", "train --overwrite"),
    "learner": ("learn", "learn alone", "learn --stop", "learn --grow", "learn --fresh", "status --repair", "train"),
}
"""What a pair begins with, and the verbs that write into it."""
REFUSALS = (
    "is in use", "already holds a run", "is a run of kind", "no unfinished book", "no paused book", "there is no run",
    "has just been begun", "is not a run folder", "has learned nothing yet",
)  # fmt: skip
"""Sentences of a process that rightly did nothing."""
FAILURES = (
    "lost books",
    "lost checkpoints",
    "lost trainings",
    "refused without a sentence",
    "not as if one after another",
)


class Verbs:
    """The commands, on a folder with the texts."""

    def __init__(self, folder: Path) -> None:
        self.books = [folder / "one.txt", folder / "two.txt"]
        for file, words in zip(self.books, ("the cat sat on a mat", "ÄPFEL UND BÄUME"), strict=True):
            file.write_text(" ".join(random.Random(file.name).choices(words.split(), k=150)), encoding="utf-8")

    def args(self, verb: str, run: Path) -> list[str]:
        """The arguments of `hrm`."""
        word = verb.split()[0]
        if word == "status":
            return ["status", str(run), "--repair"]
        if word == "learn":
            ending = {"learn --stop": ["--stop"], "learn --grow": ["--grow"], "learn alone": []}
            return ["learn", str(run), *ending.get(verb, [*map(str, self.books), *_BOOKS.split(), *verb.split()[1:]])]
        if verb == "train --resume":
            return ["train", "--resume", str(run)]
        over = ["--overwrite"] if "--overwrite" in verb else []
        if "text" in verb:
            return ["train", "text-char", "--data", str(self.books[0]), "--out", str(run), *_TEXT.split(), *over]
        return ["train", "sudoku-4x4", "--out", str(run), *_PUZZLES.split(), *over]


def kind(run: Path) -> str:
    """What a folder holds."""
    if not (run / "run.json").is_file():
        return "nothing"
    found = json.loads((run / "run.json").read_text()).get("kind", "puzzle")
    return "puzzles" if found == "puzzle" else str(found)


def books(run: Path) -> dict[str, str]:
    """The books in a run and those that --fresh set aside, and how far they are."""
    found: dict[str, str] = {}
    for path in (run, *run.parent.glob(f"{run.name}-[0-9]*")):
        if kind(path) == "learner" and (newest := checkpoint.newest(path / "checkpoints", print)):
            found |= {b["name"]: b["state"] for b in checkpoint.load(newest, ())[1]["books"] if b["name"] not in found}
    return found


def ending(run: Path) -> Any:
    """What two finished trainings have in common: the bytes of the last checkpoint, and the metrics without times."""
    last = checkpoint.complete(run / "checkpoints")[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = [{k: v for k, v in line.items() if k not in (*CLOCKED, "data")} for line in lines]
    return {file.name: file.read_bytes() for file in sorted(last.glob("*.safetensors"))}, told


def campaign(
    pairs: int,
    rng: random.Random,
    folder: Path,
    start: Callable[[list[str], Path, bool], int],
    wait: Callable[[int, float], int | None],
    fresh: float,
    keep: Callable[[Counter[str]], None],
) -> Counter[str]:
    """Run this many pairs of starts; counts of outcomes, which `keep` gets after each."""
    verbs, result = Verbs(folder), Counter[str]()

    def run_to_end(verb: str, run: Path, log: Path) -> int | None:
        return wait(start(verbs.args(verb, run), log, False), 600)

    begun, wanted, length = folder / "begun", {}, 0.0
    begun.mkdir()
    for state, verb in (("puzzles", "train"), ("text", "train text"), ("learner", "learn")):
        run, log, started = begun / state, folder / f"{state}.log", time.monotonic()
        if run_to_end(verb, run, log) != 0:
            sys.exit(f"{verb} failed:\n{log.read_text()}")
        length = max(length, time.monotonic() - started)
        wanted[state] = None if state == "learner" else ending(run)
        steps = checkpoint.complete(run / "checkpoints")
        if state == "learner":
            for _ in range(20):
                shutil.rmtree(run)
                if _paused_in_the_second(run, start(verbs.args(verb, run), log, False), wait):
                    break
            else:
                sys.exit(f"the learner could not be interrupted in its second book: {books(run)}")
        else:
            for later in steps[len(steps) // 2 :]:
                shutil.rmtree(later)
            (run / "result.json").unlink(missing_ok=True)
    every = [(state, *pair) for state, some in STATES.items() for pair in itertools.product(some, repeat=2)]
    order = [pair for _ in range(-(-pairs // len(every))) for pair in rng.sample(every, len(every))][:pairs]
    for number, (state, first, second) in enumerate(order):
        place = folder / f"pair-{number}"
        run, names = place / "run", (first, second)
        place.mkdir()
        if state != "nothing":
            shutil.copytree(begun / state, run)
        before = books(run)
        logs = [place / "first.log", place / "second.log"]
        killing = rng.random() < 0.25
        children = [start(verbs.args(first, run), logs[0], rng.random() < fresh)]
        time.sleep(rng.uniform(0, length / 4))  # so that most of them meet
        children.append(start(verbs.args(second, run), logs[1], rng.random() < fresh))
        if killing:
            time.sleep(rng.uniform(0, length / 4))
            try:
                os.kill(children[0], signal.SIGKILL)
            except ProcessLookupError:
                killing = False
        codes = [wait(child, 600) for child in children]
        found = _judge(state, names, codes, logs, killing, result)
        found += _finish(run, verbs, codes, names, before, wanted, run_to_end, place / "end.log", result)
        for failure, sentence in found:
            result[failure] += 1
            print(f"\n{state}, {first} + {second}: {failure}: {sentence}", file=sys.stderr)
        result["pairs"] += 1
        result["starts"] += 2
        if not found:
            shutil.rmtree(place)
        print(f"\r{number + 1}/{pairs}", end="", file=sys.stderr)
        keep(result)
    return result


def _paused_in_the_second(run: Path, child: int, wait: Callable[[int, float], int | None]) -> bool:
    """Interrupt a learner as soon as its second book is there; whether it was not too late."""
    while wait(child, 0.01) is None:
        with suppress(UserError, OSError):  # a checkpoint may be replaced while it is read here
            if "two.txt" in books(run):
                os.kill(child, signal.SIGTERM)
                wait(child, 60)
                break
    return books(run) == {"one.txt": "finished", "two.txt": "learning"}


def _judge(
    state: str, names: tuple[str, str], codes: list[int | None], logs: list[Path], killing: bool, result: Counter[str]
) -> list[tuple[str, str]]:
    """How the two ended."""
    found: list[tuple[str, str]] = []
    for place, (verb, code) in enumerate(zip(names, codes, strict=True)):
        said = logs[place].read_text(errors="replace")
        if code == 0:
            result["ended well"] += 1
        elif code == -signal.SIGKILL and killing and place == 0:
            result["killed"] += 1
        elif code == 2:
            last = said.strip().splitlines()[-1] if said.strip() else ""
            result["refused: in use" if "is in use" in last else "refused: nothing to do"] += 1
            whose = re.search(r"is in use: hrm .* \(process \d+ on .*\) has been writing into it since 2", last)
            result["refused, told who is at work"] += bool(whose)
            if not any(sentence in last for sentence in REFUSALS):
                found.append(("refused without a sentence", f"{verb}: {last[-300:]}"))
        else:
            found.append(("lost trainings", f"{verb} ended with {code}: {said[-1500:]}"))
    return found


def _finish(
    run: Path,
    verbs: Verbs,
    codes: list[int | None],
    names: tuple[str, str],
    before: dict[str, str],
    wanted: dict[str, Any],
    run_to_end: Callable[[str, Path, Path], int | None],
    log: Path,
    result: Counter[str],
) -> list[tuple[str, str]]:
    """Take the run to its end; what was lost on the way."""
    found: list[tuple[str, str]] = []
    for path in checkpoint.complete(run / "checkpoints"):
        try:
            checkpoint.verify(path)
        except checkpoint.DamagedCheckpoint as error:
            found.append(("lost checkpoints", str(error)))
    what = kind(run)
    # What --overwrite replaced is meant to be gone.
    replaced = any("--overwrite" in verb for verb in names)
    if not replaced:
        had = dict(before)
        for verb, code in zip(names, codes, strict=True):
            if code == 0 and verb in ("learn", "learn --fresh"):
                had |= {file.name: "finished" for file in verbs.books}
        now = books(run)
        for name, state in had.items():
            if name not in now or (state == "finished" and now[name] == "learning"):
                found.append(("lost books", f"{name} was {state} and is {now.get(name, 'gone')}"))
    if what == "nothing":
        if 0 in codes:
            found.append(("lost trainings", "a process ended well, and there is no run"))
        return found
    code = run_to_end("learn" if what == "learner" else "train --resume", run, log)
    if code != 0:
        return [*found, ("lost trainings", f"{what} could not resume: {log.read_text(errors='replace')[-1500:]}")]
    result["taken to the end"] += 1
    if what == "learner":
        states = books(run)
        if set(states) != {"one.txt", "two.txt"} or "learning" in states.values():
            found.append(("lost books", str(states)))
        steps = [r["step"] for r in map(json.loads, (run / "metrics.jsonl").open()) if "event" not in r]
        if any(a >= b for a, b in itertools.pairwise(steps)):
            found.append(("not as if one after another", f"updates {steps}"))
    elif _without_resumes(ending(run)) != wanted[what]:
        found.append(("not as if one after another", "another ending than that of an undisturbed training"))
    return found


def _without_resumes(end: Any) -> Any:
    groups, lines = end
    return groups, [line for line in lines if line.get("event") != "resumed"]
