"""`hrm convert` between folders of transformers' hrm_text and ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hrm.cli.main import main
from hrm.text.model import HRMForCausalLM
from tests.text.model import small
from tests.text.test_hrm_text import FAMILY, theirs


def test_there_and_back_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = theirs(tmp_path, 2)
    (tmp_path / "theirs/tokenizer.json").write_text("{}")
    (tmp_path / "theirs/README.md").write_text("# Theirs\n")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours"), "--to", "hrm"]) == 0
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert isinstance(ours, HRMForCausalLM) and (tmp_path / "ours/tokenizer.json").is_file()
    back = ["convert", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "hrm_text", "--segments", "1"]
    assert main(back) == 0
    assert (tmp_path / "back/README.md").read_text().startswith("# Theirs\n\nConverted by `hrm convert --to hrm`")
    shown = capsys.readouterr()
    assert "vLLM" in shown.err and "1 segments" in shown.out
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    ids = small.tokens()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, ours(ids, max_segments=1).logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(original(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)


def test_wrong_folders_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small.model(**(FAMILY | {"norm": "post", "dtype": torch.float32})).save_pretrained(tmp_path / "post")
    for source, target, reason in (
        ("post", "hrm_text", "norm is 'post'"),
        ("post", "hrm", "model of type 'hrm_lm'"),
        ("nothing", "hrm_text", "no config.json"),
    ):
        capsys.readouterr()
        assert main(["convert", str(tmp_path / source), str(tmp_path / "out"), "--to", target]) == 2
        error = capsys.readouterr().err
        assert reason in error.splitlines()[-1] and not (tmp_path / "out").exists()
