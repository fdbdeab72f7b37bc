"""Python code that a folder brings along is never run."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.text.data import make_tokenizer
from tests.text.model import small

ROOT = Path(__file__).parent.parent
CODE = """\
import pathlib
pathlib.Path({mark!r}).write_text("ran")
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
class Tok(PreTrainedTokenizerFast): pass
class Conf(PreTrainedConfig): model_type = "strange"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A saved model with its tokenizer and, beside them, code that leaves a mark; "y" waits on standard input."""
    folder = tmp_path / "folder"
    small.model(vocab_size=8).save_pretrained(folder)
    make_tokenizer("char", ["abcdef"]).save_pretrained(folder)
    (folder / "hook.py").write_text(CODE.format(mark=str(tmp_path / "mark")))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    return folder


def patch(file: Path, **facts: object) -> None:
    """Change some keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


@pytest.mark.parametrize("part", ["tokenizer", "config"])
@pytest.mark.parametrize("verb", ["generate", "convert", "pack"])
def test_a_folder_that_needs_its_own_code_is_refused(
    part: str, verb: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if part == "tokenizer":
        names = {"AutoTokenizer": ["hook.Tok", "hook.Tok"]}
        patch(folder / "tokenizer_config.json", tokenizer_class="Tok", auto_map=names)
    else:
        patch(folder / "config.json", model_type="strange", auto_map={"AutoConfig": "hook.Conf"})
    (tmp_path / "text.txt").write_text("abc " * 500)
    out = str(tmp_path / "out")
    command = {
        "generate": ["generate", str(folder), "abc"],
        "convert": ["convert", str(folder), out, "--to", "hrm"],
        "pack": ["data", "pack", str(tmp_path / "text.txt"), "--tokenizer", str(folder), "--out", out],
    }[verb]
    code, shown = main(command), capsys.readouterr()
    assert not (tmp_path / "mark").exists() and "[y/N]" not in shown.out + shown.err
    if (part, verb) in (("tokenizer", "generate"), ("config", "generate"), ("tokenizer", "pack")):
        assert code == 2 and "brings Python code of its own, which is never run" in shown.err


def test_every_call_says_that_it_trusts_no_code() -> None:
    calls = 0
    for file in [file for part in ("src", "benchmarks", "examples") for file in (ROOT / part).rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, file
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            if name.endswith("load_dataset") or (name.startswith("Auto") and name.endswith(".from_pretrained")):
                calls += 1
                assert "trust_remote_code" in [word.arg for word in node.keywords], f"{file}:{node.lineno}"
    assert calls >= 6
