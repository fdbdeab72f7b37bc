"""A run folder is found, never overwritten by accident, and its logs survive a crash."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrm.config import Config, TaskConfig, UserError
from hrm.runs import checkpoint
from hrm.runs.folder import Run

BOARD = {"cells": 16, "vocabulary": 6, "task_ids": 1}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "sudoku", Config(task=TaskConfig(box=(2, 2)), seed=5), BOARD)


def test_a_run_reads_back_as_it_was_created(run: Run) -> None:
    again = Run.open(str(run.path))
    assert (again.config, again.board, again.version, again.created) == (run.config, BOARD, run.version, run.created)
    assert again.records() == [] and again.best is None and checkpoint.complete(again.checkpoints) == []


def test_opening_nothing_names_the_folder_and_the_nearest_run(run: Run, tmp_path: Path) -> None:
    parent = run.path.parent
    with pytest.raises(UserError, match=r"no run at .*sudko: did you mean .*sudoku\?"):
        Run.open(parent / "sudko")
    with pytest.raises(UserError, match=r"the runs in .* are sudoku"):
        Run.open(parent / "zebra")
    with pytest.raises(UserError, match=r"not a run folder \(run.json is missing\)"):
        Run.open(parent)
    with pytest.raises(UserError, match="hrm train"):
        Run.open(tmp_path / "no" / "where")


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{", b"[1]"])
def test_opening_a_run_with_a_broken_file_names_the_file(run: Run, name: str, content: bytes) -> None:
    (run.path / name).write_bytes(content)
    if name == "config.yaml" and not content:
        return  # an empty configuration is the default one
    with pytest.raises(UserError, match=name):
        Run.open(run.path)


def test_a_run_of_another_format_is_refused(run: Run) -> None:
    facts = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(UserError, match="format 99"):
        Run.open(run.path)


def test_creating_over_a_run_needs_permission(run: Run) -> None:
    checkpoint.save(run.checkpoints, 1, {}, {})
    run.log({"step": 1})
    with pytest.raises(UserError, match="already holds a run"):
        Run.create(run.path, Config(), BOARD)
    assert len(checkpoint.complete(run.checkpoints)) == 1
    fresh = Run.create(run.path, Config(), BOARD, overwrite=True)
    assert (
        checkpoint.complete(fresh.checkpoints) == [] and fresh.records() == [] and Run.open(run.path).config == Config()
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_creating_never_touches_a_folder_of_other_things(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"thesis\.tex"):
        Run.create(tmp_path, Config(), BOARD, overwrite)
    assert (tmp_path / "checkpoints").is_dir()
    with pytest.raises(UserError, match="is a file"):
        Run.create(tmp_path / "thesis.tex", Config(), BOARD, overwrite)


def test_a_creation_that_was_interrupted_can_be_repeated(run: Run) -> None:
    (run.path / "run.json").unlink()
    (run.path / ".tmp-run.json-1").write_text("{")
    Run.create(run.path, Config(seed=9), BOARD)
    assert Run.open(run.path).config.seed == 9


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
    again = Run.open(run.path)
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
    assert Run.open(run.path).config.seed == 6
    assert not [p for p in run.path.iterdir() if p.name.startswith(".tmp-")]
