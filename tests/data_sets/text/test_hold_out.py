"""Text set aside: as much as asked for, spread out, nothing lost or twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.config import UserError
from hrm.data.text import Part, documents, hold_out
from tests.data import hrm_data

WORDS = st.text(alphabet="ab ", min_size=1, max_size=60)


@st.composite
def streams(draw: st.DrawFn) -> list[str]:
    """Documents, some of them in parts."""
    parts = [[Part(part) for part in draw(st.lists(WORDS, max_size=3))] for _ in range(draw(st.integers(1, 6)))]
    return [text for document in parts for text in (*document, draw(WORDS))] + ["enough"]


def wholes(texts: list[str]) -> list[str]:
    """The documents that parts make up."""
    found, current = [], ""
    for text in texts:
        current += text
        if not isinstance(text, Part):
            found.append(current)
            current = ""
    assert not current, "a document does not end"
    return found


@given(streams(), st.floats(0.05, 0.9), st.integers(1, 12))
def test_nothing_is_lost_or_twice_and_documents_stay_apart(texts: list[str], share: float, blocks: int):
    kept, held = ([text for text in wholes(list(half)) if text] for half in hold_out(texts, share, blocks))
    originals = wholes(texts)
    assert sorted("".join(kept + held)) == sorted("".join(originals))
    # What is left of each document, in its order, is a piece of it; so no two documents are joined.
    rest = list(originals)
    for half in (kept, held):
        at, start = 0, 0
        for text in half:
            while at < len(rest) and (start := rest[at].find(text, start)) < 0:
                at, start = at + 1, 0
            assert at < len(rest), text
            start += len(text)


@given(st.integers(20, 500), st.sampled_from([0.05, 0.1, 0.25, 0.5]), st.integers(1, 10))
def test_rows_are_held_out_whole_in_blocks_spread_over_all(count: int, share: float, blocks: int):
    kept, held = (list(half) for half in hold_out([(i,) for i in range(count)], share, blocks))
    assert sorted(kept + held) == [(i,) for i in range(count)]
    assert abs(len(held) - share * count) <= blocks
    assert held[-1] == (count - 1,)


def test_a_book_gives_a_tenth_in_ten_blocks_that_begin_at_words():
    text = documents(hrm_data() / "text/alice.txt")
    kept, held = (list(half) for half in hold_out(text))
    whole = "".join(text)
    assert len("".join(kept)) + len("".join(held)) == len(whole)
    assert abs(len("".join(held)) / len(whole) - 0.1) < 0.001
    starts = [whole.find(block) / len(whole) for block in held]
    assert len(held) == 10 and all(abs(start - (0.09 + n / 10)) < 0.001 for n, start in enumerate(starts))
    assert all(block[0].isspace() for block in held)
    assert [list(half) for half in hold_out(text)] == [kept, held]


def test_a_generator_is_read_once_and_what_cannot_be_is_refused():
    kept, held = hold_out(iter(["one two three four five six seven eight"]), 0.5, 1)
    assert "".join(kept) + "".join(held) == "one two three four five six seven eight"
    with pytest.raises(UserError, match="share"):
        hold_out(["a b"], 1.0)
    with pytest.raises(UserError, match="too little"):
        hold_out([])
