"""What is tried when the first attempt fails: views, models, noise, budgets, and which readout counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hrm.files.reading import UserError
from hrm.puzzles.model import board_of, build
from hrm.puzzles.solving import Solver, load
from hrm.puzzles.solving.engine import Attempt, Job, Row, Rules, Segment, Vote, _Ballot, _outcome
from hrm.puzzles.solving.engine import solve as run_engine
from hrm.puzzles.tasks import Symmetry
from hrm.puzzles.tasks.grid import Grid
from hrm.runs.folder import Run
from tests.puzzles.solving.small import CONFIG, SUDOKU, fix_q, model, questions, run_folder, solver
from tests.puzzles.solving.test_solver import CONFIG_OF_GRID
from tests.puzzles.tasks.rules import sudoku_right


def statuses(run: Solver, texts: list[str], **strategy: Any) -> list[str]:
    return [answer.status for answer in run.solve_many(texts, **strategy)]


def test_a_view_is_turned_back_to_the_way_the_puzzle_was_asked():
    """The model has every symmetry of Sudoku but transposition, so each view must tell what the first attempt told."""
    net = model().double()
    net.dtype = torch.float64
    seen: dict[int, list[Segment]] = {}
    hopeless = lambda q, a: False  # noqa: E731
    attempts = [Attempt(view=view) for view in range(4)]

    def view(question: np.ndarray, number: int) -> Symmetry:
        return SUDOKU.view(np.append(np.random.default_rng(number).random(SUDOKU.uniforms - 1), 0.9))

    rules = Rules(4, attempts, verify=hopeless, view=view)
    jobs = [Job(SUDOKU.parse(text)) for text in questions(5)]
    for index, outcome in run_engine(net, jobs, rules, observe=lambda i, s: seen.setdefault(i, []).append(s)):
        assert outcome is not None and not outcome.accepted
        first, *others = (seen[index][i : i + 4] for i in range(0, 16, 4))
        assert not np.array_equal(view(jobs[index].question, 1).apply(jobs[index].question), jobs[index].question)
        for other in others:
            for a, b in zip(first, other, strict=True):
                assert np.array_equal(a.question, b.question)
                assert np.allclose(a.probabilities, b.probabilities, atol=1e-6)
                # Two digits may be exactly as likely, so the readouts may differ there.
                assert np.allclose(a.probabilities[np.arange(16), b.readout], a.probabilities.max(1), atol=1e-6)
                assert a.q == pytest.approx(b.q)


def test_views_are_tried_in_turn_and_named_in_the_answer():
    torch.manual_seed(1)
    plain = build(CONFIG_OF_GRID, board_of(SUDOKU))
    run = Solver(plain, SUDOKU, max_segments=1)
    answer = run.solve(questions(1)[0], views=3, restarts=1, trace=True)
    assert answer.status == "unsolved" and answer.trace is not None and answer.restarts == 5 == answer.attempts - 1
    assert [step["attempt"] for step in answer.trace] == list(range(1, 7))
    # This model has no symmetry, so each view and each start reads something else.
    assert len({step["grid"].tobytes() for step in answer.trace}) > 3
    assert 0 <= answer.view < 3


@pytest.mark.slow
def test_models_take_turns_and_together_solve_what_any_of_them_solves():
    texts = questions(40)
    nets = model(), model(40)
    alone = [statuses(Solver(net, SUDOKU, max_segments=6, q_continue=False), texts) for net in nets]
    both = list(Solver(nets, SUDOKU, max_segments=6, q_continue=False).solve_many(texts, batch_size=7))
    assert alone[0] != alone[1]
    for answer, first, second in zip(both, *alone, strict=True):
        assert answer.status == ("solved" if "solved" in (first, second) else "unsolved")
        if answer.status == "solved":
            assert answer.model == (0 if first == "solved" else 1) == answer.restarts


@pytest.mark.slow
def test_float32_answers_hardly_depend_on_the_batch():
    texts = questions(60)
    one = statuses(solver(), texts, restarts=2, batch_size=1)
    many = statuses(solver(), texts, restarts=2, batch_size=50)
    assert sum(a != b for a, b in zip(one, many, strict=True)) <= len(texts) // 1000 + 1


@pytest.mark.slow
def test_guesses_solve_what_restarts_do_not_and_are_verified_without_them():
    run, texts = solver(), questions(200)
    asked = list(run.solve_many(texts))
    again = statuses(run, texts, restarts=8)
    guessed = list(run.solve_many(texts, guesses=8))
    found = [answer for answer in guessed if answer.guess]
    assert sum(answer.status == "solved" for answer in guessed) > again.count("solved") + 5
    assert {answer.guess for answer in found if answer.status == "solved"} > {1, 2}
    for plain, answer in zip(asked, guessed, strict=True):
        if plain.status == "solved":
            assert (answer.answer, answer.guess, answer.segments) == (plain.answer, 0, plain.segments)
        if answer.status == "solved":
            assert sudoku_right(answer.question, answer.answer or "", 2, 2)


def test_a_guess_fills_one_unsure_blank_and_depends_on_seed_puzzle_and_number_alone():
    run, question = solver(), SUDOKU.parse(questions(1)[0])
    shares = np.full((16, 6), 0.1)
    sure = np.flatnonzero(question == 1)[::2]
    shares[sure, 3] = 0.9
    cells = set()
    for number in range(1, 30):
        guessed = run._guess(run.task, question, shares, number)
        (cell,) = np.flatnonzero(guessed != question)
        assert question[cell] == 1 and guessed[cell] in SUDOKU.symbols and cell not in sure
        assert np.array_equal(guessed, run._guess(run.task, question, shares, number))
        cells.add((cell, guessed[cell]))
    assert len(cells) > 8
    shares[:, 3] = 0.9
    shares[np.flatnonzero(question == 1)[3], 3] = 0.8  # all are sure: the least sure one
    (cell,) = np.flatnonzero(run._guess(run.task, question, shares, 1) != question)
    assert cell == np.flatnonzero(question == 1)[3]


def test_a_guess_follows_the_attempt_without_one_and_every_second_the_guess_before():
    question, calls = SUDOKU.parse(questions(1)[0]), []

    def guess(asked: np.ndarray, shares: np.ndarray, number: int) -> np.ndarray:
        guessed = asked.copy()
        guessed[np.flatnonzero(asked == 1)[number]] = 2
        calls.append((number, asked, shares, guessed))
        return guessed

    def view(question: np.ndarray, number: int) -> Symmetry:
        return SUDOKU.view(np.random.default_rng(number).random(SUDOKU.uniforms))

    attempts = [Attempt(), Attempt(noise=1), *(Attempt(view=number, guess=number) for number in range(1, 5))]
    rules = Rules(2, attempts, verify=lambda q, a: False, guess=guess, view=view)
    seen: list[Segment] = []
    ((_, outcome),) = run_engine(model(), [Job(question)], rules, observe=lambda _, segment: seen.append(segment))
    assert outcome is not None and (outcome.attempts, outcome.segments) == (6, 12)
    assert all(np.array_equal(segment.question, question) for segment in seen)  # what is shown is the puzzle as asked
    assert [number for number, *_ in calls] == [1, 2, 3, 4]
    (_, *first), (_, *second), (_, *third), (_, *fourth) = calls
    for asked, shares, _ in (first, third):
        assert np.array_equal(asked, question) and np.allclose(shares, seen[3].probabilities)
    for asked, before in ((second, first), (fourth, third)):
        assert np.array_equal(asked[0], before[2]) and not np.array_equal(asked[1], before[1])
    assert np.allclose(second[1], seen[5].probabilities)


def test_guesses_need_blanks():
    grid = Grid(2, 3, vocabulary=5)
    run = Solver(build(CONFIG_OF_GRID, board_of(grid)), grid)
    with pytest.raises(UserError, match="--guesses 2 needs cells that are blank"):
        run.solve("123401", guesses=2)


def test_a_budget_bounds_the_segments_of_all_attempts():
    run, texts = solver(), questions(60)
    free = list(run.solve_many(texts, restarts=3))
    bounded = list(run.solve_many(texts, restarts=3, budget=9))
    assert max(answer.segments for answer in free) == 24 and max(answer.segments for answer in bounded) == 9
    for a, b in zip(free, bounded, strict=True):
        assert b.status == ("solved" if a.status == "solved" and a.segments <= 9 else "unsolved")


def test_a_state_that_no_longer_moves_ends_an_attempt():
    run, texts = solver(), questions(10)
    moved = [
        [step["residual"] for step in a.trace or []]
        for a in run.solve_many(texts, trace=True, stop=("residual",), residual=0.5)
    ]
    assert all(min(steps[:-1], default=1) >= 0.5 for steps in moved)
    assert any(len(steps) < 6 and steps[-1] < 0.5 for steps in moved)
    assert all(len(a.trace or []) == 6 for a in run.solve_many(texts, trace=True, stop=()))


def test_a_margin_makes_the_q_head_wait():
    run, texts = solver(), questions(3)
    fix_q(run.model, 1.0, 0.0)
    assert [a.segments for a in run.solve_many(texts, stop=("q",))] == [1, 1, 1]
    assert [a.segments for a in run.solve_many(texts, stop=("q",), margin=2.0)] == [6, 6, 6]


def ballots(rules: Rules, *votes: tuple[int, float, int]) -> Row:
    """A row whose attempts ended with (readout, q_halt, segments)."""
    cast = [
        _Ballot(np.array([symbol]), (q, 0.0), segments, Attempt(view=i))
        for i, (symbol, q, segments) in enumerate(votes)
    ]
    return Row(0, Job(np.array([1])), rules, None, Attempt(), None, cast)


@pytest.mark.parametrize(
    ("vote", "expected", "view"),
    [("majority", 3, 1), ("q", 4, 2), ("first", 5, 3)],
)
def test_votes_are_counted(vote: Vote, expected: int, view: int):
    row = ballots(Rules(9, vote=vote), (3, -1.0, 9), (3, -0.5, 8), (4, 5.0, 7), (5, -9.0, 2))
    outcome = _outcome(row, False)
    assert (int(outcome.readout[0]), outcome.attempt.view, outcome.segments) == (expected, view, 26)
    assert outcome.votes == (0.5 if expected == 3 else 0.25) and outcome.accepted


def test_a_tie_goes_to_the_more_believed_and_a_verified_readout_beats_any_majority():
    assert int(_outcome(ballots(Rules(9), (3, 0.0, 1), (4, 1.0, 1)), False).readout[0]) == 4
    row = ballots(Rules(9, verify=lambda question, answer: True), (3, 9.0, 1), (3, 9.0, 1), (4, -9.0, 1))
    assert int(_outcome(row, True).readout[0]) == 4
    assert not _outcome(row, False).accepted


def test_without_a_verifier_every_attempt_is_made_and_voted_on():
    grid = Grid(2, 3, vocabulary=5)
    run = Solver(build(CONFIG_OF_GRID, board_of(grid)), grid, q_continue=False, max_segments=2)
    answer = run.solve("123401", restarts=4)
    assert (answer.status, answer.segments, answer.restarts) == ("answered", 10, 4)


def test_confidence_is_what_was_calibrated():
    run = solver()
    run.calibration = 2.0, -1.0
    assert run.confidence((0.5, 9.0)) == pytest.approx(0.5)
    assert run.confidence((2.0, 9.0)) == pytest.approx(1 / (1 + math.exp(-3)))


def test_runs_are_solved_together_unless_their_tasks_differ(tmp_path: Any):
    one, two = run_folder(tmp_path / "one"), run_folder(tmp_path / "two")
    both = load(one, also=[two])
    assert len(both.models) == 2 and "one" in both.checkpoint and "two" in both.checkpoint
    Run.create(tmp_path / "other", CONFIG_OF_GRID, {"cells": 81, "vocabulary": 11, "task_ids": 1})
    with pytest.raises(UserError, match="--also"):
        load(one, also=[tmp_path / "other"])
    assert CONFIG.task.box == (2, 2)
