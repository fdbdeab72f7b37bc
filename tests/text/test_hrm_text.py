"""hrm_text of transformers: the same logits with the same weights, both ways, at every depth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, HrmTextConfig, HrmTextForCausalLM

from hrm.files.reading import UserError
from hrm.text import hrm_text
from hrm.text.model import HRMForCausalLM
from tests.text.model import small

pytestmark = pytest.mark.slow

FAMILY: dict[str, Any] = {**small.FORMS["hrm_text"], "fast_layers": 2, "slow_layers": 2, "rms_norm_eps": 1e-6}


def theirs(tmp_path: Path, cycles: int, **changes: Any) -> HrmTextForCausalLM:
    torch.manual_seed(0)
    config = HrmTextConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        H_cycles=cycles, L_cycles=2, prefix_lm=False, **changes,
    )  # fmt: skip
    model = HrmTextForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
    model.save_pretrained(tmp_path / "theirs")
    return model


@pytest.mark.parametrize("cycles", [1, 2, 3, 4])
def test_imported_weights_give_the_same_logits(tmp_path: Path, cycles: int) -> None:
    original = theirs(tmp_path, cycles)
    mine = hrm_text.read(tmp_path / "theirs").eval()
    ids = small.tokens()
    assert mine.config.max_segments == cycles
    with torch.no_grad():
        torch.testing.assert_close(mine(ids).logits, original(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_an_export_at_any_depth_gives_the_logits_of_that_depth(tmp_path: Path, depth: int) -> None:
    mine = small.model(dtype=torch.float32, **FAMILY)
    hrm_text.write(tmp_path / "out", mine, depth)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(loaded) is HrmTextForCausalLM
    ids = small.tokens()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, mine(ids, max_segments=depth).logits, atol=1e-5, rtol=0)
        new = loaded.generate(ids[:1], max_new_tokens=4, do_sample=False)
        assert torch.equal(new, mine.generate(ids[:1], max_new_tokens=4, do_sample=False, max_segments=depth))


def test_segments_of_several_cycles_export_as_that_many_cycles(tmp_path: Path) -> None:
    mine = small.model(dtype=torch.float32, **(FAMILY | {"h_cycles": 2}))
    hrm_text.write(tmp_path / "out", mine, 2)
    loaded = HrmTextForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert loaded.config.H_cycles == 4
    with torch.no_grad():
        ids = small.tokens()
        torch.testing.assert_close(loaded(ids).logits, mine(ids, max_segments=2).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back_is_the_same_file(tmp_path: Path, tied: bool) -> None:
    original = theirs(tmp_path, 2, tie_word_embeddings=tied, L_bp_cycles=[1, 2])
    hrm_text.write(tmp_path / "back", hrm_text.read(tmp_path / "theirs"))
    first, second = (hrm_text._tensors(tmp_path / name) for name in ("theirs", "back"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    back = HrmTextForCausalLM.from_pretrained(tmp_path / "back")
    ours, published = back.config.to_dict(), original.config.to_dict()
    different = {key for key in published if ours.get(key) != published[key]}
    assert different <= {"initializer_range", "_name_or_path", "dtype", "transformers_version"}


def test_prefix_models_agree_on_the_prefix(tmp_path: Path) -> None:
    mine = small.model(dtype=torch.float32, prefix_lm=True, **FAMILY)
    hrm_text.write(tmp_path / "out", mine)
    loaded = HrmTextForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids, types = small.tokens(), (torch.arange(12) < 5).long().expand(2, -1)
    with torch.no_grad():
        mine_logits = mine(ids, token_type_ids=types).logits
        torch.testing.assert_close(loaded(ids, token_type_ids=types).logits, mine_logits, atol=1e-5, rtol=0)
        assert not torch.allclose(mine_logits, mine(ids).logits)


def test_an_export_loads_without_this_package(tmp_path: Path) -> None:
    hrm_text.write(tmp_path / "out", small.model(dtype=torch.float32, **FAMILY))
    code = (
        "import sys; sys.modules['hrm'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path / 'out')!r})).__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.strip() == "HrmTextForCausalLM", result.stderr


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"norm": "post"}, "norm is 'post'"),
        ({"gate": False}, "gate is False"),
        ({"unit": "bounded"}, "unit is 'bounded'"),
        ({"unit": "conv"}, "unit is 'conv'"),
        ({"join": "every_step"}, "join is 'every_step'"),
        ({"num_key_value_heads": 2}, "2 key heads for 4 heads"),
        ({"slow_layers": 1}, "L has 2 layers and H 1"),
        ({"share_cycles": True}, "share_cycles is True"),
        ({"share_segments": True}, "share_segments is True"),
        ({"shared": True}, "shared is True"),
        ({"hierarchy": False, "max_segments": 1}, "hierarchy is False"),
    ],
)
def test_a_model_outside_the_family_is_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    model = small.model(dtype=torch.float32, **(FAMILY | changes))
    with pytest.raises(UserError, match=reason):
        hrm_text.write(tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_a_bias_on_the_output_is_refused_unless_it_is_zero(tmp_path: Path) -> None:
    model = small.model(dtype=torch.float32, head_bias=True, **FAMILY)
    hrm_text.write(tmp_path / "zero", model)
    with torch.no_grad():
        model.lm_head.bias[3] = 1  # type: ignore[index]
    with pytest.raises(UserError, match="bias"):
        hrm_text.write(tmp_path / "out", model)


def test_warnings_tell_what_engines_do_with_prefixes(tmp_path: Path) -> None:
    causal = hrm_text.write(tmp_path / "a", small.model(**FAMILY))
    prefix = hrm_text.write(tmp_path / "b", small.model(prefix_lm=True, **FAMILY))
    assert any("vLLM" in line for line in causal) and any("vLLM" in line for line in prefix)
    assert any("use_cache=False" in line for line in prefix) and causal != prefix


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"hidden_act": "gelu"}, "hidden_act"), ({"head_dim": 16}, "head_dim"), ({"attention_bias": True}, "bias")],
)
def test_their_settings_outside_ours_are_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    theirs(tmp_path, 2)
    file = tmp_path / "theirs/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=reason):
        hrm_text.read(tmp_path / "theirs")


def test_missing_tensors_and_folders_in_use_are_named(tmp_path: Path) -> None:
    theirs(tmp_path, 2)
    with pytest.raises(UserError, match="exists already: choose a new folder"):
        hrm_text.write(tmp_path / "theirs", small.model(**FAMILY))
    (tmp_path / "theirs/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \.safetensors"):
        hrm_text.read(tmp_path / "theirs")


def test_a_model_read_from_hrm_text_is_one_of_ours(tmp_path: Path) -> None:
    theirs(tmp_path, 2)
    hrm_text.read(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "ours"), HRMForCausalLM)
