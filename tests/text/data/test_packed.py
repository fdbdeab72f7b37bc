"""Token files: what rows hold, for any division among processes, and what is refused."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.text.data import Batch, Example, Packed, documents, encode, hold_out, make_tokenizer
from hrm.text.data.sources import DocumentPart
from tests.text.data.texts import VERSE, letters, numbered, pack

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 1)


def targets(packed: Packed) -> list[int]:
    """Every token that should be a label: all but the first of a document and those that do not count."""
    counts = np.ones(packed.count, bool) if packed.mask is None else packed.mask == 1
    counts[packed.documents[:-1]] = False
    return sorted(packed.tokens[counts].tolist())


def labels(*batches: Batch) -> list[int]:
    return sorted(label for batch in batches for label in batch.labels[batch.labels != -100].tolist())


@given(LENGTHS, st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_an_epoch_has_every_token_but_first_ones_as_a_label_once(lengths, length, whole, masked, seed):
    with tempfile.TemporaryDirectory() as folder:
        packed = numbered(Path(folder, "packed"), lengths, whole, masked)
        rows = packed.epoch(length)
        for epoch in range(2):
            batches = [packed.batch(seed, epoch * rows + row, range(1), 1, length) for row in range(rows)]
            assert labels(*batches) == targets(packed)


@given(LENGTHS, st.integers(1, 9), st.booleans(), st.booleans(), st.data())
def test_windows_have_every_token_but_first_ones_as_a_label_once(lengths, length, whole, masked, data):
    stride = data.draw(st.none() | st.integers(1, length))
    with tempfile.TemporaryDirectory() as folder:
        packed = numbered(Path(folder, "packed"), lengths, whole, masked)
        assert labels(*packed.windows(length, stride, rows=3)) == targets(packed)


@given(LENGTHS, st.integers(1, 9), st.booleans(), st.integers(0, 5), st.integers(1, 7), st.data())
def test_rows_do_not_depend_on_how_they_are_divided_or_on_what_was_read_before(
    lengths, length, whole, step, size, data
):
    with tempfile.TemporaryDirectory() as folder:
        packed = numbered(Path(folder, "packed"), lengths, whole)
        everything = packed.batch(3, step, range(size), size, length)
        again = Packed.open(Path(folder, "packed"))  # as after resuming
        cut = data.draw(st.integers(0, size))
        parts = [again.batch(3, step, rows, size, length) for rows in (range(cut), range(cut, size))]
        for whole_array, *pieces in zip(everything, *parts, strict=True):
            np.testing.assert_array_equal(whole_array, np.concatenate(pieces))


@given(LENGTHS, st.integers(1, 9), st.booleans(), st.integers(0, 50))
def test_no_label_crosses_the_end_of_a_document_and_positions_begin_with_it(lengths, length, whole, step):
    with tempfile.TemporaryDirectory() as folder:
        packed = numbered(Path(folder, "packed"), lengths, whole)
        document = np.repeat(np.arange(len(lengths)), np.diff(packed.documents))
        of = dict(zip(packed.tokens.tolist(), document.tolist(), strict=True))  # wrong for the end tokens alone
        ids, following, positions = (array[0] for array in packed.batch(0, step, range(1), 1, length))
        for i in range(length):
            if following[i] > 1:  # neither ignored nor an end token
                assert following[i] == ids[i] + 1 and of[following[i]] == of[ids[i]]
            if i and ids[i - 1] == 0 and ids[i] > 1:
                assert positions[i] == 0 and following[i - 1] == -100
            if i and 1 < ids[i - 1] == ids[i] - 1 and of[ids[i - 1]] == of[ids[i]]:
                assert positions[i] == positions[i - 1] + 1
        assert positions[0] == 0


def test_whole_rows_keep_documents_together_in_few_rows(tmp_path: Path):
    packed = numbered(tmp_path / "packed", [6, 4, 8, 3, 2, 5] * 20, whole=True)
    (batch,) = packed.windows(8, rows=1000)
    inputs = [i for i in range(2, packed.count) if i in packed.tokens]
    firsts = packed.tokens[packed.documents[:-1]]
    for row, positions in zip(batch.input_ids, batch.position_ids, strict=True):
        real = row[row > 1]
        assert set(real[positions[: len(row)][row > 1] == 0]) <= set(firsts.tolist())
    assert len(inputs) / batch.input_ids.size > 0.9


def test_epochs_differ_in_order_and_seeds_do(tmp_path: Path):
    packed = pack(tmp_path / "packed", [VERSE])
    rows = packed.epoch(8)
    first, second = (packed.batch(0, step, range(rows), rows, 8).input_ids for step in range(2))
    other = packed.batch(1, 0, range(rows), rows, 8).input_ids
    assert (first != second).any() and (first != other).any()


def test_the_text_comes_back_with_an_end_after_each_document(tmp_path: Path):
    texts = [VERSE[:30], DocumentPart(VERSE[30:60]), VERSE[60:], "the"]
    packed = pack(tmp_path / "packed", texts)
    tokenizer = letters()
    assert tokenizer.decode(packed.tokens) == f"{VERSE[:30]}<|end|>{VERSE[30:]}<|end|>the<|end|>"
    assert packed.documents.tolist() == [0, 31, len(VERSE) + 2, len(VERSE) + 6]
    assert (packed.characters, packed.bytes) == (len(VERSE) + 3, len(VERSE.encode()) + 3)
    assert packed.tokens.dtype == np.uint16


def test_a_mask_holds_for_what_was_written_before_and_after(tmp_path: Path):
    tokens = np.arange(2, 6)
    items = [Example(tokens), Example(tokens, np.array([0, 0, 1, 1])), Example(tokens)]
    packed = Packed.write(tmp_path / "packed", letters(), items)
    assert packed.mask is not None and packed.whole
    assert packed.mask.tolist() == [1] * 5 + [0, 0, 1, 1, 1] + [1] * 5


@pytest.mark.parametrize("name", ["tokens.bin", "mask.bin", "documents.npy", "index.json"])
def test_a_file_that_is_cut_short_or_missing_is_refused_by_name(tmp_path: Path, name: str):
    numbered(tmp_path / "packed", [9, 9], masked=True)
    file = tmp_path / "packed" / name
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match=name if name != "documents.npy" else "packed"):
        Packed.open(tmp_path / "packed")
    file.unlink()
    with pytest.raises(UserError, match="packed"):
        Packed.open(tmp_path / "packed")
    file.write_bytes(content)
    assert Packed.open(tmp_path / "packed").count == 18


def test_a_changed_byte_is_found_by_check(tmp_path: Path):
    packed = numbered(tmp_path / "packed", [9, 9])
    assert list(packed.check()) == []
    content = bytearray((packed.folder / "tokens.bin").read_bytes())
    content[4] ^= 1
    (packed.folder / "tokens.bin").write_bytes(content)
    assert "tokens.bin has changed" in next(Packed.open(packed.folder).check())


def test_another_tokenizer_is_refused(tmp_path: Path):
    packed = pack(tmp_path / "packed", [VERSE])
    letters().save_pretrained(tmp_path / "tokenizer")
    assert Packed.open(packed.folder, make_tokenizer(tmp_path / "tokenizer")).count == packed.count
    with pytest.raises(UserError, match="another tokenizer"):
        Packed.open(packed.folder, make_tokenizer("char", [VERSE + "Z"]))


def test_a_failure_leaves_nothing_behind_and_a_folder_is_not_overwritten(tmp_path: Path):
    def texts():
        yield VERSE
        raise UserError("line 2 is broken")

    with pytest.raises(UserError, match="line 2"):
        Packed.write(tmp_path / "packed", letters(), encode(letters(), texts()))
    with pytest.raises(UserError, match="no text"):
        Packed.write(tmp_path / "packed", letters(), [])
    assert list(tmp_path.iterdir()) == []
    pack(tmp_path / "packed", [VERSE])
    with pytest.raises(UserError, match="exists"):
        pack(tmp_path / "packed", [VERSE])


def test_an_index_of_another_version_is_refused(tmp_path: Path):
    packed = pack(tmp_path / "packed", [VERSE])
    index = packed.folder / "index.json"
    index.write_text(json.dumps({**packed.facts, "format": 2}))
    with pytest.raises(UserError, match=r"index\.json"):
        Packed.open(packed.folder)


def test_unknown_characters_are_counted(tmp_path: Path):
    assert pack(tmp_path / "packed", ["the Ж and Ж"]).facts["unknown"] == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path):
    peaks = []
    for megabytes in (4, 16):
        file = tmp_path / f"{megabytes}.txt"
        file.write_text((VERSE * (megabytes * 1_000_000 // len(VERSE) + 1))[: megabytes * 1_000_000])
        tracemalloc.start()
        packed = Packed.write(tmp_path / str(megabytes), letters(), encode(letters(), hold_out(documents(file))[0]))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert packed.count > megabytes * 800_000
    assert peaks[1] < 1.1 * peaks[0]
