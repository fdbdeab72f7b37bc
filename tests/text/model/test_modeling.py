"""The model as people who know transformers use it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from hrm.core.layers import Linear
from hrm.files.reading import UserError
from hrm.text.model import HRMConfig, HRMForCausalLM, HRMForSequenceClassification, HRMModel
from tests import forks
from tests.text.model import small

pytestmark = pytest.mark.slow

forms = pytest.mark.parametrize("form", small.FORMS)
PLAIN: dict[str, Any] = {"hierarchy": False, "max_segments": 1, "norm": "pre"}


def test_auto_classes_know_the_model_in_any_order_of_imports(tmp_path: Path) -> None:
    small.model().save_pretrained(tmp_path)
    load = f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})).__name__)"
    auto = "from transformers import AutoModelForCausalLM"
    for code in (
        f"{auto}; import hrm; {load}",
        f"import hrm; from transformers import LlamaForCausalLM; {auto}; {load}",
    ):
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
        assert result.stdout.strip() == "HRMForCausalLM", result.stderr


def test_trust_remote_code_finds_the_installed_package(tmp_path: Path) -> None:
    small.model().save_pretrained(tmp_path)
    assert (tmp_path / "modeling_hrm.py").read_text().count("\n") == 1
    code = (
        "from transformers import AutoModelForCausalLM\n"
        f"print(type(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)).__name__)"
    )
    environment = _environment() | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "HRMForCausalLM", result.stderr


def _environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[3] / "src"), "HF_HUB_OFFLINE": "1"}


@pytest.mark.parametrize("form", [*small.FORMS, "plain"])
@pytest.mark.parametrize("tied", [False, True])
def test_saving_and_loading_changes_nothing(tmp_path: Path, form: str, tied: bool) -> None:
    changes = PLAIN if form == "plain" else small.FORMS[form]
    model = small.model(dtype=torch.float32, tie_word_embeddings=tied, **changes)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, HRMForCausalLM) and not loaded.training
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    with torch.no_grad():
        assert torch.equal(model(small.tokens()).logits, loaded(small.tokens()).logits)
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == model.config.to_diff_dict()


def test_the_base_model_loads_from_a_causal_one(tmp_path: Path) -> None:
    model = small.model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tmp_path)
    assert isinstance(base, HRMModel)
    with torch.no_grad():
        assert torch.equal(base(small.tokens()).last_hidden_state, model.model(small.tokens()).last_hidden_state)


def test_missing_weights_are_drawn_like_new_ones(tmp_path: Path) -> None:
    model = small.model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, pad_token_id=0)
    assert isinstance(classifier, HRMForSequenceClassification)
    weight = classifier.score.weight
    assert weight.std().item() == pytest.approx(32**-0.5, rel=0.3)
    assert torch.equal(classifier.model.embed_tokens.weight, model.model.embed_tokens.weight)


def test_a_classifier_reads_the_last_token_and_learns() -> None:
    torch.manual_seed(0)
    model = HRMForSequenceClassification(small.config(num_labels=3, pad_token_id=0))
    ids = small.tokens(rows=3)
    padded = torch.nn.functional.pad(ids, (0, 2))
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, model(padded).logits)
    out = model.train()(ids, labels=torch.tensor([0, 1, 2]))
    out.loss.backward()
    assert out.logits.shape == (3, 3) and model.score.weight.grad is not None


def test_weights_follow_from_the_seed_and_the_recipe() -> None:
    first, second = small.model(seed=3), small.model(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    torch.manual_seed(0)
    made = HRMForCausalLM(HRMConfig(vocab_size=400, hidden_size=256, fast_layers=1, slow_layers=1))
    for part in made.modules():
        if type(part) is Linear:
            assert part.weight.std().item() == pytest.approx(part.in_features**-0.5, rel=0.02)
    assert made.model.embed_tokens.weight.std().item() == pytest.approx(1 / 16, rel=0.02)
    assert made.model.q_head.bias.eq(-5).all() and made.model.q_head.weight.eq(0).all()  # type: ignore[union-attr]
    assert made.model.z_h_init.std().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize(
    ("name", "size"),
    [("text-80m", 78.7), ("text-roberta-78m", 78.7), ("text-char", 5.64), ("hrm-text-1b", 1184), ("gpt2-1.5b", 1513)],
)
def test_presets_have_their_published_size(name: str, size: float) -> None:
    with torch.device("meta"):
        model = HRMForCausalLM(HRMConfig.preset(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(size, rel=0.01)


def test_the_default_preset_keeps_less_than_a_quarter_of_hrm_texts_keys() -> None:
    config = HRMConfig.preset("text-80m")
    hrm_text = HRMConfig(norm="pre", gate=True, join="first_state", h_cycles=1, max_segments=2)

    def width(config: HRMConfig) -> int:
        return config.num_hidden_layers * 2 * (config.num_key_value_heads or 0) * config.head_dim

    assert hrm_text.num_hidden_layers == 24 and width(config) * 4 <= width(hrm_text)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 30}, "multiple of 8"),
        ({"num_key_value_heads": 3}, "does not divide"),
        ({"slow_layers": 0}, "no slow module"),
        ({"hierarchy": False}, "visited once"),
        ({"min_segments": 4}, "between 1 and max_segments 3"),
        ({"horizon": "per_cycle([3])"}, "does not fit"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "cached keys cannot follow"),
        ({"max_segments": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_way_out(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        small.config(**changes)


def test_unknown_presets_and_requests_are_named() -> None:
    with pytest.raises(UserError, match="text-80m"):
        HRMConfig.preset("text-90m")
    with pytest.raises(UserError, match="halting 'never'"):
        small.model()(small.tokens(), halting="never")


@forms
def test_logits_to_keep_are_the_last_ones(form: str) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens()
    with torch.no_grad():
        whole = model(ids).logits
        torch.testing.assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:])
        torch.testing.assert_close(model(ids, logits_to_keep=torch.tensor([2, 5])).logits, whole[:, [2, 5]])


def test_embeddings_are_as_good_as_ids() -> None:
    model, ids = small.model(), small.tokens()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(ids)
        assert torch.equal(model(inputs_embeds=embeds).logits, model(ids).logits)
    with pytest.raises(ValueError, match="either"):
        model(ids, inputs_embeds=embeds)


def test_tuples_come_back_on_request() -> None:
    model, ids = small.model(), small.tokens()
    with torch.no_grad():
        assert torch.equal(model(ids, return_dict=False)[0], model(ids).logits)


@pytest.mark.parametrize("kind", ["eager", "of my own"])
@pytest.mark.parametrize("form", ["original", "grouped"])
def test_attention_goes_through_transformers_interface(form: str, kind: str) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens()
    calls = []

    def own(module: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("of my own", own)
    with torch.no_grad():
        expected = model(ids).logits
        model.set_attn_implementation("eager" if kind == "eager" else "of my own")
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-4, rtol=0)  # eager is float32 inside
        new = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert new.shape == (2, 15) and (kind == "eager" or calls)


def test_packed_documents_do_not_see_each_other() -> None:
    model = small.model()
    ids = small.tokens(rows=1)
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    with torch.no_grad():
        packed = model(ids, position_ids=positions, use_cache=False).logits
        apart = [model(part).logits for part in (ids[:, :5], ids[:, 5:])]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {
            "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
    ids=lambda rope: rope["rope_type"],
)  # fmt: skip
def test_rope_is_scaled_as_transformers_does(rope: dict[str, Any]) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = rope | {"rope_theta": 10000.0}
    model = small.model(rope_parameters=rope, max_position_embeddings=256)
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=32, num_attention_heads=4, max_position_embeddings=256, rope_parameters=rope)
    )
    positions = torch.arange(200)[None]
    cos, sin = theirs(torch.zeros(1, dtype=torch.float32), positions)
    mine_cos, mine_sin = model.model.rotary(positions)
    torch.testing.assert_close(mine_cos, cos)
    torch.testing.assert_close(mine_sin, sin * torch.cat((-torch.ones(4), torch.ones(4))))
    with torch.no_grad():
        assert not torch.allclose(model(small.tokens()).logits, small.model()(small.tokens()).logits)


def test_a_cast_model_keeps_exact_angles() -> None:
    model = small.model(dtype=torch.float32)
    before = model.model.rotary(torch.arange(500)[None])
    after = model.to(dtype=torch.bfloat16).model.rotary(torch.arange(500)[None])
    assert torch.equal(before[0], after[0])


# Training


def test_the_training_loss_is_the_mean_of_the_segments_losses() -> None:
    model = small.model(q_weight=0.0).train()
    ids = small.tokens()
    loss = model(ids, labels=ids).loss
    with torch.no_grad():
        each = [
            torch.nn.functional.cross_entropy(
                model(ids, max_segments=k).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
            )
            for k in (1, 2, 3)
        ]
    torch.testing.assert_close(loss, torch.stack(each).mean())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids, labels=ids).loss, each[2])


@forms
def test_every_weight_learns(form: str) -> None:
    model = small.model(horizon="last_cycle", **small.FORMS[form]).train()
    ids = small.tokens()
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("form", ["shared cycles", "shared segments", "all shared"])
def test_shared_keys_learn_although_their_visit_has_no_gradient(form: str) -> None:
    model = small.model(horizon="last_step", **small.FORMS[form]).train()
    ids = small.tokens()
    model(ids, labels=ids).loss.backward()
    attention = model.recurrence.fast.layers[0].mixer
    keys = attention.qkv.weight.grad[32:]  # type: ignore[index]
    assert (keys.abs().sum(1) > 0).all()


@pytest.mark.parametrize("target", ["improvement", "right"])
def test_the_q_head_learns_its_target(target: str) -> None:
    ids = small.tokens(rows=4)
    model = small.model(dtype=torch.float32, halting="q", q_target=target, q_weight=1.0, exploration=1.0).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("q_head" in name)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(30):
        torch.manual_seed(0)
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("form", ["original", "shared cycles", "all shared"])
@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_gradient_checkpointing_gives_the_same_gradients(form: str, halting: str) -> None:
    ids, grads = small.tokens(), []
    for enabled in (False, True):
        model = small.model(horizon="last_cycle", halting=halting, **small.FORMS[form]).train()
        if enabled:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        model(ids, labels=ids).loss.backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16_compute_keeps_float32_weights() -> None:
    model = small.model(dtype=torch.float32).train()
    ids = small.tokens()
    exact = model(ids, labels=ids).loss
    model.compute_dtype = torch.bfloat16
    out = model(ids, labels=ids)
    out.loss.backward()
    assert out.logits.dtype == torch.bfloat16
    torch.testing.assert_close(out.loss, exact, rtol=0.05, atol=0)
    assert model.model.embed_tokens.weight.grad.dtype == torch.float32  # type: ignore[union-attr]


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = (torch.arange(10) + index) % 7 + 1
        return {"input_ids": row, "labels": row}


def arguments(folder: Path, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, save_steps=4,
        report_to=[], logging_steps=1, use_cpu=True, seed=0, disable_tqdm=True, lr_scheduler_type="constant",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trainer_trains_and_resumes(tmp_path: Path) -> None:
    def trained(folder: Path, resume: bool = False) -> Trainer:
        trainer = Trainer(
            small.model(dtype=torch.float32, halting="q").train(), arguments(folder, 8), train_dataset=Rows()
        )
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer

    whole = trained(tmp_path / "a")
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] * 0.8
    shutil.copytree(tmp_path / "a/checkpoint-4", tmp_path / "b/checkpoint-4")
    again = trained(tmp_path / "b", resume=True)
    assert isinstance(whole.model, HRMForCausalLM) and isinstance(again.model, HRMForCausalLM)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lora_trains_alone_and_merges(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = small.model(dtype=torch.float32, horizon="last_cycle", norm="pre")
    before = copy.deepcopy(base.state_dict())
    adapted = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["qkv", "out", "gate_up", "down"]))
    trainable = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trainable and all("lora" in name for name in trainable)
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = adapted.train()(Rows()[0]["input_ids"][None], labels=Rows()[0]["labels"][None]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    adapted.save_pretrained(tmp_path)
    adapted.eval()
    with torch.no_grad():
        expected = adapted(small.tokens()).logits
        merged = adapted.merge_and_unload()
        torch.testing.assert_close(merged(small.tokens()).logits, expected, atol=1e-4, rtol=0)
    fresh = small.model(dtype=torch.float32, horizon="last_cycle", norm="pre")
    assert all(torch.equal(t, before[name]) for name, t in fresh.state_dict().items())
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(fresh, tmp_path).eval()
        torch.testing.assert_close(loaded(small.tokens()).logits, expected, atol=1e-5, rtol=0)


COMPILED = """
import copy, torch
from tests.text.model import small
model, ids = small.model(dtype=torch.float32, fast_layers=1, max_segments=2), small.tokens()
compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
with torch.no_grad():
    new = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert torch.equal(compiled.generate(ids, max_new_tokens=2, do_sample=False), new)
train, plain = torch.compile(copy.deepcopy(model).train(), backend="aot_eager"), copy.deepcopy(model).train()
for each in (train, plain):
    torch.manual_seed(0)
    each(ids, labels=ids).loss.backward()
for a, b in zip(train.parameters(), plain.parameters()):
    torch.testing.assert_close(a.grad, b.grad)
print("the same")
"""


def test_compiled_models_give_the_same(tmp_path: Path) -> None:
    """In a process of its own: the compiler does not look through the checks of shapes that run in these tests."""
    assert forks.run(COMPILED, tmp_path) == "the same\n"


def test_the_configuration_file_holds_what_others_need(tmp_path: Path) -> None:
    small.model().save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    assert tree["model_type"] == "hrm_lm" and tree["architectures"] == ["HRMForCausalLM"]
    assert tree["auto_map"]["AutoModelForCausalLM"] == "modeling_hrm.HRMForCausalLM"
