"""A cloze guesses a word from those around it, and tells sense from the same words in any order."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.text.quality.cloze import Cloze
from hrm.text.quality.measures import blocks_of, words_of
from hrm.text.quality.ngram import NGram, write
from hrm.text.quality.scale import halves
from tests.text.quality.test_scale import read


@pytest.fixture(scope="module")
def alice() -> str:
    return read("alice.txt")


@pytest.fixture(scope="module")
def cloze(alice: str) -> Cloze:
    return Cloze(alice[:80_000])


def test_a_guess_is_what_both_models_say_together(cloze: Cloze, alice: str) -> None:
    known = [tuple(words_of(block)) for block in halves(blocks_of(alice[:80_000], 1000))[0]]
    before, after = NGram(known, cloze.order), NGram([part[::-1] for part in known], cloze.order)
    vocabulary = sorted({word for part in known for word in part})
    text = ["the", "white", "rabbit", "xyzzy", "said"]
    reach, first, five, total = cloze.order - 1, 0, 0, 0.0
    for i, word in enumerate(text):
        left, right = tuple(text[max(0, i - reach) : i]), tuple(text[i + 1 : i + 1 + reach][::-1])
        joint = {
            each: before.probabilities(left, each)[len(left)] * after.probabilities(right, each)[len(right)]
            / before.probabilities((), each)[0]
            for each in (*vocabulary, "?")
        }  # fmt: skip
        guess = word if word in joint else "?"
        rank = sorted(vocabulary, key=lambda each: -joint[each]).index(word) if word in vocabulary else math.inf
        first, five = first + (rank < 1), five + (rank < 5)
        total += math.log(joint[guess] / sum(joint.values()))
    assert cloze._fill(text) == pytest.approx((first / 5, five / 5, total / 5), rel=1e-10)


def test_natural_text_is_told_from_its_words_shuffled_and_from_what_chains_write(cloze: Cloze, alice: str) -> None:
    rest = alice[80_000:120_000]
    words = rest.split()
    Random(0).shuffle(words)
    natural, shuffled, chain = (
        cloze.judge(name, text)
        for name, text in (("rest", rest), ("words", " ".join(words)), ("chain", write(NGram([alice], 4), 20_000, 0)))
    )
    assert natural.overall.low and chain.overall.high and natural.overall.low > chain.overall.high + 10
    assert shuffled.overall.score is not None and shuffled.overall.score < 5
    assert natural.top_1.value < natural.top_5.value < 1 and natural.log_probability.value < 0
    assert natural.top_1.natural == pytest.approx(float(cloze.natural[0]))


def test_the_held_out_half_is_100_and_what_tells_nothing_has_no_score(cloze: Cloze, alice: str) -> None:
    held_out = "".join(halves(blocks_of(alice[:80_000], 1000))[1])
    assert cloze.judge("held out", held_out).overall.score == pytest.approx(100, abs=0.1)
    rng = np.random.default_rng(0)
    noise = " ".join(rng.choice(list("abcdefgh"), 12_000))
    found = Cloze(noise).judge("noise", noise)
    assert found.overall.score is None


def test_a_text_without_words_or_too_short_is_refused(cloze: Cloze) -> None:
    for text in ("12 34 " * 2000, "Only short."):
        with pytest.raises(UserError, match="too few blocks"):
            cloze.judge("it", text)
    with pytest.raises(UserError, match="no words"):
        Cloze("12 34 " * 5000)
