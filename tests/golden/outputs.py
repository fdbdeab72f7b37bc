"""What small trainings and their verbs write: metrics, answers, measurements, texts, what a learner knows.

Everything goes through the command line, so that another layout of the code can be held against this one:

    PYTHONPATH=src:. python -m tests.golden.outputs               write the committed ones anew
    PYTHONPATH=src:. python -m tests.golden.outputs FILE          write all, hashes of checkpoints included, to FILE
    python -m tests.golden.outputs --compare ONE OTHER            two such files, to the bit
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "outputs.json"
DRIFTS = {
    "seconds", "training_seconds", "measuring_seconds", "measuring_share", "steps_per_second", "puzzles_per_second",
    "tokens_per_second", "memory_gib", "characters_per_second",
    "left", "version", "created", "at", "learned_at", "finished_at", "torch", "host",
    "machine", "pid", "source", "path", "checkpoint", "data", "run", "started",
}  # fmt: skip
"""Entries that clock, machine or place decide."""
TINY = "--train.device cpu --train.precision float32 --train.threads 1 --train.batch-size 4 --train.log-every 1"
SUDOKU = f"{TINY} --task.puzzles 40 --task.holdout 8 --train.steps 6 --train.eval-every 3 --train.checkpoint-every 3"
SUDOKU += " --arch.dim 16 --arch.heads 2 --halting.max-segments 3 --optim.warmup-steps 2"
SHAPE = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32"
SHAPE += " --halting.max-segments 3"
TEXT = f"{TINY} --text.length 24 --train.steps 6 --train.eval-every 3 --train.eval-puzzles 4 --train.checkpoint-every 3"
TEXT += " --optim.warmup-steps 2"
LEARN = f"{SHAPE} --epochs 1 --length 24 --stride 12 --batch-size 4 --checkpoint-every 5 --log-every 5"
LEARN += " --eval-characters 200 --device cpu --threads 1"
QUESTIONS = ("53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79",
             "..............3.85..1.2.......5.7.....4...1...9.......5......73..2.1........4...9")  # fmt: skip


def book(words: str, seed: int, count: int = 500) -> str:
    """Words in an order that the seed decides."""
    draw = random.Random(seed)
    return " ".join(draw.choice(words.split()) + draw.choice(["", "", ",", "."]) for _ in range(count))


def verb(*args: str) -> str:
    """What `hrm` prints; a failure ends everything."""
    from hrm.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(args)
    if code:
        raise RuntimeError(f"hrm {' '.join(args)} ended with {code}: {err.getvalue()}")
    return out.getvalue()


def still(value: Any) -> Any:
    """Without what clock, machine or place decide."""
    if isinstance(value, dict):
        return {key: still(each) for key, each in value.items() if key not in DRIFTS}
    return [still(each) for each in value] if isinstance(value, list) else value


def records(run: str) -> list[Any]:
    """The lines of metrics of a run."""
    return still([json.loads(line) for line in Path(run, "metrics.jsonl").read_text("utf-8").splitlines()])


def weights(run: str) -> dict[str, str]:
    """A hash of every file of tensors of its checkpoints."""
    files = sorted(Path(run, "checkpoints").rglob("*.safetensors"))
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def answers(text: str) -> list[Any]:
    """The lines of JSON that were printed."""
    return still([json.loads(line) for line in text.splitlines() if line.strip()])


def puzzles() -> Iterator[tuple[str, Any]]:
    """Trainings of puzzles, resumed, measured and asked."""
    trm = "--arch.shared --arch.horizon last_cycle --halting.no-q-continue --optim.name adamw --optim.ema 0.9"
    for name, flags in {"hrm": "--arch.no-shared --arch.mixer attention --arch.tokens cells", "trm": trm}.items():
        verb("train", "sudoku-4x4", *f"{SUDOKU} {flags} --out {name}".split())
        yield f"metrics of {name}", records(name)
        yield f"weights of {name}", weights(name)
        yield (
            f"eval of {name}",
            still(json.loads(verb("eval", name, "--data", f"{name}/data", "--allow-overlap", "--json"))),
        )
        question = "1..4...2.1..4.2."
        looks = f"{name} {question} --max-segments 5 --restarts 1 --views 2 --guesses 1 --json"
        yield f"solve with {name}", answers(verb("solve", *looks.split()))
    verb("train", "--resume", "hrm", "--train.steps", "9")
    yield "metrics of hrm, resumed", records("hrm")
    yield "weights of hrm, resumed", weights("hrm")
    Path("questions.txt").write_text("\n".join(QUESTIONS))
    yield "solve with the shipped solver", answers(verb("solve", "sudoku", "questions.txt", "--json"))


def text() -> Iterator[tuple[str, Any]]:
    """Trainings of text, resumed, measured, and what they write."""
    Path("text.txt").write_text(book("the cat sat on a mat and the dog ate it while a bird sang", 0, 1500))
    request = '"the cat" --max-new-tokens 20 --seed 2 --precision float32 --device cpu --json'
    settings = {
        "q": "--halting.kind q --arch.horizon last_step",
        "fixed": "--halting.kind fixed --arch.horizon last_cycle --arch.l-cycles 2",
    }
    for name, more in settings.items():
        flags = f"--data text.txt {TEXT} {SHAPE} {more} --out {name}"
        verb("train", "text-char", *flags.split())
        yield f"metrics of {name}", records(name)
        yield f"weights of {name}", weights(name)
        yield f"generate with {name}", answers(verb("generate", name, "the cat", *request.split()[2:]))
        yield f"eval of {name}", still(json.loads(verb("eval", name, "--device", "cpu", "--json")))
    verb("train", "--resume", "q", "--train.steps", "9")
    yield "metrics of q, resumed", records("q")
    yield "weights of q, resumed", weights("q")


def learner() -> Iterator[tuple[str, Any]]:
    """Two books, the second with the memory of the first and new characters."""
    Path("first.txt").write_text(book("the cat sat on a mat and the dog ate it", 1), "utf-8")
    Path("second.txt").write_text(book("ÄPFEL UND BÄUME ZWÖLF KÜHE", 2), "utf-8")
    verb("learn", "learner", "first.txt", "second.txt", *LEARN.split())
    yield "metrics of a learner", records("learner")
    yield "weights of a learner", weights("learner")
    yield "status of a learner", still(json.loads(verb("status", "learner", "--json")))


def outputs() -> dict[str, Any]:
    """All of them, made in a folder that is removed afterwards."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            return {name: value for part in (puzzles, text, learner) for name, value in part()}
        finally:
            os.chdir(before)


def differences(one: Any, other: Any, place: str = "", relative: float = 0.0) -> list[str]:
    """Where two outputs are not the same; numbers may differ by a share."""
    if isinstance(one, dict) and isinstance(other, dict):
        missing = [f"{place}/{key}: only in one" for key in one.keys() ^ other.keys()]
        return missing + [
            d for k in one.keys() & other.keys() for d in differences(one[k], other[k], f"{place}/{k}", relative)
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            d
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for d in differences(a, b, f"{place}/{i}", relative)
        ]
    if isinstance(one, float) and isinstance(other, float | int):
        return [] if abs(one - other) <= relative * abs(one) + relative / 100 else [f"{place}: {one} and {other}"]
    return [] if one == other else [f"{place}: {str(one)[:60]} and {str(other)[:60]}"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--compare"]:
        found = differences(*(json.loads(Path(file).read_text()) for file in sys.argv[2:4]))
        sys.exit("\n".join(found) or None)
    import torch

    torch.set_num_threads(1)
    made = outputs()
    if sys.argv[1:]:
        Path(sys.argv[1]).write_text(json.dumps(made, indent=1))
    else:
        kept = {name: value for name, value in made.items() if not name.startswith("weights")}
        FILE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", "utf-8")
