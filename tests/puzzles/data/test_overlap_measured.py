"""`hrm eval` measures a run only on puzzles that it has not seen, unless told otherwise."""

from pathlib import Path

import numpy as np
import pytest

from hrm.cli.main import main
from hrm.puzzles.data import read, write_csv
from hrm.runs import Run
from tests.training import small


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on puzzles it generated, some set aside."""
    settings = small.config(task={"holdout": 10}, train={"steps": 2, "checkpoint_every": 2}, optim={"warmup_steps": 1})
    return small.train(tmp_path_factory.mktemp("runs") / "run", settings)


def turned(run: Run, split: str, file: Path) -> Path:
    """Symmetric variants of a split of the run's puzzles, as a file."""
    puzzles = read(run.data, small.SUDOKU, split)
    uniforms = np.random.default_rng(0).random((len(puzzles.inputs), small.SUDOKU.uniforms))
    inputs, labels = small.SUDOKU.augment(puzzles.inputs, puzzles.labels, uniforms)
    write_csv(file, small.SUDOKU, puzzles._replace(inputs=inputs, labels=labels))
    return file


def test_a_run_is_not_measured_on_variants_of_what_it_was_trained_on(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = turned(run, "train", tmp_path / "seen.csv")
    assert main(["eval", str(run.path), "--data", str(file), "--limit", "3"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--allow-overlap" in error
    assert (
        f"{file} line 2 is a training puzzle ({run.data / 'train'}) or a symmetric variant of one, as are 3 of 3"
        in error
    )
    assert main(["eval", str(run.path), "--data", str(file), "--limit", "3", "--allow-overlap"]) == 0


def test_what_was_set_aside_can_be_measured(run: Run, tmp_path: Path) -> None:
    assert main(["eval", str(run.path), "--data", str(run.data)]) == 0
    assert main(["eval", str(run.path), "--data", str(turned(run, "test", tmp_path / "unseen.csv"))]) == 0
    assert main(["eval", str(run.path), "--data", str(run.data), "--split", "train"]) == 2


def test_a_file_trained_on_is_remembered_by_the_run_and_its_absence_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.csv"
    write_csv(file, small.SUDOKU, small.puzzles())
    settings = small.config(data=str(file), train={"steps": 2}, optim={"warmup_steps": 1})
    run = small.train(tmp_path / "run", settings)
    assert main(["eval", str(run.path), "--data", str(file)]) == 2
    moved = file.rename(tmp_path / "moved.csv")
    capsys.readouterr()
    assert main(["eval", str(run.path), "--data", str(moved)]) == 0
    assert f"not compared with the training puzzles of {run.path}: there is no file" in capsys.readouterr().err
