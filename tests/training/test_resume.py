"""A resumed run equals the uninterrupted one bit for bit: weights, EMA, optimizer, slots and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hrm.core.arch import ArchConfig
from hrm.puzzles import data
from hrm.puzzles.config import Config
from hrm.runs import Run, checkpoint
from tests.training import small
from tests.training.small import SUDOKU, assert_same, config, cut, resume, train

pytestmark = pytest.mark.slow

CANDIDATES = ArchConfig(
    dim=8, shared=True, fast_layers=1, h_cycles=1, l_cycles=2, horizon="last_cycle", mixer="groups",
    tokens="candidates", positions="none", task_positions=0, q_from="mean", expansion_multiple=8,
)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"optim": {"name": "adam_atan2", "ema": 0.9}},
        {"optim": {"name": "adamw", "clip": 0.5}, "halting": {"q_continue": False}},
        {"optim": {"name": "muon", "ema": 0.99, "schedule": "cosine"}},
        {"arch": vars(CANDIDATES), "optim": {"name": "muon"}, "halting": {"q_continue": False}},
        {"train": {"precision": "bfloat16", "accumulate": 2, "checkpoint_activations": True}},
        {"train": {"precision": "float16"}},
    ],
    ids=["adam_atan2", "adamw", "muon", "candidates", "bfloat16", "float16"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    straight = train(tmp_path / "straight", config(**changes))
    resumed = resume(cut(straight, tmp_path / "resumed", 15))
    groups = {"weights", "optimizer", "slots"} | ({"ema"} if "ema" in changes.get("optim", {}) else set())
    assert_same(straight, resumed, 30, groups)


def test_task_embeddings_resume_bit_for_bit(tmp_path: Path) -> None:
    data.write_folder(tmp_path / "puzzles", SUDOKU, small.puzzles(task_ids=4))
    settings = config(data=str(tmp_path / "puzzles"), optim={"ema": 0.9, "task_lr": 0.01})
    straight = train(tmp_path / "straight", settings)
    resumed = resume(cut(straight, tmp_path / "resumed", 15))
    assert_same(straight, resumed, 30)
    tasks = checkpoint.load(resumed.checkpoint(30))[0]
    for group in ("weights", "ema"):
        table = tasks[group]["task_embedding.weight"]
        assert table.shape == (4, 16) and not table[0].any() and table[1:].any(1).all()


def test_two_hundred_steps_resumed_halfway_equal_two_hundred_straight(tmp_path: Path) -> None:
    """The longer run is asked for when the shorter one is done, as a person would."""
    settings = {"optim": {"ema": 0.99}, "task": {"holdout": 10, "reveal": 0.5}}
    straight = train(tmp_path / "straight", config(**settings, train={"steps": 200, "eval_every": 50}))
    resumed = train(tmp_path / "resumed", config(**settings, train={"steps": 100, "eval_every": 50}))
    resumed = resume(resumed.path, "--train.steps", "200")
    assert_same(straight, resumed, 200)
    assert (straight.best or {})["step"] == (resumed.best or {})["step"]


def test_the_metrics_of_a_run_resumed_between_two_lines_are_those_of_the_uninterrupted_one(tmp_path: Path) -> None:
    straight = train(tmp_path / "straight", config(train={"log_every": 10, "checkpoint_every": 7, "keep": 9}))
    for step in (7, 14, 28):
        resumed = resume(cut(straight, tmp_path / f"resumed-{step}", step))
        assert small.metrics(resumed) == small.metrics(straight)


def test_a_measurement_that_a_kill_prevented_is_made_up_for(tmp_path: Path) -> None:
    settings = config(task={"holdout": 10}, train={"eval_every": 10, "checkpoint_every": 10, "keep": 9})
    straight = train(tmp_path / "straight", settings)
    path = cut(straight, tmp_path / "resumed", 20)
    # As if killed between the checkpoint of step 20 and its measurement.
    lines = [r for r in straight.records() if r["step"] <= 20 and (r["step"], r.get("event")) != (20, "eval")]
    killed = Run.open(path, Config)
    killed.metrics.write_text("")
    for line in lines:
        killed.log(line)
    killed.set_best(10, {**(straight.best or {}), "exact_accuracy": -1.0, "step": 10})
    resumed = resume(path)
    assert small.metrics(resumed) == small.metrics(straight)
    assert (resumed.best or {})["step"] == (straight.best or {})["step"]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    run = train(tmp_path / "run", config(task={"holdout": 10}, train={"eval_every": 10}))
    before, weights = small.metrics(run), small.state(run, 30)[0]["weights"]
    run = resume(run.path)
    assert small.metrics(run) == before
    assert all(torch.equal(value, weights[name]) for name, value in small.state(run, 30)[0]["weights"].items())


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_beginning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(tmp_path / "straight")
    resumed = resume(cut(straight, tmp_path / "resumed", 0))
    assert "has no checkpoint yet: starting from the beginning" in capsys.readouterr().err
    assert_same(straight, resumed, 30)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(tmp_path / "straight", config(train={"checkpoint_every": 10, "keep": 9}))
    path = cut(straight, tmp_path / "resumed", 20)
    weights = path / "checkpoints" / "step_00000020" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    capsys.readouterr()
    resumed = resume(path)
    shown = capsys.readouterr().err
    assert "step_00000020 is damaged: weights.safetensors has" in shown and "using step_00000010 instead" in shown
    assert_same(straight, resumed, 30)


def test_a_damaged_only_checkpoint_is_named_and_training_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(tmp_path / "straight")
    path = cut(straight, tmp_path / "resumed", 15)
    (path / "checkpoints" / "step_00000015" / "state.json").write_text("{}")
    capsys.readouterr()
    resumed = resume(path)
    assert "no older one is intact" in capsys.readouterr().err
    assert_same(straight, resumed, 30)


@pytest.mark.parametrize(
    ("name", "value"),
    [("good_steps", ""), ("bad_in_a_row", 1.5), ("loss_scale", [1]), ("lr", None), ("grad_norm", "a"), ("lr", True)],
)
def test_a_counter_that_is_none_is_refused(name: str, value: object) -> None:
    trainer = small.trainer()
    trainer.step()
    groups, state = trainer.pack()
    with pytest.raises(ValueError, match=f"its {name} is"):
        small.trainer().unpack(groups, {**state, name: value})
    small.trainer().unpack(groups, {**state, "grad_norm": None})  # as JSON says one that was not finite


def test_an_optimizer_that_lacks_a_moment_is_refused() -> None:
    trainer = small.trainer()
    trainer.step()
    groups, state = trainer.pack()
    lacking = {name: each for name, each in groups["optimizer"].items() if not name.endswith("head.weight.exp_avg_sq")}
    assert len(lacking) < len(groups["optimizer"])
    with pytest.raises(ValueError, match="not \\['exp_avg', 'exp_avg_sq', 'step'\\]"):
        small.trainer().unpack({**groups, "optimizer": lacking}, state)
