"""A whole training through the command line: what it writes, keeps, shows, and when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm.cli.main import main as hrm
from hrm.puzzles import data
from hrm.puzzles.config import Config
from hrm.puzzles.training import session
from hrm.runs import Run, checkpoint, threads
from hrm.training import progress
from tests.training import small
from tests.training.small import config, train

pytestmark = pytest.mark.slow


MEASURING = "measuring the best checkpoint on the 20 held-out puzzles"


def steps(run: Run) -> list[int]:
    """The steps of all checkpoints."""
    return [checkpoint.step_of(path) for path in checkpoint.complete(run.checkpoints)]


def test_a_training_learns_and_leaves_a_run_that_the_other_verbs_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(task={"holdout": 10}, train={"steps": 60, "log_every": 5, "eval_every": 20})
    run = train(tmp_path / "run", settings)
    assert capsys.readouterr().out.strip() == str(run.path)
    lines = [record for record in run.records() if "event" not in record]
    assert [line["step"] for line in lines] == list(range(5, 61, 5))
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert {record["step"]: record["n"] for record in run.records() if record.get("event") == "eval"} == {
        20: 10,
        40: 10,
        60: 10,
    }
    result = json.loads(run.result.read_text())
    assert (result["state"], result["step"], result["n"], result["wrong"]) == ("finished", 60, 10, 0)
    assert hrm(["solve", str(run.path), small.SUDOKU.format(small.puzzles().inputs[0]), "--json"]) == 0


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_and_the_best_are_kept(tmp_path: Path, keep: int) -> None:
    settings = config(
        task={"holdout": 10},
        train={"steps": 20, "checkpoint_every": 2, "eval_every": 10, "keep": keep},
        optim={"lr": 0.0},
    )
    run = train(tmp_path / "run", settings)
    assert steps(run) == list(range(20, 20 - 2 * keep, -2))[::-1]
    # Equally good: the newer one is the best. A better one from before would stay beside the newest.
    assert (run.best or {})["step"] == 20
    kept = steps(run)[0]
    run.set_best(kept, {**(run.best or {}), "exact_accuracy": 1.0, "step": kept})
    run = small.resume(run.path, "--train.steps", "30")
    assert steps(run) == [kept, *range(30, 30 - 2 * keep, -2)[::-1]]
    assert (run.best or {})["step"] == kept


def test_minutes_end_a_training_that_has_steps_left_and_shape_its_schedule(tmp_path: Path) -> None:
    settings = config(
        optim={"schedule": "cosine", "warmup_steps": 0},
        train={"steps": 10**6, "minutes": 0.01, "log_every": 1, "checkpoint_every": 10**6},
    )
    run = train(tmp_path / "run", settings)
    lines = run.records()
    assert lines[-2]["seconds"] < 0.6 <= lines[-1]["seconds"]
    assert json.loads(run.result.read_text())["state"] == "finished"
    assert steps(run) == [lines[-1]["step"]]
    assert lines[0]["lr"] > 5e-4 > lines[-1]["lr"]


def test_a_reached_target_ends_the_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = config(
        **small.LEARNS, train={"steps": 10**4, "batch_size": 32, "eval_every": 20, "target_accuracy": 0.3}
    )
    run = train(tmp_path / "run", settings)
    assert "reached 30.0% on held-out puzzles" in capsys.readouterr().err
    accuracies = [record["exact_accuracy"] for record in run.records() if record.get("event") == "eval"]
    assert accuracies[-1] >= 0.3 and all(accuracy < 0.3 for accuracy in accuracies[:-1])
    assert steps(run)[-1] == 20 * len(accuracies)
    assert json.loads(run.result.read_text())["state"] == "finished"


def test_the_lines_on_stderr_say_what_a_person_wants_to_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", config(task={"holdout": 10}))
    shown = capsys.readouterr().err.splitlines()
    chosen = next(line for line in shown if "parameters" in line)
    assert re.fullmatch(
        r"7,154 parameters on cpu with \d+ threads? \(.+\) in float32; 30 training puzzles, 10 held out; step 0 of 30",
        chosen,
    )
    line = next(line for line in shown if line.startswith("step 28/30"))
    for word in ("loss", "exact", "segments", "grad", "steps/s", "puzzles/s", "GiB", "left"):
        assert word in line
    assert any(line.startswith("finished at step 30 after 0:") for line in shown)
    assert shown[-1] == f"try: hrm solve {tmp_path / 'run'} PUZZLE"


def test_the_result_can_be_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hrm([*small.command(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 30


def test_validation_puzzles_from_a_file_are_measured_and_read_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    data.write_csv(first, small.SUDOKU, small.puzzles())
    data.write_csv(second, small.SUDOKU, small.puzzles().take(np.arange(5)))
    run = train(tmp_path / "run", config(validation=str(first), allow_overlap=True, train={"eval_every": 15}))
    assert {record["n"] for record in run.records() if record.get("event") == "eval"} == {30}
    run.set_best(15, {**(run.best or {}), "exact_accuracy": 1.0, "step": 15})
    run = small.resume(run.path, "--validation", str(second), "--train.steps", "45")
    assert [record["n"] for record in run.records() if record.get("event") == "eval"] == [30, 30, 5]
    assert ((run.best or {})["n"], (run.best or {})["step"]) == (5, 45), "accuracies on other puzzles do not compare"


def test_a_dry_run_shows_settings_and_costs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hrm(["train", "sudoku-extreme", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "parameters        27,275,266" in shown and "steps             26,041" in shown
    assert "precision: bfloat16" in shown and "FLOPs per step" in shown and "GiB" in shown
    started = time.monotonic()
    assert hrm(["train", "sudoku-extreme", "--dry-run", "--json", "--train.accumulate", "2"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["parameters"] == 27_275_266
    assert hrm(["train", "sudoku-extreme", "--dry-run", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert figures["flops_per_step"] == pytest.approx(whole["flops_per_step"])
    assert figures["memory"]["activations"] == pytest.approx(whole["memory"]["activations"] / 2, rel=0.01)
    assert time.monotonic() - started < 60 and not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "get_available_trackers", list)
    assert hrm(small.command(tmp_path / "run", config(train={"track": ("tensorboard",)}))) == 2
    assert (
        "--train.track tensorboard needs tensorboard, which is not installed: in your clone" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_tensorboard_receives_the_metrics(tmp_path: Path) -> None:
    reader = "tensorboard.backend.event_processing.event_accumulator"
    tensorboard = pytest.importorskip(reader, reason="needs the extra [track]")
    run = train(tmp_path / "run", config(train={"track": ("tensorboard",)}))
    [events] = (run.path / "tensorboard").glob("events.out.tfevents.*")
    accumulator = tensorboard.EventAccumulator(str(events))
    accumulator.Reload()
    logged = {event.step: event.value for event in accumulator.Scalars("loss")}
    wanted = {record["step"]: record["loss"] for record in run.records()}
    assert logged == pytest.approx(wanted)


def test_weights_and_biases_and_trackio_take_the_metrics_without_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="needs the extra [track]")
    pytest.importorskip("trackio", reason="needs the extra [track]")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.chdir(tmp_path)
    run = train(tmp_path / "run", config(train={"track": ("wandb", "trackio")}))
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb")) and not (tmp_path / "wandb").exists()
    assert "Reserved keys" not in capsys.readouterr().out


def test_measuring_is_logged_with_its_share_of_the_time(tmp_path: Path) -> None:
    settings = config(task={"holdout": 10}, train={"steps": 20, "eval_every": 5})
    run = train(tmp_path / "run", settings)
    measured = [record for record in run.records() if record.get("event") == "eval"]
    assert len(measured) == 4
    total = sum(record["measuring_seconds"] for record in measured)
    last = measured[-1]
    assert last["measuring_share"] == pytest.approx(total / (total + last["seconds"]))
    result = json.loads(run.result.read_text())
    assert result["measuring_share"] == last["measuring_share"] and 0 < result["measuring_share"] < 1


def test_measuring_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    calls: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)

    class Watched(session.Measurement):
        def __init__(self, *args: Any) -> None:
            compiled(torch.ones(len(calls) + 1))
            calls.append(len(graphs))
            super().__init__(*args)

    monkeypatch.setattr(session, "Measurement", Watched)
    train(tmp_path / "run", config(task={"holdout": 10}, train={"steps": 10, "eval_every": 5, "eval_puzzles": 5}))
    # The last call is the one after the training, whose model is not compiled.
    assert calls == [0, 0, 1]


@pytest.mark.parametrize(("precision", "ema", "steps"), [("float32", 0.9, 40), ("bfloat16", 0.0, 4)])
def test_what_the_training_has_just_measured_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str, ema: float, steps: int
) -> None:
    changes = {**small.LEARNS, "optim": {**small.LEARNS["optim"], "ema": ema}}
    settings = config(**changes, train={"steps": steps, "batch_size": 32, "eval_every": 20, "precision": precision})
    run = train(tmp_path / "run", settings)
    assert MEASURING not in capsys.readouterr().err
    kept = json.loads(run.result.read_text())
    small.resume(run.path)  # nothing is left to train, so it only measures
    assert MEASURING in capsys.readouterr().err
    again = json.loads(run.result.read_text())
    clocked = {"seconds", *small.IGNORED} - {"data"}
    assert {k: v for k, v in kept.items() if k not in clocked} == {k: v for k, v in again.items() if k not in clocked}
    assert kept["n"] == 20 and kept["calibration"] == (run.best or {})["calibration"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_best_checkpoint_is_measured_costs_only_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    def signalled(what: str, total: int, console: object) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext(lambda: signal.raise_signal(getattr(signal, name)))

    settings = config(task={"holdout": 20}, optim={"warmup_steps": 0}, train={"steps": 2, "eval_puzzles": 5})
    with monkeypatch.context() as patched:
        patched.setattr(session, "bar", signalled)
        run = train(tmp_path / "run", settings)  # ends with 0, as every training that a signal stops
    said = capsys.readouterr().err
    assert MEASURING in said and "saving" not in said
    assert f"the training itself is saved: hrm eval {run.path} measures it" in said
    result = json.loads(run.result.read_text())
    assert (result["state"], result["step"]) == ("finished", 2) and "exact" not in result
    small.resume(run.path)
    assert json.loads(run.result.read_text())["n"] == 20


def test_patience_ends_a_training_that_no_longer_gets_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(**small.LEARNS, train={"steps": 10**4, "batch_size": 32, "eval_every": 20, "patience": 2})
    run = train(tmp_path / "run", settings)
    assert "no better on held-out data in 2 measurements: stopping" in capsys.readouterr().err
    accuracies = [record["exact_accuracy"] for record in run.records() if record.get("event") == "eval"]
    best = max(accuracies)
    assert best > 0 and accuracies.index(best) == len(accuracies) - 3
    assert json.loads(run.result.read_text())["state"] == "finished"
    # Resumed, it has still waited long enough; more patience takes it further.
    step = steps(run)[-1]
    assert steps(small.resume(run.path))[-1] == step
    assert steps(small.resume(run.path, "--train.patience", "3", "--train.steps", str(step + 20)))[-1] == step + 20


def test_patience_does_not_count_before_anything_is_solved(tmp_path: Path) -> None:
    settings = config(task={"holdout": 10}, optim={"lr": 0.0}, train={"steps": 20, "eval_every": 2, "patience": 1})
    run = train(tmp_path / "run", settings)
    assert (run.best or {})["exact_accuracy"] == 0 and steps(run)[-1] == 20


def test_training_refuses_to_measure_on_what_it_trains_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    puzzles = small.puzzles()
    uniforms = np.random.default_rng(0).random((30, small.SUDOKU.uniforms))
    inputs, labels = small.SUDOKU.augment(puzzles.inputs, puzzles.labels, uniforms)
    data.write_csv(tmp_path / "train.csv", small.SUDOKU, puzzles)
    data.write_csv(
        tmp_path / "test.csv", small.SUDOKU, puzzles._replace(inputs=inputs, labels=labels).take(np.arange(5))
    )
    files = {"data": str(tmp_path / "train.csv"), "validation": str(tmp_path / "test.csv")}
    command = small.command(tmp_path / "run", config(**files, train={"steps": 4}))
    assert hrm(command) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'test.csv'} line 2" in error and "5 of 5" in error and "--allow-overlap" in error
    assert not (tmp_path / "run").exists()
    assert hrm([*command, "--allow-overlap"]) == 0
    assert Run.open(tmp_path / "run", Config).config.allow_overlap
    resumed = ["train", "--resume", str(tmp_path / "run"), "--train.steps", "6"]
    assert hrm([*resumed, "--no-allow-overlap"]) == 2
    assert hrm(resumed) == 0


def test_a_run_keeps_its_number_of_threads_and_a_flag_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sums depend on the number of threads to the bit, so that a resumed run takes the same."""
    asked: list[int] = []

    def settle(work: int, wanted: int = 0) -> tuple[int, str]:
        asked.append(wanted)
        return wanted or 3, "3 threads"

    monkeypatch.setattr(threads, "settle", settle)
    run = small.train(tmp_path / "run", small.config(train={"steps": 5}))
    assert run.config.train.threads == 3 and "cpu with 3 threads" in capsys.readouterr().err
    small.resume(run.path, "--train.steps", "6")
    assert small.resume(run.path, "--train.steps", "7", "--train.threads", "2").config.train.threads == 2
    assert asked == [0, 3, 2]
    old = (run.path / "config.yaml").read_text().replace("threads: 2", "threads: 0")
    (run.path / "config.yaml").write_text(old)
    capsys.readouterr()
    assert small.resume(run.path, "--train.steps", "8").config.train.threads == 3
    assert "threads 0" not in capsys.readouterr().err
