"""Generation: budgets per request, what comes back about depth, states handed on, prefixes, pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast, pipeline

from hrm.files.reading import UserError
from hrm.text.model import HRMCache, HRMForCausalLM
from tests.text.model import small

pytestmark = pytest.mark.slow

GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


def by_hand(model: HRMForCausalLM, ids: torch.Tensor, count: int, **request: Any) -> torch.Tensor:
    """Greedy generation by whole forward passes."""
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids, use_cache=False, **request).logits[:, -1:].argmax(-1)), dim=1)
    return ids


@pytest.mark.parametrize(
    "request_", [{}, {"halting": "q"}, {"halting": "kl", "exit_threshold": 0.1}, {"halting": "readout"}], ids=str
)
@pytest.mark.parametrize("form", ["original", "hrm_text", "all shared"])
def test_generation_follows_whole_forward_passes(form: str, request_: dict[str, Any]) -> None:
    model, ids = small.model(**small.FORMS[form]), small.tokens()
    expected = by_hand(model, ids, 6, **request_)
    more: dict[str, Any]
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(ids, **GREEDY, **request_, **more), expected), more


@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_beams_and_padding_work(halting: str) -> None:
    model, ids = small.model(pad_token_id=0), small.tokens()
    beams = [
        model.generate(ids, num_beams=3, max_new_tokens=5, do_sample=False, halting=halting, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*beams)
    padded = torch.nn.functional.pad(ids, (4, 0))
    mask = (padded != 0).long()
    out = model.generate(padded, attention_mask=mask, halting=halting, **GREEDY)
    assert torch.equal(out[:, 4:], model.generate(ids, halting=halting, **GREEDY))


def test_the_budget_comes_from_the_call_the_generation_config_or_the_model(tmp_path: Path) -> None:
    model, ids = small.model(dtype=torch.float32, seed=1), small.tokens(rows=3)
    two, three = by_hand(model, ids, 6, max_segments=2), by_hand(model, ids, 6)
    one = by_hand(model, ids, 6, schedule=(1, 3))
    assert not torch.equal(two, three)
    assert torch.equal(model.generate(ids, **GREEDY), three)
    assert torch.equal(model.generate(ids, max_segments=2, **GREEDY), two)
    assert torch.equal(model.generate(ids, schedule=(1, 3), **GREEDY), one)
    config = GenerationConfig(max_segments=2, **GREEDY)
    assert torch.equal(model.generate(ids, generation_config=config), two)
    setattr(model.generation_config, "max_segments", 2)  # noqa: B010
    assert torch.equal(model.generate(ids, **GREEDY), two)
    assert torch.equal(model.generate(ids, max_segments=3, **GREEDY), three)
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.generation_config.max_segments == 2
    assert torch.equal(loaded.generate(ids, **GREEDY), two)


def test_depth_confidence_and_entropy_of_every_token_come_back() -> None:
    model, ids = small.model(halting="q"), small.tokens(rows=3)
    with torch.no_grad():
        bar = float(model(ids).logits.softmax(-1).amax(-1).quantile(0.3))
    out = model.generate(ids, output_depth=True, retry_confidence=bar, retry_segments=2, **GREEDY)
    with torch.no_grad():
        whole = model(out.sequences[:, :-1], retry_confidence=bar, retry_segments=2)
    new = slice(11, None)
    assert torch.equal(out.depth, whole.depth[:, new]) and torch.equal(out.retried, whole.retried[:, new])
    torch.testing.assert_close(out.confidence, whole.confidence[:, new])
    entropy = torch.distributions.Categorical(logits=whole.logits[:, new]).entropy()
    torch.testing.assert_close(out.entropy, entropy)
    assert len(whole.depth.unique()) > 1 and whole.retried.any()
    with pytest.raises(UserError, match="num_beams"):
        model.generate(ids, output_depth=True, num_beams=2, **GREEDY)


def test_under_backfill_a_prompt_takes_as_long_as_its_last_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, request = small.model(halting="q", halting_rule="backfill"), {"max_new_tokens": 1, "do_sample": False}
    segment, seen = model.model.segment, list[int]()
    monkeypatch.setattr(model.model, "segment", lambda *args: [seen.append(1), segment(*args)][1])
    deeper = 0
    for row in small.tokens(rows=6):
        with torch.no_grad():
            depth = model(row[None]).depth[0]
        seen.clear()
        out = model.generate(row[None], output_depth=True, **request)
        assert len(seen) == depth[-1] == out.depth[0, 0]
        deeper += int(depth.max() > depth[-1])
    assert deeper  # than the last one, and not waited for


def test_a_changed_schedule_reads_the_whole_text_anew() -> None:
    model, ids = small.model(), small.tokens(rows=1)
    cache = HRMCache()
    text = model.generate(ids, past_key_values=cache, **GREEDY)
    longer = torch.cat((text, small.tokens(rows=1, length=3, seed=5)), dim=1)
    same = model.generate(longer, past_key_values=cache, **GREEDY)
    assert torch.equal(same, by_hand(model, longer, 6))
    deeper = model.generate(same, past_key_values=cache, schedule=(3, 1), **GREEDY)
    assert torch.equal(deeper, by_hand(model, same, 6, schedule=(3, 1)))


# The state between tokens


@pytest.mark.parametrize("form", ["original", "hrm_text"])
@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_carry_starts_a_token_from_the_last_tokens_state(form: str, halting: str) -> None:
    model, ids = small.model(**small.FORMS[form], halting=halting), small.tokens(rows=1)
    cache = HRMCache()
    with torch.no_grad():
        prompt = model(ids[:, :6], past_key_values=cache, state="carry")
        assert torch.equal(prompt.logits, model(ids[:, :6], state="reset").logits), "a prompt starts fresh"
        last = cache.carry
        assert last is not None
        thought = model.model.begin(ids[:, 6:7], past_key_values=cache, budget=model.budget(state="carry"))
        assert torch.equal(thought.carry.z_l, last.z_l)
        assert torch.equal(thought.carry.z_h, thought.x if form == "hrm_text" else last.z_h)
        carried = model(ids[:, 6:7], past_key_values=cache, state="carry").logits
        fresh = model(ids[:, :7]).logits[:, -1:]
    assert not torch.allclose(carried, fresh)


def test_carried_states_are_the_same_in_any_batch_and_never_look_ahead() -> None:
    model, ids = small.model(halting="q"), small.tokens(rows=3)
    together = model.generate(ids, state="carry", output_depth=True, output_logits=True, **GREEDY)
    for row in range(3):
        alone = model.generate(ids[row : row + 1], state="carry", output_depth=True, output_logits=True, **GREEDY)
        assert torch.equal(alone.sequences[0], together.sequences[row])
        assert torch.equal(alone.depth[0], together.depth[row])
    short = model.generate(ids, state="carry", max_new_tokens=3, do_sample=False)
    assert torch.equal(short, together.sequences[:, :15])
    with pytest.raises(UserError, match="use_cache"):
        model.generate(ids, state="carry", use_cache=False, **GREEDY)


def test_reset_forgets_the_last_state() -> None:
    model, ids = small.model(), small.tokens()
    assert torch.equal(model.generate(ids, state="reset", **GREEDY), by_hand(model, ids, 6))


# Prefixes


def types_of(length: int, prefix: int, rows: int = 2) -> torch.Tensor:
    return (torch.arange(length) < prefix).long().expand(rows, -1)


@pytest.mark.parametrize("halting", ["fixed", "q", "kl", "change", "readout"])
@pytest.mark.parametrize("rule", ["last_exited", "backfill"])
@pytest.mark.parametrize("form", ["original", "hrm_text", "all shared"])
def test_a_prefix_sees_itself_and_nothing_after_it(form: str, rule: str, halting: str) -> None:
    model, ids = small.model(prefix_lm=True, **small.FORMS[form]), small.tokens()
    request = {"halting": halting, "halting_rule": rule, "token_type_ids": types_of(12, 5), "use_cache": False}
    if halting in ("kl", "change"):
        request["exit_threshold"] = 0.3
    with torch.no_grad():
        before = model(ids, **request)
        for t in (4, 5, 8):
            other = ids.clone()
            other[:, t] = ids[:, t] % 49 + 1
            after = model(other, **request)
            same = 0 if t < 5 else t
            assert torch.equal(before.depth[:, :same], after.depth[:, :same])
            torch.testing.assert_close(before.logits[:, :same], after.logits[:, :same], atol=1e-9, rtol=0)
            assert t >= 5 or not torch.allclose(before.logits[:, 0], after.logits[:, 0])


def test_without_token_types_a_prefix_model_is_causal() -> None:
    model, ids = small.model(prefix_lm=True), small.tokens()
    plain = small.model()
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)


def test_a_second_prefix_does_not_leak_into_what_was_said_before_it() -> None:
    model, ids = small.model(prefix_lm=True), small.tokens()
    types = torch.tensor([1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0]).expand(2, -1)
    other = ids.clone()
    other[:, 7] = ids[:, 7] % 49 + 1
    with torch.no_grad():
        a, b = (model(t, token_type_ids=types).logits for t in (ids, other))
    torch.testing.assert_close(a[:, :6], b[:, :6], atol=1e-9, rtol=0)
    assert not torch.allclose(a[:, 6], b[:, 6])


@pytest.mark.parametrize("halting", ["fixed", "q"])
@pytest.mark.parametrize("rule", ["last_exited", "backfill"])
def test_generation_takes_the_prompt_as_prefix_with_and_without_a_cache(halting: str, rule: str) -> None:
    model, ids = small.model(prefix_lm=True, pad_token_id=0, halting=halting, halting_rule=rule), small.tokens()
    expected = ids
    for step in range(6):
        with torch.no_grad():
            types = types_of(12 + step, 12)
            logits = model(expected, token_type_ids=types, use_cache=False).logits
        expected = torch.cat((expected, logits[:, -1:].argmax(-1)), dim=1)
    causal = by_hand(model, ids, 6)
    assert not torch.equal(expected, causal)
    more: dict[str, Any]
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(ids, **GREEDY, **more), expected), more
    zeros = torch.zeros_like(ids)
    assert torch.equal(model.generate(ids, token_type_ids=zeros, **GREEDY), expected), "a tokenizer's zeros say nothing"
    padded = torch.nn.functional.pad(ids, (3, 0))
    out = model.generate(padded, attention_mask=(padded != 0).long(), **GREEDY)
    assert torch.equal(out[:, 3:], expected)


def test_packed_rows_have_a_prefix_each() -> None:
    model, ids = small.model(prefix_lm=True), small.tokens(rows=1)
    positions = torch.cat((torch.arange(5), torch.arange(7)))[None]
    types = torch.tensor([[1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        packed = model(ids, position_ids=positions, token_type_ids=types, use_cache=False).logits
        apart = [model(ids[:, s], token_type_ids=types[:, s]).logits for s in (slice(5), slice(5, 12))]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1))
    touching = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        packed = model(ids, position_ids=positions, token_type_ids=touching, use_cache=False).logits
        apart = [model(ids[:, s], token_type_ids=touching[:, s]).logits for s in (slice(5), slice(5, 12))]
    torch.testing.assert_close(packed, torch.cat(apart, dim=1))


def test_labels_inside_a_prefix_are_ignored() -> None:
    model, ids = small.model(prefix_lm=True), small.tokens()
    types = types_of(12, 5)
    with torch.no_grad():
        out = model(ids, token_type_ids=types, labels=ids)
    by_mean = torch.nn.functional.cross_entropy(out.logits[:, 4:-1].flatten(0, 1), ids[:, 5:].flatten())
    torch.testing.assert_close(out.loss, by_mean)


# Text in, text out


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *(f"w{i}" for i in range(48))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="w0"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    made.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}w9"
    return made


def bare(text: Any) -> str:
    return text.replace(" ", "")


@pytest.mark.parametrize("prefix", [False, True])
def test_the_pipeline_answers_like_generate(tokenizer: PreTrainedTokenizerFast, tmp_path: Path, prefix: bool) -> None:
    model = small.model(dtype=torch.float32, prefix_lm=prefix, pad_token_id=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    generate = pipeline("text-generation", model=str(tmp_path), device="cpu")
    prompts = ["w1 w2 w3", "w4 w5 w6 w7 w8"]
    config = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0)
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        expected = model.generate(ids, generation_config=config)
        (answer,) = generate(prompt, generation_config=config)
        assert bare(answer["generated_text"]) == bare(tokenizer.decode(expected[0]))
    chat = [{"role": "user", "content": "w1 w2 w3"}]
    ids: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = model.generate(**ids, generation_config=config)
    (answer,) = generate(chat, generation_config=config)
    said = answer["generated_text"][-1]["content"]
    assert bare(said) == bare(tokenizer.decode(expected[0, ids["input_ids"].shape[1] :]))
