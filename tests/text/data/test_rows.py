"""HRM's dataset folder with rows of text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.text.data import Packed, Rows, encode, is_packed, make_tokenizer, open_text, write_rows
from tests.data import hrm_data
from tests.text.data.texts import VERSE, letters, pack


def folder_of(path: Path, tokens: np.ndarray, vocabulary: int = 50, **facts: object) -> Path:
    """Rows as a program for next tokens writes them: inputs all but the last, labels all but the first."""
    folder = path / "train"
    folder.mkdir(parents=True)
    np.save(folder / "all__inputs.npy", tokens[:, :-1])
    np.save(folder / "all__labels.npy", tokens[:, 1:])
    known = {"pad_id": 1, "blank_identifier_id": 0, "vocab_size": vocabulary, "seq_len": tokens.shape[1] - 1}
    (folder / "dataset.json").write_text(
        json.dumps({**known, "num_puzzle_identifiers": 1, "ignore_label_id": None, "sets": ["all"], **facts})
    )
    return path


TOKENS = np.random.default_rng(0).integers(0, 50, (10, 8)).astype(np.int32)


def test_every_epoch_shows_each_row_once_with_the_next_tokens(tmp_path: Path):
    rows = Rows.open(folder_of(tmp_path / "rows", TOKENS))
    assert (rows.epoch(7), rows.count) == (10, 70)
    for epoch in range(2):
        batch = rows.batch(0, epoch, range(10), 10, 7)
        shown = np.concatenate([batch.input_ids, batch.labels[:, -1:]], axis=1)
        assert sorted(shown.tolist()) == sorted(TOKENS.tolist()) and shown.tolist() != TOKENS.tolist()
        np.testing.assert_array_equal(batch.input_ids[:, 1:], batch.labels[:, :-1])
        assert (batch.position_ids == np.arange(7)).all()
    halves = [rows.batch(0, 3, half, 8, 7) for half in (range(4), range(4, 8))]
    np.testing.assert_array_equal(
        np.concatenate([half.labels for half in halves]), rows.batch(0, 3, range(8), 8, 7).labels
    )
    (window,) = rows.windows(7, rows=99)
    np.testing.assert_array_equal(window.input_ids, TOKENS[:, :-1])


def test_ignored_labels_do_not_count(tmp_path: Path):
    (window,) = Rows.open(folder_of(tmp_path / "rows", TOKENS, ignore_label_id=3)).windows(7, rows=99)
    np.testing.assert_array_equal(window.labels, np.where(TOKENS[:, 1:] == 3, -100, TOKENS[:, 1:]))


def test_what_does_not_fit_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"all__inputs\.npy row \d"):
        Rows.open(folder_of(tmp_path / "a", TOKENS, vocabulary=49))
    with pytest.raises(UserError, match="but the tokenizer"):
        Rows.open(folder_of(tmp_path / "b", TOKENS), letters())
    with pytest.raises(UserError, match="rows of 7 tokens, not 9"):
        Rows.open(tmp_path / "b").batch(0, 0, range(1), 1, 9)
    with pytest.raises(UserError, match="stride"):
        list(Rows.open(tmp_path / "b").windows(7, 3))
    with pytest.raises(UserError, match="holds no packed text"):
        open_text(tmp_path)
    file = tmp_path / "b" / "train" / "all__labels.npy"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"all__labels\.npy"):
        Rows.open(tmp_path / "b")


def test_packed_text_written_as_rows_reads_the_same(tmp_path: Path):
    packed = pack(tmp_path / "packed", [VERSE])
    write_rows(tmp_path / "rows", {"train": packed}, 16, len(letters()))
    rows = open_text(tmp_path / "rows", letters())
    assert isinstance(rows, Rows) and isinstance(open_text(tmp_path / "packed"), Packed)
    assert is_packed(tmp_path / "rows") and is_packed(tmp_path / "packed") and not is_packed(tmp_path)
    for ours, theirs in zip(packed.windows(16), rows.windows(16), strict=True):
        np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert rows.characters == packed.characters - 1 + len("<|end|>")  # labels lack the first character


def test_roberta_rows_of_128_tokens_are_read(tmp_path: Path):
    roberta = make_tokenizer(hrm_data() / "tokenizers/roberta-base")
    text = (hrm_data() / "text/alice.txt").read_text("utf-8")
    (example,) = encode(roberta, [text[:60000]])
    tokens = example.tokens[: len(example.tokens) // 128 * 128].reshape(-1, 128).astype(np.int32)
    rows = Rows.open(folder_of(tmp_path / "rows", tokens, len(roberta)), roberta)
    batch = rows.batch(0, 0, range(4), 4, 127)
    assert batch.input_ids.shape == (4, 127)
    assert str(roberta.decode(batch.labels[0])) in text
    assert rows.bytes / rows.characters > 1
