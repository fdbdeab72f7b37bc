"""`hrm runs` lists whatever lies below a folder, and no run is too damaged for its line."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.overview import listed, runs
from hrm.puzzles.solving import load
from hrm.runs import Run, lock
from hrm.text.load import load_text
from tests.training import small

LEARN = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32 --length 16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all families below a folder: puzzles, text with tied layers, a learner."""
    path = tmp_path_factory.mktemp("place")
    (path / "runs/deep").mkdir(parents=True)
    small.train(path / "runs/deep/sudoku", small.config(task={"holdout": 10}, train={"eval_every": 15}))
    book = path / "book.txt"
    book.write_text("The cat sat on the mat and saw the rat that ran. " * 12)
    assert hrm(["train", *small.TEXT, "--data", str(book), "--arch.tied", "--out", str(path / "runs/text")]) == 0
    words = [*LEARN.split(), "--epochs", "1", "--batch-size", "4", "--stride", "16"]
    assert hrm(["learn", str(path / "runs/reader"), str(book), *words]) == 0
    gc.collect()  # a learner holds its run until it is gone
    return path


def told(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert hrm(["runs", str(folder), "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_kind_of_run_is_told_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader, puzzles, text = told(folder, capsys, "--sort", "kind")
    assert (puzzles["kind"], puzzles["task"]) == ("puzzles", "sudoku 4x4")
    assert (puzzles["state"], puzzles["step"], puzzles["steps"]) == ("finished", 30, 30)
    best = Run.open(puzzles["run"], type(small.config())).best
    assert best and puzzles["score"]["value"] == 100 * best["exact_accuracy"] and puzzles["score"]["unit"] == "%"
    assert (reader["kind"], reader["task"], reader["state"]) == ("learner", "book.txt", "finished")
    assert reader["score"]["unit"] == "bits/character" and reader["score"]["better"] == "lower"
    assert (text["kind"], text["task"], text["step"], text["score"]["name"]) == ("text", "book.txt", 4, "bits")


def test_parameters_are_those_of_the_model(folder: Path) -> None:
    for run, model in (
        ("deep/sudoku", load(str(folder / "runs/deep/sudoku")).model),
        ("text", load_text(folder / "runs/text").model),
        ("reader", load_text(folder / "runs/reader").model),
    ):
        assert listed(folder / "runs" / run).parameters == sum(p.numel() for p in model.parameters())


def test_a_run_in_training_and_a_killed_one(folder: Path, tmp_path: Path) -> None:
    half = small.cut(Run.open(folder / "runs/deep/sudoku", type(small.config())), tmp_path / "half", 15)
    found = listed(half)
    assert (found.state, found.writer) == ("paused", None)
    with lock.own(half, "train --resume"):
        assert listed(half).state == "training" and "hrm train --resume" in str(listed(half).writer)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "x", "is not valid JSON"),
        ("run.json", "[]", "lacks what a run has"),
        ("run.json", '{"kind": "puzzle"}', "lacks what a run has"),
        ("config.yaml", None, "cannot be read"),
        ("config.yaml", "arch: 3", "arch"),
        ("best.json", '{"step": "a"}', "does not say which checkpoint"),
        ("checkpoints/step_00000030/weights.safetensors", "x", "has 1 bytes instead of"),
        ("checkpoints/step_00000030/state.json", None, "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_said_to_be_one_and_stops_no_list(
    name: str, content: str | None, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "runs/deep/sudoku", tmp_path / "bad")
    shutil.copytree(folder / "runs/text", tmp_path / "good")
    (tmp_path / "bad" / name).unlink() if content is None else (tmp_path / "bad" / name).write_text(content)
    bad, good = told(tmp_path, capsys, "--sort", "name")
    assert (bad["state"], good["state"]) == ("damaged", "finished")
    assert said in bad["problem"] and good["problem"] is None
    if name.startswith("checkpoints"):  # the rest is known
        assert bad["step"] == 30 and bad["parameters"]
    assert hrm(["runs", str(tmp_path)]) == 0
    assert "1 finished" in (shown := capsys.readouterr().out) and said in shown


def test_runs_are_sorted(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, accuracy in (("a", 0.2), ("b", 0.9), ("c", None)):
        shutil.copytree(folder / "runs/deep/sudoku", tmp_path / name)
        best = tmp_path / name / "best.json"
        best.unlink() if accuracy is None else best.write_text(json.dumps({"step": 15, "exact_accuracy": accuracy}))
    names = [Path(run["run"]).name for run in told(tmp_path, capsys, "--sort", "score")]
    assert names == ["b", "a", "c"]
    assert [Path(run["run"]).name for run in told(tmp_path, capsys, "--sort", "name")] == ["a", "b", "c"]
    changed = [run["changed"] for run in told(folder, capsys)]
    assert changed == sorted(changed, reverse=True)


def test_what_lies_in_runs_or_is_hidden_is_no_run(folder: Path, tmp_path: Path) -> None:
    for place in ("run", "run/analysis/copy", ".hidden/run"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").write_text("{}")
    (tmp_path / "linked").symlink_to(folder / "runs/text")
    assert list(runs(tmp_path)) == [tmp_path / "linked", tmp_path / "run"]


def test_status_without_a_run_lists_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = told(folder, capsys)
    assert hrm(["status", "--folder", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == wanted
    assert hrm(["runs", str(folder / "nothing")]) == 2 and "is no folder" in capsys.readouterr().err


def test_a_list_changes_nothing_and_waits_for_no_torch(folder: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in sorted((folder / "runs").rglob("*"))]

    before = state()
    code = f"import sys; from hrm.cli.main import main; main(['runs', {str(folder)!r}]); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.endswith("3 finished\nFalse\n") and state() == before
