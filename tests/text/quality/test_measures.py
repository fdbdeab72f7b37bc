"""Each measure is what its docstring says, on texts whose value is known."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from hrm.text.quality.measures import (
    MEASURES,
    Reference,
    blocks_of,
    characters,
    distinct_words,
    longest_repeat,
    measure,
    pairs,
    real_words,
    repeated_grams,
    sentence_form,
    sentence_lengths,
    trigrams,
    type_token_ratio,
)

PROSE = (
    "The cat sat on the mat. It was warm there, and nobody came. “Who is it?” she said. Nobody answered.\n\n"
    "Then the door (it was old) opened by itself! A mouse looked in, saw the cat, and left without a word."
)
REFERENCE = Reference([PROSE])


def test_the_reference_itself_is_as_near_as_can_be():
    assert characters(PROSE, REFERENCE) == pytest.approx(1)
    assert trigrams(PROSE, REFERENCE) == pytest.approx(1)
    assert real_words(PROSE, REFERENCE) == 1


def test_cosines_are_those_of_the_counts():
    reference = Reference(["aab"])
    assert characters("ab", reference) == pytest.approx(3 / np.sqrt(5 * 2))
    assert characters("xyz", reference) == trigrams("xyz", reference) == 0
    assert trigrams("xaab", reference) == pytest.approx(1 / np.sqrt(2))


def test_words_are_real_in_any_case_and_with_either_apostrophe():
    reference = Reference(["don't stop"], words=["extra"])
    assert real_words("DON’T Stop extra blorp", reference) == 14 / 19


def test_sentences_are_well_formed_with_a_capital_and_a_mark():
    inner = "Before. {} After."
    for sentence, value in (("It rains.", 1), ("“It rains!”", 1), ("it rains.", 0), ("(Really?)", 1)):
        assert sentence_form(inner.format(sentence), REFERENCE) == value, sentence
    assert sentence_form("First. Whole one.\n\nNo mark\n\nLast.", REFERENCE) == 1 / 2


def test_sentences_of_other_lengths_lie_farther_away():
    def text(length: int) -> str:
        return " ".join("A" + " word" * (length - 1 + i % 3) + "." for i in range(30))

    reference = Reference([text(6)])
    near, middle, far = (sentence_lengths(text(length), reference) for length in (6, 9, 40))
    assert near == pytest.approx(1, abs=0.05) and near > middle + 0.1 and middle > far + 0.1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no marks", 1),
        ('"So," he said, "it is."', 1),
        ("“So,” he said (and it's the dogs' own).", 1),
        ("“So, he said.", 0),
        (")(", 0),
        ('lone " quote', 0),
        ("[a] (b", 2 / 3),
        ("“one\n\ntwo”", 0),
        ("(“crossed)”", 1 / 2),
    ],
)
def test_marks_count_that_have_their_partner_in_the_paragraph(text: str, value: float):
    assert pairs(text, REFERENCE) == pytest.approx(value)


def test_repetition_and_diversity_of_one_line_over_and_over():
    line = "all work and no play. " * 40
    assert repeated_grams(line, REFERENCE) > 0.97
    assert longest_repeat(line, REFERENCE) == pytest.approx(np.log2(1 + len(line) - len("all work and no play. ")))
    assert distinct_words(line, REFERENCE) < 0.03 and type_token_ratio(line, REFERENCE) == pytest.approx(0.1)


def test_repetition_and_diversity_of_text_without_repeats():
    text = "".join(chr(0x4E00 + i) for i in range(300))
    assert repeated_grams(text, REFERENCE) == longest_repeat(text, REFERENCE) == 0
    words = "one two three four five"
    assert distinct_words(words, REFERENCE) == type_token_ratio(words, REFERENCE) == 1


def test_the_longest_repeat_is_the_longest():
    rng = Random(0)
    for _ in range(20):
        text = "".join(rng.choice("ab") for _ in range(40))
        found = [n for n in range(40) if len({text[i : i + n] for i in range(41 - n)}) < 41 - n]
        assert longest_repeat(text, REFERENCE) == np.log2(1 + max(found, default=0))


@pytest.mark.parametrize("block", ["", " ", "\n\n", "…", "x", "123", "\0", '"', "。", "ا ب", "🙂" * 9])
def test_every_measure_has_a_value_for_any_block(block: str):
    (values,) = measure([block], Reference([block]))
    assert np.isfinite(values).all()
    assert np.isfinite(measure([block], REFERENCE)).all()


def test_the_page_defines_every_measure_as_the_code_does():
    page = (Path(__file__).parents[3] / "docs/text-quality.md").read_text("utf-8")
    for one in MEASURES:
        assert f"| `{one.name}` | {one.definition} |" in page


def test_blocks_are_equal_and_of_long_texts_a_choice_at_equal_distances(monkeypatch: pytest.MonkeyPatch):
    assert blocks_of("abcdefgh", 3) == ["abc", "def"] and blocks_of("ab", 3) == []
    monkeypatch.setattr("hrm.text.quality.measures.MOST_BLOCKS", 3)
    assert blocks_of("0123456789", 1) == ["0", "4", "9"]
