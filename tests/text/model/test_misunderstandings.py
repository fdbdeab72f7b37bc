"""What is asked of a text model in another's words works, or is refused with the name of what works."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, DynamicCache

from hrm import HRMConfig, HRMForCausalLM
from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.text import names
from hrm.text.names import typed
from tests.text.model import small

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("model")
    small.model(max_segments=2).save_pretrained(place)
    return place


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n_head": 4}, "use num_attention_heads"),
        ({"no_ACT_continue": True}, "use q_continue"),
        ({"positions": "learned"}, "use rope_parameters, for positions are always rotary"),
        ({"head_dim": 64}, "use hidden_size and num_attention_heads"),
        ({"max_segment": 3}, "did you mean 'max_segments'"),
        ({"rope_parameters": DYNAMIC}, "use linear, yarn or llama3"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "use linear, yarn or llama3"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "is none of default, linear"),
        ({"partial_rotary_factor": 0.5}, "whole heads"),
        ({"max_segments": 0}, "use at least 1"),
        ({"num_key_value_heads": 3}, "use a divisor"),
    ],
)
def test_settings_are_refused_alike_wherever_they_are_given(folder: Path, given: dict[str, Any], words: str) -> None:
    calls = [HRMConfig, *(c.from_pretrained for c in (HRMForCausalLM, AutoModelForCausalLM, AutoModel, HRMConfig))]
    for call in calls:
        with pytest.raises(UserError) as error:
            call(**given) if call is HRMConfig else call(folder, **given)
        assert words in str(error.value)


OTHERS: dict[str, Any] = {
    "num_heads": 4, "H_layers": 2, "L_layers": 3, "H_cycles": 1, "L_cycles": 3, "halt_max_steps": 5,
    "halt_exploration_prob": 0.3, "use_act": True, "rope_theta": 5e5,
}  # fmt: skip


def test_the_names_of_other_code_for_these_models_are_translated_before_anything_follows_from_them() -> None:
    flat: dict[str, Any] = {"use_hierarchical": False, "use_act": False}
    made, plain = HRMConfig(**OTHERS), HRMConfig(**flat)
    assert (made.num_attention_heads, made.num_key_value_heads, made.slow_layers, made.fast_layers) == (4, 4, 2, 3)
    assert (made.h_cycles, made.l_cycles, made.max_segments, made.exploration, made.halting) == (1, 3, 5, 0.3, "q")
    assert made.rope_parameters is not None and made.rope_parameters["rope_theta"] == 5e5
    assert not plain.hierarchy and plain.halting == "fixed"
    assert "num_heads" not in made.to_dict() and HRMConfig.from_dict(made.to_dict()).arch == made.arch
    assert typed([f"{name}={value}" for name, value in OTHERS.items()])["arch.l_cycles"] == 3
    with pytest.raises(UserError, match="give one of them"):
        names.translated({"num_heads": 4, "num_attention_heads": 4})


def test_every_setting_that_both_architectures_have_reaches_the_recurrence_of_text() -> None:
    model = HRMForCausalLM(HRMConfig(vocab_size=20, hidden_size=16, num_attention_heads=2, unit="bounded"))
    blocks: Any = model.model.recurrence.fast.layers
    assert model.config.arch.unit == "bounded" and all(block.mlp.bounded for block in blocks)


def test_settings_of_a_saved_model_can_be_changed_and_transformers_own_keys_stay(folder: Path) -> None:
    for call in (HRMForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained):
        changed: Any = call(folder, max_segments=3, rope_theta=5e5, output_hidden_states=True, dtype="bfloat16").config
        assert (
            changed.max_segments == 3
            and changed.rope_parameters["rope_theta"] == 5e5
            and changed.dtype == torch.bfloat16
        )
    linear: Any = AutoConfig.from_pretrained(folder, rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert linear.rope_parameters["rope_type"] == "linear" and linear.rope_parameters["factor"] == 2.0
    older = HRMConfig.from_pretrained(folder).to_dict() | {
        "torch_dtype": "float32",
        "pruned_heads": {},
        "is_decoder": True,
    }
    assert HRMConfig.from_dict(older).max_segments == 2
    found, unused = HRMConfig.from_pretrained(folder, return_unused_kwargs=True, device_map="cpu")
    assert found.max_segments == 2 and unused == {"device_map": "cpu"}


def test_a_configuration_that_was_spoiled_later_is_refused_by_the_model() -> None:
    config = small.config()
    config.rope_parameters = DYNAMIC | {"rope_theta": 1e4}
    with pytest.raises(UserError, match="use linear"):
        HRMForCausalLM(config)


def test_settings_of_a_training_are_explained_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert hrm(["train", "text-char", "--data", "x", "--dry-run", "--settings", "n_head=4"]) == 2
    assert "use num_attention_heads" in capsys.readouterr().err


def test_arguments_of_a_forward_pass_are_taken_or_refused() -> None:
    model: Any = small.model()
    ids = torch.ones(1, 4, dtype=torch.long)
    for given, words in (({"max_segment": 3}, "'max_segments'"), ({"is_causal": False}, "prefix_lm")):
        for part in (model, model.model):
            with pytest.raises(UserError, match=words):
                part(ids, **given)
    assert model(ids, head_mask=None, cu_seq_lens_q=torch.tensor([0, 4])).logits.shape == (
        1,
        4,
        model.config.vocab_size,
    )
    assert isinstance(model.model(ids, return_dict=False), tuple)
    with pytest.raises(UserError, match="LoRA"):
        model.train()(ids, labels=ids, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="max_segment"):
        model.eval().generate(ids, max_new_tokens=1, max_segment=3)


def test_torchs_own_quantisation_is_refused_with_the_name_of_what_works() -> None:
    model = small.model()
    with pytest.warns(DeprecationWarning), pytest.raises(UserError, match="torchao"):
        torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})
    assert type(model.lm_head.weight) is torch.nn.Parameter


@pytest.mark.parametrize("halting", ["fixed", "q", "change"])
@pytest.mark.parametrize("rule", ["last_exited", "backfill"])
def test_states_and_attention_of_every_visit_are_handed_out(halting: str, rule: str) -> None:
    model: Any = small.model(halting=halting, halting_rule=rule, exit_threshold=0.5, max_segments=3).double()
    ids = torch.randint(0, model.config.vocab_size, (2, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain, out = model(ids), model(ids, output_hidden_states=True, output_attentions=True)
        torch.testing.assert_close(plain.logits, out.logits)
        config, deepest = model.config, int(out.depth.max())
        visits = deepest * config.h_cycles * (config.l_cycles + 1)
        layers = deepest * config.h_cycles * (config.l_cycles * config.fast_layers + config.slow_layers)
        assert len(out.hidden_states) == 1 + visits and len(out.attentions) == layers
        torch.testing.assert_close(model.lm_head(out.hidden_states[-1]), out.logits)
        assert all(a.shape == (2, config.num_attention_heads, 7, 7) for a in out.attentions)
        torch.testing.assert_close(out.attentions[-1].sum(-1), torch.ones_like(out.attentions[-1][..., 0]))
        # The same token by token.
        asked: Any = {"output_hidden_states": True, "output_attentions": True, "return_dict_in_generate": True}
        said = model.generate(ids[:1], max_new_tokens=3, do_sample=False, **asked)
        whole = model(said.sequences[:, :-1], **{name: True for name in ("output_hidden_states", "output_attentions")})
        torch.testing.assert_close(said.hidden_states[-1][-1][0, -1], whole.hidden_states[-1][0, -1])
        torch.testing.assert_close(said.attentions[-1][-1][0, :, -1], whole.attentions[-1][0, :, -1])
    learning = model.train()(ids, labels=ids, output_hidden_states=True)
    assert learning.hidden_states[-1].shape == (2, 7, config.hidden_size)
