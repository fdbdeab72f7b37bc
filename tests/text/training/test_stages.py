"""From a model that has learned a text to one that others use: asked by a template, preferred, refitted, published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.text.load import load_text
from tests.text.data.texts import lines
from tests.text.training.test_text import FLAGS, SHAPE

ROWS = [{"instruction": "double", "input": str(n), "output": str(2 * n)} for n in range(40)]
PROMPT = "### Instruction:\ndouble\n\n### Input:\n7\n\n### Response:\n"


def rows(folder: Path, name: str = "rows.jsonl", data: Any = ROWS) -> str:
    return str(lines(folder / name, data))


def train(out: Path, data: str, *more: str) -> Path:
    """A run of six steps."""
    shape = [] if "--model" in more else SHAPE.split()
    flags = [*shape, *FLAGS.split(), "--text.length", "256", *more]
    assert hrm(["train", "text-char", "--data", data, "--out", str(out), *flags]) == 0
    return out


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on questions in the form of Alpaca."""
    folder = tmp_path_factory.mktemp("asked")
    return train(folder / "run", rows(folder), "--text.kind", "chat", "--text.template", "alpaca")


@pytest.mark.slow
def test_a_run_remembers_its_template(asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = train(tmp_path / "again", rows(tmp_path), "--text.kind", "chat", "--model", str(asked))
    assert hrm(["convert", str(asked), str(tmp_path / "folder"), "--to", "hrm_lm"]) == 0
    questions: list[Any] = [{"role": "user", "content": "double\n\n7", "context": "7"}]
    for place in (asked, again, tmp_path / "folder"):
        tokenizer = load_text(place, device="cpu").tokenizer
        said = tokenizer.apply_chat_template(questions, tokenize=False, add_generation_prompt=True)
        assert str(said).endswith(PROMPT) and str(said).startswith("Below is an instruction that describes a task, ")
        capsys.readouterr()
        greedy = ["--greedy", "--max-new-tokens", "5", "--json"]
        assert hrm(["generate", str(place), "double", "--ask", *greedy]) == 0
        mine = json.loads(capsys.readouterr().out)
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": "double"}], tokenize=False, add_generation_prompt=True
        )
        assert hrm(["generate", str(place), str(written), *greedy]) == 0
        assert mine["prompt"] == "double" and mine["ids"] == json.loads(capsys.readouterr().out)["ids"]
        assert hrm(["eval", str(place), "--data", rows(tmp_path), "--task", "pairs", "--limit", "2"]) == 0
