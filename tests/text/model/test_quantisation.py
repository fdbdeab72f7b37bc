"""Quantisation by torchao, as docs/quantisation.md shows it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CompileConfig

from hrm.files.reading import UserError
from hrm.text.load import load_saved
from tests.text.measuring import small as text_small
from tests.text.model import small

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("activations", [False, True])
def test_a_quantised_model_halts_and_writes_and_reads_back_the_same(activations: bool, tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="needs the extra [quantize]")
    from transformers import TorchAoConfig

    whole = small.model(dtype=torch.float32, halting="q", hidden_size=64)
    whole.save_pretrained(tmp_path / "whole")
    kind = "Int8DynamicActivationInt8WeightConfig" if activations else "Int8WeightOnlyConfig"
    wish: Any = TorchAoConfig(getattr(quantization, kind)())
    less: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", quantization_config=wish).eval()
    assert type(less.model.recurrence.fast.layers[0].mixer.qkv.weight) is not torch.nn.Parameter
    ids = small.tokens()
    with torch.no_grad():
        found, wanted = less(ids, halting="fixed").logits, whole(ids, halting="fixed").logits
        assert 0 < float((found - wanted).abs().max()) < 0.2 * float(wanted.std())
        less.save_pretrained(tmp_path / "less")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "less").eval()
        assert torch.equal(again(ids, halting="fixed").logits, found)
        said = less.generate(ids[:1], max_new_tokens=4, do_sample=False)
        torch.testing.assert_close(less(said[:, :-1]).logits[0, -1].argmax(), said[0, -1])
    with pytest.raises(UserError, match="quantised: leave it out"):
        less.generate(ids[:1], max_new_tokens=2, compile_config=CompileConfig())
    stored = [sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")) for name in ("whole", "less")]
    assert stored[1] < 0.6 * stored[0]


def test_a_quantised_folder_without_torchao_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = text_small.saved(tmp_path)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["quantization_config"] = {"quant_method": "torchao"}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    monkeypatch.setattr("hrm.text.load.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"torchao.*\.\[quantize\]"):
        load_saved(folder)
