"""Tokenizers of characters, of one's own and of others' files."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.text.data import encode, make_tokenizer, tokenizer_hash, train_bpe
from tests.data import hrm_data
from tests.text.data.texts import VERSE, letters


@given(st.text(min_size=1))
def test_characters_come_back_exactly(text: str):
    tokenizer = make_tokenizer("char", [text])
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == 2 + len(set(text))


@given(st.lists(st.text(alphabet=VERSE + "<|end|>Ж", min_size=1), min_size=1))
def test_packing_gives_what_the_tokenizer_gives(texts: list[str]):
    tokenizer = letters()
    for text, example in zip(texts, encode(tokenizer, texts), strict=True):
        assert example.tokens.tolist() == tokenizer(text)["input_ids"]
        assert (example.characters, example.bytes) == (len(text), len(text.encode()))


def test_characters_are_numbered_as_they_appear_after_the_special_tokens():
    tokenizer = make_tokenizer("char", ["ba", "ca"])
    assert tokenizer.get_vocab() == {"<|end|>": 0, "<|unknown|>": 1, "b": 2, "a": 3, "c": 4}
    assert tokenizer("abZ")["input_ids"] == [3, 2, 1]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 0, 1)


def test_a_saved_tokenizer_loads_with_the_auto_class_and_keeps_its_hash(tmp_path: Path):
    from transformers import AutoTokenizer

    text = VERSE + " \r\n\t<|end|> ZX"
    tokenizer = make_tokenizer("char", [text])
    tokenizer.save_pretrained(tmp_path / "here")
    again = AutoTokenizer.from_pretrained(tmp_path / "here", local_files_only=True)
    assert again.decode(again(text)["input_ids"]) == text
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer) != tokenizer_hash(letters())
    file = make_tokenizer(tmp_path / "here" / "tokenizer.json")
    assert tokenizer_hash(file) == tokenizer_hash(tokenizer) and file.eos_token == "<|end|>"


@given(st.text())
def test_byte_pairs_come_back_exactly(text: str):
    tokenizer = _BPE
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


_BPE = train_bpe([VERSE] * 3, 300)


def test_byte_pairs_have_the_size_asked_for_and_are_the_same_each_time():
    assert len(_BPE) == 300 and _BPE.eos_token_id == 0
    assert tokenizer_hash(train_bpe([VERSE] * 3, 300)) == tokenizer_hash(_BPE)
    for size in (256, 10**13):  # the library would abort the process
        with pytest.raises(UserError, match="at least 257 and at most 1,000,000"):
            train_bpe([VERSE], size)
    with pytest.raises(UserError, match="the name of the tokenizer is empty"):
        make_tokenizer("")


def test_text_that_looks_like_a_special_token_stays_text():
    assert 0 not in make_tokenizer("char", ["<|end|>"])("<|end|>")["input_ids"]
    (example,) = encode(_BPE, ["a<|endoftext|>b"])
    assert 0 not in example.tokens


def test_a_tiktoken_file_is_converted(tmp_path: Path):
    tokens = [bytes([i]) for i in range(256)] + [b"th", b"the"]
    ranks = "".join(f"{base64.b64encode(token).decode()} {i}\n" for i, token in enumerate(tokens))
    file = tmp_path / "my.tiktoken"
    file.write_text(ranks)
    tokenizer = make_tokenizer(file)
    assert tokenizer("the wabe")["input_ids"] == [257, *b" wabe"]
    assert (tokenizer.eos_token_id, len(tokenizer)) == (258, 259)
    file.write_text(ranks + "!! 300\n")
    with pytest.raises(UserError, match=r"my\.tiktoken line 259"):
        make_tokenizer(file)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path):
    for name in ("tokenizer.json", "x.model", "x.bin"):
        (tmp_path / name).write_text("{")
        with pytest.raises(UserError, match=name):
            make_tokenizer(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="holds no tokenizer"):
        make_tokenizer(tmp_path / "folder")
    with pytest.raises(UserError, match="there is no tokenizer"):
        make_tokenizer(tmp_path / "nothing")


@pytest.mark.slow
def test_gpt2_and_roberta_from_their_vocabularies(tmp_path: Path):
    folder = hrm_data() / "tokenizers"
    gpt2, roberta = make_tokenizer(folder / "gpt2"), make_tokenizer(folder / "roberta-base")
    assert gpt2("Hello world")["input_ids"] == [15496, 995] and gpt2.eos_token_id == 50256
    assert roberta("Hello world")["input_ids"] == [0, 31414, 232, 2] and roberta.eos_token_id == 2
    assert roberta("Hello <mask>")["input_ids"] == [0, 31414, 50264, 2]
    assert tokenizer_hash(gpt2) != tokenizer_hash(roberta)
    gpt2.save_pretrained(tmp_path / "gpt2")
    assert tokenizer_hash(make_tokenizer(tmp_path / "gpt2")) == tokenizer_hash(gpt2)
    (example,) = encode(roberta, ["Hello world"])
    np.testing.assert_array_equal(example.tokens, [31414, 232])
    assert json.loads(gpt2.backend_tokenizer.to_str())["model"]["type"] == "BPE"


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_gives_what_sentencepiece_gives(tmp_path: Path, kind: str):
    sentencepiece = pytest.importorskip("sentencepiece", reason="needs the extra [data]")
    pytest.importorskip("google.protobuf", reason="needs the extra [data]")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(VERSE.splitlines() * 20),
        model_prefix=str(tmp_path / "my"),
        vocab_size=330,
        model_type=kind,
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "my.model"))
    ours = make_tokenizer(tmp_path / "my.model")
    assert ours.eos_token_id == theirs.eos_id()
    for line in [*VERSE.splitlines(), "", "  two  spaces ", "😀 and £"]:
        ids = ours(line, add_special_tokens=False)["input_ids"]
        assert ids == theirs.encode(line) and ours.decode(ids) == theirs.decode(ids)
    ours.save_pretrained(tmp_path / "saved")
    assert tokenizer_hash(make_tokenizer(tmp_path / "saved")) == tokenizer_hash(ours)
