"""From a model that has learned a text to one that others use: asked by a template, preferred, refitted, published."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.text.load import load_text, quantised
from tests.text.data.texts import lines
from tests.text.model import small
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_folder_is_smaller_and_does_all_but_learn(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torchao", reason="needs the extra [quantize]")
    less, whole, again = (str(tmp_path / name) for name in ("small", "whole", "again"))
    assert hrm(["convert", str(asked), whole, "--to", "hrm_lm"]) == 0
    assert hrm(["convert", whole, less, "--to", "hrm_lm", "--quantize", "int8"]) == 0
    sizes = [(Path(folder) / "model.safetensors").stat().st_size for folder in (less, whole)]
    assert sizes[0] < 0.7 * sizes[1]
    assert json.loads((Path(less) / "config.json").read_text())["quantization_config"]["quant_method"] == "torchao"
    data = rows(tmp_path)
    assert hrm(["generate", less, "double", "--ask", "--max-new-tokens", "5"]) == 0
    assert hrm(["eval", less, "--data", data, "--limit", "50"]) == 0
    for args in (
        ["convert", less, again, "--to", "hrm_lm"],
        ["convert", less, again, "--to", "hrm_text"],
        ["train", "text-char", "--model", less, "--data", data, "--out", again, *FLAGS.split()],
        ["convert", whole, again, "--to", "hrm_text", "--quantize", "int8"],
    ):
        capsys.readouterr()
        assert hrm(args) == 2 and not Path(again).exists()
        assert "quanti" in capsys.readouterr().err.splitlines()[-1]


def test_quantising_without_torchao_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"--quantize needs torchao.*\.\[quantize\]"):
        quantised(small.model())
