"""Tokenizers that grow: old ids stay, new ones follow, and what was lost is rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.text.data import encode, make_tokenizer, tokenizer_hash, train_bpe
from hrm.text.data.growing import grow_tokenizer, new_characters, rebuild_tokenizer
from hrm.text.data.tokenizers import characters_of
from tests.data import hrm_data
from tests.text.data.texts import VERSE

TEXTS = st.lists(st.text(min_size=1), min_size=1, max_size=4)


@given(TEXTS)
def test_books_one_after_the_other_give_the_tokenizer_of_all_at_once(books: list[str]):
    tokenizer = make_tokenizer("char", books[:1])
    for i, book in enumerate(books):
        old = tokenizer.get_vocab()
        added = grow_tokenizer(tokenizer, new_characters(tokenizer, [book]))
        assert [tokenizer.get_vocab()[c] for c in added] == list(range(len(old), len(old) + len(added)))
        assert old.items() <= tokenizer.get_vocab().items()
        for text in books[: i + 1]:
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer_hash(tokenizer) == tokenizer_hash(make_tokenizer("char", books))


def test_packing_and_saving_see_what_was_added(tmp_path: Path):
    tokenizer = make_tokenizer("char", [VERSE])
    before = tokenizer_hash(tokenizer)
    assert grow_tokenizer(tokenizer, "é☃é" + VERSE[0]) == ["é", "☃"]
    table = characters_of(tokenizer)
    assert table is not None and table[ord("☃")] == len(tokenizer) - 1 and tokenizer_hash(tokenizer) != before
    (example,) = encode(tokenizer, ["☃é"])
    assert example.tokens.tolist() == [len(tokenizer) - 1, len(tokenizer) - 2]
    tokenizer.save_pretrained(tmp_path)
    again = make_tokenizer(tmp_path)
    assert tokenizer_hash(again) == tokenizer_hash(tokenizer) and again.decode(again("☃é")["input_ids"]) == "☃é"
    assert grow_tokenizer(again, ["ß"]) == ["ß"] and again("ß")["input_ids"] == [len(tokenizer)]


@given(TEXTS)
def test_a_tokenizer_is_rebuilt_from_its_tokens(books: list[str]):
    tokenizer = make_tokenizer("char", books)
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert rebuild_tokenizer(tokens).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize(
    "tokens", [[], ["a", "b"], ["<|end|>", "<|unknown|>", "a", "a"], ["<|end|>", "<|unknown|>", "ab"]]
)
def test_what_is_no_list_of_characters_is_refused(tokens: list[str]):
    with pytest.raises(UserError, match="of characters"):
        rebuild_tokenizer(tokens)


@given(st.text(alphabet=VERSE + "<q>☃", min_size=1))
def test_byte_pairs_grow_by_whole_tokens(text: str):
    ids = _GROWN(text)["input_ids"]
    assert _GROWN.decode(ids) == text
    assert ids.count(300) == text.count("<q>") and all(i < 302 for i in ids)


_GROWN = train_bpe([VERSE] * 3, 300)
grow_tokenizer(_GROWN, ["<q>", "☃☃", "<q>"])


def test_bytes_need_no_new_characters_and_old_text_keeps_its_tokens():
    tokenizer = train_bpe([VERSE] * 3, 300)
    before = tokenizer(VERSE)["input_ids"]
    assert new_characters(tokenizer, ["☃é\x00"]) == []
    assert grow_tokenizer(tokenizer, ["<q>"]) == ["<q>"] and grow_tokenizer(tokenizer, ["<q>"]) == []
    assert tokenizer(VERSE)["input_ids"] == before and len(tokenizer) == 301


def test_published_tokenizers_grow():
    for name, size in (("gpt2", 50257), ("roberta-base", 50265)):
        tokenizer = make_tokenizer(hrm_data() / "tokenizers" / name)
        assert grow_tokenizer(tokenizer, ["<book>"]) == ["<book>"]
        assert tokenizer("a <book>b", add_special_tokens=False)["input_ids"].count(size) == 1
