"""Puzzles of many requests in one batch: the answers, whose turn it is, and how requests end."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hrm.files.reading import UserError
from hrm.puzzles.config import Strategy
from hrm.puzzles.solving import Answer, Solver
from hrm.serve.puzzles.engine import PuzzleEngine, Step
from hrm.serve.puzzles.solving import Answered, Seen, Show, Solving
from hrm.serve.waiting import Busy, Limits, Ticket
from tests.puzzles.solving.small import SUDOKU, model, questions


class Client:
    """Sends requests and keeps what comes."""

    def __init__(self) -> None:
        self.events: queue.Queue[Any] = queue.Queue()

    def asks(self, texts: list[Any], owner: str = "", seconds: float = 60, **options: Any) -> Solving:
        show = options.pop("show", Show())
        return Solving(texts, Strategy.of(options), self.events.put, owner, seconds, show)

    def until_end(self, seconds: float = 30) -> list[Any]:
        """Every event; the last one is the ticket."""
        found = [self.events.get(timeout=seconds)]
        while not isinstance(found[-1], Ticket):
            found.append(self.events.get(timeout=seconds))
        return found

    def answers(self) -> list[Answer]:
        """In the order of the request, once it is done."""
        *events, ticket = self.until_end()
        assert ticket.end == "done", ticket.error
        found = {event.index: event.answer for event in events if isinstance(event, Answered)}
        return [found[index] for index in range(len(ticket.questions))]


def exact_solver() -> Solver:
    """In float64, where a batch changes nothing that is seen."""
    net = model().double()
    net.dtype = torch.float64
    return Solver(net, SUDOKU, max_segments=6, q_continue=False)


def comparable(answers: list[Answer]) -> list[Any]:
    """Without the last bits of a confidence."""
    return [answer.to_dict() | {"confidence": round(answer.confidence, 9)} for answer in answers]


def unsolvable(run: Solver, monkeypatch: pytest.MonkeyPatch) -> Solver:
    monkeypatch.setattr(run.task, "verify", lambda question, answer: False)
    return run


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts engines that end with the test."""
    engines: list[PuzzleEngine] = []

    def begin(solver: Solver | None = None, **limits: Any) -> PuzzleEngine:
        engines.append(PuzzleEngine(solver or exact_solver(), Limits(**limits)))
        return engines[-1]

    yield begin
    for engine in engines:
        engine.close(0)
        assert not any(thread.is_alive() for thread in engine._threads)


def test_requests_with_strategies_of_their_own_get_the_answers_that_they_get_alone(start: Any):
    run, texts = exact_solver(), questions(24)
    strategies = [
        {},
        {"max_segments": 2},
        {"restarts": 2},
        {"guesses": 4},
        {"budget": 5, "restarts": 3},
        {"stop": ("q",)},
    ]
    engine, clients = start(run, slots=5), [Client() for _ in strategies]
    for i, (client, tries) in enumerate(zip(clients, strategies, strict=True)):
        engine.submit(client.asks(texts[4 * i : 4 * i + 4], owner=str(i % 3), **tries))
    for i, (client, tries) in enumerate(zip(clients, strategies, strict=True)):
        alone = [exact_solver().solve(text, **tries) for text in texts[4 * i : 4 * i + 4]]
        assert comparable(client.answers()) == comparable(alone)


def test_an_answer_comes_as_soon_as_it_is_there_and_segments_as_they_are_thought(start: Any):
    client, engine = Client(), start(slots=8)
    engine.submit(client.asks(questions(8), show=Show(trace=True, watch=True, probabilities=True)))
    *events, ticket = client.until_end()
    seen: dict[int, list[Seen]] = {}
    for event in events:
        if isinstance(event, Seen):
            seen.setdefault(event.index, []).append(event)
            assert event.segment.probabilities.shape == (16, 6)
        else:
            answer = event.answer
            assert [step["segment"] for step in answer.trace] == [each.segment.segment for each in seen[event.index]]
            assert np.array_equal(answer.grid.ravel() + 1, seen[event.index][-1].segment.readout)
    assert [event.index for event in events if isinstance(event, Answered)] != list(range(8))
    assert ticket.segments == sum(map(len, seen.values())) and ticket.flops == ticket.segments * engine.solver.flops


def test_an_invalid_question_costs_no_forward_pass(start: Any, monkeypatch: pytest.MonkeyPatch):
    client, engine = Client(), start()
    monkeypatch.setattr(engine.solver.model, "segment", None)
    engine.submit(client.asks(["12", 7, ["1234", "1234", "1234", "1234"]]))
    answers = client.answers()
    assert [answer.status for answer in answers] == ["invalid"] * 3 and all(answer.reason for answer in answers)
    with pytest.raises(UserError, match="give one"):
        engine.submit(client.asks([]))
    with pytest.raises(UserError, match="--views"):
        engine.submit(client.asks(questions(1), views=0))


def test_one_puzzle_is_not_behind_the_thousands_of_another(start: Any):
    many, one = Client(), Client()
    engine = start(slots=2)
    big = many.asks(questions(1) * 3000, owner="many", max_segments=1)
    engine.submit(big)
    many.events.get(timeout=30)
    engine.submit(one.asks(questions(1), owner="one", max_segments=1))
    one.answers()
    assert big.ended < 1000 and big.taken - big.ended <= 2 * 2 + 2  # nor is it read before its turn
    big.cancel()


def test_leaving_frees_the_slots_at_once(start: Any, monkeypatch: pytest.MonkeyPatch):
    first, other = Client(), Client()
    engine = start(unsolvable(exact_solver(), monkeypatch), slots=2)
    endless = first.asks(questions(3), max_segments=100_000)
    engine.submit(endless)
    engine.submit(late := other.asks(questions(1), seconds=0.2, max_segments=100_000))
    assert other.until_end()[-1].end == "deadline" and late.segments == 0
    endless.cancel()
    assert first.until_end()[-1].end == "cancelled"
    engine.submit(other.asks(questions(2), max_segments=2))
    assert [answer.status for answer in other.answers()] == ["unsolved"] * 2
    assert not engine._open and not len(engine._batches) and not len(engine._queue)


def test_more_than_may_wait_are_refused(start: Any, monkeypatch: pytest.MonkeyPatch):
    client = Client()
    engine = start(unsolvable(exact_solver(), monkeypatch), slots=1, waiting=2)
    tickets = []
    with pytest.raises(Busy) as refused:
        for _ in range(8):
            tickets.append(client.asks(questions(1), max_segments=100_000))
            engine.submit(tickets[-1])
    assert refused.value.retry_after >= 1
    for ticket in tickets:
        ticket.cancel()
    ended = {client.until_end()[-1].end for _ in tickets[:-1]}
    assert ended == {"cancelled"}


def test_closing_ends_what_has_begun_and_stops_what_waits(start: Any, monkeypatch: pytest.MonkeyPatch):
    begun, waits = Client(), Client()
    engine = start(unsolvable(exact_solver(), monkeypatch), slots=1)
    engine.submit(begun.asks(questions(3), max_segments=40, show=Show(watch=True)))
    begun.events.get(timeout=30)
    for _ in range(3):
        engine.submit(waits.asks(questions(1), max_segments=100_000))
    engine.close(20)
    assert begun.until_end()[-1].end == "done"
    ends = [waits.until_end()[-1].end for _ in range(3)]
    assert set(ends) == {"stopped"}
    with pytest.raises(Busy):
        engine.submit(waits.asks(questions(1)))


def test_closing_in_no_time_stops_everything(start: Any, monkeypatch: pytest.MonkeyPatch):
    client = Client()
    engine = start(unsolvable(exact_solver(), monkeypatch), slots=2)
    engine.submit(client.asks(questions(5), max_segments=100_000))
    time.sleep(0.05)
    engine.close(0)
    assert client.until_end()[-1].end == "stopped"


def test_an_error_fails_the_requests_and_not_the_engine(start: Any, monkeypatch: pytest.MonkeyPatch):
    client, engine = Client(), start()
    segment = engine.solver.model.segment
    monkeypatch.setattr(engine.solver.model, "segment", lambda *_: 1 / 0)
    engine.submit(client.asks(questions(2)))
    ticket = client.until_end()[-1]
    assert ticket.end == "failed" and isinstance(ticket.error, ZeroDivisionError)
    monkeypatch.setattr(engine.solver.model, "segment", segment)
    monkeypatch.setattr(engine.solver.task, "check", lambda question: 1 / 0)
    engine.submit(client.asks(questions(2)))
    assert client.until_end()[-1].end == "failed"
    monkeypatch.undo()
    engine.submit(client.asks(questions(2)))
    assert len(client.answers()) == 2


def test_no_more_segments_are_shown_than_memory_should_hold(start: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hrm.serve.puzzles.solving.MOST_SHOWN", 5 * 16)
    client, engine = Client(), start(unsolvable(exact_solver(), monkeypatch))
    engine.submit(client.asks(questions(1), show=Show(trace=True, watch=True)))
    *seen, answered, _ = client.until_end()
    assert len(seen) == len(answered.answer.trace) == 5 and answered.answer.segments == 6


def test_steps_are_told(start: Any):
    steps: list[Step] = []
    client, engine = Client(), PuzzleEngine(exact_solver(), Limits(slots=3), steps.append)
    try:
        engine.submit(ticket := client.asks(questions(7)))
        client.answers()
    finally:
        engine.close(5)
    assert sum(step.answered for step in steps) == 7 and max(step.requests for step in steps) == 3
    assert sum(step.depth for step in steps) == sum(step.requests for step in steps) == ticket.segments


def test_who_has_an_answer_finds_its_steps_told(start: Any):
    steps: list[Step] = []

    def slowly(step: Step) -> None:
        time.sleep(0.02)
        steps.append(step)

    client, engine = Client(), PuzzleEngine(exact_solver(), on_step=slowly)
    try:
        for i in range(1, 4):
            engine.submit(client.asks(questions(1)))
            assert len(client.answers()) == 1 and sum(step.answered for step in steps) == i
    finally:
        engine.close(5)


def test_threads_may_submit_at_once(start: Any):
    engine, texts = start(slots=4), questions(6)
    clients = [Client() for _ in range(6)]

    def ask(client: Client, i: int) -> None:
        engine.submit(client.asks([texts[i]], owner=str(i)))

    threads = [threading.Thread(target=ask, args=(client, i)) for i, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for client, text in zip(clients, texts, strict=True):
        assert comparable(client.answers()) == comparable([exact_solver().solve(text)])
