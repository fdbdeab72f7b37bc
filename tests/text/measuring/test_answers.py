"""Answers: counted in one pass as they would be written, asked freshly, and told from those that were learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hrm.cli.main import main
from hrm.text.data import Packed, chat, make_tokenizer
from hrm.text.load import load_text
from hrm.text.measuring import pairs
from hrm.text.measuring.fresh import SeenQuestions, fresh_questions, trained_on
from hrm.text.measuring.losses import evaluate
from hrm.text.measuring.pairs import evaluate_pairs, packed_pairs
from tests.text.measuring.test_cli import refused, said
from tests.text.model import small

TINY = "--arch.dim 32 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --halting.max-segments 3"
TINY += " --arch.prefix-lm --halting.kind q --arch.horizon last_step"
LOOP = [
    "--train.precision",
    "float32",
    "--train.batch-size",
    "4",
    "--optim.warmup-steps",
    "5",
    "--optim.lr",
    "5e-3",
    "--text.length",
    "32",
]


def trained(out: Path, *args: str) -> Path:
    call = ["train", "text-char", "--text.frame", *args, *LOOP, *TINY.split(), "--halting.target=right"]
    assert main([*call, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def spells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a few short answers, and a few not."""
    place = tmp_path_factory.mktemp("spells")
    words = ["ab", "abc", "ca", "bac", "cab", "acb", "ba", "bca", "cba", "aab", "cc", "bb"]
    rows = [json.dumps({"question": f"Spell {word} backward.", "answer": word[::-1]}) for word in words]
    (place / "q.jsonl").write_text("\n".join(rows))
    data = ["--data", str(place / "q.jsonl"), "--validation", str(place / "q.jsonl"), "--text.kind", "chat"]
    return trained(place / "run", *data, "--train.steps", "60", "--train.eval-every", "30")


@pytest.mark.slow
def test_an_answer_is_exact_in_one_pass_where_it_is_written_greedily(spells: Path):
    model, tokenizer, *_ = load_text(spells, precision="float32")
    packed = Packed.open(spells / "data" / "validation", tokenizer)
    found = evaluate(model, tokenizer, packed, 32, thresholds=(0.3, 0.5))
    pairs = packed_pairs(packed, tokenizer)
    said = [evaluate_pairs(model, tokenizer, pairs, max_segments=depth, halting="fixed") for depth in (1, 2, 3)]
    shares = [row["exact_match"] for row in found["fixed"]]
    assert shares == [row["exact_match"] for row in said] and shares[-1] > 0 and found["answers"] == 12
    for row in found["adaptive"]:
        written = evaluate_pairs(model, tokenizer, pairs, halting="q", exit_threshold=row["exit_threshold"])
        assert row["exact_match"] == written["exact_match"]
        low, high = row["exact_match_interval"]
        assert 0 <= low <= row["exact_match"] <= high <= 1


@pytest.mark.slow
def test_the_best_checkpoint_has_the_most_exact_answers(spells: Path):
    records = [json.loads(line) for line in (spells / "metrics.jsonl").read_text().splitlines()]
    shares = {r["step"]: r["exact_match"] for r in records if r.get("event") == "eval"}
    assert len(shares) == 2 and shares[json.loads((spells / "best.json").read_text())["step"]] == max(shares.values())
    assert len(records[-1]["exact_match_by_depth"]) == 3
    card = (spells / "README.md").read_text()
    assert "answers exact" in card and '"Spell ab backward.\\n\\n"' in card


def test_a_prefix_model_is_measured_with_its_questions_as_prefixes(tmp_path: Path):
    tokenizer = make_tokenizer("char", ["abc?"])
    model = small.model(dtype=torch.float64, prefix_lm=True, vocab_size=len(tokenizer)).eval()
    talks: Any = [[{"role": "user", "content": q}, {"role": "assistant", "content": "ab"}] for q in ("abc?", "c?")]
    packed = Packed.write(tmp_path / "data", tokenizer, chat.examples(tokenizer, talks, "{question}{answer}"))
    losses = []
    for talk in talks:
        given = chat.chat_prompt(tokenizer, talk[:1], "{question}{answer}")
        ids = torch.tensor([[*given, *tokenizer("ab")["input_ids"], tokenizer.eos_token_id]])
        types = (torch.arange(ids.shape[1]) < len(given)).long()[None]
        with torch.no_grad():
            logits = model(ids, token_type_ids=types, max_segments=2, halting="fixed").logits
        wanted = ids[0, len(given) :]
        losses.append(-logits.log_softmax(-1)[0, len(given) - 1 : -1].gather(1, wanted[:, None])[:, 0])
    found = evaluate(model, tokenizer, packed, 16)
    assert found["fixed"][1]["loss"] == pytest.approx(float(torch.cat(losses).mean()), rel=1e-6)


@pytest.mark.slow
def test_fresh_questions_are_new_to_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("reasoning_gym", reason="needs the extra [gym]")
    options = ["min_terms=2", "max_terms=2", "min_digits=1", "max_digits=1"]
    flags = ["--text.kind", "gym", "--data", "chain_sum", "--text.options", *options, "--text.examples", "60"]
    run = trained(tmp_path / "run", *flags, "--train.steps", "6")
    assert "none is trained on" in capsys.readouterr().err
    loaded = load_text(run)
    made = fresh_questions(loaded, 50, seed=3)
    known = SeenQuestions(loaded, [run / "data" / "train", run / "data" / "validation"])
    assert made.left_out > 0 and not any(messages[0]["content"] in known for messages in made.items)
    assert made == fresh_questions(loaded, 50, seed=3) != fresh_questions(loaded, 50, seed=4)
    out, err = said(capsys, "eval", str(run), "--fresh", "50", "--seed", "3", "--json")
    assert json.loads(out)["answers"] == 50 and f"{made.left_out} more were made" in err
    out, _ = said(capsys, "eval", str(run), "--fresh", "9", "--task", "pairs", "--max-new-tokens", "4", "--json")
    assert json.loads(out)["n"] == 9 and json.loads(out)["trained_on"] == 0
    assert "use one of them" in refused(capsys, "eval", str(run), "--fresh", "9", "--data", "x.jsonl")


@pytest.mark.slow
def test_questions_that_were_trained_on_are_counted(spells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "q.jsonl"
    asked = [f'{{"question": "Spell {word} backward.", "answer": "x"}}\n' for word in ("ab", "ccc", "cab")]
    file.write_text("".join(asked))
    loaded = load_text(spells)
    prompts = [chat.chat_prompt(loaded.tokenizer, talk[:1]) for talk in chat.conversations(file)]
    assert trained_on(loaded, prompts) == 2
    _, err = said(capsys, "eval", str(spells), "--data", str(file), "--task", "pairs", "--max-new-tokens", "2")
    assert "2 of the 3 questions were trained on" in err
    assert "--fresh" in refused(capsys, "eval", str(spells), "--fresh", "3")


def test_meteor_counts_synonyms_where_wordnet_is_at_hand(capsys: Any, monkeypatch: pytest.MonkeyPatch):
    class Lemma:
        def name(self) -> str:
            return "hound"

    class Synset:
        def lemmas(self) -> list[Lemma]:
            return [Lemma()]

    class WordNet:
        def synsets(self, word: str) -> list[Synset]:
            return [Synset()] if word == "dog" else []

    said, wanted = ["The dog sat on it."], ["the hound sat on it"]
    monkeypatch.setattr(pairs, "wordnet", WordNet)
    # Five words match in one piece: 1 - 0.5 * (1 / 5) ** 3.
    assert pairs.overlap(said, wanted)["meteor"] == pytest.approx(99.6)
    assert pairs.overlap(["a bird"], wanted)["meteor"] == 0 and not capsys.readouterr().err
    monkeypatch.setattr(pairs, "wordnet", lambda: None)
    assert pairs.overlap(said, wanted).keys() == {"bleu", "chrf", "rouge_l"}
    assert capsys.readouterr().err == "METEOR is left out: it needs WordNet, python -m nltk.downloader wordnet\n"


def test_wordnet_is_looked_for_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nltk = pytest.importorskip("nltk", reason="needs the extra [eval]")
    from nltk.corpus.reader import WordNetCorpusReader
    from nltk.corpus.util import LazyCorpusLoader

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr("nltk.corpus.wordnet", LazyCorpusLoader("wordnet", WordNetCorpusReader, None))
    assert pairs.wordnet() is None
