"""Text in, answers out: every status, every form, and nothing called solved that is not."""

from __future__ import annotations

import ast
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import hrm
import hrm.puzzles.solving
from hrm.files.reading import UserError
from hrm.puzzles.config import Config
from hrm.puzzles.model import board_of, build
from hrm.puzzles.solving import Answer, Solver
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.tasks.sudoku import Sudoku
from hrm.runs import checkpoint
from hrm.runs.folder import Run
from hrm.settings import load_preset
from tests.data import hrm_data
from tests.puzzles.solving.small import CONFIG, SUDOKU, fix_q, model, questions, run_folder, solver
from tests.puzzles.tasks.rules import sudoku_right, sudoku_solutions, units


def mixed_questions(count: int) -> list[str]:
    """Puzzles of which every other one has been damaged: a clue removed, changed, or several."""
    dice = random.Random(3)
    texts = questions(count, seed=5)
    for i in range(0, count, 2):
        text = list(texts[i])
        for _ in range(dice.choice([1, 1, 2])):
            text[dice.randrange(16)] = dice.choice(".1234")
        texts[i] = "".join(text)
    return texts


def first_solved() -> Answer:
    return next(answer for answer in solver().solve_many(questions(60)) if answer.status == "solved")


def test_nothing_is_called_solved_that_an_independent_checker_rejects():
    texts = mixed_questions(500)
    answers = list(solver().solve_many(texts, restarts=1))
    assert [answer.question for answer in answers] == texts
    counts = dict.fromkeys(["solved", "unsolved", "contradicting clues", "no solution", "several solutions"], 0)
    for text, answer in zip(texts, answers, strict=True):
        solutions = sudoku_solutions(text, 2, 2)
        twice = any(text[a] == text[b] != "." for unit in units(2, 2) for a in unit for b in unit if a < b)
        if twice or len(solutions) != 1:
            expected = "contradicting clues" if twice else "several solutions" if solutions else "no solution"
            assert answer.status == "invalid" and answer.reason and answer.reason.startswith(expected)
            assert answer.answer is None and answer.grid is None and answer.segments == 0
            counts[expected] += 1
        else:
            assert answer.status in ("solved", "unsolved") and answer.reason is None
            assert (answer.answer is not None) == (answer.status == "solved")
            assert answer.answer is None or (answer.answer == solutions[0] and sudoku_right(text, answer.answer, 2, 2))
            counts[answer.status] += 1
    assert min(counts.values()) > 5, counts


def test_what_is_reported_is_exactly_what_the_verifier_accepted(monkeypatch: pytest.MonkeyPatch):
    accepted: dict[bytes, np.ndarray] = {}
    verify = SUDOKU.verify

    def recording(question: np.ndarray, answer: np.ndarray) -> bool:
        right = verify(question, answer)
        if right:
            accepted[question.tobytes()] = answer.copy()
        return right

    monkeypatch.setattr(SUDOKU, "verify", recording)
    for answer in solver().solve_many(questions(40), restarts=2, trace=True):
        tokens = accepted.get(SUDOKU.parse(answer.question).tobytes())
        assert (answer.status == "solved") == (tokens is not None)
        if tokens is not None:
            assert answer.answer == SUDOKU.format(tokens)
            assert answer.grid is not None and answer.trace is not None
            assert "".join(map(str, answer.grid.ravel())) == answer.answer
            assert np.array_equal(answer.grid, answer.trace[-1]["grid"])


def test_givens_are_never_patched_into_a_readout():
    net = model()
    with torch.no_grad():
        next(p for name, p in net.named_parameters() if name == "head.weight").neg_()  # prefers the other digits
    answer = Solver(net, SUDOKU).solve(questions(1)[0], max_segments=1, trace=True)
    assert answer.status == "unsolved" and answer.grid is not None and answer.trace is not None
    given = [(i, c) for i, c in enumerate(answer.question) if c != "."]
    changed = [i for i, c in given if str(answer.grid.ravel()[i]) != c]
    assert changed and set(changed) <= set(answer.trace[0]["wrong"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("123", "expected 16 characters"),
        ("z" * 16, "at row 1, column 1 is none of"),
        ("", "expected 16 characters"),
        ("1..1" + "." * 12, "contradicting clues"),
        ("." * 16, "several solutions"),
    ],
)
def test_a_wrong_question_gets_its_reason_without_a_forward_pass(
    text: str, reason: str, monkeypatch: pytest.MonkeyPatch
):
    run = solver()
    monkeypatch.setattr(run.model, "segment", None)
    answer = run.solve(text)
    assert answer.status == "invalid" and answer.reason and reason in answer.reason
    assert (answer.question, answer.answer, answer.segments, answer.confidence) == (text, None, 0, 0.0)


def test_the_answer_has_the_form_of_the_question():
    plain = first_solved()
    assert plain.answer and len(plain.answer) == 16
    rows = [plain.question[i : i + 4] for i in range(0, 16, 4)]
    solution = [plain.answer[i : i + 4] for i in range(0, 16, 4)]
    assert solver().solve(plain.question.replace(".", "0")).answer == plain.answer
    assert solver().solve("\n".join(rows) + "\n").answer == "\n".join(solution)
    assert solver().solve("\r\n".join(rows)).answer == "\r\n".join(solution)
    spaced = " ".join(plain.question)
    assert solver().solve(spaced).answer == " ".join(plain.answer)


def test_the_trace_tells_every_segment():
    unsolved = next(a for a in solver().solve_many(questions(60), restarts=1, trace=True) if a.status == "unsolved")
    assert unsolved.trace is not None and unsolved.segments == len(unsolved.trace) == 12 and unsolved.attempts == 2
    assert [(step["attempt"], step["segment"]) for step in unsolved.trace] == [
        (r, s) for r in (1, 2) for s in range(1, 7)
    ]
    for step in unsolved.trace:
        assert step["grid"].shape == (4, 4) and len(step["q"]) == 2 and step["residual"] > 0
        assert 0 < step["confidence"] < 1
        values = step["grid"].ravel()
        givens = {i for i, c in enumerate(unsolved.question) if c not in (".", str(values[i]))}
        clashes = {a for unit in units(2, 2) for a in unit for b in unit if a != b and values[a] == values[b]}
        assert set(step["wrong"]) == givens | clashes != set()
    solved = first_solved()
    assert solved.trace is None
    assert json.loads(json.dumps(unsolved.to_dict()))["trace"][0]["segment"] == 1


def test_without_a_verifier_the_answer_is_answered_and_the_q_head_decides_when():
    grid = Grid(2, 3, vocabulary=5)
    net = build(CONFIG_OF_GRID, board_of(grid))
    run = Solver(net, grid, q_continue=False, max_segments=3)
    answer = run.solve("1 2 3\n4 0 1")
    assert (answer.status, answer.segments) == ("answered", 3) and answer.answer and answer.answer[5] == "\n"
    assert answer.grid is not None and answer.answer.split() == [str(n) for n in answer.grid.ravel()]
    fix_q(net, 1.0, 0.0)
    assert run.solve("123401").segments == 1
    with pytest.raises(UserError, match="--views 1"):
        run.solve("123401", views=2)


CONFIG_OF_GRID = hrm.Config(
    arch=hrm.core.arch.ArchConfig(dim=16, heads=2, fast_layers=1, slow_layers=1, expansion_multiple=16)  # type: ignore[attr-defined]
)


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"max_segments": 0}, "--max-segments"),
        ({"restarts": -1}, "--restarts"),
        ({"views": 0}, "--views"),
        ({"guesses": -1}, "--guesses"),
        ({"budget": 0}, "--budget"),
        ({"batch_size": 0}, "--batch-size"),
    ],
)
def test_impossible_settings_name_their_flag(settings: dict[str, int], flag: str):
    with pytest.raises(UserError, match=flag):
        list(solver().solve_many(questions(1), **settings))  # type: ignore[arg-type]


def test_a_run_folder_is_solved_with_its_averaged_weights(tmp_path: Path):
    texts = questions(30)
    loaded = hrm.load(run_folder(tmp_path / "run"))
    assert [a.status for a in loaded.solve_many(texts)] == [a.status for a in solver().solve_many(texts)]
    assert loaded.max_segments == 6 and not loaded.q_continue and loaded.checkpoint.endswith("step_00000080")
    assert hrm.load(tmp_path / "run", checkpoint=80, device="cpu", precision="bfloat16").model.dtype == torch.bfloat16


def test_a_run_that_cannot_be_loaded_says_why(tmp_path: Path):
    folder = run_folder(tmp_path / "run")
    mistakes = [
        (lambda: hrm.load(tmp_path / "rum"), "did you mean"),
        (lambda: hrm.load(folder, checkpoint=7), "no checkpoint '7'"),
        (lambda: hrm.load(folder, precision="int8"), "--precision"),
        (lambda: hrm.load(folder, precision="float8_e4m3fn"), "--precision"),
        (lambda: hrm.load(folder, device="warp"), "--device"),
    ]
    for mistake, words in mistakes:
        with pytest.raises(UserError, match=words):
            mistake()
    run = Run.open(folder, Config)
    run.set_config(CONFIG_OF_GRID)
    with pytest.raises(UserError, match="does not hold the weights"):
        hrm.load(folder)
    run.set_config(CONFIG)
    (checkpoint.complete(run.checkpoints)[0] / "ema.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="no intact checkpoint"):
        hrm.load(folder)


def test_solving_never_imports_a_search_solver():
    for file in Path(hrm.puzzles.solving.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            origin = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert "search" not in origin and not any("search" in name for name in names), file


def test_real_puzzles_with_several_solutions_are_all_invalid(monkeypatch: pytest.MonkeyPatch):
    path = hrm_data() / "sudoku" / "serg_multi_solution_2k.txt.gz"
    with gzip.open(path, "rt") as file:
        texts = file.read().split()[:200]
    nine = Sudoku(3, 3)
    run = Solver(build(CONFIG, board_of(nine)), nine)
    monkeypatch.setattr(run.model, "segment", None)
    answers = list(run.solve_many(texts))
    assert len(answers) == 200
    assert {(answer.status, answer.reason) for answer in answers} == {("invalid", "several solutions")}


def test_a_mistyped_option_is_met_with_the_nearest():
    with pytest.raises(TypeError, match="there is no option 'restart'; did you mean 'restarts'"):
        solver().solve("." * 16, restart=1)
    with pytest.raises(TypeError, match="there is no option 'zzz': use max_segments, restarts"):
        solver().solve("." * 16, zzz=1)


def test_training_takes_the_name_of_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    given = []
    monkeypatch.setattr("hrm.puzzles.training.session.train", lambda config, path: given.append((config, path)) or {})
    assert hrm.train("sudoku-4x4", tmp_path / "run") == {}
    assert given == [(load_preset("sudoku-4x4"), tmp_path / "run")]
    with pytest.raises(UserError, match="did you mean 'sudoku-4x4'"):
        hrm.train("sudoku-4x5", tmp_path / "run")
