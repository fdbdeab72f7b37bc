"""ARC's votes, scores, submissions and pictures."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hrm.core.arch import ArchConfig
from hrm.files.reading import UserError
from hrm.puzzles.arc.files import ArcTask, Pair
from hrm.puzzles.arc.measuring import (
    AnsweredTask,
    Guess,
    answer,
    fit,
    read_submission,
    score,
    submission_of,
    vote,
    write_submission,
)
from hrm.puzzles.arc.picture import picture
from hrm.puzzles.arc.sets import TaskRecord
from hrm.puzzles.model import PuzzleModel, Readout, board_of
from hrm.puzzles.solving import Solver
from hrm.puzzles.tasks.arc import Arc


def grid(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


A, B, C = grid([1]), grid([2, 2]), grid([3], [3])
ONE = ArcTask("one", (Pair(A, B),), (Pair(B, A),))
TWO = ArcTask("two", (Pair(A, B),), (Pair(A, B), Pair(C, C)))


# Votes


def test_guesses_are_ordered_by_votes_then_by_mean_confidence_then_by_appearance():
    guesses = vote([(A, 0.9), (B, 0.1), (C, 0.5), (B, 0.2), (C, 0.4)])
    assert [(g.grid.tolist(), g.votes) for g in guesses] == [(C.tolist(), 2), (B.tolist(), 2), (A.tolist(), 1)]
    assert [g.confidence for g in guesses] == pytest.approx([0.45, 0.15, 0.9])
    tied = vote([(B, 0.5), (A, 0.5)])
    assert [g.grid.tolist() for g in tied] == [B.tolist(), A.tolist()]


def test_grids_of_equal_cells_and_other_shapes_are_other_guesses_and_empty_ones_do_not_count():
    guesses = vote([(grid([2], [2]), 0.5), (B, 0.5), (np.zeros((0, 0), np.uint8), 0.9)])
    assert [g.grid.shape for g in guesses] == [(2, 1), (1, 2)]
    assert vote([(np.zeros((0, 0), np.uint8), 0.9)]) == []


def test_a_submission_always_has_two_guesses():
    guesses = [[Guess(A, 3, 0.5), Guess(B, 1, 0.5), Guess(C, 1, 0.1)], [Guess(C, 1, 0.5)]]
    made = submission_of([AnsweredTask(TWO, guesses, 0), AnsweredTask(ONE, [[]], 0)])
    assert [[g.tolist() for g in two] for two in made["two"]] == [[A.tolist(), B.tolist()], [C.tolist(), C.tolist()]]
    assert [g.tolist() for g in made["one"][0]] == [[[0]], [[0]]]


# Scores


def test_two_test_inputs_count_half_each_in_the_official_score():
    result = score({"one": [[A, A]], "two": [[B, A], [A, A]]}, [ONE, TWO])
    assert (result["pass@1"], result["pass@2"]) == (0.75, 0.75)
    assert (result["all_pass@1"], result["inputs_pass@1"]) == (0.5, pytest.approx(2 / 3))
    assert (result["tasks"], result["test_inputs"]) == (2, 3)


def test_the_second_guess_counts_for_pass_at_2_alone():
    result = score({"one": [[B, A]], "two": [[A, B], [A, C]]}, [ONE, TWO])
    assert (result["pass@1"], result["pass@2"], result["all_pass@2"], result["inputs_pass@2"]) == (0.0, 1.0, 1.0, 1.0)


def test_a_tie_is_decided_before_the_score_sees_it():
    """Two grids with one vote each: the more confident one is the first guess, and only that counts for pass@1."""
    ballots = [(B, 0.3), (A, 0.6)]
    for order in (ballots, ballots[::-1]):
        result = score(submission_of([AnsweredTask(ONE, [vote(order)], 0)]), [ONE])
        assert (result["pass@1"], result["pass@2"]) == (1.0, 1.0)
    worse = [(B, 0.6), (A, 0.3), (C, 0.5)]
    result = score(submission_of([AnsweredTask(ONE, [vote(worse)], 0)]), [ONE])
    assert (result["pass@1"], result["pass@2"]) == (0.0, 0.0)


def test_a_grid_must_be_right_in_every_cell_and_in_shape():
    for wrong in (grid([1, 1]), grid([1], [1]), grid([2])):
        assert score({"one": [[wrong, wrong]]}, [ONE])["pass@2"] == 0.0


def test_without_answers_there_is_no_score():
    asked = ONE._replace(test=(Pair(B, None),))
    with pytest.raises(UserError, match="task one has no output"):
        score({"one": [[A, A]]}, [asked])


# Submissions


def test_a_submission_is_read_as_it_was_written_and_has_the_official_form(tmp_path: Path):
    made = {"one": [[A, B]], "two": [[B, C], [C, C]]}
    write_submission(tmp_path / "s.json", made)
    tree = json.loads((tmp_path / "s.json").read_text())
    assert tree["two"][0] == {"attempt_1": [[2, 2]], "attempt_2": [[3], [3]]}
    back = read_submission(tmp_path / "s.json", [ONE, TWO])
    assert {k: [[g.tolist() for g in two] for two in v] for k, v in back.items()} == {
        k: [[g.tolist() for g in two] for two in v] for k, v in made.items()
    }
    assert score(back, [ONE, TWO]) == score(made, [ONE, TWO])


RIGHT, WRONG = A.tolist(), [[9]]


@pytest.mark.parametrize(
    ("entry", "first", "either"),
    [
        ({"attempt_1": RIGHT, "attempt_2": None}, 1, 1),
        ({"attempt_1": None, "attempt_2": RIGHT}, 0, 1),
        ({"attempt_2": RIGHT}, 0, 1),
        ({"attempt_1": [], "attempt_2": []}, 0, 0),
        ({"attempt_1": {"answer": RIGHT, "metadata": {"cost": 1}}, "attempt_2": {"answer": None}}, 1, 1),
        ({}, 0, 0),
        (None, 0, 0),
        ([WRONG, RIGHT], 0, 1),
        ([None, RIGHT], 0, 1),
        (RIGHT, 1, 1),
    ],
)
def test_attempts_may_be_null_or_absent_in_a_row_or_come_with_facts(
    tmp_path: Path, entry: Any, first: int, either: int
):
    asked = ONE._replace(test=(Pair(B, A),))
    (tmp_path / "s.json").write_text(json.dumps({"one": [entry]}))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one.json").write_text(json.dumps([entry]))
    (tmp_path / "runs" / "._one.json").write_bytes(b"\0")
    for path in (tmp_path / "s.json", tmp_path / "runs"):
        result = score(read_submission(path, [asked]), [asked])
        assert (result["pass@1"], result["pass@2"]) == (first, either)


def test_what_a_submission_lacks_can_count_as_not_answered(tmp_path: Path):
    (tmp_path / "s.json").write_text(json.dumps({"two": [GOOD, {"attempt_1": "x"}]}))
    said: list[str] = []
    submission = read_submission(tmp_path / "s.json", [ONE, TWO], said.append)
    assert len(said) == 2 and "lacks task one" in said[0] and "task two, test input 2, attempt_1" in said[1]
    assert score(submission, [ONE, TWO])["pass@2"] == 0


GOOD = {"attempt_1": [[1]], "attempt_2": [[2]]}


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ([], "must hold an object"),
        ({"one": [GOOD]}, "lacks task two"),
        ({"one": [GOOD], "two": [GOOD, GOOD], "x": []}, "has an unknown task x"),
        ({"one": [GOOD], "two": [GOOD]}, "task two has 2 test inputs, but the submission has 1 entries"),
        ({"one": "x", "two": [GOOD, GOOD]}, "task one has 1 test inputs, but the submission has no list"),
        ({"one": [5], "two": [GOOD, GOOD]}, "task one, test input 1 must have attempt_1 and"),
        ({"one": [[[[1]], [[2]], [[3]]]], "two": [GOOD, GOOD]}, "task one, test input 1 has 3 attempts instead of 2"),
        ({"one": [{"attempt_1": 10**400}], "two": [GOOD, GOOD]}, "task one, test input 1, attempt_1: not a list"),
        ({"one": [{**GOOD, "attempt_3": [[1]]}], "two": [GOOD, GOOD]}, "and nothing else"),
        ({"one": [{**GOOD, "attempt_2": [[10]]}], "two": [GOOD, GOOD]}, "task one, test input 1, attempt_2: row 1"),
    ],
)
def test_a_wrong_submission_is_refused_with_its_place(tmp_path: Path, tree: Any, words: str):
    (tmp_path / "s.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=words):
        read_submission(tmp_path / "s.json", [ONE, TWO])


# Answers


class Echo(PuzzleModel):
    """Answers every question with itself, at once certain."""

    def segment(self, carry: Any, inputs: Any, task_ids: Any, schedule: Any = None) -> Any:
        logits = torch.nn.functional.one_hot(inputs, self.board.vocabulary).float()
        return carry, Readout(logits, torch.tensor([[5.0, -5.0]]).repeat(len(inputs), 1))


def echo(copies: int = 6) -> Solver:
    board = Arc(6, copies=copies)
    arch = ArchConfig(dim=8, heads=2, fast_layers=1, slow_layers=1, expansion_multiple=8)
    return Solver(Echo(arch, board_of(board, board.row(3))), board, max_segments=4)


def task(name: str, seed: int) -> ArcTask:
    rng = np.random.default_rng(seed)
    same = [Pair(*[rng.integers(0, 10, rng.integers(1, 7, 2)).astype(np.uint8)] * 2) for _ in range(4)]
    return ArcTask(name, tuple(same[:2]), tuple(same[2:]))


def test_all_copies_are_asked_in_their_own_colours_and_mapped_back_to_one_guess():
    tasks, record = [task("a", 1), task("b", 2)], TaskRecord(("x", "b", "a"))
    counted: list[int] = []
    answers = list(answer(echo(), tasks, record, progress=counted.append))
    assert [answered.task.id for answered in answers] == ["a", "b"]
    assert all(len(guesses) == 1 and guesses[0].votes == 6 for a in answers for guesses in a.guesses)
    assert score(submission_of(answers), tasks)["all_pass@1"] == 1.0
    assert counted == list(range(1, 2 * 2 * 6 + 1))
    assert {(answered.status, answered.segments) for answered in answers} == {("answered", 12)}
    assert answers[0].guesses[0][0].confidence == pytest.approx(1 / (1 + np.exp(-5)))
    assert fit(echo(), tasks, record) == 1.0


def test_copies_segments_and_halting_are_asked_for():
    tasks, record = [task("a", 1)], TaskRecord(("a",))
    (few,) = answer(echo(), tasks, record, copies=2)
    assert few.guesses[0][0].votes == 2
    (deep,) = answer(echo(), tasks, record, halt=False)
    assert deep.segments == 4 * 2 * 6
    (short,) = answer(echo(), tasks, record, halt=False, max_segments=3)
    assert short.segments == 3 * 2 * 6
    for wrong in (0, 7):
        with pytest.raises(UserError, match="--copies must be from 1 to 6"):
            list(answer(echo(), tasks, record, copies=wrong))


def test_a_task_that_the_run_does_not_know_or_has_no_room_for_is_refused():
    with pytest.raises(UserError, match="the first is b"):
        list(answer(echo(), [task("b", 1)], TaskRecord(("a",))))
    large = ArcTask("a", (Pair(A, B),), (Pair(np.zeros((7, 1), np.uint8), A),))
    with pytest.raises(UserError, match=r"task a, test input 1: a grid of .* is larger"):
        list(answer(echo(), [large], TaskRecord(("a",))))


# Pictures


def test_the_picture_shows_every_pair_and_both_guesses_with_their_verdict():
    guesses = [[Guess(B, 5, 0.9), Guess(A, 1, 0.1), Guess(C, 1, 0.1)], [Guess(A, 1, 0.5)]]
    svg = picture(TWO._replace(id="a<b"), guesses)
    root = ElementTree.fromstring(svg)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == [
        "a<b", "demonstration 1", "output", "test input 1", "guess 1: 5 votes, 90%, right",
        "guess 2: 1 vote, 10%, wrong", "answer", "test input 2", "guess 1: 1 vote, 50%, wrong", "answer",
    ]  # fmt: skip
    colours = {element.get("fill") for element in root.iter("{http://www.w3.org/2000/svg}rect")}
    assert colours == {"white", "#0074d9", "#ff4136", "#2ecc40"}
    assert "answer" not in picture(ONE._replace(test=(Pair(A, None),)), [[Guess(B, 1, 0.5)]])
    assert "guess" not in picture(ONE)
