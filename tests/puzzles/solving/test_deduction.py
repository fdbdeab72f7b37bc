"""The promises of the search: it misses nothing, it is never wrong, and a puzzle's outcome is its own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hrm.core.recurrence import Carry
from hrm.puzzles.config import DeductionConfig
from hrm.puzzles.lattice import Lattice, Packed
from hrm.puzzles.model import PuzzleModel, Readout, board_of
from hrm.puzzles.solving import Solver, deduction
from hrm.puzzles.solving.deduction import DeducingBatch
from hrm.puzzles.solving.engine import Deduce, Job, Outcome, Rules, Segment, solve
from hrm.puzzles.tasks.puzzle import Puzzle
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.puzzles.test_lattice import ARCH

SMALL, MIDDLE = Sudoku(2, 2), Sudoku(2, 3)


@pytest.fixture(params=[1000, 3], ids=["deep", "wide"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One branch at a time for long, or soon several."""
    monkeypatch.setattr(deduction, "WIDER", request.param)
    monkeypatch.setattr(deduction, "ANOTHER", 4 * request.param)


def made(task: Sudoku, count: int, seed: int = 0) -> list[Puzzle]:
    rng = np.random.default_rng(seed)
    return [task.generate(rng) for _ in range(count)]


def net(task: Sudoku = SMALL, seed: int = 0) -> PuzzleModel:
    """Random weights."""
    torch.manual_seed(seed)
    model = PuzzleModel(ARCH, board_of(task)).double().eval()
    model.dtype = torch.float64
    return model


class Liar(nn.Module):
    """In a model's place: knows the answers, says of the first true open candidate that it is likely false, and the
    same of all false ones if it `helps`."""

    def __init__(self, task: Sudoku, puzzles: list[Puzzle], belief: float, helps: bool) -> None:
        super().__init__()
        self.board = board_of(task)
        self.lattice = Lattice(self.board.groups, task.cells, task.symbols.start, len(task.symbols))
        self.vocabulary, self.odds, self.helps = len(task.vocabulary), float(np.log(belief)), helps
        self.answers = {p.question.tobytes(): torch.from_numpy(p.answer.astype(np.int64)) for p in puzzles}
        self.register_buffer("z_h_init", torch.zeros(1))

    def initial_carry(self, inputs: Tensor, task_ids: Tensor) -> Carry:
        """The answers travel in the state."""
        answers = [self.answers[row.numpy().astype(np.uint8).tobytes()] for row in inputs]
        state = self.lattice.only(torch.stack(answers)).double()[..., None]
        return Carry(state, state.clone())

    def deduce(self, carry: Carry, packed: Packed, segments: int, every: bool) -> tuple[Carry, list[Readout]]:
        alive, true = packed.alive, carry.z_h[..., 0] > 0
        keep = torch.where(true | (not self.helps), 0.0, self.odds)
        open_ = alive & ~packed.pinned
        lied = open_ & true
        keep[lied & (lied.cumsum(1) == 1)] = self.odds
        scores = torch.zeros(len(alive), self.lattice.cells, self.vocabulary)
        scores[..., self.lattice.first :] = self.lattice.by_cell(keep)
        return carry, [Readout(scores, torch.zeros(len(alive), 2), keep)]


def outcomes(model: Any, task: Sudoku, puzzles: list[Puzzle], slots: int = 16, **rules: Any) -> list[Outcome]:
    many = Rules(rules.pop("most", 10**6), verify=task.verify, deduce=Deduce(2, 0.1, rules.pop("decisions", None)))
    found = list(solve([model], [Job(p.question) for p in puzzles], many, slots, **rules))
    assert [index for index, _ in found] == list(range(len(puzzles)))
    return [outcome for _, outcome in found if outcome is not None]


def right(found: list[Outcome], puzzles: list[Puzzle]) -> Iterator[bool]:
    """Whether each was solved; what is called solved is the answer in any case."""
    for outcome, puzzle in zip(found, puzzles, strict=True):
        assert not outcome.accepted or np.array_equal(outcome.readout, puzzle.answer)
        yield outcome.accepted


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("seed", range(2))
def test_random_weights_solve_every_puzzle_in_the_end(seed: int):
    puzzles = made(SMALL, 15)
    assert all(right(outcomes(net(seed=seed), SMALL, puzzles), puzzles))


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("belief", [1e-9, 0.01])
@pytest.mark.parametrize(("task", "helps"), [(SMALL, False), (SMALL, True), (MIDDLE, True)])
def test_a_model_that_always_kills_a_true_candidate_solves_every_puzzle_in_the_end(
    task: Sudoku, helps: bool, belief: float
):
    puzzles = made(task, 6)
    found = outcomes(Liar(task, puzzles, belief, helps), task, puzzles)
    assert all(right(found, puzzles)) and any(outcome.decisions for outcome in found)


@pytest.mark.usefixtures("width")
def test_an_outcome_depends_neither_on_the_batch_nor_on_the_order():
    puzzles = made(SMALL, 8)
    model = net(seed=1)
    alone, together = outcomes(model, SMALL, puzzles, 1), outcomes(model, SMALL, puzzles[::-1], 5)[::-1]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.readout, other.readout) and one.q == pytest.approx(other.q, abs=1e-9)
        assert one._replace(readout=other.readout, q=other.q) == other
    assert len({outcome.decisions for outcome in alone}) > 3


@cache
def unbounded() -> list[Outcome]:
    """Of the puzzles of the next tests."""
    return outcomes(net(), SMALL, made(SMALL, 12))


def test_without_guesses_nothing_is_decided():
    puzzles = made(SMALL, 12)
    depths: list[int] = []

    def observe(_: int, segment: Segment) -> None:
        assert segment.deduced is not None
        depths.append(segment.deduced.depth)

    watched = outcomes(net(), SMALL, puzzles, decisions=0, observe=observe)
    assert not any(outcome.decisions for outcome in watched) and not any(depths)
    assert not all(right(watched, puzzles))


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_is_decided_than_is_allowed_and_what_was_solved_with_fewer_stays(most: int):
    puzzles = made(SMALL, 12)
    free, bound = unbounded(), outcomes(net(), SMALL, puzzles, decisions=most)
    for one, other in zip(free, bound, strict=True):
        assert other.decisions == min(most, one.decisions) and other.accepted == (one.decisions <= most)


def test_segments_are_bounded():
    puzzles = made(SMALL, 12)
    free, bound = unbounded(), outcomes(net(), SMALL, puzzles, most=11)
    for one, other in zip(free, bound, strict=True):
        assert other.segments == min(12, one.segments) and other.accepted == (one.segments <= 12)


@pytest.mark.usefixtures("width")
def test_a_puzzle_without_a_solution_is_invalid_and_the_search_itself_ends_without_one():
    puzzle = made(SMALL, 1)[0]
    wrong = puzzle.question.copy()
    cell = int(np.flatnonzero(wrong == SMALL.blank)[0])
    for symbol in SMALL.symbols:
        wrong[cell] = symbol
        if symbol == puzzle.answer[cell]:
            continue
        assert Solver(net(), SMALL).solve(SMALL.format(wrong)).status == "invalid"
        (outcome,) = outcomes(net(), SMALL, [Puzzle(wrong, puzzle.answer)])
        assert not outcome.accepted and outcome.segments < 10**6


@pytest.mark.usefixtures("width")
def test_every_completion_is_tried_where_the_verifier_refuses_them_all():
    """As one may that knows rules beside the groups."""
    question = made(SMALL, 1)[0].answer.copy()
    question[:8] = SMALL.blank
    filled = (np.concatenate((top, question[8:])).astype(np.uint8) for top in product(SMALL.symbols, repeat=8))
    completions = {tokens.tobytes() for tokens in filled if SMALL.verify(question, tokens)}
    seen: set[bytes] = set()

    def refuse(asked: np.ndarray, tokens: np.ndarray) -> bool:
        seen.add(tokens.astype(np.uint8).tobytes())
        return False

    ((_, outcome),) = solve([net()], [Job(question)], Rules(10**6, verify=refuse, deduce=Deduce(1, 0.0)))
    assert outcome is not None and not outcome.accepted and outcome.segments < 10_000
    assert len(completions) > 1 and completions <= seen


@pytest.mark.usefixtures("width")
def test_a_puzzle_begun_again_is_seen_through_another_view_and_answered_as_it_was_asked(
    monkeypatch: pytest.MonkeyPatch,
):
    views: list[Any] = []
    found = DeducingBatch._other_view
    monkeypatch.setattr(DeducingBatch, "_other_view", lambda *args: views.append(found(*args)) or views[-1])
    solver = Solver(net(seed=2), SMALL, deduction=DeductionConfig(segments=2, kill=0.6))
    puzzles = made(SMALL, 6)
    answers = solver.solve_many([SMALL.format(p.question) for p in puzzles], max_segments=50_000)
    assert [answer.answer for answer in answers] == [SMALL.format(p.answer) for p in puzzles]
    kept = [np.unique(SMALL.groups[0][view.source].reshape(4, 4), axis=1).shape[1] for view in views]
    assert len(views) > 2 and set(kept) == {4}  # what was a row is a column now


def test_a_puzzle_that_takes_long_is_looked_at_in_several_states_and_through_two_views(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deduction, "WIDER", 4)
    monkeypatch.setattr(deduction, "WIDEST", 3)
    looked: list[tuple[int, int]] = []
    advance = DeducingBatch.advance

    def watched(batch: DeducingBatch) -> Any:
        for puzzle in batch.puzzles:
            mine = [branch for branch in batch.branches if branch.puzzle is puzzle]
            looked.append((len(mine), len(puzzle.searches)))
            assert len(mine) == sum(search.branches for search in puzzle.searches)
        return advance(batch)

    monkeypatch.setattr(DeducingBatch, "advance", watched)
    solver = Solver(net(seed=2), SMALL, deduction=DeductionConfig(segments=2, kill=0.6))
    puzzles = made(SMALL, 6)
    answers = solver.solve_many([SMALL.format(p.question) for p in puzzles], max_segments=50_000)
    assert [answer.answer for answer in answers] == [SMALL.format(p.answer) for p in puzzles]
    assert max(branches for branches, _ in looked) == 3 and max(searches for _, searches in looked) >= 2


def test_before_two_decisions_stand_only_what_is_surer_dies():
    puzzles, killing = made(MIDDLE, 4), set()

    def watch(_: int, segment: Segment) -> None:
        assert segment.deduced is not None
        if segment.deduced.killed.any():
            killing.add(segment.deduced.depth)

    # Below the threshold of 0.1, and above three tenths of it.
    outcomes(Liar(MIDDLE, puzzles, belief=0.05, helps=True), MIDDLE, puzzles, most=400, observe=watch)
    assert killing and min(killing) == 2


def test_searches_through_views_end_in_any_order_and_what_is_unsolved_keeps_its_givens(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deduction, "WIDER", 3)
    solver = Solver(net(seed=2), SMALL, deduction=DeductionConfig(segments=2, kill=0.6))
    puzzles = made(SMALL, 12)
    texts, found = [SMALL.format(p.question) for p in puzzles], set()
    for limit in (4, 9, 30, 5000):
        for answer, puzzle in zip(
            solver.solve_many(texts, views=2, guesses=limit, max_segments=20_000), puzzles, strict=True
        ):
            given = puzzle.question != SMALL.blank
            assert answer.grid is not None
            assert (answer.grid.ravel()[given] == puzzle.question[given] - SMALL.symbols.start + 1).all()
            found.add(answer.status)
    assert found == {"solved", "unsolved"}


@pytest.mark.parametrize("most", [4, 10, 13, 40])
def test_segments_are_bounded_with_several_branches_under_way(monkeypatch: pytest.MonkeyPatch, most: int):
    monkeypatch.setattr(deduction, "WIDER", 3)
    bound = outcomes(net(), SMALL, made(SMALL, 12), most=most)
    assert all(outcome.segments <= most + most % 2 for outcome in bound)
    assert any(outcome.segments >= most and not outcome.accepted for outcome in bound)


def test_what_a_search_consists_of_is_told_apart_by_identity():
    """Equality would compare views, which hold arrays."""
    assert all(kind.__eq__ is object.__eq__ for kind in (deduction.Search, deduction.Puzzle, deduction.Branch))
