"""A corpus of many shards and sources: which rows a training reads, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.text.data import Packed, SourceFacts, encode, make_tokenizer, open_text, seal
from hrm.text.data.corpus import Corpus, permuted
from hrm.text.data.tokenizers import END

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def make(folder: Path, weights: Mapping[str, float], shards: int = 2, documents: int = 3) -> Corpus:
    """Sources that are told apart by their letters."""
    tokenizer = make_tokenizer("char", [LETTERS])
    for letter in weights:
        for shard in range(shards):
            texts = [letter * (20 + 7 * shard + number) for number in range(documents)]
            (folder / letter).mkdir(parents=True, exist_ok=True)
            Packed.write(folder / letter / f"{shard:05}", tokenizer, encode(tokenizer, texts))
    return seal(folder, [SourceFacts(name, weight, "CC0", "a page") for name, weight in weights.items()])


def sources(corpus: Corpus, rows: range) -> list[str]:
    """The source of each row."""
    tokens = make_tokenizer("char", [LETTERS]).convert_ids_to_tokens(list(range(len(LETTERS) + 2)))
    batch = corpus.batch(1, 0, rows, rows.stop, 8)
    both = np.concatenate([batch.input_ids, batch.labels], axis=1)
    return [max((tokens[number] for number in row if number >= 0), key=lambda text: text in LETTERS) for row in both]


@given(st.integers(1, 3000), st.text(max_size=5))
@settings(max_examples=40, deadline=None)
def test_an_order_without_a_table_has_each_number_once(count: int, key: str) -> None:
    assert sorted(permuted(place, count, key) for place in range(count)) == list(range(count))


def test_orders_differ_by_their_key_and_look_random() -> None:
    one, other = ([permuted(place, 5000, key) for place in range(5000)] for key in ("a", "b"))
    assert sum(x == y for x, y in zip(one, other, strict=True)) < 20
    steps = np.diff(one)
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.05 and abs(steps.mean()) < 5


def test_sources_are_read_in_the_shares_of_their_weights(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", {"a": 6, "b": 3, "c": 1})
    found = Counter(sources(corpus, range(4096)))
    del found[END]  # rows of nothing but the end of a document
    assert {name: round(count / 4096, 2) for name, count in found.items()} == {"a": 0.6, "b": 0.3, "c": 0.1}
    read = sources(corpus, range(2048))
    alike = sum(one == other for one, other in zip(read[:1024], read[1024:], strict=True))
    assert alike < 0.8 * 1024  # every block is mixed in an order of its own
    assert corpus.epochs(4096, 8)["a"] == pytest.approx(0.6 * 4096 / corpus._starts(0, 8)[-1])


def test_every_token_of_an_epoch_is_a_label_once(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", {"a": 1}, shards=3)
    rows = corpus.epoch(8)
    for epoch in range(2):
        batch = corpus.batch(3, epoch, range(rows), rows, 8)
        targets = corpus.count - 3 - sum(len(corpus._shard(s).documents) - 2 for s in corpus.sources[0].shards)
        assert int((batch.labels != -100).sum()) == targets
    first, second = (corpus.batch(3, epoch, range(rows), rows, 8) for epoch in range(2))
    assert not np.array_equal(first.input_ids, second.input_ids)


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_rows_are_a_function_of_seed_step_and_row(corpus: Corpus, step: int, size: int, parts: int) -> None:
    whole = corpus.batch(7, step, range(size), size, 8)
    pieces = [corpus.batch(7, step, range(row, min(size, row + parts)), size, 8) for row in range(0, size, parts)]
    again = Corpus.open(corpus.folder).batch(7, step, range(size), size, 8)
    for field in range(3):
        assert np.array_equal(np.concatenate([piece[field] for piece in pieces]), whole[field])
        assert np.array_equal(again[field], whole[field])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make(tmp_path_factory.mktemp("rows") / "corpus", {"a": 2, "b": 1, "c": 1})


def test_many_sources_of_tiny_weight_have_their_share(tmp_path: Path) -> None:
    weights = {letter: 1 + 50 * (letter == "a") for letter in LETTERS}
    corpus = make(tmp_path / "corpus", weights, shards=1, documents=1)
    block = corpus._block
    assert all(len(corpus._mixed(0, number)) == block for number in range(50))
    found = Counter(sources(corpus, range(block)))
    total = sum(weights.values())
    assert all(abs(found[name] - block * weight / total) <= len(weights) for name, weight in weights.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda facts: facts["sources"][0].update(weight=-1), r"'sources\[0\].weight' is -1"),
        (lambda facts: facts["sources"][0].update(weight=float("nan")), "weight"),
        (lambda facts: facts["sources"][0]["shards"][0].update(folder="../../elsewhere"), "outside|missing"),
        (lambda facts: facts["sources"][0]["shards"][0].update(count=5), "does not fit"),
        (lambda facts: facts["sources"][0].update(shards=[]), "no shards"),
        (lambda facts: facts["sources"][0]["shards"][0].update(count=1), "count"),
        (lambda facts: facts["sources"].append(facts["sources"][0]), "two of its sources have one name"),
        (lambda facts: facts.update(format=2), "'format' is 2"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path: Path, change, said: str) -> None:
    folder = make(tmp_path / "corpus", {"a": 1}).folder
    facts = json.loads((folder / "corpus.json").read_text())
    change(facts)
    (folder / "corpus.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=said):
        open_text(folder).batch(0, 0, range(40), 40, 8)


def test_changed_shards_are_found(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", {"a": 1, "b": 1})
    assert not list(corpus.check())
    tokens = tmp_path / "corpus" / "b" / "00001" / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[0] ^= 1
    tokens.write_bytes(content)
    assert [str(tokens) in sentence for sentence in Corpus.open(corpus.folder).check()] == [True]


def test_nothing_is_read_of_a_corpus_that_took_the_place_of_this_one(tmp_path: Path) -> None:
    corpus, other = make(tmp_path / "corpus", {"a": 1}), make(tmp_path / "other", {"a": 1}, documents=9)
    first = corpus.sources[0].shards[0]
    before = corpus._shard(first).row(0, 0, 0, 8)
    shutil.rmtree(corpus.folder)
    other.folder.rename(corpus.folder)
    again = corpus._shard(first).row(0, 0, 0, 8)
    assert all((one == two).all() for one, two in zip(before, again, strict=True))
    with pytest.raises(UserError, match=r"00001 has changed since .*corpus.json was read: restore it"):
        corpus.batch(0, 0, range(20), 20, 8)


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "corpus", {"a": 1}).folder
    with pytest.raises(UserError, match="another tokenizer"):
        Corpus.open(folder, make_tokenizer("char", ["other"]))


def test_a_model_is_trained_on_a_corpus_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    tokenizer = make_tokenizer("char", [LETTERS])
    make(corpus / "train", {"a": 3, "b": 1})
    Packed.write(corpus / "validation", tokenizer, encode(tokenizer, ["ab" * 20]))
    tokenizer.save_pretrained(corpus / "tokenizer")
    assert hrm(["data", "check", str(corpus)]) == 0
    assert hrm(["data", "show", str(corpus), "--row", "2"]) == 0
    assert "aaaa" in capsys.readouterr().out
    small = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --halting.max-segments 1 "
    small += "--text.length 8 --train.batch-size 2 --train.checkpoint-every 2 --train.log-every 1 --train.device cpu "
    small += "--optim.warmup-steps 1 --optim.schedule constant"
    words = ["train", "text-char", "--data", str(corpus), "--out", str(run), *small.split()]
    assert hrm([*words, "--train.steps", "2"]) == 0
    assert not (run / "data").exists() or not list((run / "data").iterdir())
    assert hrm(["train", "--resume", str(run), "--train.steps", "4"]) == 0
    straight = tmp_path / "straight"
    words[words.index(str(run))] = str(straight)
    assert hrm([*words, "--train.steps", "4"]) == 0
    losses = [
        [json.loads(line).get("loss") for line in (folder / "metrics.jsonl").read_text().splitlines()][-1]
        for folder in (run, straight)
    ]
    assert losses[0] == losses[1]
    capsys.readouterr()
    assert hrm(["eval", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 40
    tokens = corpus / "train" / "a" / "00000" / "tokens.bin"
    content = tokens.read_bytes()
    tokens.write_bytes(b"")
    assert hrm(["train", "--resume", str(run), "--train.steps", "6"]) == 2
    assert f"{tokens} has 0 of" in capsys.readouterr().err
    tokens.write_bytes(content)
    corpus.rename(tmp_path / "moved")
    assert hrm(["train", "--resume", str(run), "--train.steps", "6"]) == 2
    assert "is missing: put it back, or name it with --data" in capsys.readouterr().err
    (tmp_path / "moved").rename(corpus)
    (corpus / "train" / "corpus.json").rename(corpus / "kept")
    assert hrm(["data", "check", str(corpus)]) == 2
    (corpus / "kept").rename(corpus / "train" / "corpus.json")
    facts = json.loads((corpus / "train" / "corpus.json").read_text())
    facts["sources"][0]["weight"] = 1
    (corpus / "train" / "corpus.json").write_text(json.dumps(facts))
    assert hrm(["train", "--resume", str(run), "--train.steps", "6"]) == 2
    assert "has changed since the run" in capsys.readouterr().err


def test_windows_apart_are_from_every_source(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", {"a": 1, "b": 1, "c": 1}, documents=9)
    whole, some = list(corpus.windows(8, rows=1)), list(corpus.windows(8, rows=1, apart=6))
    assert len(whole) / 8 < len(some) < len(whole) / 4
    tokens = make_tokenizer("char", [LETTERS]).convert_ids_to_tokens([int(batch.input_ids[0, 1]) for batch in some])
    assert {"a", "b", "c"} <= set(tokens)
    assert [len(list(corpus.windows(8, rows=99, apart=10**6)))] == [6], "at least one of each shard"
