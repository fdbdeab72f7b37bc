"""Runs that learned questions with hops: trained, resumed, asked at every depth, and mistakes said in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.cli.main import main as hrm
from hrm.text.data.hops import questions
from hrm.text.load import load_text
from hrm.text.measuring.hops import by_hops

SHAPE = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32 "
SHAPE += "--arch.max-position-embeddings 512 "
SHAPE += "--halting.max-segments 3 --halting.depth-mean 2 --halting.kind fixed"
FLAGS = (
    "--text.kind hops --text.hops 2 --text.length 8 --train.batch-size 8 --train.steps 6 --train.eval-every 3 "
    "--train.checkpoint-every 2 --train.log-every 1 --optim.warmup-steps 2 --train.device cpu"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hops") / "run"
    assert hrm(["train", "text-char", "--data", "sum", *SHAPE.split(), *FLAGS.split(), "--out", str(path)]) == 0
    return path


def test_what_is_said_right_is_what_the_model_writes(run: Path) -> None:
    loaded = load_text(run)
    asked = questions("sum", 2, 60)
    tokens = torch.from_numpy(asked.tokens)
    for segments in (1, 3):
        with torch.inference_mode():
            said = loaded.model(tokens, max_segments=segments).logits[:, -1].argmax(-1).numpy()
        right = float((said == asked.labels[:, -1]).mean())
        found = by_hops(loaded.model, "sum", [2], loaded.model.budget(max_segments=segments), count=60, batch_size=7)
        assert found[0].accuracy == found[0].by_depth[-1] == pytest.approx(right)
        assert found[0].skill == pytest.approx((right - 0.1) / 0.9)


def test_depth_is_that_of_the_tokens_whose_answers_count(run: Path) -> None:
    loaded = load_text(run)
    budget = loaded.model.budget(halting="kl", exit_threshold=1e9)  # every token halts at its second segment
    assert by_hops(loaded.model, "sum", [2], budget, count=20)[0].mean_segments == 2.0


def test_eval_asks_half_as_many_hops_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "hops.json"
    flags = ["--limit", "50", "--json-file", str(file), "--plot", str(tmp_path / "hops.png")]
    assert hrm(["eval", str(run), *flags]) == 0
    assert [row["hops"] for row in json.loads(file.read_text())["hops"]] == [1, 2, 3]
    assert "50 fresh questions of each" in capsys.readouterr().out
    assert (tmp_path / "hops.png").stat().st_size > 1000


def test_a_resumed_training_reads_the_same_questions(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "half"
    flags = [*SHAPE.split(), *FLAGS.replace("--train.steps 6", "--train.steps 6 --train.keep 9").split()]
    assert hrm(["train", "text-char", "--data", "sum", *flags, "--out", str(path)]) == 0
    for step in (4, 6):
        (path / "result.json").unlink(missing_ok=True)
        for file in (path / "checkpoints" / f"step_{step:08}").iterdir() if step == 6 else ():
            file.unlink()
    (path / "checkpoints" / "step_00000006").rmdir()
    assert hrm(["train", "--resume", str(path)]) == 0
    first, again = load_text(run, "latest").model.state_dict(), load_text(path, "latest").model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--hops", "0"], "--hops must be at least 1"),
        (["--hops", "2", "--task", "pairs"], "leave out --task"),
        (["--fresh", "3"], "leave out --fresh"),
        (["--stride", "4"], "leave out --stride"),
        (["--hops", "1100"], "--hops must be at least 1 and at most 1,000"),
        (["--hops", "1000", "--limit", "3"], "a question with 1000 hops has 1001 tokens"),
        (["--hops", "2", "--data", "x.txt"], "use one of them"),
        (["--data", "chain"], "makes its questions of sum by itself: leave --data out"),
        (["--halting", "kl", "--exit-threshold", "0.1", "0.2"], "give one --exit-threshold"),
    ],
)
def test_what_such_a_run_cannot_be_asked_is_said(
    run: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hrm(["eval", str(run), *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data", "summ"], "'summ'; did you mean 'sum'"),
        (["--data", "reach"], "reach with 2 hops takes 20 tokens, more than --text.length 8"),
        (["--data", "sum", "--validation", "x.txt"], "--validation is a file"),
        ([], "--data"),
    ],
)
def test_a_training_that_cannot_be_writes_nothing(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert hrm(["train", "text-char", *flags, *SHAPE.split(), *FLAGS.split(), "--out", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert not path.exists()


def test_what_a_run_learned_cannot_change(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "config.yaml").read_bytes()
    assert hrm(["train", "--resume", str(run), "--data", "permutations", "--train.steps", "8"]) == 2
    assert "the run learned sum" in capsys.readouterr().err
    assert (run / "config.yaml").read_bytes() == before


def test_a_calibrated_run_can_go_back(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    shutil.copytree(run, path)
    before = json.loads((path / "model/config.json").read_text())
    assert hrm(["calibrate", str(path), "--loss", "100"]) == 0
    assert json.loads((path / "model/config.json").read_text())["halting"] == "readout"
    assert hrm(["generate", str(path), "| 3", "--halting", "kl", "--max-new-tokens", "1"]) == 2
    assert "name exit_threshold" in capsys.readouterr().err
    assert hrm(["calibrate", str(path), "--undo"]) == 0
    assert json.loads((path / "model/config.json").read_text()) == before
    assert hrm(["calibrate", str(path), "--undo"]) == 2


def test_a_run_may_be_called_as_its_questions_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*SHAPE.split(), *FLAGS.split(), "--out", "sum"]
    assert hrm(["train", "text-char", "--data", "sum", *flags]) == 0
    assert hrm(["train", "text-char", "--data", "sum", *flags, "--overwrite"]) == 0


def test_numbers_of_hops_do_not_share_questions() -> None:
    assert not np.array_equal(questions("sum", 3, 50).tokens[:, :2], questions("sum", 2, 50).tokens)
