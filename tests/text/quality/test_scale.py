"""The scale has the ends it promises, and orders texts as a reader would."""

from __future__ import annotations

import gzip
from collections import defaultdict
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.text.quality.copying import TrainingText
from hrm.text.quality.scale import COUNTED, Judged, Scale
from tests.data import hrm_data


def read(name: str, most: int | None = None) -> str:
    path = hrm_data() / "text" / name
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text("utf-8")
    return text[:most]


def shuffled(text: str) -> str:
    characters = list(text)
    Random(0).shuffle(characters)
    return "".join(characters)


def markov(text: str, order: int, length: int) -> str:
    """Each character drawn as it follows on the `order` characters before it in the text."""
    rng, following, round = Random(0), defaultdict(list), text + text[: order + 1]
    for i in range(len(text)):
        following[round[i : i + order]].append(round[i + order])
    sample = text[:order]
    while len(sample) < length:
        sample += rng.choice(following[sample[len(sample) - order :]])
    return sample


@pytest.fixture(scope="module")
def alice() -> str:
    return read("alice.txt")


@pytest.fixture(scope="module")
def scale(alice: str) -> Scale:
    return Scale("alice", alice[: len(alice) // 2])


def overall(judged: Judged) -> float:
    return judged["overall"]["score"]


def test_the_rest_of_the_book_is_near_100_and_shuffled_near_0(scale: Scale, alice: str):
    rest = alice[len(alice) // 2 :]
    natural, bottom = scale.judge("rest", rest), scale.judge("shuffled", shuffled(rest))
    assert overall(natural) > 95 and all(natural["groups"][group]["score"] > 90 for group in COUNTED)
    assert overall(bottom) < 5 and bottom["groups"]["characters"]["score"] > 99


@pytest.mark.slow
def test_the_same_author_is_nearer_than_a_play_and_a_play_nearer_than_code(scale: Scale):
    names = ("looking_glass.txt", "tinyshakespeare.txt", "python_code.txt.gz")
    same, play, code = (scale.judge(name, read(name, 150_000))["overall"] for name in names)
    assert same["low"] > play["high"] + 5 and play["low"] > code["high"] + 20


@pytest.mark.slow
def test_samples_of_growing_order_score_higher(alice: str):
    scale = Scale("alice", alice)
    scores = [overall(scale.judge(str(order), markov(alice, order, 40_000))) for order in range(6)]
    assert scores[0] < 5 and scores == sorted(scores) and scores[-1] < 90
    assert all(high - low > 1 for low, high in pairwise(scores))


def test_one_line_over_and_over_scores_low_and_is_flagged(scale: Scale):
    judged = scale.judge("loop", "He said that he would go home. " * 500)
    assert judged["groups"]["repetition"]["score"] < 10 and judged["groups"]["diversity"]["score"] < 15
    assert judged["flags"] == ["repeats"] and judged["repeated"] > 0.99


def test_a_paragraph_longer_than_a_block_over_and_over_is_flagged(scale: Scale, alice: str):
    judged = scale.judge("loop", (alice[90_000:91_700] + "\n\n") * 20)
    assert judged["flags"] == ["repeats"]


def test_pasted_training_text_is_flagged_and_natural_text_is_not(scale: Scale, alice: str):
    half = len(alice) // 2
    training = TrainingText(alice[:half])
    pasted = markov(alice, 3, 10_000) + alice[20_000:30_000]
    judged = scale.judge("pasted", pasted, training)
    assert judged["flags"] == ["copies"] and judged["copied"] == pytest.approx(0.5, abs=0.02)
    assert len(judged["longest_copy"]) > 9_000
    natural = scale.judge("rest", alice[half:], training)
    assert natural["flags"] == [] and natural["copied"] < 0.02


def prose(sentences: int, seed: int = 0) -> str:
    """Sentences of made-up words, of which some are frequent."""
    rng = Random(seed)
    words = ["".join(Random(i).choices("etaoinshrdlu", k=2 + i % 7)) for i in range(300)]

    def sentence() -> str:
        chosen = [words[min(int(rng.expovariate(0.02)), 299)] for _ in range(rng.randint(3, 15))]
        return " ".join(chosen).capitalize() + rng.choice(".!?")

    return " ".join(sentence() for _ in range(sentences))


def test_held_out_text_is_exactly_100_and_its_shuffled_form_exactly_0():
    scale = Scale("prose", prose(800))
    assert scale.scores(scale.natural)[scale.tells] == pytest.approx(100)
    assert scale.scores(scale.shuffled)[scale.tells] == pytest.approx(0)
    beyond = np.where(np.isfinite(scale.worst), scale.worst, scale.natural + 1)
    expected = np.where(np.isfinite(scale.worst), 0, 100)
    assert scale.scores(beyond)[scale.tells] == pytest.approx(expected[scale.tells])


def test_a_measure_that_tells_nothing_in_this_reference_has_no_score():
    judged = Scale("no pairs", prose(800)).judge("other", prose(200, seed=1))
    assert judged["measures"]["pairs"]["score"] is None and judged["groups"]["sentences"]["score"] is not None
    flat = Scale("one letter", "a" * 30_000).judge("same", "a" * 5_000)
    assert flat["overall"]["score"] is None


def test_intervals_hold_the_score_and_narrow_with_more_text():
    scale, text = Scale("prose", prose(800)), markov(prose(800), 3, 60_000)
    short, long = scale.judge("short", text[:8_000])["overall"], scale.judge("long", text)["overall"]
    assert short["low"] <= short["score"] <= short["high"] and short["low"] < long["score"] < short["high"]
    assert 0 < long["high"] - long["low"] < 0.7 * (short["high"] - short["low"])


def test_a_word_list_makes_words_real():
    text = prose(800)
    strange = text[: len(text) // 10].replace("e", "ø")
    without, given = (
        Scale("prose", text, words=words).judge("strange", strange)["groups"]["words"]["score"]
        for words in ((), set(strange.lower().replace(".", "").replace("!", "").replace("?", "").split()))
    )
    assert without < 70 and given == 100


def test_equal_seeds_judge_equally():
    first, again = (Scale("prose", prose(800), seed=3).judge("x", prose(100, 5)) for _ in range(2))
    assert first == again


def test_texts_too_short_are_refused_with_what_is_needed():
    with pytest.raises(UserError, match=r"x\.txt has 1,000 characters, too few for a reference: give at least 20,000"):
        Scale("x.txt", "a" * 1000)
    with pytest.raises(UserError, match="x has 3,999 characters, too few to judge: give at least 4,000, or a smaller"):
        Scale("prose", prose(800)).judge("x", "b" * 3999)
