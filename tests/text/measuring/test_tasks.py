"""Likelihoods, tasks and lm-eval's questions, against plain forward passes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from hrm.files.reading import UserError
from hrm.text.data import train_bpe
from hrm.text.measuring.scoring import Scorer
from hrm.text.measuring.tasks import Choice, KnownContinuation, NumberAnswer, evaluate_task, load, names
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
    assert scores[0] == scores[1]


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


def test_choices_are_counted_by_sum_and_by_byte():
    model, tokenizer = pair(torch.float64)
    items = [Choice((("the", " cat sat"), ("the", " m")), gold) for gold in (0, 1)]
    found = evaluate_task(model, tokenizer, items)
    first, second = Scorer(model, tokenizer).continuations(list(items[0].options))
    assert found["accuracy"] == 0.5 == found["guessing"] and found["n"] == 2
    longer_is_better = first.log_probability / 7 > second.log_probability / 1
    only_gold = evaluate_task(model, tokenizer, items[:1])
    assert only_gold["accuracy_per_byte"] == float(longer_is_better)
    assert only_gold["accuracy"] == float(first.log_probability > second.log_probability)


def test_equal_options_are_not_right():
    model, tokenizer = pair()
    assert evaluate_task(model, tokenizer, [Choice((("the", " cat"), ("the", " cat")), 0)])["accuracy"] == 0


@pytest.mark.slow
def test_words_and_numbers():
    model, tokenizer = pair()
    words = evaluate_task(model, tokenizer, [KnownContinuation("the cat", " sat"), KnownContinuation("the", " dog")])
    assert words["accuracy"] == 0 and words["perplexity"] > 1
    numbers = evaluate_task(model, tokenizer, [NumberAnswer("the cat sat on the mat and the dog", 5.0)])
    assert numbers["accuracy"] == 0 and numbers["mean_segments"] >= 1


def test_every_local_task_is_understood():
    folder = hrm_data() / "eval_tasks"
    kinds = {name: type(load(name, folder, 3)[0]) for name in names(folder)}
    assert len(kinds) == 19
    assert {name for name, kind in kinds.items() if kind is KnownContinuation} == {
        "lambada_openai",
        "simple_arithmetic_nospaces",
        "bigbench_cs_algorithms",
        "bigbench_dyck_languages",
        "bigbench_operators",
    }
    assert [name for name, kind in kinds.items() if kind is NumberAnswer] == ["svamp"]
    assert load("piqa", folder, 1)[0].options[0][0].endswith("\nAnswer:")  # type: ignore[union-attr]
    assert load("blimp", folder, 1)[0].group == "adjunct_island"  # type: ignore[union-attr]


def test_a_bad_row_is_named(tmp_path: Path):
    good = json.dumps({"query": "a", "choices": ["b", "c"], "gold": 0})
    with gzip.open(tmp_path / "mine.jsonl.gz", "wt") as file:
        file.write(good + "\n\n{broken\n")
    (tmp_path / "other.jsonl").write_text('{"text": "x"}\n')
    assert len(load("mine", tmp_path, 1)) == 1
    for name, words in (("mine", "mine.jsonl.gz, line 3"), ("other", "text is of no known form"), ("min", "'mine'")):
        with pytest.raises(UserError, match=words):
            load(name, tmp_path)


def test_lm_eval_gets_the_same_answers(tmp_path: Path):
    pytest.importorskip("lm_eval", reason="needs lm-eval")
    from lm_eval.api.instance import Instance  # type: ignore[import-not-found]

    from hrm.text.measuring.lm_eval import lm_eval_adapter

    model, tokenizer = pair()
    asked = [("the cat", " sat"), ("the dog", " mat")]

    def instances(kind: str, args: list) -> list:
        return [Instance(kind, {}, each, i) for i, each in enumerate(args)]

    harness, scorer = lm_eval_adapter(model, tokenizer), Scorer(model, tokenizer)
    scores = scorer.continuations(asked)
    assert harness.loglikelihood(instances("loglikelihood", asked)) == [s[:2] for s in scores]
    rolling = harness.loglikelihood_rolling(instances("loglikelihood_rolling", [(TEXT[:50],)]))
    assert rolling == [scorer.whole([TEXT[:50]])[0].log_probability]
    until = {"until": ["a"], "max_gen_toks": 8}
    (text,) = harness.generate_until(instances("generate_until", [("the cat", until)]))
    assert "a" not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_eval_counts_the_same_on_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lm_eval", reason="needs lm-eval")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from lm_eval import simple_evaluate  # type: ignore[import-not-found]

    from hrm.text.measuring.lm_eval import lm_eval_adapter

    model, tokenizer = pair()
    rows = [{"query": "the", "choices": [a, b], "gold": i % 2} for i, (a, b) in enumerate(zip("catsodg", "mlronet"))]  # noqa: B905
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "mine.jsonl")}, "cache_dir": str(tmp_path)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    harness = lm_eval_adapter(model, tokenizer)
    theirs = simple_evaluate(model=harness, tasks=[task], bootstrap_iters=0)["results"]["mine"]
    ours = evaluate_task(model, tokenizer, load("mine", tmp_path))
    assert (ours["accuracy"], ours["accuracy_per_byte"]) == (theirs["acc,none"], theirs["acc_norm,none"])
