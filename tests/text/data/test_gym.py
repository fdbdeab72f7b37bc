"""Questions of Reasoning Gym as text: the same again, fresh ones apart, and their common beginning as one token."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from hrm.files.reading import UserError
from hrm.text.data import Packed, chat, gym, make_tokenizer
from hrm.text.data.tokenizers import add_frame

SUM = "What is {}, in digits?"
TEXTS = [SUM.format(sum) + "\n\n" for sum in ("1 + 2", "21 + 3", "5 + 12")]


@pytest.mark.slow
def test_reasoning_gym_makes_the_same_questions_again_and_fresh_ones_that_differ():
    pytest.importorskip("reasoning_gym", reason="needs the extra [gym]")
    options = {"min_terms": 2, "max_terms": 3}
    train, fresh = gym.gym_sets("chain_sum", options, 200, 100, seed=3)
    assert (train, fresh) == gym.gym_sets("chain_sum", ["min_terms=2", "max_terms=3"], 200, 100, seed=3)
    asked = [{messages[0]["content"] for messages in part} for part in (train, fresh.items)]
    assert [len(questions) for questions in asked] == [200, 100] and not asked[0] & asked[1]
    assert train != gym.gym_text("chain_sum", options, 200, seed=1).items
    assert all(messages[1]["content"].lstrip("-").isdigit() for messages in train)


@pytest.mark.slow
def test_questions_that_are_kept_apart_are_left_out_and_counted():
    pytest.importorskip("reasoning_gym", reason="needs the extra [gym]")
    small = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}  # 200 questions at most
    train, fresh = gym.gym_sets("chain_sum", small, 80, 60, seed=0)
    assert not {m[0]["content"] for m in train} & {m[0]["content"] for m in fresh.items}
    assert 0 < fresh.left_out <= 80
    with pytest.raises(UserError, match="that are kept apart"):
        gym.gym_sets("chain_sum", small, 80, 150, seed=0)


@pytest.mark.slow
def test_reasoning_gym_says_what_it_cannot_make():
    pytest.importorskip("reasoning_gym", reason="needs the extra [gym]")
    with pytest.raises(UserError, match="chain_sum"):
        gym.gym_text("chain_sun", {}, 3, 0)
    with pytest.raises(UserError, match="refuses"):
        gym.gym_text("chain_sum", ["min_terms=0"], 3, 0)
    with pytest.raises(UserError, match="NAME=VALUE"):
        gym.gym_text("chain_sum", ["min_terms"], 3, 0)
    small = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(UserError, match="different questions"):
        gym.gym_text("chain_sum", small, 3000, 0)


def test_a_frame_is_one_token_at_each_end_and_the_text_stays_the_same(tmp_path: Path):
    tokenizer = make_tokenizer("char", TEXTS)
    assert add_frame(tokenizer, TEXTS) == ["What is ", ", in digits?\n\n"]
    tokenizer.save_pretrained(tmp_path)
    for tokens in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert [len(tokens(text)["input_ids"]) for text in TEXTS] == [7, 8, 8]
        assert [tokens.decode(tokens(text)["input_ids"]) for text in TEXTS] == TEXTS
        assert len(tokens("What was 1 + 2")["input_ids"]) == 14  # without the frame it is characters


@pytest.mark.parametrize("texts", [[], ["1"], ["1 + 2", "2 + 1"]])
def test_texts_without_a_frame_get_no_token(texts: list[str]):
    tokenizer = make_tokenizer("char", ["12 +"])
    assert add_frame(tokenizer, texts) == []


def test_token_types_mark_what_is_given(tmp_path: Path):
    tokenizer = make_tokenizer("char", ["ab?!"])
    talks = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in (("ab", "?!"), ("b", "!"))
    ]
    packed = Packed.write(tmp_path / "packed", tokenizer, chat.examples(tokenizer, talks, "{question}{answer}"))
    batch = packed.batch(0, 0, range(1), 1, 8)
    text = tokenizer.convert_ids_to_tokens(batch.input_ids[0])
    assert text[:6] == ["a", "b", "?", "!", "b", "!"]
    assert batch.token_types[0].tolist() == [1, 1, 0, 0, 1, 0, 1, 1]
