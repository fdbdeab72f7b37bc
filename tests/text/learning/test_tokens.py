"""Learners whose tokens are no characters: byte pairs trained on the first book, and tokenizers from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hrm.cli.main import main as hrm
from hrm.files.reading import UserError
from hrm.text.data import Packed, make_tokenizer, tokenizer_hash
from hrm.text.learning.learner import Learner
from hrm.text.load import load_text
from hrm.text.writing.generation import Sampling, generate
from tests.text.learning.test_learner import FLAGS, config, first, paused_at, same, second, weights

pytestmark = pytest.mark.slow


def words(folder: Path) -> Path:
    """A tokenizer of letter pairs that knows the letters of the first book only."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    trainer = trainers.BpeTrainer(vocab_size=30, special_tokens=["<end>", "<unk>"], show_progress=False)
    backend.train_from_iterator([first(folder).read_text("utf-8")], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<end>", unk_token="<unk>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder / "pairs")
    return folder / "pairs"


def test_byte_pairs_of_the_first_book_read_every_other(tmp_path: Path):
    learner = Learner.create(tmp_path / "run", config(tokenizer="bpe:264"))
    learner.learn(first(tmp_path, 120))
    assert len(learner.tokenizer) == 264 == learner.model.config.vocab_size
    known = tokenizer_hash(learner.tokenizer)
    learner.learn(second(tmp_path, 120))
    assert tokenizer_hash(learner.tokenizer) == known  # bytes need no new tokens
    assert [entry["vocabulary"] for entry in learner.growth] == [[2, 264]]
    again = Learner.open(tmp_path / "run")
    assert tokenizer_hash(again.tokenizer) == known
    assert again.tokenizer.decode(again.tokenizer("Ä ")["input_ids"]) == "Ä "
    loaded = load_text(tmp_path / "run", device="cpu")
    assert generate(loaded.model, loaded.tokenizer, "the", Sampling(max_new_tokens=5)).tokens


def test_bits_are_those_of_a_character(tmp_path: Path):
    learner = Learner.create(tmp_path / "run", config(tokenizer="bpe:300", eval_characters=10**6))
    said = []
    book = learner.learn(first(tmp_path), say=said.append)
    folder = next((tmp_path / "run").glob("books/*/validation"))
    held = Packed.open(folder)
    nats, characters = 0.0, 0
    for batch in held.windows(24):
        ids, labels, positions = (torch.from_numpy(np.asarray(array)) for array in batch)
        with torch.no_grad():
            out = learner.model.eval()(ids, position_ids=positions, max_segments=1, halting="fixed", use_cache=False)
        nats += float(torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        counted = labels[labels != -100].tolist()
        characters += len(learner.tokenizer.decode(counted, skip_special_tokens=True))
    expected = nats / np.log(2) / characters
    assert characters > 1.5 * held.count
    assert book["bits_per_character_then"] == pytest.approx(expected, rel=1e-3)
    shown = [event["bits"] for event in said if event["event"] == "step"]
    assert shown[-1] == pytest.approx(expected, rel=0.5)


def test_tokens_are_added_for_characters_that_a_tokenizer_from_a_folder_lacks(tmp_path: Path):
    folder = words(tmp_path)
    learner = Learner.create(tmp_path / "run", config(tokenizer=str(folder)))
    learner.learn(first(tmp_path, 120))
    known, held = make_tokenizer(folder), learner.books[0]
    assert tokenizer_hash(learner.tokenizer) == tokenizer_hash(known)
    before = learner.bits(held)
    learner.asked = lambda: "pause"
    learner.learn(second(tmp_path, 120))
    added = learner.growth[-1]
    assert added["vocabulary"] == [len(known), len(learner.tokenizer)] and "Ä" in added["added"]
    assert learner.books[1]["new_tokens"] == len(learner.tokenizer) - len(known) > 5
    assert learner.tokenizer.get_vocab().items() >= known.get_vocab().items()
    again = Learner.open(tmp_path / "run")  # paused after the first update
    assert tokenizer_hash(again.tokenizer) == tokenizer_hash(learner.tokenizer)
    again.learn(second(tmp_path, 120))
    ids = again.tokenizer("ÄPFEL")["input_ids"]
    assert again.tokenizer.unk_token_id not in ids and str(again.tokenizer.decode(ids)).replace(" ", "") == "ÄPFEL"
    assert before == pytest.approx(held["bits_per_character_then"], rel=1e-6)


def test_pauses_change_nothing(tmp_path: Path):
    files = [first(tmp_path, 120), second(tmp_path, 100)]
    straight = paused_at(tmp_path / "straight", files, lambda step: False, tokenizer="bpe:270")
    paused = paused_at(tmp_path / "paused", files, lambda step: step % 5 == 1, tokenizer="bpe:270")
    assert same(weights(straight), weights(paused)) and straight.step_number == paused.step_number > 5


def test_the_command_line_names_tokens_repairs_them_and_keeps_to_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, book = tmp_path / "run", str(first(tmp_path))
    assert hrm(["learn", str(run), book, *FLAGS, "--tokenizer", "bpe:260"]) == 0
    assert "260 tokens" in capsys.readouterr().err
    assert hrm(["learn", str(run), book, "--tokenizer", "char"]) == 2
    assert "has learned with bpe:260" in capsys.readouterr().err
    for pairs in ("99", "9999999999999", "9" * 5000, "x"):
        assert hrm(["learn", str(tmp_path / "other"), book, "--tokenizer", f"bpe:{pairs}"]) == 2
        said = capsys.readouterr().err
        assert "must be bpe:N with N at least 257 and at most 1,000,000" in said and len(said) < 300
        assert not (tmp_path / "other").exists()
    assert hrm(["status", str(run), "--repair"]) == 0
    assert "is intact" in capsys.readouterr().err and not (run / "tokenizer-old-1").exists()
    kept = json.loads((run / "tokenizer/tokenizer.json").read_text("utf-8"))
    (run / "tokenizer/tokenizer.json").unlink()
    assert hrm(["status", str(run), "--repair"]) == 0
    assert "260 tokens known" in capsys.readouterr().out
    assert json.loads((run / "tokenizer/tokenizer.json").read_text("utf-8")) == kept
    with pytest.raises(UserError, match="--tokenizer"):
        Learner.open(run, tokenizer="bpe:300")
