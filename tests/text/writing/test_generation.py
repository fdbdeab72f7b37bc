"""What generation promises: the same text for a seed, tokens in order as they become certain, clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hrm.files.reading import UserError
from hrm.text.data import encode, train_bpe
from hrm.text.data.growing import new_characters
from hrm.text.measuring.best_of import RANKS, best_of, compare_ranks
from hrm.text.measuring.pairs import Pair, evaluate_pairs, is_exact, overlap, packed_pairs, pairs_of
from hrm.text.writing.generation import Sampling, candidates, complete, generate
from tests.text.measuring.small import TEXT, pair

SHORT = Sampling(max_new_tokens=12)


@pytest.mark.slow
def test_a_seed_means_a_text_and_leaves_the_global_generator_alone():
    model, tokenizer = pair()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = (generate(model, tokenizer, "the cat", SHORT) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert first.text == again.text and first.tokens == again.tokens
    assert generate(model, tokenizer, "the cat", replace(SHORT, seed=1)).text != first.text


def test_greedy_text_depth_and_probabilities_are_those_of_a_forward_pass():
    model, tokenizer = pair(torch.float64)
    prompt = tokenizer("the cat")["input_ids"]
    found = generate(model, tokenizer, "the cat", Sampling(max_new_tokens=8, greedy=True))
    ids = [token.id for token in found.tokens]
    with torch.no_grad():
        out = model(torch.tensor([prompt + ids]), use_cache=False)
    log_p = out.logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    assert log_p.argmax(-1).tolist() == ids
    assert [token.depth for token in found.tokens] == out.depth[0, len(prompt) - 1 : -1].tolist()
    for name, values in (
        ("log_probability", log_p.amax(-1)),
        ("confidence", out.confidence[0, len(prompt) - 1 : -1]),
        ("entropy", -(log_p.exp() * log_p).sum(-1)),
    ):
        assert [getattr(token, name) for token in found.tokens] == pytest.approx(values.tolist(), rel=1e-5)
    assert found.log_likelihood == pytest.approx(float(log_p.amax(-1).mean()), rel=1e-5)


def endless(dtype: torch.dtype = torch.float32, **changes: Any):
    """A model that never ends a text."""
    model, tokenizer = pair(dtype, head_bias=True, **changes)
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = -1e4  # type: ignore[index]
    return model, tokenizer


@pytest.mark.slow
def test_a_row_is_greedily_continued_the_same_in_any_batch():
    model, tokenizer = endless(torch.float64)
    how = Sampling(max_new_tokens=30, greedy=True)
    prompts = ["a", "the cat sat on the mat", "mer"]
    together = complete(model, tokenizer, prompts, how)
    alone = [generate(model, tokenizer, prompt, how) for prompt in prompts]
    # Each text outgrows the 24 tokens of the model at another time: what is read anew then depends on the row alone.
    assert [c.text for c in together] == [c.text for c in alone]
    assert [len(c.tokens) for c in together] == [30, 30, 30]


@pytest.mark.slow
def test_tokens_come_one_by_one_and_make_up_the_text():
    model, tokenizer = endless()
    seen = []
    found = generate(model, tokenizer, "the cat", Sampling(max_new_tokens=40, seed=2), seen.append)
    assert seen == found.tokens and "".join(token.text for token in seen) == found.text
    assert len(seen) == 40 > model.config.max_position_embeddings  # past the model's length
    assert found.to_dict()["tokens"] == [token.text for token in seen]


def test_of_text_longer_than_its_memory_the_last_half_is_read():
    model, tokenizer = endless(torch.float64)
    how = Sampling(max_new_tokens=20, seed=3)
    found = complete(model, tokenizer, ["the cat sat"], how, memory=8)[0].text
    assert found != complete(model, tokenizer, ["the cat sat"], how)[0].text
    model.config.max_position_embeddings = 8
    assert found == complete(model, tokenizer, [tokenizer("the cat sat")["input_ids"]], how)[0].text


@pytest.mark.slow
def test_a_stop_word_ends_the_text_before_it_and_none_of_it_is_handed_out():
    model, tokenizer = endless()
    whole = generate(model, tokenizer, "the cat", Sampling(max_new_tokens=20)).text
    word, seen = whole[7:10], []
    found = generate(model, tokenizer, "the cat", Sampling(max_new_tokens=20, stop=("never", word)), seen.append)
    assert found.text == whole[: whole.index(word)] == "".join(token.text for token in seen)
    assert found.end == "stop"


def test_the_end_token_ends_the_text():
    model, tokenizer = pair(head_bias=True)
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = 1e4  # type: ignore[index]
    found = generate(model, tokenizer, "the cat", SHORT)
    assert (found.text, found.end, len(found.tokens)) == ("", "end", 1)


@pytest.mark.slow
def test_characters_of_several_tokens_come_out_whole():
    model, _ = endless(vocab_size=257)
    tokenizer = train_bpe(["x"], 257)  # bytes
    seen = []
    found = generate(model, tokenizer, "\u00e9\u00e9", Sampling(max_new_tokens=60, seed=4), seen.append)
    assert "".join(token.text for token in seen) == found.text
    assert len(seen) == 60


@pytest.mark.parametrize("halting", ["fixed", "q", "kl", "change", "readout"])
def test_the_table_of_candidates_agrees_with_what_is_generated(halting: str):
    model, tokenizer = pair(torch.float64)
    request = {"halting": halting, "exit_threshold": {"q": 0.5, "readout": 0.5}.get(halting, 0.3)}
    found = candidates(model, tokenizer, "the cat", 5, **request)
    token = generate(model, tokenizer, "the cat", Sampling(max_new_tokens=1, greedy=True), **request).tokens[0]
    best = found["candidates"][0]
    assert (best["id"], found["depth"]) == (token.id, token.depth)
    assert best["probability"] == best["per_segment"][token.depth - 1]
    assert best["probability"] == pytest.approx(torch.tensor(token.log_probability).exp().item(), rel=1e-5)
    assert found["depths"][token.depth - 1]["confidence"] == pytest.approx(token.confidence, rel=1e-5)
    assert len(best["per_segment"]) == 3 and len(found["candidates"]) == 5


def test_at_fixed_depth_a_column_is_a_forward_pass_with_so_many_segments():
    model, tokenizer = pair(torch.float64)
    found = candidates(model, tokenizer, "the cat", 3, halting="fixed")
    for k in (1, 2, 3):
        with torch.no_grad():
            logits = model(torch.tensor([tokenizer("the cat")["input_ids"]]), max_segments=k, halting="fixed").logits
        for row in found["candidates"]:
            assert row["per_segment"][k - 1] == pytest.approx(float(logits[0, -1].softmax(-1)[row["id"]]), rel=1e-6)


def test_unknown_characters_are_named():
    _, tokenizer = pair()
    assert new_characters(tokenizer, ["the \u4e2d cat\u2603"]) == ["\u4e2d", "\u2603"]
    assert new_characters(train_bpe([TEXT], 270), ["\u4e2d\u2603\n "]) == []


@pytest.mark.parametrize(
    ("prompt", "sampling", "words"),
    [
        ("", {}, "the prompt is empty"),
        ("the cat sat on the mat. the cat", {}, "31 tokens and the model reads 23: shorten it"),
        ("the", {"temperature": 0.0}, "--temperature 0.0"),
        ("the", {"top_p": 1.5}, "--top-p 1.5"),
        ("the", {"max_new_tokens": 0}, "--max-new-tokens 0"),
        ("the", {"stop": ("",)}, "not empty"),
    ],
)
def test_what_cannot_be_continued_is_refused_in_a_sentence(prompt: str, sampling: dict, words: str):
    model, tokenizer = pair()
    with pytest.raises(UserError) as error:
        generate(model, tokenizer, prompt, replace(SHORT, **sampling))
    assert words in str(error.value)


def test_a_vocabulary_without_an_unknown_token_refuses_what_it_lacks():
    model, _ = pair()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    with pytest.raises(UserError, match="lacks '\u4e2d', '\u2603'"):
        generate(model, tokenizer, "\u4e2dab\u2603", SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("rank", list(RANKS))
def test_the_best_of_several_texts_comes_first(rank: str):
    model, tokenizer = pair()
    found = best_of(model, tokenizer, "the cat", 6, rank, SHORT)
    scores = [RANKS[rank](completion) for completion in found]
    assert scores == sorted(scores, reverse=True) and len({c.text for c in found}) > 1
    again = best_of(model, tokenizer, "the cat", 6, rank, SHORT)
    assert [c.text for c in again] == [c.text for c in found]


def test_best_of_refuses_what_makes_no_sense():
    model, tokenizer = pair()
    for how, words in (({"rank": "length"}, "rank 'length'"), ({"sampling": replace(SHORT, greedy=True)}, "greedy")):
        with pytest.raises(UserError, match=words):
            best_of(model, tokenizer, "the cat", 3, **how)  # type: ignore[arg-type]


def test_ranks_are_compared_on_the_same_texts():
    model, tokenizer = pair()
    one = complete(model, tokenizer, ["the"] * 4, Sampling(max_new_tokens=1, seed=3))
    best = max(one, key=RANKS["likelihood"]).text
    shares = []
    found = compare_ranks(model, tokenizer, [Pair("the", best)], 4, Sampling(max_new_tokens=1, seed=3), shares.append)
    assert found["likelihood"] == found["any"] == 1.0 and shares == [1.0]
    assert found["one"] == sum(is_exact(c.text, best) for c in one) / 4
    assert found["q"] == float(is_exact(max(one, key=RANKS["q"]).text, best))
    assert found["against_likelihood"]["q"] == [0, 1 - found["q"]]


@pytest.mark.slow
def test_the_q_head_speaks_of_the_likeliest_token_and_counts_against_another():
    model, tokenizer = pair()
    greedy = complete(model, tokenizer, ["the"], replace(SHORT, greedy=True))[0]
    assert all(token.likeliest for token in greedy.tokens)
    assert RANKS["q-drawn"](greedy) == pytest.approx(greedy.confidence)
    drawn = complete(model, tokenizer, ["the"], SHORT)[0]
    chances = [t.confidence if t.likeliest else 1 - t.confidence for t in drawn.tokens]
    assert not all(t.likeliest for t in drawn.tokens)
    assert RANKS["q-drawn"](drawn) == pytest.approx(sum(chances) / len(chances))


def test_answers_to_questions_are_compared_and_in_order(tmp_path: Path):
    model, tokenizer = pair()
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"question": "the cat", "answer": "x"}\n{"instruction": "the", "input": "dog", "output": "y"}\n')
    pairs = pairs_of(file, tokenizer)
    assert [tokenizer.decode(p.prompt) for p in pairs] == ["the cat\n\n", "the\n\ndog\n\n"]  # type: ignore[arg-type]
    how = Sampling(max_new_tokens=5, greedy=True)
    said = [generate(model, tokenizer, text, how).text for text in ("the cat\n\n", "the\n\ndog\n\n")]
    right = [pairs[0]._replace(answer=f" {said[0]} "), pairs[1]]
    found = evaluate_pairs(model, tokenizer, right, 2, how)
    assert found["exact_match"] == 0.5 and [a["said"] for a in found["answers"]] == said
    assert found["tokens"] == 10 and found["ended"] == 0
    assert (
        pairs_of(file, tokenizer, "Q: {question}\nA: {answer}", 1)[0].prompt
        == tokenizer("Q: the cat\nA: ")["input_ids"]
    )


def test_bleu_and_rouge_are_those_of_the_usual_packages():
    pytest.importorskip("sacrebleu", reason="needs the extra [eval]")
    pytest.importorskip("rouge_score", reason="needs the extra [eval]")
    same = overlap(["the cat sat on the mat"], ["the cat sat on the mat"])
    assert same | {"meteor": 100} == pytest.approx({"bleu": 100, "chrf": 100, "rouge_l": 100, "meteor": 100})
    # The longest common subsequence has 4 of 5 and 4 of 6 words: F1 is 2 * .8 * .667 / (.8 + .667).
    assert overlap(["the cat on the log"], ["the cat sat on the mat"])["rouge_l"] == pytest.approx(100 * 8 / 11)


@pytest.mark.parametrize(
    "answers", [["42", "7"], ["yes", "the cat sat on the mat"], ["да", "нет"], ["猫坐在垫子上"], ["?!"]]
)
def test_answers_that_are_all_right_score_100_however_short_and_in_any_script(answers: list[str]):
    pytest.importorskip("sacrebleu", reason="needs the extra [eval]")
    pytest.importorskip("rouge_score", reason="needs the extra [eval]")
    same = overlap(answers, answers) | {"meteor": 100}
    assert same == pytest.approx({"bleu": 100, "chrf": 100, "rouge_l": 100, "meteor": 100})
    assert overlap(["wrong"] * len(answers), answers)["rouge_l"] == 0


def test_held_out_conversations_give_back_their_last_question_and_answer(tmp_path: Path):
    from hrm.text.data import Packed
    from hrm.text.data.chat import chat_prompt, examples

    _, tokenizer = pair()
    talks = [[("the cat", "sat"), ("the dog", "ran on")], [("a", "la mer")]]
    dialogues = [
        [
            {"role": role, "content": text}
            for turn in talk
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        for talk in talks
    ]
    packed = Packed.write(tmp_path / "packed", tokenizer, examples(tokenizer, dialogues))
    found = packed_pairs(packed, tokenizer)
    assert [p.answer for p in found] == ["ran on", "la mer"]
    assert [p.prompt for p in found] == [chat_prompt(tokenizer, dialogue[:-1]) for dialogue in dialogues]
    assert packed_pairs(packed, tokenizer, 1) == found[:1]
    running = Packed.write(tmp_path / "text", tokenizer, encode(tokenizer, [TEXT]))
    with pytest.raises(UserError, match="holds running text, no answers"):
        packed_pairs(running, tokenizer)
