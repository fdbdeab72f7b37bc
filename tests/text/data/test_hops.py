"""Questions with hops: every answer is the one that the rule gives step by step, and each is decided by its numbers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.files.npy import IGNORE
from hrm.files.reading import UserError
from hrm.text.data.hops import TASKS, Hops, baselines, numbers, questions, tokenizer_of_task

EVERY = pytest.mark.parametrize("name", list(TASKS))


def prefix(name: str, tokens: np.ndarray, place: Any) -> list[int]:
    """The question that is answered at a place of a row: what was given, and what is asked there."""
    task = TASKS[name]
    if "?" not in task.words:
        return tokens[: place + 1].tolist()  # the rule looks back to the last mark
    given = int((tokens == task.id("?")).argmax()) + (2 if name == "reach" else 1)
    return [*tokens[:given].tolist(), int(tokens[place])]


@EVERY
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), hops=st.integers(1, 12), alone=st.booleans())
def test_every_answer_is_found_step_by_step(name: str, seed: int, hops: int, alone: bool) -> None:
    task = TASKS[name]
    asked = task.ask(hops, numbers(seed, np.arange(5), task.columns(hops)), alone)
    for tokens, labels in zip(asked.tokens, asked.labels, strict=True):
        places = np.flatnonzero(labels != IGNORE)
        assert len(places) == 1 if alone else len(places) >= hops
        for place in places:
            assert task.check(prefix(name, tokens, place)) == labels[place]


@EVERY
def test_a_question_is_a_function_of_its_seed_and_row(name: str) -> None:
    few, many = questions(name, 5, 3, seed=7), questions(name, 5, 9, seed=7)
    assert np.array_equal(few.tokens, many.tokens[:3])
    assert not np.array_equal(few.tokens, questions(name, 5, 3, seed=8).tokens)


@EVERY
def test_a_question_alone_takes_all_its_hops_and_none_less(name: str) -> None:
    # Who takes one step is right about the last answer with one hop, and no better than guessing with many.
    assert baselines(name, questions(name, 1, 500))["one step"] == 1.0
    found = baselines(name, questions(name, 8, 2000))
    assert found["one step"] < TASKS[name].chance + 0.05
    assert found["copy"] < TASKS[name].chance + 0.05
    assert found["majority"] < TASKS[name].chance + 0.05


@EVERY
def test_rows_of_a_step_are_the_same_for_any_number_of_processes(name: str) -> None:
    data = Hops(name, 4, 10**8, seed=3, length=100)
    whole = data.batch(3, 11, range(6), 6, 100)
    parts = [data.batch(3, 11, range(first, first + 2), 6, 100) for first in (0, 2, 4)]
    for all_rows, *some in zip(whole, *parts, strict=True):
        assert np.array_equal(all_rows, np.concatenate(some))


@EVERY
def test_questions_of_a_row_are_told_apart_and_padding_does_not_count(name: str) -> None:
    data = Hops(name, 4, 10**8, seed=3, length=100)
    ids, labels, positions = data.batch(3, 500, range(4), 4, 100)
    hops = data.hops_at(3, 500)
    each = TASKS[name].length(hops)
    starts = np.arange(100 // each) * each
    if TASKS[name].apart:
        assert (np.flatnonzero(positions[0] == 0)[: len(starts)] == starts).all()
    else:  # they see each other, so that more hops are no new distance; a mark begins each
        assert (positions == np.arange(100)).all()
        assert (ids[:, starts] == TASKS[name].id("|")).all()
    for start in range(0, each * (100 // each), each):
        tokens, wanted = ids[0, start : start + each], labels[0, start : start + each]
        for place in np.flatnonzero(wanted != IGNORE):
            assert TASKS[name].check(prefix(name, tokens, place)) == wanted[place]
    assert (labels[:, each * (100 // each) :] == IGNORE).all()


def test_hops_rise_from_one_and_stay_at_the_most() -> None:
    data = Hops("sum", 8, 10**8, seed=0, length=32, rising=100)
    seen = [data.hops_at(0, step) for step in range(200)]
    assert seen[0] == 1
    assert max(seen[:50]) <= 5
    assert min(seen[100:]) == 4 and max(seen) == 8


def test_few_examples_come_back_and_held_out_ones_do_not() -> None:
    data, held = Hops("permutations", 8, 80, seed=0, length=9), Hops("permutations", 8, 80, 0, 9, held_out=True)
    steps = [step for step in range(200) if data.hops_at(0, step) == 8]
    trained = {tuple(row) for step in steps for row in data.batch(0, step, range(16), 16, 9).input_ids}
    assert len(trained) == 10  # of 80 questions those with eight hops
    assert not trained & {tuple(row) for batch in held.windows(9) for row in batch.input_ids}


@EVERY
def test_words_are_read_and_written_as_they_are(name: str) -> None:
    tokenizer, row = tokenizer_of_task(name), questions(name, 3, 1).tokens[0]
    said = tokenizer.decode(row)
    assert tokenizer(said)["input_ids"] == row.tolist()
    assert " ".join(str(TASKS[name].words[int(token) - 1]) for token in row) == said


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Hops("summ", 3, 10, 0, 100), "'summ'; did you mean 'sum'"),
        (
            lambda: Hops("reach", 8, 10, 0, 20),
            "reach with 8 hops takes 74 tokens, more than --text.length 20: use --text.length 74",
        ),
        (lambda: Hops("chain", 13, 10, 0, 500), "--text.hops must be at least 1 and at most 12"),
        (lambda: questions("chain", 13, 1), "--hops must be at least 1 and at most 12"),
    ],
)
def test_what_cannot_be_asked_is_said(make, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        make()
