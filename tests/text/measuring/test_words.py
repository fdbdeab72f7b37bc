"""Word-level sets: their words joined, and the perplexity of a word."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hrm.cli.main import main as hrm
from hrm.text.data import documents
from hrm.text.measuring import published
from hrm.text.measuring.words import joined
from tests.data import hrm_data
from tests.text.measuring.small import saved

JOINED = [
    ("wikitext", " a guest @-@ starring role , and 1 @,@ 200 dollars . ", "a guest-starring role, and 1,200 dollars."),
    ("wikitext", ' as " Craig " in the episode " Teddy \'s Story " . ', 'as "Craig" in the episode "Teddy\'s Story".'),
    ("wikitext", " = = Career = = ", "== Career =="),
    ("wikitext", " = Robert <unk> = ", "= Robert <unk> ="),
    ("wikitext", " the players ' score ( 3 @.@ 5 % ) did n't ; it fell ", "the players' score (3.5%) didn't; it fell"),
    ("ptb", " it was n't worth $ N or N % of the <unk> 's price ", "it wasn't worth $N or N% of the <unk>'s price"),
]


@pytest.mark.parametrize(("form", "given", "wanted"), JOINED)
def test_words_are_joined_as_people_write_them(form: str, given: str, wanted: str) -> None:
    counts: list[int] = []
    assert list(joined([given + "\n"], form, counts.append)) == [wanted + "\n"]
    assert counts == [len(given.split()) + 1]


def test_the_words_of_wikitext_2_are_those_that_are_published() -> None:
    """245,569 tokens in the test set, line ends included (Merity et al. 2016, table 1)."""
    counts: list[int] = []
    texts = list(joined(documents(hrm_data() / "text/wikitext2_tokenized_test.txt.gz"), "wikitext", counts.append))
    assert sum(counts) == 245_569
    assert not any(mark in text for text in texts for mark in ("@-@", "@,@", "@.@", " .\n", " , "))


def test_the_perplexity_of_a_word_is_that_of_its_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "set.txt"
    text.write_text(" the cat is a guest @-@ star , they say . \n" * 30, "utf-8")
    small = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --halting.max-segments 1 "
    small += "--text.length 16 --train.batch-size 2 --train.steps 2 --optim.warmup-steps 1 --train.device cpu"
    assert hrm(["train", "text-char", "--data", str(text), "--out", str(tmp_path / "run"), *small.split()]) == 0
    words = ["eval", str(tmp_path / "run"), "--data", str(text), "--words", "wikitext"]
    capsys.readouterr()
    assert hrm([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"] == 30 * 12 and found["n"] == 30 * len("the cat is a guest-star, they say.\n")
    assert found["perplexity_per_word"] == pytest.approx(math.exp(found["loss"] * found["n"] / found["words"]))
    assert hrm([*words, "--limit", "5"]) == 2
    assert "--words counts the words of all of --data" in capsys.readouterr().err


def test_published_figures_stand_beside_the_sets_that_they_are_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert published.of_text("test.txt", "wikitext", 245_569) == ["WikiText-2", "WikiText-103"]
    assert not published.of_text("valid.txt", "wikitext", 217_646) and not published.of_text("book.txt")
    folder, text = saved(tmp_path / "saved"), tmp_path / "enwik8.txt"
    text.write_text("the cat sat on the mat", "utf-8")
    assert hrm(["eval", str(folder), "--data", str(text), "--json-file", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())["published"]
    assert found["sets"] == {"enwik8": {"bits_per_byte": {"117M": 1.16, "345M": 1.01, "762M": 0.97, "1.5B": 0.93}}}
    *_, head, row = capsys.readouterr().out.splitlines()
    assert head.startswith("GPT-2 (Radford et al. 2019, Table 3)") and row.split()[-1] == "0.93"
