"""A run folder is found, never overwritten by accident, and its logs survive a crash."""

import json
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hrm.cli
from hrm.files.reading import UserError
from hrm.puzzles.config import Config, TaskConfig
from hrm.runs import checkpoint
from hrm.runs.folder import Run

BOARD = {"cells": 16, "vocabulary": 6, "task_ids": 1}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "sudoku", Config(task=TaskConfig(box=(2, 2)), seed=5), BOARD)


def test_a_run_reads_back_as_it_was_created(run: Run) -> None:
    again = Run.open(str(run.path), Config)
    assert (again.config, again.board, again.version, again.created) == (run.config, BOARD, run.version, run.created)
    assert again.records() == [] and again.best is None and checkpoint.complete(again.checkpoints) == []


def test_opening_nothing_names_the_folder_and_the_nearest_run(run: Run, tmp_path: Path) -> None:
    parent = run.path.parent
    with pytest.raises(UserError, match=r"no run at .*sudko: did you mean .*sudoku\?"):
        Run.open(parent / "sudko", Config)
    with pytest.raises(UserError, match=r"the runs in .* are sudoku"):
        Run.open(parent / "zebra", Config)
    with pytest.raises(UserError, match=r"not a run folder \(run.json is missing\)"):
        Run.open(parent, Config)
    with pytest.raises(UserError, match="hrm train"):
        Run.open(tmp_path / "no" / "where", Config)


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[1]"])
def test_opening_a_run_with_a_broken_file_names_the_file(run: Run, name: str, content: bytes) -> None:
    (run.path / name).write_bytes(content)
    if name == "config.yaml" and not content:
        return  # an empty configuration is the default one
    with pytest.raises(UserError, match=name):
        Run.open(run.path, Config)


def test_a_run_of_another_format_is_refused(run: Run) -> None:
    facts = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Run.open(run.path, Config)


def test_creating_over_a_run_needs_permission(run: Run) -> None:
    checkpoint.save(run.checkpoints, 1, {}, {})
    run.log({"step": 1})
    with pytest.raises(UserError, match="already holds a run"):
        Run.create(run.path, Config(), BOARD)
    assert len(checkpoint.complete(run.checkpoints)) == 1
    fresh = Run.create(run.path, Config(), BOARD, overwrite=True)
    assert checkpoint.complete(fresh.checkpoints) == [] and fresh.records() == []
    assert Run.open(run.path, Config).config == Config()


@pytest.mark.parametrize("overwrite", [False, True])
def test_creating_never_touches_a_folder_of_other_things(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"thesis\.tex"):
        Run.create(tmp_path, Config(), BOARD, overwrite)
    assert (tmp_path / "checkpoints").is_dir()
    with pytest.raises(UserError, match="is a file"):
        Run.create(tmp_path / "thesis.tex", Config(), BOARD, overwrite)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["data", "model", "books", "README.md", "run.json", "checkpoints"])
def test_what_only_has_the_names_of_a_run_is_never_deleted(tmp_path: Path, name: str, overwrite: bool) -> None:
    mine = tmp_path / name if "." in name else tmp_path / name / "mine.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('{"name": "my own"}')
    with pytest.raises(UserError, match=name):
        Run.create(tmp_path, Config(), BOARD, overwrite)
    assert mine.read_text() == '{"name": "my own"}' and [p.name for p in tmp_path.iterdir()] == [name]


def kills(action: Callable[[], object], monkeypatch: pytest.MonkeyPatch, run: Path, into: Path) -> list[Path]:
    """Copies of a run's folder as a kill before each change of the disk that `action` makes would leave it."""
    real, copies = os.rename, list[Path]()

    def rename(a: Path, b: Path) -> None:
        copies.append(Path(shutil.copytree(run, into / f"{len(copies):03}", symlinks=True)))
        real(a, b)

    monkeypatch.setattr(os, "rename", rename)
    action()
    monkeypatch.setattr(os, "rename", real)
    return copies


def test_a_creation_that_was_killed_can_be_repeated_at_any_moment(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / "notes.txt").write_text("mine")
    again = partial(Run.create, run.path, Config(seed=8), BOARD, True)
    copies = kills(again, monkeypatch, run.path, tmp_path / "killed")
    assert len(copies) > 5
    for copy in copies:
        Run.create(copy, Config(seed=9), BOARD, overwrite=True)
        assert Run.open(copy, Config).config.seed == 9 and (copy / "notes.txt").read_text() == "mine"
        assert not [p for p in copy.iterdir() if p.name.startswith(".tmp-")]


def test_an_old_run_stays_when_a_new_one_cannot_be_made(run: Run) -> None:
    def fill(folder: Path) -> None:
        raise UserError("line 7 is no text")

    with pytest.raises(UserError, match="line 7"):
        Run.create(run.path, Config(seed=9), BOARD, overwrite=True, fill=fill)
    assert Run.open(run.path, Config).config.seed == 5
    assert not (run.path / ".tmp-run-new").exists()
    assert Run.create(run.path, Config(seed=9), BOARD, overwrite=True).config.seed == 9
    assert not (run.path / ".tmp-run-new").exists()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_overwriting_removes_links_as_links(run: Run, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "train").mkdir(parents=True)
    (elsewhere / "train" / "mine.txt").write_text("mine")
    (run.path / "data").symlink_to(elsewhere)
    (run.path / "README.md").symlink_to(elsewhere / "train" / "mine.txt")
    (run.path / "best.json").symlink_to(tmp_path / "nowhere")
    Run.create(run.path, Config(), BOARD, overwrite=True)
    assert (elsewhere / "train" / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl", "run.json"]


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders there")
@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.jsonl"])
def test_a_pipe_in_a_run_is_not_waited_for(run: Run, name: str) -> None:
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    with pytest.raises(UserError, match=f"{name}|run.json is missing"):
        Run.open(run.path, Config).records()


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_log_is_never_written_through_a_link(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    run.metrics.unlink()
    run.metrics.symlink_to(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="link to a place outside"):
        run.log({"step": 1})
    assert (tmp_path / "mine.txt").read_text() == "mine"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200))
def test_a_half_written_line_costs_only_itself(run: Run, cut: int) -> None:
    run.metrics.write_bytes(b"")
    for step in range(4):
        run.log({"step": step, "loss": 0.5 / (step + 1)})
    whole = run.metrics.read_bytes()
    torn = whole[: min(cut, len(whole))]
    run.metrics.write_bytes(torn)
    kept = torn.count(b"\n")
    assert [r["step"] for r in run.records()] == list(range(kept))
    run.log({"step": 99})
    assert [r["step"] for r in run.records()] == [*range(kept), 99]


def test_lines_of_zeros_from_a_power_cut_are_dropped(run: Run) -> None:
    run.log({"step": 1})
    with run.metrics.open("ab") as file:
        file.write(b"\0" * 64)
    run.log({"step": 2})
    assert [r["step"] for r in run.records()] == [1, 2]


def test_rewinding_drops_what_was_logged_after_the_checkpoint(run: Run) -> None:
    for step in (10, 20, 30):
        run.log({"step": step, "loss": 1.0})
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 15, "lo')
    run.rewind(20)
    assert [r["step"] for r in run.records()] == [10, 20]
    run.log({"step": 30})
    assert run.metrics.read_text().count("\n") == 3


def test_the_best_checkpoint_is_found_and_replaced_by_the_newest_when_damaged(run: Run) -> None:
    said: list[str] = []
    with pytest.raises(UserError, match="no intact checkpoint"):
        run.checkpoint("best", said.append)
    paths = [checkpoint.save(run.checkpoints, s, {"weights": {"w": torch.ones(2)}}, {}) for s in (10, 20, 30)]
    assert run.checkpoint("best", said.append) == paths[2]
    run.set_best(20, {"exact_accuracy": 0.5})
    again = Run.open(run.path, Config)
    assert again.best == {"step": 20, "exact_accuracy": 0.5} and again.best_checkpoint == paths[1]
    assert again.checkpoint("best", said.append) == paths[1]
    assert again.checkpoint("latest", said.append) == paths[2]
    assert again.checkpoint(10) == again.checkpoint("10") == paths[0]
    assert not said
    with pytest.raises(UserError, match=r"no checkpoint '15'.*10, 20, 30"):
        again.checkpoint(15)
    (paths[1] / "weights.safetensors").write_bytes(b"")
    (paths[2] / "state.json").unlink()
    assert again.checkpoint("best", said.append) == paths[0]
    assert len(said) == 3 and str(paths[1]) in said[0] and "step_00000030" in said[1]


def test_results_and_changed_configurations_are_recorded(run: Run) -> None:
    run.set_result({"exact": 0.99, "wrong": 0})
    run.set_config(Config(seed=6))
    assert json.loads(run.result.read_text()) == {"exact": 0.99, "wrong": 0}
    assert Run.open(run.path, Config).config.seed == 6
    assert not [p for p in run.path.iterdir() if p.name.startswith(".tmp-")]


def test_no_number_that_json_lacks_is_written_and_old_lines_with_one_are_read(run: Run) -> None:
    run.log({"step": 1, "loss": float("nan"), "each": [1.0, float("inf")], "of": {"a": -math.inf}})
    run.set_result({"loss": math.nan})
    assert json.loads(run.result.read_text()) == {"loss": None}
    with run.metrics.open("a") as file:
        file.write('{"step": 2, "loss": NaN}\n')
    run.log({"step": 3})
    run.rewind(2)
    assert [record["loss"] for record in run.records()] == [None, None]
    assert "NaN" not in run.metrics.read_text() and "Infinity" not in run.metrics.read_text()


def test_the_verbs_print_json_by_the_one_function() -> None:
    verbs = Path(hrm.cli.__file__).parent.glob("*.py")
    assert not [file.name for file in verbs if "json.dumps(" in file.read_text("utf-8").replace("to_json", "")]
