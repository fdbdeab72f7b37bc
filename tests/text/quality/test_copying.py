"""Copies are found where they are, and nowhere else."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.text.quality.copying import LEAST, TrainingText, plain, repeats
from tests.data import hrm_data

WORDS = st.text("ab ", max_size=150)


def inside(text: str, is_copy: list[bool]) -> np.ndarray:
    """By hand, from whether the window at each place is a copy."""
    marked = np.zeros(len(text), bool)
    for i, copy in enumerate(is_copy):
        marked[i : i + LEAST] |= copy
    return marked


@settings(deadline=None)
@given(WORDS, WORDS, st.integers(0, 100), st.integers(0, 80))
def test_copies_are_what_a_plain_search_finds(training: str, text: str, start: int, length: int):
    text += training[start : start + length]
    found, text, training = TrainingText(training).copies(text), plain(text), plain(training)
    windows = [text[i : i + LEAST] in training for i in range(len(text) - LEAST + 1)]
    assert found.inside.tolist() == inside(text, windows).tolist()
    every = [text[i:j] for i in range(len(text)) for j in range(i + LEAST, len(text) + 1)]
    assert len(found.longest) == max((len(part) for part in every if part in training), default=0)
    assert found.longest in training and found.longest in text


@settings(deadline=None)
@given(WORDS, st.integers(0, 100), st.integers(0, 80))
def test_repeats_are_what_a_plain_search_finds(text: str, start: int, length: int):
    text += text[start : start + length]
    found, text = repeats(text), plain(text)
    windows = [text.find(text[i : i + LEAST]) < i for i in range(len(text) - LEAST + 1)]
    assert found.inside.tolist() == inside(text, windows).tolist()
    every = [text[i:j] for i in range(len(text)) for j in range(i + LEAST, len(text) + 1)]
    assert len(found.longest) == max(
        (len(part) for part in every if text.count(part) > 1 or part in text[text.find(part) + 1 :]), default=0
    )


def test_a_copy_may_break_its_lines_elsewhere():
    assert (
        TrainingText("It was the best of times,\nit was the worst of times.")
        .copies("  It was the best\n of times, it was  the worst of times.")
        .share
        == 1
    )


def test_texts_without_a_window_have_no_copies():
    for a, b in (("", ""), ("x" * LEAST, ""), ("", "x" * LEAST), ("x" * (LEAST - 1), "x" * (LEAST - 1))):
        found = TrainingText(a).copies(b)
        assert found.share == 0 and found.longest == "" and len(found.inside) == len(b)


@pytest.mark.slow
def test_a_passage_pasted_into_millions_of_characters_is_found():
    folder = hrm_data() / "text"
    code = gzip.decompress((folder / "python_code.txt.gz").read_bytes()).decode()
    play = (folder / "tinyshakespeare.txt").read_text("utf-8")
    pasted = plain(code[1_000_000:1_002_000])
    found = TrainingText(code).copies(f"{play[:500_000]} {pasted} {play[500_000:]}")
    assert pasted in found.longest and len(found.longest) <= len(pasted) + 4
    assert found.inside.sum() < len(pasted) + 200
