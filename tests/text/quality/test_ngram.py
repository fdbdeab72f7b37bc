"""The n-gram model of a reference is a distribution, the one that Witten and Bell wrote down, and writes from it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from hrm.text.quality.ngram import NGram, Tokens, best_order, losses, write

TEXT = "abracadabra abracadabra a cad a bra"


def by_hand(text: str, alphabet: int, context: str, token: str) -> float:
    """The formula, from substrings counted anew."""
    follows = Counter(text[i + len(context)] for i in range(len(text) - len(context)) if text.startswith(context, i))
    below = by_hand(text, alphabet, context[1:], token) if context else 1 / alphabet
    if not follows:
        return below
    return (follows[token] + len(follows) * below) / (follows.total() + len(follows))


@pytest.mark.parametrize("before", ["", "a", "br", "zz", "abr", "za"])
def test_probabilities_are_those_of_the_formula(before: str) -> None:
    model = NGram([TEXT], 4)
    for token in {*TEXT, "?"}:
        found = model.probabilities(before, token)
        for k in range(4):
            context = before[len(before) - k :] if k <= len(before) else before
            assert found[k] == pytest.approx(by_hand(TEXT, len({*TEXT}) + 1, context, token), rel=1e-10)


@pytest.mark.parametrize("before", [(), ("the",), ("the", "cat"), ("no", "where")])
def test_all_tokens_with_an_unknown_one_make_one(before: Tokens) -> None:
    words = tuple(["the", "cat", "saw", "the", "rat", "and", "the", "cat", "ran"])
    model = NGram([words, words[::-1]], 3)
    for k in range(3):
        assert sum(model.probabilities(before, word)[k] for word in {*words, "?"}) == pytest.approx(1, rel=1e-10)


def test_parts_do_not_run_into_each_other() -> None:
    assert "ab" in NGram(["ab"], 3).following or NGram(["ab"], 3).following["a"]["b"] == 1
    assert "b" not in NGram(["a", "b"], 2).following and NGram(["a", "b"], 2).totals[""] == 2


def test_the_order_is_the_one_that_finds_other_text_likeliest() -> None:
    rng = Random(0)
    coins = ["".join(rng.choice("abcdefgh") for _ in range(500)) for _ in range(2)]
    assert best_order(coins[:1], coins[1:], 5) == 1
    assert best_order(["abc" * 100], ["abc" * 20], 5) > 1
    model = NGram(["abc" * 100], 3)
    found = losses(model, ["abc" * 20])
    assert found[0] == pytest.approx(1.0986, abs=0.01) and found == sorted(found, reverse=True)


def test_it_writes_what_it_knows_and_the_same_again() -> None:
    model = NGram([TEXT], 5)
    assert write(model, 300, 1) == write(model, 300, 1) != write(model, 300, 2)
    drawn = Counter(NGram(["aab"], 1).draw("", rng) for rng in [Random(0)] for _ in range(3000))
    assert {*drawn} == {"a", "b"} and drawn["a"] / 3000 == pytest.approx(2 / 3, abs=0.03)
    again = NGram([write(NGram([TEXT], 2), 20_000, 0)], 2)
    for context in ("a", "b"):
        share = {token: count / again.totals[context] for token, count in again.following[context].items()}
        for token, value in share.items():
            assert value == pytest.approx(by_hand(TEXT, 8, context, token), abs=0.05)
