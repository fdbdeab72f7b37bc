"""What leaves the machine or is changed after loading: an upload to the Hub, quantised matrices."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import hub

from tests import forks
from tests.text.model import small


def test_an_upload_is_a_folder_that_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything of push_to_hub runs but the network."""
    sent: dict[str, Any] = {}

    class Hub:
        def create_repo(self, repo_id: str, **options: Any) -> Any:
            return SimpleNamespace(repo_id=repo_id)

        def create_branch(self, *args: Any, **options: Any) -> None: ...

        def create_commit(self, repo_id: str, operations: list[Any], **options: Any) -> None:
            for operation in operations:
                content = operation.path_or_fileobj
                content = Path(content).read_bytes() if isinstance(content, str) else content
                sent[operation.path_in_repo] = content

    monkeypatch.setattr(hub, "hf_api", lambda *args, **options: Hub())
    monkeypatch.setattr(hub, "create_and_tag_model_card", lambda *args, **options: SimpleNamespace(save=lambda path: 0))
    model = small.model(dtype=torch.float32, halting="q")
    model.push_to_hub("someone/small")  # type: ignore[arg-type]
    assert {"config.json", "generation_config.json", "model.safetensors", "modeling_hrm.py"} <= sent.keys()
    assert sent["modeling_hrm.py"].decode().startswith("from hrm import ")
    for name, content in sent.items():
        (tmp_path / name).write_bytes(content)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(small.tokens()).logits, model(small.tokens()).logits)


QUANTISED = """
import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from transformers import AutoModelForCausalLM
import hrm
from tests.text.model import small
ids = small.tokens()
for dtype in (torch.float32, torch.bfloat16):
    for kind in (Int8WeightOnlyConfig, Int8DynamicActivationInt8WeightConfig):
        model = AutoModelForCausalLM.from_pretrained({folder!r}, dtype=dtype).eval()
        with torch.no_grad():
            exact = model(ids).logits.float()
            quantize_(model, kind())
            rough = model(ids).logits.float()
        assert type(model.lm_head.weight.data) is not torch.Tensor and not torch.equal(exact, rough)
        assert torch.nn.functional.cosine_similarity(exact, rough, dim=-1).min() > 0.9
        assert model.generate(ids, max_new_tokens=4, do_sample=False).shape == (2, 16)
print("done")
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_a_model_quantised_after_loading_generates(tmp_path: Path) -> None:
    """In a process of its own: importing torchao warns."""
    small.model(dtype=torch.float32, norm="pre", max_segments=2).save_pretrained(tmp_path)
    assert forks.run(QUANTISED.format(folder=str(tmp_path)), tmp_path) == "done\n"
