"""Text set aside: as much as asked for, spread out, nothing lost or twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.text.data import DocumentPart, documents, doubts, hold_out
from tests.data import hrm_data

WORDS = st.text(alphabet="ab ", min_size=1, max_size=60)


@st.composite
def streams(draw: st.DrawFn) -> list[str]:
    """Documents, some of them in parts."""
    parts = [[DocumentPart(part) for part in draw(st.lists(WORDS, max_size=3))] for _ in range(draw(st.integers(1, 6)))]
    return [text for document in parts for text in (*document, draw(WORDS))] + ["enough"]


def wholes(texts: list[str]) -> list[str]:
    """The documents that parts make up."""
    found, current = [], ""
    for text in texts:
        current += text
        if not isinstance(text, DocumentPart):
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


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("alphabet", ["山水人天地日月火木金土大小上下。", "ACGT", "0123456789"])
def test_a_text_without_white_space_is_cut_anywhere(tmp_path: Path, alphabet: str, end: str):
    drawn = random.Random(0)
    text = "".join(drawn.choice(alphabet) for _ in range(8000)) + end
    (tmp_path / "a.txt").write_text(text, "utf-8")
    kept, held = (list(half) for half in hold_out(documents(tmp_path / "a.txt")))
    assert len(held) == 10 and abs(len("".join(held)) - 800) <= 10
    pieces = [piece for pair in zip(kept, held, strict=True) for piece in pair]
    assert "".join(pieces) == text


def test_a_place_to_cut_is_looked_for_over_the_border_of_parts():
    words = "word " * 400
    parts = [DocumentPart(words[n : n + 7]) for n in range(0, len(words), 7)]
    kept, held = (wholes(list(half)) for half in hold_out([*parts, ""]))
    assert len(held) == 10 and all(block.startswith(" ") for block in held)
    assert sorted("".join(kept + held)) == sorted(words)


def test_what_is_held_out_is_doubted_where_there_is_too_little_or_it_is_trained_on():
    line = "A line that is long enough to be no accident, number {}.\n"
    kept, held = ["".join(line.format(n) for n in range(100, 200))], ["".join(line.format(n) for n in range(10))]
    assert not list(doubts(kept, held))
    (little,) = doubts(["word " * 500], ["word " * 20])
    assert "only 100 characters (3.8%) are held out" in little
    (little,) = doubts(["word " * 20_000], ["word " * 100])
    assert "(0.5%)" in little
    assert not list(doubts(["word " * 2_000_000], ["word " * 11_000]))  # a small share of much is enough
    (again,) = doubts([*kept, line.format(3) + line.format("3  ")], held)
    assert again.startswith("10.0% of the held-out text stands, line for line") and "number 3" in again
    # Lines are compared whole, also where they come in parts.
    text = held[0]
    (again,) = doubts([*kept, DocumentPart(text[:130]), DocumentPart(text[130:333]), text[333:]], held)
    assert again.startswith("100.0%")


def test_questions_that_are_asked_in_both_parts_are_said():
    ask = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "yes"}] for n in range(100)]
    assert not list(doubts(ask[:90], ask[90:]))
    (again,) = doubts([*ask[:90], ask[95]], ask[90:])
    assert again.startswith("10.0% of the held-out questions") and "95?" in again
