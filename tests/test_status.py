"""`hrm status` says of any run how far it is, and whether a process writes into it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.runs import lock
from tests.training import small


def test_of_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small.train(tmp_path / "run", small.config(task={"holdout": 10}, train={"eval_every": 15}))

    def status(path: Path) -> dict[str, Any]:
        capsys.readouterr()
        assert hrm(["status", str(path), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    found = status(run.path)
    assert (found["state"], found["step"], found["steps"], found["checkpoint"]) == ("finished", 30, 30, 30)
    assert found["last"]["loss"] == [line["loss"] for line in run.records() if "event" not in line][-1]
    assert found["best"]["step"] in (15, 30) and found["writer"] is None
    half = small.cut(run, tmp_path / "half", 15)
    assert status(half)["state"] == "not running"
    with lock.own(half, "train --resume"):
        found = status(half)
        assert found["state"] == "running" and "hrm train --resume (process" in found["writer"]
    assert hrm(["status", str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert f"{run.path}: puzzle, step 30 of 30 (100%), checkpoint of step 30\nfinished\nlast: loss" in shown
    assert "best (step " in shown
    # Resumed for more steps, and killed before one of them was saved.
    run.log({"event": "resumed", "from_step": 30, "changed": {"train.steps": [30, 60]}})
    run.set_config(replace(run.config, train=replace(run.config.train, steps=60)))
    assert status(run.path)["state"] == "not running"


def test_of_a_training_that_has_done_nothing_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small.train(tmp_path / "run", small.config(train={"steps": 1}, optim={"warmup_steps": 1}))
    run.metrics.unlink()
    run.result.unlink()
    for path in run.checkpoints.iterdir():
        path.rename(tmp_path / path.name)
    assert hrm(["status", str(run.path)]) == 0
    assert capsys.readouterr().out.endswith("step 0 of 1 (0%), no checkpoint yet\nnot running\n")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config.json": '{"model_type": "hrm_lm"}', "m.safetensors": ""}, "a saved model of type 'hrm_lm': hrm e"),
        ({"config.json": '{"model_type": "hrm_text"}', "m.safetensors": ""}, "a saved model of type 'hrm_text': "),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "a PEFT adapter: merge it into its model"),
        ({"train/corpus.json": "{}"}, "a corpus of packed text: hrm data check"),
        ({"index.json": "{}"}, "a corpus of packed text: hrm data check"),
        ({"step_10": ""}, "a checkpoint of the official program: hrm convert"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_named_with_the_command_that_reads_it(
    files: dict[str, str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in files.items():
        (tmp_path / "it" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "it" / name).write_text(content)
    assert hrm(["status", str(tmp_path / "it")]) == 2
    assert f"hrm status: {tmp_path / 'it'} is no run but {said}" in capsys.readouterr().err
