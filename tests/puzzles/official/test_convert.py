"""`hrm convert` between official folders and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hrm.cli.main import main
from hrm.puzzles.config import Config
from hrm.runs import Run, checkpoint
from tests.puzzles.official import files as files

SUDOKU = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


def official(folder: Path, **arch: Any) -> Path:
    tree = files.settings(**arch)
    return files.write(folder, tree, files.state(tree))


@pytest.mark.parametrize(("to", "name"), [("sapient-hrm", files.HRM), ("trm", files.TRM)])
def test_official_to_run_to_official_is_exact(
    tmp_path: Path, to: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = official(tmp_path / "in", name=name)
    assert main(["convert", str(source), str(tmp_path / "run"), "--to", "hrm"]) == 0
    assert "sudoku, 81 cells, 11 tokens, step 26041" in capsys.readouterr().out
    run = Run.open(tmp_path / "run", Config)
    assert run.board == {"cells": 81, "vocabulary": 11, "task_ids": 2}
    assert main(["convert", str(run.path), str(tmp_path / "out"), "--to", to]) == 0
    before, after = (torch.load(folder / "step_26041", weights_only=True) for folder in (source, tmp_path / "out"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_converted_run_solves(tmp_path: Path) -> None:
    import hrm

    assert main(["convert", str(official(tmp_path / "in") / "step_26041"), str(tmp_path / "run"), "--to", "hrm"]) == 0
    answer = hrm.load(tmp_path / "run", device="cpu").solve(SUDOKU, max_segments=2)
    assert answer.status == "unsolved" and answer.segments == 2  # random weights


def test_averaged_weights_are_the_ones_written(tmp_path: Path) -> None:
    assert main(["convert", str(official(tmp_path / "in")), str(tmp_path / "run"), "--to", "hrm"]) == 0
    run = Run.open(tmp_path / "run", Config)
    groups, state = checkpoint.load(run.checkpoint("latest"))
    average = {"head.weight": torch.ones_like(groups["weights"]["head.weight"])}
    checkpoint.save(run.checkpoints, 26042, {**groups, "ema": average}, state)
    for which, name in (("latest", "step_26042"), ("26041", "step_26041")):
        out = tmp_path / which
        assert main(["convert", str(run.path), str(out), "--to", "sapient-hrm", "--checkpoint", which]) == 0
        written = torch.load(out / name, weights_only=True)["_orig_mod.model.inner.lm_head.weight"]
        assert bool((written == 1).all()) == (which == "latest")


@pytest.mark.parametrize(
    ("source", "to", "message"),
    [
        ("nowhere", "hrm", "neither a run folder nor an official one"),
        ("empty", "trm", "neither a run folder nor an official one"),
        ("in", "trm", "use sapient-hrm, which has two stacks"),
        ("in", "gguf", "--to must be one of hrm, hrm_lm, hrm_text, sapient-hrm, trm"),
    ],
)
def test_what_cannot_be_converted_ends_in_one_sentence(
    tmp_path: Path, source: str, to: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    official(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    assert main(["convert", str(tmp_path / source), str(tmp_path / "out"), "--to", to]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = official(tmp_path / "in")
    assert main(["convert", str(source), str(source), "--to", "sapient-hrm"]) == 2
    assert "is what is read" in capsys.readouterr().err
    assert main(["convert", str(source), str(source), "--to", "hrm"]) == 2
    assert "is what is read" in capsys.readouterr().err
