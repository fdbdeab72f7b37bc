"""ARC from the files to the submission, with a model that is barely trained: the path, not the accuracy."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.cli.main import main
from hrm.puzzles.arc import files as arc
from hrm.puzzles.arc.files import ArcTask, Pair
from hrm.puzzles.arc.measuring import read_submission, score
from hrm.puzzles.arc.sets import prepare
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.tasks import build
from hrm.puzzles.training.batches import Sampler
from hrm.runs import Run, checkpoint

TINY = shlex.split(
    "--task.size 7 7 --task.copies 3 --arch.dim 16 --arch.heads 2 --train.steps 4 --train.batch-size 8 "
    "--train.precision float32 --train.device cpu --optim.warmup-steps 1 --train.eval-every 2"
)


def pair(seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    return Pair(*(rng.integers(0, 10, rng.integers(1, 7, 2)).astype(np.uint8) for _ in range(2)))


def task(name: str, first: int, tests: int = 1) -> ArcTask:
    pairs = [pair(first + i) for i in range(2 + tests)]
    return ArcTask(name, tuple(pairs[:2]), tuple(pairs[2:]))


LEARN = [task("learn1", 0), task("learn2", 10)]
ANSWER = [task("answer1", 20), task("answer2", 30, tests=2)]
NEW = [task("new1", 40), task("new2", 50)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files, and a run that learnt from two tasks to answer two others."""
    folder = tmp_path_factory.mktemp("arc")
    for name, tasks in (("learn", LEARN), ("answer", ANSWER), ("new", NEW)):
        arc.write(folder / f"{name}.jsonl", tasks)
    data = ["--data", str(folder / "learn.jsonl"), "--validation", str(folder / "answer.jsonl")]
    assert main(["train", "arc-small", *data, "--out", str(folder / "run"), *TINY]) == 0
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    """What solving uses."""
    groups, _ = checkpoint.load(Run.open(run, Config).checkpoint("latest"), {"weights", "ema"})
    return groups["weights"] | groups["ema"]


def test_what_is_shown_depends_on_seed_step_and_row_alone(place: Path):
    config = Config(task=TaskConfig(kind="arc", size=(7, 7), copies=3, holdout=0), data=str(place / "learn.jsonl"))
    board = build(config.task)
    puzzles = prepare(config, board).training
    whole, again = (Sampler(puzzles, board, 16, 0, True, 0.0).batch(5) for _ in range(2))
    part = Sampler(puzzles, board, 16, 0, True, 0.0).batch(5, slice(4, 8))
    for one, other, rows in zip(whole, again, part, strict=True):
        assert np.array_equal(one, other) and np.array_equal(one[4:8], rows)
    assert len(set(whole.task_ids.tolist())) > 3 and not np.array_equal(
        whole.inputs, Sampler(puzzles, board, 16, 1, True, 0.0).batch(5).inputs
    )


def test_the_way_from_the_files_to_the_score(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    files = [str(tmp_path / name) for name in ("submission.json", "pictures", "result.json")]
    data = ["--data", str(place / "answer.jsonl")]
    where = ["--submission", files[0], "--pictures", files[1], "--json-file", files[2]]
    assert main(["arc", "eval", str(place / "run"), *data, *where]) == 0
    result = json.loads(Path(files[2]).read_text())
    assert (result["status"], result["tasks"], result["test_inputs"], result["copies"]) == ("answered", 2, 3, 3)
    assert sorted(path.name for path in Path(files[1]).iterdir()) == ["answer1.svg", "answer2.svg"]
    submission = read_submission(Path(files[0]), ANSWER)
    assert score(submission, ANSWER).items() <= result.items()
    capsys.readouterr()
    assert main(["arc", "score", files[0], *data, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == score(submission, ANSWER)


def test_each_checkpoint_has_its_own_score(place: Path, capsys: pytest.CaptureFixture[str]):
    run = Run.open(place / "run", Config)
    steps = [checkpoint.step_of(path) for path in checkpoint.complete(run.checkpoints)]
    args = ["arc", "eval", str(run.path), "--data", str(place / "answer.jsonl"), "--checkpoint", "all", "--json"]
    capsys.readouterr()
    assert main(args) == 0
    results = json.loads(capsys.readouterr().out)
    assert [int(result["checkpoint"][-8:]) for result in results] == steps


def test_the_run_keeps_its_tasks_and_goes_on(place: Path, tmp_path: Path):
    data = ["--data", str(place / "learn.jsonl"), "--validation", str(place / "answer.jsonl")]
    for steps, out in (("6", "whole"), ("3", "parts")):
        args = ["train", "arc-small", *data, "--out", str(tmp_path / out), *TINY, "--optim.schedule", "constant"]
        assert main([*args, "--train.steps", steps]) == 0
    assert main(["train", "--resume", str(tmp_path / "parts"), "--train.steps", "6"]) == 0
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert Run.open(tmp_path / "whole", Config).board["task_ids"] == 1 + 4 * 3


def test_changed_task_files_stop_a_resumed_run(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "tasks.jsonl"
    arc.write(file, ANSWER)
    assert main(["train", "arc-small", "--validation", str(file), "--out", str(tmp_path / "run"), *TINY]) == 0
    arc.write(file, [ANSWER[0], ANSWER[1]._replace(train=NEW[0].train)])
    assert main(["train", "--resume", str(tmp_path / "run"), "--train.steps", "6"]) == 2
    assert "tasks.jsonl has changed since the run" in capsys.readouterr().err


@pytest.mark.parametrize("learn", ["embedding", "all"])
def test_new_tasks_are_learnt_on_a_trained_model(place: Path, tmp_path: Path, learn: str):
    args = ["--init", str(place / "run"), "--new-tasks", str(place / "new.jsonl"), "--out", str(tmp_path / "run")]
    flags = [] if learn == "embedding" else ["--train.learn", "all"]
    assert main(["train", *args, *flags]) == 0
    before, after = weights(place / "run"), weights(tmp_path / "run")
    table = "task_embedding.weight"
    rows = len(before[table])
    assert len(after[table]) == rows + 2 * 3
    assert torch.equal(after[table][:rows], before[table])
    assert not torch.equal(after[table][rows:], before[table][1:].mean(0).expand(2 * 3, -1))
    same = [torch.equal(before[name], after[name]) for name, _ in before.items() if name != table]
    assert all(same) == (learn == "embedding")
    for name in ("new", "answer"):
        assert main(["arc", "eval", str(tmp_path / "run"), "--data", str(place / f"{name}.jsonl")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--train.steps", "6"]) == 0
    again = weights(tmp_path / "run")
    assert all(torch.equal(before[n], again[n]) for n in before if n != table) == (learn == "embedding")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("arc eval RUN --data new.jsonl", "2 of 2 tasks have no embedding in this run, the first is new1"),
        ("arc eval RUN --data learn.jsonl", "trained on the answers of 2 of 2 tasks, the first is learn1"),
        ("arc eval RUN --data answer.jsonl --copies 4", "--copies must be from 1 to 3"),
        ("arc eval RUN --data answer.jsonl --submission no/s.json", "in a folder that does not exist"),
        ("arc eval RUN --data answer.jsonl --checkpoint all --pictures p", "choose it with --checkpoint STEP"),
        ("train arc-small --data answer.jsonl --validation answer.jsonl --out x", "are among the tasks to answer"),
        ("train arc-small --out x", "--data FILE"),
        ("train arc-small --validation answer.jsonl --out x --task.size 4 4", "larger than the board"),
        ("train arc-small --validation answer.jsonl --out x --task.size 7 8", "has no room for turned copies"),
        ("train --init RUN --out x", "--init RUN needs a preset"),
        ("train arc-small --init RUN --new-tasks new.jsonl", "already has its settings: leave out 'arc-small'"),
        ("train --init RUN --new-tasks learn.jsonl --out x", "trained on the answers of 2 of 2 tasks"),
        ("train --resume RUN --init RUN --new-tasks new.jsonl", "use one of them"),
        ("solve RUN [[1,2]]", "hrm arc eval"),
    ],
)
def test_mistakes_get_one_sentence_and_leave_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: str, words: str
):
    monkeypatch.chdir(place)
    assert main([word.replace("RUN", str(place / "run")) for word in args.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error, error
    assert not (place / "x").exists()


def test_what_a_run_remembers_can_be_measured_on_request(place: Path, capsys: pytest.CaptureFixture[str]):
    args = ["arc", "eval", str(place / "run"), "--data", str(place / "learn.jsonl"), "--leaks", "--json"]
    capsys.readouterr()
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == 2


def test_held_out_test_pairs_choose_the_best_checkpoint(place: Path, tmp_path: Path):
    args = ["--data", str(place / "learn.jsonl"), "--validation", str(place / "answer.jsonl"), "--task.holdout", "1"]
    assert main(["train", "arc-small", *args, "--out", str(tmp_path / "run"), *TINY]) == 0
    best = Run.open(tmp_path / "run", Config).best
    assert best is not None and best["n"] == 1


def test_tasks_are_chosen_by_size_checked_and_shown(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    everything = f"{place / 'new.jsonl'},{place / 'learn.jsonl'}"
    most = sorted(task.largest for task in (*NEW, *LEARN))[1]
    assert main(["arc", "build", "--data", everything, "--largest", str(most), "--count", "1", "--out", "t.jsonl"]) == 0
    (chosen,) = arc.read("t.jsonl")
    assert chosen.id == min(task.id for task in (*NEW, *LEARN) if task.largest <= most)
    assert main(["arc", "build", "--data", everything, "--out", "t.jsonl"]) == 2
    capsys.readouterr()
    assert main(["arc", "check", everything, "--against", str(place / "learn.jsonl")]) == 2
    assert "learn2: its answer is in learn2 of" in capsys.readouterr().out
    assert main(["arc", "check", everything, "--against", str(place / "answer.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["leaks"] == {}
    assert main(["arc", "show", everything, "--task", "learn1"]) == 0
    assert "learn1, demonstration 2" in capsys.readouterr().out
    assert main(["arc", "show", everything, "--task", "learn3"]) == 2
    assert "did you mean 'learn" in capsys.readouterr().err
    assert main(["arc", "show", everything, "--svg", "t.svg"]) == 0
    assert (tmp_path / "t.svg").read_text().startswith("<svg")
