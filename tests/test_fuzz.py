"""Every reader of files from outside, fed with valid files that were damaged: exit code 0 or 2, one sentence, in time.

HRM_FUZZ=20000 pytest tests/test_fuzz.py spends that many examples, new ones, over all readers.
"""

import gzip
import json
import os
import re
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hrm.cli.main import main
from hrm.runs import checkpoint
from tests.puzzles.official import files as official_files

pytestmark = pytest.mark.slow

SECONDS = 10
FEW = "--max-new-tokens 2"
PUZZLE = "2..14..232.41.2."
TINY = "--arch.dim 16 --arch.heads 1 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32"
TINY += " --halting.max-segments 1"
SHORT = "--train.batch-size 2 --optim.warmup-steps 0 --train.eval-puzzles 2 --train.precision float32 --train.steps 2"


class Reader(NamedTuple):
    """A valid folder or file of the library of files, which of its files are damaged, and the command that reads it."""

    source: str
    files: str
    command: str
    signed: bool = False
    """Whether a checkpoint's manifest is written anew afterwards, as a stranger would."""


READERS = {
    "settings": Reader("settings.yaml", "", "config check {}"),
    "text settings": Reader("text.yaml", "", "train {} --dry-run"),
    "run": Reader("puzzles-run", "*.json|*.yaml|*.jsonl", f"solve {{}} {PUZZLE} --max-segments 1"),
    "checkpoint": Reader("puzzles-run", "checkpoints/*/*", f"solve {{}} {PUZZLE} --max-segments 1"),
    "signed": Reader("puzzles-run", "checkpoints/*/*", f"solve {{}} {PUZZLE} --max-segments 1", True),
    "resumed": Reader("puzzles-run", "*.json|*.yaml|*.jsonl|data/*/*", "train --resume {} --train.steps 3"),
    "resumed state": Reader("puzzles-run", "checkpoints/*/*", "train --resume {} --train.steps 3", True),
    "data set": Reader("puzzles-run/data", "*/*", "data check {} --task sudoku --box 2 2"),
    "inferred data set": Reader("puzzles-run/data", "*/*", "data show {}"),
    "csv": Reader("puzzles.csv", "", "data check {}"),
    "packed csv": Reader("puzzles.csv.gz", "", "data show {}"),
    "grids": Reader("cells.csv", "", "data check {} --task grid --size 2 2 --vocabulary 300"),
    "questions": Reader("puzzles.txt", "", "solve RUN {} --max-segments 1"),
    "packed questions": Reader("puzzles.txt.gz", "", "solve RUN {} --max-segments 1"),
    "measured": Reader("puzzles.csv", "", "eval RUN --data {} --max-segments 1"),
    "arc task": Reader("task.json", "", "arc check {}"),
    "arc lines": Reader("tasks.jsonl.gz", "", "arc show {}"),
    "submission": Reader("submission.json", "", "arc score {} --data LIBRARY/tasks.jsonl.gz"),
    "arc folder": Reader("tasks", "*.json", "arc check {}"),
    "texts": Reader("book.txt", "", "data pack {} --out packed"),
    "lines": Reader("lines.jsonl", "", "data pack {} --out packed"),
    "packed lines": Reader("lines.jsonl.gz", "", "data pack {} --out packed"),
    "conversations": Reader("chat.jsonl", "", "data pack {} --kind chat --out packed"),
    "list": Reader("list.json", "", "data pack {} --out packed"),
    "tokens": Reader("packed", "*/*", "data show {}"),
    "checked tokens": Reader("packed", "*/*", "data check {}"),
    "tokenizer": Reader("packed/tokenizer", "*", "data pack LIBRARY/book.txt --tokenizer {} --out packed"),
    "rows": Reader("rows", "*/*", "data show {}"),
    "text run": Reader("text-run", "*.json|*.yaml|model/*|tokenizer/*", "generate {} The --max-new-tokens 2"),
    "text checkpoint": Reader("text-run", "checkpoints/*2/*", "generate {} The --max-new-tokens 2", True),
    "held out": Reader("text-run", "data/validation/*|*.json", "eval {} --batch-size 2"),
    "resumed text": Reader("text-run", "data/*/*|checkpoints/*/*|model/*", "train --resume {} --train.steps 3", True),
    "modes": Reader("text-run", "modes.json", "chat {} --batch LIBRARY/prompts.txt --mode deep " + FEW),
    "conversation": Reader("talk.json", "", "chat LIBRARY/text-run --batch LIBRARY/prompts.txt --load {} " + FEW),
    "prompts": Reader("prompts.txt", "", "chat LIBRARY/text-run --batch {} --max-new-tokens 2"),
    "saved": Reader("saved", "*", "generate {} The --max-new-tokens 2"),
    "hrm_text": Reader("hrm-text", "*", "convert {} out --to hrm"),
    "official": Reader("official", "all_config.yaml", "convert {} out --to hrm"),
    "official weights": Reader("official", "step_*", "convert {} out --to hrm"),
    "learner": Reader("learner", "*.json|*.yaml|*.jsonl", "status {}"),
    "learner state": Reader("learner", "checkpoints/*/state.json", "status {} --json", True),
    "learner speaks": Reader("learner", "checkpoints/*/*", "generate {} The --max-new-tokens 2", True),
    "learner goes on": Reader("learner", "checkpoints/*/*|books/*/*/*", "learn {} LIBRARY/other.txt --epochs 1", True),
    "tasks": Reader("items", "*", "eval LIBRARY/text-run --data-folder {} --tasks all --limit 1"),
}  # fmt: skip
if find_spec("pyarrow"):
    READERS["parquet"] = Reader("rows.parquet", "", "data pack {} --out packed")

FUZZ = int(os.environ.get("HRM_FUZZ", "0"))
EXAMPLES = -(-FUZZ // len(READERS)) if FUZZ else 4


class TooSlow(BaseException):
    """What no reader catches."""


@contextmanager
def watched(seconds: int) -> Iterator[None]:
    """TooSlow after so many seconds of computing, or waiting far longer than that; only where there are such clocks."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: object) -> None:
        raise TooSlow

    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 12 * seconds))
    before = [signal.signal(number, late) for number, _, _ in clocks]
    for _, clock, most in clocks:
        signal.setitimer(clock, most)
    try:
        yield
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def run(command: str) -> None:
    """A command that must succeed."""
    assert main(command.split()) == 0, command


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid file or folder of every kind."""
    home = tmp_path_factory.mktemp("library")
    before = Path.cwd()
    os.chdir(home)
    try:
        _fill()
    finally:
        os.chdir(before)
    return home


def _fill() -> None:
    import torch

    Path("settings.yaml").write_text("parent: sudoku-4x4\ntask: {box: [2, 2]}\narch: {dim: 64, horizon: trailing(2)}\n")
    Path("text.yaml").write_text("parent: text-char\narch: {dim: 16, heads: 1}\ntext: {length: 16}\n")
    run(f"train sudoku-4x4 --out puzzles-run --task.puzzles 24 --task.holdout 8 --arch.dim 16 --arch.heads 1 {SHORT}")
    run("data build --task sudoku --box 2 2 --puzzles 20 --out puzzles.csv")
    Path("puzzles.csv.gz").write_bytes(gzip.compress(Path("puzzles.csv").read_bytes()))
    Path("puzzles.txt").write_text(f"{PUZZLE}\n{PUZZLE}\n")
    Path("puzzles.txt.gz").write_bytes(gzip.compress(Path("puzzles.txt").read_bytes()))
    Path("cells.csv").write_text("source,question,answer,rating\nme,1 2 3 299,1 2 3 4,7\nme,1234,4321,0\n")
    pairs = [{"input": [[0, 1], [2, 3]], "output": [[3, 2], [1, 0]]}, {"input": [[1]], "output": [[4]]}]
    task = {"train": pairs, "test": pairs[:1]}
    Path("task.json").write_text(json.dumps(task))
    lines = "".join(json.dumps({"id": name, **task}) + "\n" for name in ("a1", "b2"))
    Path("tasks.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    Path("tasks").mkdir()
    for name in ("a", "b"):
        Path(f"tasks/{name}.json").write_text(json.dumps(task))
    guesses = [{"attempt_1": [[1]], "attempt_2": [[3, 2], [1, 0]]}]
    Path("submission.json").write_text(json.dumps({"a1": guesses, "b2": guesses}))
    Path("book.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 40)
    Path("other.txt").write_text("A lazy dog sleeps under the tree, and dreams.\n" * 40)
    said = [{"text": f"The fox says {i}.", "question": f"{i}?", "answer": f"It is {i}."} for i in range(30)]
    Path("lines.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in said))
    Path("lines.jsonl.gz").write_bytes(gzip.compress(Path("lines.jsonl").read_bytes()))
    Path("chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    Path("list.json").write_text(json.dumps([{"text": row["text"]} for row in said]))
    if find_spec("pyarrow"):
        from pyarrow import Table, parquet  # pyright: ignore[reportMissingImports]

        parquet.write_table(Table.from_pylist(said), "rows.parquet")
    run("data pack book.txt --out packed")
    run("data pack book.txt --out rows --rows 16")
    run(f"train text-char --data book.txt --out text-run {TINY} --text.length 16 {SHORT}")
    Path("text-run/modes.json").write_text(json.dumps({"fast": {"bits_per_character": 3.0}}))
    Path("prompts.txt").write_text("The fox\nA dog\n")
    talk = {"format": 1, "talks": False, "forgotten": 0, "answers": 1}
    said = [{"role": "user", "content": "The"}, {"role": "assistant", "content": " fox"}]
    Path("talk.json").write_text(json.dumps({**talk, "messages": said}))
    run("convert text-run saved --to hrm_lm")
    tree = official_files.settings()
    Path("official").mkdir()
    official_files.write(Path("official"), tree, official_files.state(tree))
    from hrm.text import hrm_text
    from hrm.text.model import HRMConfig, HRMForCausalLM

    shape = HRMConfig(
        vocab_size=20, hidden_size=16, num_attention_heads=1, intermediate_size=32, fast_layers=1, slow_layers=1,
        norm="pre", gate=True, join="first_state", max_segments=1,
    )  # fmt: skip
    torch.manual_seed(0)
    hrm_text.write(Path("hrm-text"), HRMForCausalLM(shape))
    run(f"learn learner book.txt {TINY} --epochs 1 --length 16 --stride 16 --batch-size 32")
    Path("items").mkdir()
    Path("items/words.jsonl").write_text(json.dumps({"context": "The quick brown", "continuation": "fox"}) + "\n")
    Path("items/pairs.jsonl").write_text(json.dumps({"sentence_good": "The fox", "sentence_bad": "fox The"}) + "\n")


HOSTILE: list[Any] = [
    None, True, [], {}, "", -1, 0, 1, 7, 2**31, 2**63, -(2**63), 10**30, 1e308, -1e-308, float("nan"), float("inf"),
    "../../outside", "/etc/passwd", "C:\\x", "con", "a\0b",
    "\x1b[31m", "\ud800", "x" * 5000, "\u202e", [[]], [[[[1]]]], {"a": {}},
    [1] * 1000, ["all"] * 1000, "1" * 400, "latest", "trailing(99)", "float64", [1, "a", None],
]  # fmt: skip
BYTES = [
    b"", b"\0", b"\0" * 64, b"\xff\xfe", b"\xef\xbb\xbf", b"\xff" * 8, b"[" * 3000, b"{" * 50,
    b"9" * 5000, b"1:" * 2000, b"\r", b"\n\n",
    b"- " * 300, b"&a [*a]", b"'", b'"', b",", b"\x1f\x8b\x08\0", b"\x80\x04", b"PK\x03\x04", b"1e999", b"-1", b"nan",
    b"!!python/object:os.system", b"\xe2\x80\xae", b"a" * 70_000, b": ", b"<<: *x", b"2024-99-99",
]  # fmt: skip


def _replaced(tree: Any, pick: Callable[[int], int], value: Any) -> Any:
    """The tree with one of its values, at whatever depth, replaced or left out."""
    if isinstance(tree, dict | list) and tree and pick(4):
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = keys[pick(len(keys))]
        copy: Any = dict(tree) if isinstance(tree, dict) else list(tree)
        if pick(10) == 0:
            del copy[key]
        else:
            copy[key] = _replaced(tree[key], pick, value)
        return copy
    return value


def _damage(content: bytes, name: str, pick: Callable[[int], int]) -> bytes:
    """The content of a file, changed in one place or a few."""
    if name.endswith(".gz") and pick(2):
        with suppress(OSError, EOFError, zlib.error):  # it may be damaged already
            return gzip.compress(_damage(gzip.decompress(content), name[:-3], pick))
    if name.endswith((".json", ".jsonl")) and pick(3):
        lines = content.splitlines() if name.endswith("l") else [content]
        at = pick(len(lines)) if lines else 0
        if lines:
            with suppress(ValueError, RecursionError):
                tree = _replaced(json.loads(lines[at]), pick, HOSTILE[pick(len(HOSTILE))])
                lines[at] = json.dumps(tree).encode()
                return b"\n".join(lines) + b"\n"
    if name.endswith(".yaml") and pick(3):
        places = list(re.finditer(rb"(?<=[:,\[] )[^\s,{}\[\]]+", content))
        if places:
            place = places[pick(len(places))]
            value = json.dumps(HOSTILE[pick(len(HOSTILE))]).encode() if pick(2) else BYTES[pick(len(BYTES))]
            return content[: place.start()] + value + content[place.end() :]
    for _ in range(1 + pick(3)):
        at, what = pick(len(content) + 1), pick(5)
        if what == 0 and content:
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1 << pick(8)]) + content[at + 1 :]
        elif what == 1:
            content = content[:at]
        elif what == 2:
            content = content[:at] + BYTES[pick(len(BYTES))] + content[at:]
        elif what == 3:
            piece = BYTES[pick(len(BYTES))]
            content = content[:at] + piece + content[at + len(piece) :]
        else:  # a header is where most lies that matter
            head = pick(min(len(content), 128) + 1)
            content = content[:head] + bytes([pick(256)]) + content[head + 1 :]
    return content


def _sign(folder: Path) -> None:
    """Write a checkpoint's manifest anew, so that it fits what is there."""
    files = {f.name: checkpoint.facts_of(f) for f in sorted(folder.iterdir()) if f.name != "manifest.json"}
    (folder / "manifest.json").write_bytes(checkpoint._manifest(checkpoint.step_of(folder), files))


def _files(place: Path, patterns: str) -> list[Path]:
    if place.is_file():
        return [place]
    found = (path for pattern in patterns.split("|") for path in sorted(place.glob(pattern)) if path.is_file())
    return [path for path in dict.fromkeys(found) if path.name != ".lock"]


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_end_in_a_sentence(
    name: str, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = READERS[name]
    outer, work = tmp_path / "outer", tmp_path / "outer" / "work"
    outer.mkdir()
    (outer / "kept.txt").write_text("this stays")
    known = _content(outer)

    @settings(
        max_examples=EXAMPLES, derandomize=not FUZZ, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], report_multiple_bugs=False,
    )  # fmt: skip
    @given(st.randoms(use_true_random=True))
    def fuzz(random: Any) -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        monkeypatch.chdir(work)
        place = work / Path(reader.source).name
        _copy(library / reader.source, place)
        for _ in range(1 + random.randrange(2)):
            files = _files(place, reader.files)
            file = files[random.randrange(len(files))]
            file.write_bytes(_damage(file.read_bytes(), file.name, random.randrange))
            if reader.signed and file.name != "manifest.json" and re.fullmatch(r"step_\d+", file.parent.name):
                _sign(file.parent)
        words = reader.command.replace("LIBRARY", str(library)).replace("RUN", str(library / "puzzles-run"))
        capsys.readouterr()
        try:
            # What trains may do so; nothing else may take long.
            with watched(4 * SECONDS if reader.command.startswith(("train --resume", "learn")) else SECONDS):
                code = main(words.replace("{}", str(place)).split())
        except TooSlow:
            code = "no end in time"
        out, err = capsys.readouterr()
        kept = os.environ.get("HRM_FUZZ_KEEP")
        problem = None
        if code not in (0, 2):
            problem = f"exit code {code}: {err[-500:]}"
        elif re.search(r"\b[A-Z]\w*(Error|Exception|Warning)\b|Traceback|--debug", err):
            problem = f"a name of an exception: {err[-500:]}"
        elif code == 2 and not re.search(r"\S", err) and not out:
            problem = "nothing is said"
        elif len(err) > 20_000:
            problem = f"{len(err)} characters are said"
        elif _content(outer) != known or sorted(p.name for p in outer.iterdir()) != ["kept.txt", "work"]:
            problem = "something was written outside"
        if problem and kept:  # go on, and look at all of them later
            folder = Path(kept) / f"{name.replace(' ', '-')}-{len(list(Path(kept).iterdir()))}"
            _copy(place, folder)
            with (Path(kept) / "problems.txt").open("a") as log:
                print(json.dumps([name, str(folder), words.replace("{}", str(place)), problem]), file=log)
        elif problem:
            pytest.fail(f"{words}: {problem}")

    fuzz()
