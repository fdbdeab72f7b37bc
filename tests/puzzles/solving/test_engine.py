"""Dynamic batches: what comes out, in which order, and what it costs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hrm.core.halting import wants_to_halt
from hrm.puzzles.model import PuzzleModel
from hrm.puzzles.solving import engine
from hrm.puzzles.solving.engine import LOOK_AHEAD, Attempt, Batches, Job, Outcome, Rules, Segment
from tests.puzzles.solving.small import SUDOKU, fix_q, model, questions


def starts(count: int) -> list[Attempt]:
    """The puzzle as it is, from the initial state and from others."""
    return [Attempt(noise=noise) for noise in range(count)]


RULES = Rules(max_segments=6, attempts=starts(3), verify=SUDOKU.verify)


def jobs(count: int = 60) -> list[Job]:
    return [Job(SUDOKU.parse(text)) for text in questions(count)]


def comparable(outcomes: Iterable[tuple[int, Outcome | None]]) -> dict[int, Any]:
    return {i: o and (o.readout.tolist(), o.accepted, o.segments, o.attempts) for i, o in outcomes}


def recorded(net: PuzzleModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every segment the model computes from now on."""
    rows: list[int] = []
    segment = net.segment

    def recording(carry: Any, inputs: torch.Tensor, *rest: Any) -> Any:
        rows.append(len(inputs))
        return segment(carry, inputs, *rest)

    monkeypatch.setattr(net, "segment", recording)
    return rows


@pytest.mark.slow
def test_outcomes_depend_neither_on_the_batch_size_nor_on_the_order():
    net = model().double()
    net.dtype = torch.float64
    todo = jobs()
    expected = comparable(engine.solve(net, todo, RULES, slots=1))
    assert len({(accepted, attempts) for _, accepted, _, attempts in expected.values()}) > 2  # a mixture
    for slots, ordered in itertools.product((7, 64), (True, False)):
        assert comparable(engine.solve(net, todo, RULES, slots, ordered)) == expected
    order = random.Random(0).sample(range(len(todo)), len(todo))
    shuffled = comparable(engine.solve(net, [todo[i] for i in order], RULES, slots=16))
    assert {order[i]: outcome for i, outcome in shuffled.items()} == expected


@pytest.mark.slow
def test_outcomes_come_in_the_order_of_the_stream_or_as_completed():
    net, todo = model(), jobs()
    assert [i for i, _ in engine.solve(net, todo, RULES, slots=8)] == list(range(len(todo)))
    completed = [i for i, _ in engine.solve(net, todo, RULES, slots=8, ordered=False)]
    assert sorted(completed) == list(range(len(todo))) != completed


@pytest.mark.slow
@pytest.mark.parametrize(("ordered", "slots", "most"), [(True, 4, LOOK_AHEAD * 4), (True, 1, 1), (False, 4, 4)])
def test_a_stream_is_read_no_further_ahead_than_promised(ordered: bool, slots: int, most: int):
    pulled = received = furthest = 0

    def stream() -> Iterator[Job]:
        nonlocal pulled, furthest
        # The first is never solved and holds back all results behind it for as long as the rules allow.
        hopeless = Job(np.full(16, 1, np.uint8))
        for job in itertools.chain([hopeless], itertools.cycle(jobs(20))):
            pulled += 1
            furthest = max(furthest, pulled - received)
            yield job

    rules = Rules(max_segments=6, attempts=starts(6), verify=lambda q, a: bool((q != 1).any()) and SUDOKU.verify(q, a))
    for _ in itertools.islice(engine.solve(model(), stream(), rules, slots, ordered), 60):
        received += 1
    assert furthest <= most


def test_the_batch_stays_full_and_nothing_is_computed_for_puzzles_that_left(monkeypatch: pytest.MonkeyPatch):
    net = model()
    rows = recorded(net, monkeypatch)
    outcomes = list(engine.solve(net, jobs(), RULES, slots=8, ordered=False))
    assert sum(rows) == sum(outcome.segments for _, outcome in outcomes if outcome)
    tail = rows.index(next(n for n in rows if n < 8))
    assert rows[:tail] == [8] * tail and rows[tail:] == sorted(rows[tail:], reverse=True)
    assert len(rows) - tail <= RULES.max_segments * len(RULES.attempts)


def test_none_passes_through_in_its_place():
    todo = jobs(3)
    outcomes = list(engine.solve(model(), [None, todo[0], None, None, *todo[1:], None], RULES, slots=2))
    assert [i for i, outcome in outcomes if outcome is None] == [0, 2, 3, 6]
    assert list(engine.solve(model(), [], RULES)) == []


def test_a_readout_that_did_not_change_is_not_verified_again():
    asked: list[tuple[bytes, bytes]] = []
    seen: dict[int, list[bytes]] = {}

    def refuse(question: np.ndarray, answer: np.ndarray) -> bool:
        asked.append((question.tobytes(), answer.tobytes()))
        return False

    def observe(index: int, segment: Segment) -> None:
        seen.setdefault(index, []).append(segment.readout.tobytes())

    list(engine.solve(model(), jobs(10), Rules(max_segments=6, verify=refuse), observe=observe))
    changes = sum(1 + sum(a != b for a, b in itertools.pairwise(readouts)) for readouts in seen.values())
    assert len(asked) == changes < sum(map(len, seen.values()))


def test_the_caller_is_not_left_in_inference_mode():
    for _ in engine.solve(model(), jobs(5), RULES, slots=2):
        assert not torch.is_inference_mode_enabled()
        assert (torch.ones(1, requires_grad=True) * 2).requires_grad


def test_a_model_that_solved_in_low_precision_can_be_trained_on():
    net = model()
    net.dtype = torch.bfloat16
    list(engine.solve(net, jobs(3), RULES))
    inputs, ids = torch.from_numpy(jobs(1)[0].question[None]).long(), torch.zeros(1, dtype=torch.long)
    for _ in range(2):  # the copies are made anew, then brought up to date in place
        _, readout = net.segment(net.initial_carry(inputs, ids), inputs, ids)
        readout.logits.sum().backward()
        torch.optim.SGD(net.parameters(), lr=0.1).step()


def test_a_restart_begins_from_another_state_that_seed_and_puzzle_alone_decide():
    def readings(seed: int) -> list[list[tuple[int, int, float]]]:
        seen: list[list[tuple[int, int, float]]] = [[], []]
        rules = Rules(max_segments=2, attempts=starts(3), seed=seed, verify=lambda q, a: False)
        observe = lambda i, s: seen[i].append((s.attempt, s.segment, round(s.residual, 5)))  # noqa: E731
        list(engine.solve(model(), [jobs(1)[0], jobs(2)[1]], rules, observe=observe))
        return seen

    first = readings(0)
    assert [step[:2] for step in first[0]] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert len({residual for _, _, residual in first[0]}) == 6
    assert readings(0) == first
    assert readings(1)[0][:2] == first[0][:2] and readings(1)[0][2:] != first[0][2:]


def test_restarts_solve_what_more_segments_do_not():
    net, todo = model(), jobs()

    def solved(max_segments: int, restarts: int) -> int:
        outcomes = engine.solve(net, todo, Rules(max_segments, starts(restarts + 1), verify=SUDOKU.verify))
        return sum(outcome.accepted for _, outcome in outcomes if outcome)

    assert solved(6, restarts=5) > solved(36, restarts=0)


def test_the_q_head_can_end_a_puzzle_and_the_verifier_still_judges_it():
    net, todo = model(), jobs()
    fix_q(net, 1.0, 0.0)
    rules = Rules(max_segments=6, verify=SUDOKU.verify, early=False, halt=lambda q: wants_to_halt(q, q_continue=True))
    outcomes = [outcome for _, outcome in engine.solve(net, todo, rules) if outcome]
    assert {outcome.segments for outcome in outcomes} == {1}
    assert {outcome.accepted for outcome in outcomes} == {True, False}
    for job, outcome in zip(todo, outcomes, strict=True):
        assert outcome.accepted == SUDOKU.verify(job.question, outcome.readout)

    fix_q(net, -1.0, 0.0)
    assert {outcome.segments for _, outcome in engine.solve(net, todo, rules) if outcome} == {6}


@pytest.mark.slow
def test_puzzles_under_different_rules_share_batches_and_end_as_they_do_alone():
    net = model().double()
    net.dtype = torch.float64
    rules = [
        RULES,
        Rules(max_segments=2, attempts=starts(2), verify=SUDOKU.verify, seed=3),
        Rules(max_segments=6, verify=SUDOKU.verify, still=0.3),
        Rules(max_segments=6, attempts=starts(3), halt=lambda q: wants_to_halt(q, q_continue=False), vote="q"),
        Rules(max_segments=5, attempts=starts(4), verify=SUDOKU.verify, budget=7),
    ]
    todo = [(job, rules[i % len(rules)]) for i, job in enumerate(jobs(40))]
    alone = {}
    for i, (job, own) in enumerate(todo):
        ((_, outcome),) = engine.solve(net, [job], own)
        alone[i] = outcome
    crowd: dict[int, Outcome] = {}
    batches, waiting = Batches(net), list(enumerate(todo))
    while waiting or len(batches):
        for key, (job, own) in (waiting.pop() for _ in range(min(3, len(waiting)))):  # three more with each segment
            batches.enter(key, job, own)
        crowd |= dict(batches.advance())
    assert comparable(crowd.items()) == comparable(alone.items())


def test_a_puzzle_that_is_dropped_costs_nothing_more(monkeypatch: pytest.MonkeyPatch):
    net = model()
    rows = recorded(net, monkeypatch)
    batches, hopeless = Batches(net), Rules(max_segments=2, attempts=starts(3), verify=lambda q, a: False)
    for key, job in enumerate(jobs(4)):
        batches.enter(key, job, hopeless)
    assert batches.advance() == [] and rows == [4]
    batches.drop(lambda key: key == 1)
    assert batches.advance() == [] and rows == [4, 3]
    batches.drop(lambda key: key > 1)  # these wait to begin again
    assert len(batches) == 1
    while not (ended := batches.advance()):
        pass
    assert [key for key, _ in ended] == [0] and rows == [4, 3, 1, 1, 1, 1] and not len(batches)
