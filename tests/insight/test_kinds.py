"""Every question of `hrm analyze` on every kind of model: an answer that can be read, or one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.cli.main import main
from hrm.puzzles.arc import files as arc
from hrm.text import hrm_text
from tests.puzzles.official import files as official
from tests.puzzles.training import test_arc
from tests.text.model import small

pytestmark = pytest.mark.slow
LITTLE = ["--train.steps", "1", "--train.eval-every", "1", "--train.checkpoint-every", "1", "--optim.warmup-steps", "0"]
QUESTIONS = ("steps", "dimensions", "halting", "answers", "paths", "ablate")
REFUSED = {("plain", "dimensions"), ("plain", "halting"), ("plain", "answers"), ("plain", "paths"), ("plain", "ablate")}
"""What has no answer: a plain Transformer has one state and one visit."""


def _train(folder: Path, *words: str) -> list[str]:
    assert main(["train", *words, *LITTLE, "--out", str(folder / "run")]) == 0
    return [str(folder / "run")]


def _maze(folder: Path) -> list[str]:
    size = ["--task.size", "6", "6", "--task.min-path", "3", "--task.puzzles", "40", "--task.holdout", "8"]
    return _train(folder, "maze-10x10", *size, "--arch.dim", "16", "--arch.l-cycles", "2", "--train.batch-size", "8")


def _plain(folder: Path) -> list[str]:
    puzzles = ["--task.puzzles", "40", "--task.holdout", "8", "--train.batch-size", "8", "--arch.no-hierarchy"]
    form = ["--arch.no-shared", "--halting.max-segments", "1", "--arch.slow-layers", "1"]
    return _train(folder, "sudoku-4x4", *puzzles, *form)


def _official(name: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        tree = official.settings(name=name)
        source = official.write(folder / "in", tree, official.state(tree))
        assert main(["convert", str(source), str(folder / "run"), "--to", "hrm"]) == 0
        puzzle = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
        solution = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
        (folder / "puzzles.csv").write_text(f"question,answer\n{puzzle},{solution}\n")
        return [str(folder / "run"), "--data", str(folder / "puzzles.csv")]

    return make


def _arc(folder: Path) -> list[str]:
    for name, tasks in (("learn", test_arc.LEARN), ("answer", test_arc.ANSWER)):
        arc.write(folder / f"{name}.jsonl", tasks)
    data = ["--data", str(folder / "learn.jsonl"), "--validation", str(folder / "answer.jsonl")]
    return _train(folder, "arc-small", *data, *test_arc.TINY)


def _learner(folder: Path) -> list[str]:
    shutil.copytree(Path(__file__).parents[1] / "golden/runs/learner", folder / "run")
    held_out = sorted((folder / "run/books").glob("*/validation"))[-1]
    return [str(folder / "run"), "--data", str(held_out)]


def _hrm_text(folder: Path) -> list[str]:
    from hrm.text.data import make_tokenizer
    from tests.insight.conftest import PROSE

    tokenizer = make_tokenizer("char", [PROSE])
    form = {**small.FORMS["hrm_text"], "rms_norm_eps": 1e-6, "slow_layers": 2, "vocab_size": len(tokenizer)}
    tokenizer.save_pretrained(folder / "tokenizer")
    hrm_text.write(folder / "run", small.model(dtype=torch.float32, **form), 2, folder / "tokenizer")
    (folder / "text.txt").write_text(PROSE)
    return [str(folder / "run"), "--data", str(folder / "text.txt")]


KINDS: dict[str, Callable[[Path], list[str]]] = {
    "maze": _maze, "plain": _plain, "HRM's own": _official(official.HRM), "TRM's own": _official(official.TRM),
    "arc": _arc, "learner": _learner, "hrm_text": _hrm_text,
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """The name of a kind, and the words that name a model of it and what it thinks about."""
    return request.param, KINDS[request.param](tmp_path_factory.mktemp("kind"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_question_is_answered_or_refused_in_a_sentence(
    question: str, kind: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, words = kind
    size = ["--limit", "2", "--segments", "2", "--batch-size", "2", "--out", str(tmp_path / "out")]
    capsys.readouterr()
    code = main(["analyze", question, *words, *size, "--json"])
    out, err = capsys.readouterr()
    if (name, question) in REFUSED:
        assert code == 2 and len(err.strip().splitlines()[-1]) > 20 and "Traceback" not in err
        assert not (tmp_path / "out").exists()
        return
    assert code == 0, err
    found = json.loads(out)
    assert found["question"] == question and found["says"] and found["title"]
    assert all((tmp_path / "out" / f"{question}.{form}").stat().st_size > 1000 for form in ("json", "png", "svg"))
    assert np.isfinite([cell for table in found["tables"].values() for row in table["rows"] for cell in row
                        if isinstance(cell, float)]).all()  # fmt: skip
