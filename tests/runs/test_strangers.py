"""A run from anybody: whatever its files are, no verb reads, writes or waits for anything outside it.

With HRM_ALL_NODES=1 every verb meets every file in every form, which takes minutes.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.runs import checkpoint, durable
from hrm.text.learning.learner import Learner
from tests.puzzles.solving import small
from tests.text.learning.test_learner import config as tiny
from tests.text.learning.test_learner import first
from tests.training import small as training

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need rights, and there are no pipes in folders")
PUZZLE = "2..14..232.41.2."


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A learner, a solver and a training that nobody has touched."""
    folder = tmp_path_factory.mktemp("kept")
    learner = Learner.create(folder / "learner", tiny())
    learner.learn(first(folder, 100))
    learner.close()
    small.run_folder(folder / "solver")
    training.train(folder / "training", training.config(optim={"warmup_steps": 0}, train={"steps": 2}))
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody's own, which must be the same at the end."""
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    for name in ("secret.json", "sub/config.json", "sub/tokenizer.json"):
        (folder / name).write_text('{"mine": 1}')
    before = tree(folder)
    yield folder
    assert tree(folder) == before, "something outside was changed"


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def ends(*words: object) -> int:
    """The exit code of a command that neither waits nor ends in an internal error."""

    def late(*_: object) -> None:
        raise AssertionError(f"hrm {words} waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    try:
        code = hrm([str(word) for word in words])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert code in (0, 2), f"hrm {words} ended with {code}"
    return code


def verbs(kind: str, run: Path) -> list[tuple[object, ...]]:
    """The commands that read or write a run."""
    if kind == "learner":
        return [
            ("status", run), ("status", run, "--repair"), ("generate", run, "the", "--max-new-tokens", 1),
            ("data", "check", run), ("learn", run, run.parent / "first.txt", "--epochs", 2),
        ]  # fmt: skip
    if kind == "solver":
        return [("solve", run, PUZZLE), ("convert", run, run.parent / "out", "--to", "hrm"), ("data", "check", run)]
    return [("data", "check", run), ("train", "--resume", run, "--train.steps", 3), ("solve", run, PUZZLE)]


def entries(folder: Path) -> list[str]:
    """All files and folders of a run."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def pipe(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def link(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "secret.json")


def linked_folder(path: Path, outside: Path) -> None:
    path.symlink_to(outside / "sub")


def device(path: Path, outside: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.slow
@pytest.mark.parametrize("put", [pipe, link, linked_folder, device])
@pytest.mark.parametrize("kind", ["learner", "solver", "training"])
def test_no_node_of_a_run_makes_a_verb_wait_or_write_elsewhere(
    kept: Path, tmp_path: Path, outside: Path, kind: str, put: Callable[[Path, Path], None]
) -> None:
    names = list(enumerate(entries(kept / kind)))
    full = bool(os.environ.get("HRM_ALL_NODES"))
    for number, name in names if full else names[len(put.__name__) % 4 :: 4]:
        commands = verbs(kind, tmp_path / "run")
        for command in commands if full else [commands[number // 4 % len(commands)]]:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            shutil.copytree(kept / kind, tmp_path / "run")
            shutil.copy(kept / "first.txt", tmp_path / "first.txt")
            path = tmp_path / "run" / name
            durable.discard(path)
            put(path, outside)
            ends(*command)


def forged(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the state of a learner's checkpoints and sign it anew, as somebody with bad intentions can."""
    for path in checkpoint.complete(run / "checkpoints"):
        state = json.loads((path / "state.json").read_text())
        change(state)
        (path / "state.json").write_text(json.dumps(state))
        files = {f.name: checkpoint.facts_of(f) for f in path.iterdir() if f.name != "manifest.json"}
        (path / "manifest.json").write_bytes(checkpoint._manifest(checkpoint.step_of(path), files))


def at(*keys: Any, to: Any) -> Callable[[dict[str, Any]], object]:
    """A change of one value."""

    def change(state: Any) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = to

    return change


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path as a tokenizer's file": lambda state: state.update(tokenizer={"/tmp/hrm-was-here": "x"}),
    "a name above": lambda state: state.update(tokenizer={"../../x": "x"}),
    "code as a tokenizer's file": lambda state: state.update(tokenizer={"tokenizer.py": "x"}),
    "a number as content": lambda state: state.update(tokenizer={"tokenizer.json": 5}),
    "a list of files": lambda state: state.update(tokenizer=["tokenizer.json"]),
    "another number": at("books", 0, "number", to=7),
    "a negative number": at("books", 0, "number", to=-1),
    "a path as number": at("books", 0, "number", to="../../x"),
    "a path as sha256": at("books", 0, "sha256", to="/../../../../etc"),
    "no books": lambda state: state.pop("books"),
    "books by name": at("books", to={"a": 1}),
    "a book that is text": at("books", 0, to="x"),
    "steps beyond": at("books", 0, "step", to=1 << 60),
    "a step that is text": at("step_number", to="5"),
    "seconds that never end": at("seconds", to=float("inf")),
    "an unknown state": at("books", 0, "state", to="x"),
    "scores without numbers": at("books", 0, "scores", to=[{"step": 1, "bits_per_character": []}]),
    "unknown growth": at("growth", to=[{"kind": "x"}]),
    "growth of the wrong kind": at("growth", to=[5]),
    "a kernel of the Hub": at("model", "attn_implementation", to="evil/kernel"),
    "many layers": at("model", "fast_layers", to=10**9),
    "layers in words": at("model", "fast_layers", to="many"),
    "an odd type": at("model", "dtype", to="evil"),
    "tokens that are none": at("tokens", to=[1, 2]),
    "more tokens than the model has": lambda state: state["tokens"].extend("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "a packed path": at("books", 0, "packed", to={"train": "../x"}),
    "an encoding that runs": at("books", 0, "encoding", to="zip"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_state_is_named_by_every_verb(
    kept: Path, tmp_path: Path, outside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(kept / "learner", tmp_path / "run"))
    forged(run, HOSTILE[name])
    assert ends("generate", run, "the", "--max-new-tokens", 1) == 2
    said = capsys.readouterr().err
    assert str(run) in said or "tokenizer" in said, said
    assert len(said) < 1000 and not Path("/tmp/hrm-was-here").exists()
    # What is not needed for an answer is not judged by it.
    if not name.startswith(("more tokens", "many", "layers", "an odd", "a kernel", "a number as", "tokens")):
        assert ends("status", run, *(["--repair"] if "name" in name or "path" in name or "code" in name else [])) == 2
