"""Likelihoods and lm-eval's questions against plain forward passes, and the files of tasks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrm.files.reading import UserError
from hrm.text.data import train_bpe
from hrm.text.measuring.scoring import Scorer
from hrm.text.measuring.tasks import load, names
from tests.data import hrm_data
from tests.text.measuring.small import TEXT, pair


def log_p(model, ids: list[int], **request) -> torch.Tensor:
    """[p, v]: what follows each token, by a plain forward pass."""
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False, **request).logits[0].log_softmax(-1)


def test_a_continuation_is_as_likely_as_its_tokens_after_the_context():
    model, tokenizer = pair(torch.float64)
    asked = [("the cat", " sat on"), ("the dog sat on the", " log"), ("", "mat"), ("on", " e")]
    scores = Scorer(model, tokenizer, batch_size=3).continuations(asked)
    for (context, text), score in zip(asked, scores, strict=True):
        start = tokenizer(context)["input_ids"] or [tokenizer.eos_token_id]
        ids = start + tokenizer(text)["input_ids"]
        table = log_p(model, ids)[len(start) - 1 : -1]
        own = torch.tensor(ids[len(start) :])
        assert score.log_probability == pytest.approx(float(table.gather(1, own[:, None]).sum()), rel=1e-6)
        assert score.greedy == bool((table.argmax(-1) == own).all()) and score.tokens == len(own)
        assert 1 <= score.depth <= 3


def test_the_likeliest_continuation_is_greedy():
    model, tokenizer = pair(torch.float64, halting="fixed")
    best = str(tokenizer.decode([int(log_p(model, tokenizer("the c")["input_ids"])[-1].argmax())]))
    (score,) = Scorer(model, tokenizer).continuations([("the c", best)])
    assert score.greedy


def test_a_long_context_loses_its_beginning():
    model, tokenizer = pair(torch.float64)
    scorer, long = Scorer(model, tokenizer), TEXT[:60]
    scores = scorer.continuations([(long, " mat"), (long[-21:], " mat")])
    assert scores[0][:4] == scores[1][:4] and (scores[0].cut, scores[1].cut) == (True, False)


def test_a_whole_text_is_read_in_windows_after_the_end_token():
    model, tokenizer = pair(torch.float64)
    ids = [tokenizer.eos_token_id, *tokenizer(TEXT[:50])["input_ids"]]
    wanted = 0.0
    for at in range(0, 50, 24):
        some = ids[at : at + 25]
        wanted += float(log_p(model, some[:-1]).gather(1, torch.tensor(some[1:])[:, None]).sum())
    (score,) = Scorer(model, tokenizer).whole([TEXT[:50]])
    assert score.log_probability == pytest.approx(wanted, rel=1e-6) and score.tokens == 50


def test_a_space_after_the_context_belongs_to_the_continuation():
    model, _ = pair(vocab_size=300)
    tokenizer = train_bpe([TEXT], 290)
    scorer = Scorer(model, tokenizer)
    assert scorer.encode("the cat ", "sat") == scorer.encode("the cat", " sat")
    context, text = scorer.encode("the cat", " sat")
    assert tokenizer.decode(context) == "the cat" and tokenizer.decode(text) == " sat"


def test_a_prefix_model_reads_the_context_in_both_directions():
    model, tokenizer = pair(torch.float64, prefix_lm=True)
    (score,) = Scorer(model, tokenizer).continuations([("the cat", " sat")])
    ids = tokenizer("the cat sat")["input_ids"]
    types = torch.tensor([[1] * 7 + [0] * 3])
    with torch.no_grad():
        table = model(torch.tensor([ids[:-1]]), token_type_ids=types, use_cache=False).logits[0].log_softmax(-1)
    own = torch.tensor(ids[7:])
    assert score.log_probability == pytest.approx(float(table[6:].gather(1, own[:, None]).sum()), rel=1e-6)


def test_every_local_task_is_understood():
    found = {name: load(name, path) for name, path in names(hrm_data() / "eval_tasks").items()}
    assert len(found) == 19
    forms = {name: task.form for name, task in found.items()}
    assert {name for name, form in forms.items() if form == "continuation"} == {
        "lambada_openai",
        "simple_arithmetic_nospaces",
        "bigbench_cs_algorithms",
        "bigbench_dyck_languages",
        "bigbench_operators",
    }
    assert [name for name, form in forms.items() if form == "number"] == ["svamp"]
    assert found["piqa"].rows[0]["query"].endswith("\nAnswer:")
    assert found["blimp"].rows[0]["group"] == "adjunct_island" and forms["blimp"] == "sentences"


def test_a_bad_row_is_named(tmp_path: Path):
    good = json.dumps({"query": "a", "choices": ["b", "c"], "gold": 0})
    with gzip.open(tmp_path / "mine.jsonl.gz", "wt") as file:
        file.write(good + "\n\n{broken\n")
    for text, words in (
        ('{"text": "x"}', "line 1: a row with text is of no known form"),
        (good.replace("0", "2"), "line 1: choice 2 is none of 2"),
        (good.replace('"c"', '""'), "line 1: what is asked and answered must be text"),
        (good.replace('"c"', "3"), "line 1: what is asked and answered must be text"),
        (good + '\n{"context": "a", "continuation": "b"}', "line 2: its form differs"),
        ('{"question": "a", "answer": "many"}', "line 1 cannot be read"),
        (good.replace("0", "1.9"), "line 1 cannot be read .1.9 is no number of a choice"),
        (good.replace("0", "true"), "line 1 cannot be read .True is no number of a choice"),
        (good.replace('["b", "c"]', '"bc"'), "line 1 cannot be read .'bc' is no list of choices"),
        ("[1]", "line 1 is not an object"),
        ("", "holds no items"),
    ):
        (tmp_path / "other.jsonl").write_text(text)
        with pytest.raises(UserError, match=words):
            load("other", tmp_path / "other.jsonl")
    with pytest.raises(UserError, match=r"mine.jsonl.gz, line 3"):
        load("mine", tmp_path / "mine.jsonl.gz")


def test_lm_eval_gets_the_same_answers(tmp_path: Path):
    pytest.importorskip("lm_eval", reason="needs the extra [eval]")
    from lm_eval.api.instance import Instance

    from hrm.text.measuring.lm_eval import lm_eval_adapter

    model, tokenizer = pair()
    asked = [("the cat", " sat"), ("the dog", " mat")]

    def instances(kind: Any, args: list) -> list:
        return [Instance(kind, {}, each, i) for i, each in enumerate(args)]

    harness, scorer = lm_eval_adapter(model, tokenizer), Scorer(model, tokenizer)
    scores = scorer.continuations(asked)
    assert harness.loglikelihood(instances("loglikelihood", asked)) == [s[:2] for s in scores]
    rolling = harness.loglikelihood_rolling(instances("loglikelihood_rolling", [(TEXT[:50],)]))
    assert rolling == [scorer.whole([TEXT[:50]])[0].log_probability]
    until = {"until": ["a"], "max_gen_toks": 8}
    (text,) = harness.generate_until(instances("generate_until", [("the cat", until)]))
    assert "a" not in text
