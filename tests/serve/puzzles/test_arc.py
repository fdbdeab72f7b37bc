"""Tasks of ARC over HTTP: the votes of `hrm arc eval`, and a sentence about what a run has not learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from hrm.core.arch import ArchConfig, HaltingConfig
from hrm.puzzles.arc.measuring import answer_tasks
from hrm.puzzles.arc.sets import TaskRecord
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.model import board_of, build
from hrm.puzzles.tasks import build as build_task
from hrm.runs import checkpoint
from hrm.runs.folder import Run
from hrm.serve.app import create_app
from hrm.serve.models import Models
from hrm.serve.waiting import Limits
from hrm.training.config import TrainConfig

TASK = {
    "id": "two",
    "train": [{"input": [[1, 2]], "output": [[2, 1]]}],
    "test": [{"input": [[3, 4]]}, {"input": [[5], [6]]}],
}
CONFIG = Config(
    task=TaskConfig(kind="arc", size=(4, 4), copies=5),
    arch=ArchConfig(dim=32, fast_layers=1, slow_layers=1, h_cycles=1, l_cycles=1, heads=2, task_positions=1),
    halting=HaltingConfig(max_segments=3, q_continue=False),
    train=TrainConfig(precision="float32"),
)


def arc_run(path: Path) -> Path:
    """A model of two tasks with random weights: its copies disagree."""
    task_ids = 1 + 2 * 5
    run = Run.create(path, CONFIG, {"cells": 16, "vocabulary": 12, "task_ids": task_ids})
    model = build(CONFIG, board_of(build_task(CONFIG.task), task_ids))
    with torch.no_grad():
        torch.manual_seed(0)
        assert model.task_embedding is not None
        model.task_embedding.weight.normal_()
    checkpoint.save(run.checkpoints, 1, {"weights": model.state_dict()}, {"step": 1})
    TaskRecord(("one", "two")).save(path / "data")
    run.set_best(1, {"exact_accuracy": 0.0})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return arc_run(tmp_path_factory.mktemp("runs") / "arc")


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    models = Models({"arc": run}, Limits(slots=3))
    yield TestClient(create_app(models))
    models.close(0)


def solved(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/solve", json={"model": "arc"} | body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_learned_task_gets_the_guesses_that_its_copies_vote_for(client: TestClient, run: Path, tmp_path: Path):
    (tmp_path / "two.json").write_text(json.dumps(TASK))
    (expected,) = answer_tasks(run, tmp_path / "two.json")
    unnamed = {"two": {name: TASK[name] for name in ("train", "test")}}
    found = solved(client, puzzles=[TASK, json.dumps(TASK), unnamed])
    for answer in found["answers"]:
        assert (answer["status"], answer["segments"], answer["attempts"]) == ("answered", expected.segments, 10)
        for guesses, own in zip(expected.guesses, answer["tests"], strict=True):
            best = [(guess.grid.tolist(), guess.votes) for guess in guesses[:2]]
            assert [(guess["grid"], guess["votes"]) for guess in own] == best
        assert json.loads(answer["answer"]) == [own[0]["grid"] for own in answer["tests"]]
    assert found["usage"]["segments"] == 3 * expected.segments


def test_the_task_as_it_is_can_be_watched(client: TestClient):
    answer = client.post("/v1/solve", json={"model": "arc", "puzzle": TASK, "copies": 2, "watch": True, "trace": True})
    *segments, last, _ = map(json.loads, answer.text.splitlines())
    assert 1 <= len(segments) <= 3 and last["attempts"] == 4
    assert [step["grid"] for step in last["trace"]] == [line["grid"] for line in segments]


@pytest.mark.parametrize(
    ("puzzle", "reason"),
    [
        ({**TASK, "id": "three"}, "has not learned the task 'three'"),
        ({name: TASK[name] for name in ("train", "test")}, '{"id": ...'),
        ("[[1, 2]]", '{"id": ...'),
        ({**TASK, "test": [{"input": [[1, 2], [3]]}]}, "row 2 has 1 cells"),
        ({**TASK, "test": [{"input": [[1] * 9]}]}, "larger than the board"),
        ({**TASK, "train": 5}, "no list 'train'"),
        ([[1]], '{"id": ...'),
    ],
)
def test_what_it_cannot_answer_is_said(client: TestClient, puzzle: Any, reason: str):
    (answer,) = solved(client, puzzle=puzzle)["answers"]
    assert (answer["status"], answer["segments"], answer["answer"]) == ("invalid", 0, None)
    assert reason in answer["reason"] and "restore" not in answer["reason"]


def test_more_copies_than_were_trained_are_refused(client: TestClient):
    answer = client.post("/v1/solve", json={"model": "arc", "puzzle": TASK, "copies": 6})
    assert answer.status_code == 400 and "from 1 to 5" in answer.json()["error"]["message"]
