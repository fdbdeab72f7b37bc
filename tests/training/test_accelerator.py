"""What is trained and asked on an accelerator says the same as on the CPU: everything is where the model is."""

from __future__ import annotations

import json
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.runs import Run
from hrm.text.config import TextConfig
from hrm.text.learning.learner import Learner
from hrm.training.config import TrainConfig
from hrm.training.devices import make_accelerator
from tests import pretend
from tests.training import small

POEM = "the fox sees the hen\nthe hen sees the fox\n" * 40


def losses(path: Path) -> list[dict[str, Any]]:
    records = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in r.items() if k not in small.IGNORED and isinstance(v, int | float)}
        for r in records
        if "event" not in r
    ]


def assert_close(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6, nan_ok=True)


def test_an_accelerator_that_is_pretended_is_one() -> None:
    with pretend.accelerator() as device:
        assert torch.accelerator.is_available() and Accelerator().device == device
        with pytest.raises(ValueError, match="already been initialized"):
            Accelerator(cpu=True)
        weights = torch.ones(3, device=device, requires_grad=True)
        (weights * torch.arange(3.0).to(device)).sum().backward()
        assert weights.grad is not None and weights.grad.device == device and weights.grad.tolist() == [0, 1, 2]
        with pytest.raises(RuntimeError, match="on the CPU"):
            _ = weights * torch.ones(3)
    assert not torch.accelerator.is_available()


def test_one_process_trains_on_one_device_after_the_other() -> None:
    with pretend.accelerator() as device:
        assert make_accelerator(TrainConfig(device="cpu")).device.type == "cpu"
        assert make_accelerator(TrainConfig()).device == device
        assert make_accelerator(TrainConfig(device="cpu")).device.type == "cpu"
        with pytest.raises(UserError, match=r"--train.device mps is not available here: use pretend or auto"):
            make_accelerator(TrainConfig(device="mps"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_puzzles_train_resume_and_are_solved_on_an_accelerator(tmp_path: Path, precision: str) -> None:
    train = {"steps": 4, "precision": precision, "checkpoint_every": 2, "log_every": 1, "batch_size": 4}
    config = small.config(
        train={**train, "device": "auto"}, optim={"ema": 0.9}, task={"holdout": 4}, halting={"max_segments": 2}
    )
    here = small.train(tmp_path / "here", config)
    with pretend.accelerator():
        there = small.train(tmp_path / "there", config)
        small.resume(small.cut(there, tmp_path / "resumed", 2))
        assert hrm(["solve", str(there.path), ".1..3...2......4"]) == 0
        assert hrm(["eval", str(there.path), "--data", str(there.path / "data")]) == 0
    tolerance = {"rel": 1e-5, "abs": 1e-6} if precision == "float32" else {"rel": 0.02, "abs": 1e-2}
    for one, other in zip(losses(here.path), losses(there.path), strict=True):
        assert other == pytest.approx(one, rel=tolerance["rel"], abs=tolerance["abs"])
    assert losses(there.path) == losses(tmp_path / "resumed")


@pytest.mark.slow
def test_text_trains_resumes_and_is_written_on_an_accelerator(tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text(POEM)

    def begin(name: str) -> Path:
        args = ["train", *small.TEXT, "--data", str(tmp_path / "poem.txt"), "--out", str(tmp_path / name)]
        assert hrm(args) == 0
        return tmp_path / name

    here = begin("here")
    with pretend.accelerator():
        there = begin("there")
        small.cut(Run.open(there, TextConfig), tmp_path / "resumed", 2)
        assert hrm(["train", "--resume", str(tmp_path / "resumed")]) == 0
        assert hrm(["generate", str(there), "the ", "--max-new-tokens", "5"]) == 0
        assert hrm(["eval", str(there), "--limit", "16"]) == 0
    assert_close(losses(here), losses(there))
    assert losses(there) == losses(tmp_path / "resumed")


@pytest.mark.slow
def test_a_learner_learns_on_an_accelerator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Learner, "sample", partialmethod(Learner.sample, 3))
    (tmp_path / "poem.txt").write_text(POEM)
    tiny = (
        "--arch.dim=16",
        "--arch.heads=2",
        "--arch.fast-layers=1",
        "--arch.slow-layers=1",
        "--arch.intermediate-size=32",
    )

    def learn(name: str) -> Path:
        flags = (
            *tiny,
            "--epochs",
            "1",
            "--stride",
            "80",
            "--length",
            "80",
            "--eval-characters",
            "80",
            "--log-every",
            "1",
        )
        assert hrm(["learn", str(tmp_path / name), str(tmp_path / "poem.txt"), *flags]) == 0
        return tmp_path / name

    here = learn("here")
    with pretend.accelerator():
        there = learn("there")
    assert_close(losses(here), losses(there))
