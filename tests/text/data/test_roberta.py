"""The form of RoBERTa: a text a row between <s> and </s>, padding that nothing learns or sees, prompts in one call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer

from hrm.cli.main import main
from hrm.text.data import make_tokenizer, open_text
from hrm.text.model import HRMForCausalLM
from hrm.text.writing.generation import Sampling, complete
from tests.text.data.texts import lines
from tests.text.model import small

TEXTS = ["the cat sat", "a dog went home and slept", "no", "the owl saw the cat, and the cat saw the owl"]
TEXTS += ["so it was, so it was again"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tokenizer as RoBERTa's files have it, and texts packed with it in rows."""
    folder = tmp_path_factory.mktemp("roberta")
    (folder / "roberta").mkdir()
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS * 9, vocab_size=320, special_tokens=specials, show_progress=False)
    trained.save_model(str(folder / "roberta"))
    lines(folder / "texts.jsonl", [{"text": text} for text in TEXTS])
    lines(folder / "asked.jsonl", [{"question": text, "answer": text[::-1]} for text in TEXTS])
    for name in ("texts", "asked"):
        flags = ["--tokenizer", str(folder / "roberta"), "--rows", "16", "--holdout", "0"]
        assert main(["data", "pack", str(folder / f"{name}.jsonl"), "--out", str(folder / name), *flags]) == 0
    return folder


def model(tokenizer: Any, **changes: Any) -> HRMForCausalLM:
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return small.model(vocab_size=len(tokenizer), max_position_embeddings=64, **ends, **changes)


def test_a_text_stands_in_a_row_between_its_marks_with_padding(place: Path):
    tokenizer = make_tokenizer(place / "texts/tokenizer")
    begin, pad, end = 0, 1, 2
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (begin, pad, end)
    (batch,) = open_text(place / "texts", tokenizer).windows(16, rows=99)
    at = 0
    for text in TEXTS:
        whole = [begin, *tokenizer(text, add_special_tokens=False)["input_ids"], end]
        for start in range(0, len(whole) - 1, 16):  # what is longer than a row goes on in the next
            inputs, labels = whole[start : start + 16], whole[start + 1 : start + 17]
            room = 16 - len(labels)
            inputs = inputs[: len(labels)]
            assert batch.input_ids[at].tolist() == inputs + [pad] * room
            assert batch.labels[at].tolist() == labels + [-100] * room
            assert batch.position_ids[at].tolist() == [*range(len(inputs)), *range(room)]
            at += 1
    assert at == len(batch.labels)
    facts = json.loads((place / "texts/train/dataset.json").read_text())
    assert (facts["pad_id"], facts["ignore_label_id"], facts["vocab_size"]) == (pad, -100, len(tokenizer))


def test_in_rows_of_questions_only_answers_count(place: Path):
    tokenizer = make_tokenizer(place / "asked/tokenizer")
    (batch,) = open_text(place / "asked", tokenizer).windows(16, rows=99)
    row = batch.labels[0]
    assert batch.input_ids[0, 0] == 0 and tokenizer.decode(row[row != -100]) == f"{TEXTS[0][::-1]}</s>"


def test_the_folder_loads_in_transformers_with_the_same_ids(place: Path):
    ours, theirs = make_tokenizer(place / "texts/tokenizer"), AutoTokenizer.from_pretrained(place / "texts/tokenizer")
    (batch,) = open_text(place / "texts", ours).windows(16, rows=99)
    ids = theirs(TEXTS[0])["input_ids"]
    assert (
        batch.input_ids[0, : len(ids) - 1].tolist() == ids[:-1] and batch.labels[0, : len(ids) - 1].tolist() == ids[1:]
    )
    assert [theirs(text)["input_ids"] for text in TEXTS] == [ours(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize("prefix", [False, True])
def test_padding_changes_no_loss_and_no_gradient(place: Path, prefix: bool):
    tokenizer = make_tokenizer(place / "texts/tokenizer")
    (batch,) = open_text(place / "texts", tokenizer).windows(16, rows=99)
    alone = model(tokenizer, prefix_lm=prefix)

    def logits(rows: slice, length: int) -> torch.Tensor:
        arrays = (batch.input_ids, batch.position_ids, batch.token_types)
        ids, positions, types = (torch.from_numpy(np.ascontiguousarray(array[rows, :length])) for array in arrays)
        return alone(ids, position_ids=positions, token_type_ids=types if prefix else None, use_cache=False).logits

    with torch.no_grad():
        together = logits(slice(None), 16)
        for row, labels in enumerate(batch.labels):
            length = int((labels != -100).sum())
            torch.testing.assert_close(together[row : row + 1, :length], logits(slice(row, row + 1), length))


@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_five_prompts_in_one_call_are_answered_as_one_by_one(place: Path, halting: str):
    tokenizer = AutoTokenizer.from_pretrained(place / "texts/tokenizer", padding_side="left")
    asked = model(tokenizer, halting=halting)
    together = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert len({int(mask.sum()) for mask in together["attention_mask"]}) == 5
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    out = asked.generate(together["input_ids"], attention_mask=together["attention_mask"], **settings)
    width = together["input_ids"].shape[1]
    for row, text in zip(out, TEXTS, strict=True):
        one = asked.generate(**tokenizer(text, return_tensors="pt"), **settings)[0]
        new = one[len(tokenizer(text)["input_ids"]) :]
        assert row[width : width + len(new)].tolist() == new.tolist()
        assert set(row[width + len(new) :].tolist()) <= {tokenizer.pad_token_id}
    sampling = Sampling(max_new_tokens=6, greedy=True)
    many = [found.text for found in complete(asked, tokenizer, TEXTS, sampling)]
    assert many == [complete(asked, tokenizer, [text], sampling)[0].text for text in TEXTS]


@pytest.mark.slow
def test_the_preset_of_this_form_learns_such_rows(place: Path, tmp_path: Path):
    shape = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32"
    shape += " --halting.max-segments 2"
    flags = "--text.length 16 --train.batch-size 5 --train.steps 3 --optim.warmup-steps 0 --train.device cpu"
    data = ["--data", str(place / "texts"), "--text.tokenizer", str(place / "texts/tokenizer")]
    run = str(tmp_path / "run")
    assert main(["train", "text-roberta-78m", *data, "--out", run, *shape.split(), *flags.split()]) == 0
    assert main(["generate", run, "the cat", "--max-new-tokens", "3"]) == 0
