"""Measuring: what counts as exact, solved and wrong, and what `hrm eval` writes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrm.cli import eval as eval_verb
from hrm.cli.main import main
from hrm.core.arch import ArchConfig
from hrm.files.npy import IGNORE
from hrm.puzzles.data import write_csv, write_folder
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.measuring import Measurement, evaluate
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.solving import Solver
from hrm.puzzles.tasks.maze import Maze
from hrm.puzzles.tasks.sudoku import Sudoku
from tests.puzzles.solving.small import SUDOKU, fix_q, run_folder, solver
from tests.puzzles.tasks.rules import maze_shortest

KEYS = [
    *(
        "n",
        "exact_accuracy",
        "exact_interval",
        "token_accuracy",
        "solved",
        "wrong",
        "unsolved",
        "mean_segments",
        "max_segments",
    ),
    *(
        "restarts",
        "views",
        "guesses",
        "ece",
        "calibration",
        "puzzles_per_second",
        "seconds",
        "device",
        "dtype",
        "checkpoint",
        "data",
        "data_sha256",
    ),
]


def puzzle_set(count: int = 40) -> PuzzleSet:
    rng = np.random.default_rng(7)
    puzzles = [SUDOKU.generate(rng) for _ in range(count)]
    return PuzzleSet(
        inputs=np.stack([puzzle.question for puzzle in puzzles]),
        labels=np.stack([puzzle.answer for puzzle in puzzles]).astype(np.int32),
        task_ids=np.zeros(count, np.int32),
        groups=np.arange(count, dtype=np.int32),
        ratings=None,
        source="made for the test",
    )


@pytest.mark.slow
def test_the_counts_agree_with_solving_one_by_one():
    puzzles = puzzle_set()
    result = evaluate(solver(), puzzles, max_segments=6, restarts=2, batch_size=7)
    answers = [solver().solve(SUDOKU.format(question), max_segments=6, restarts=2) for question in puzzles.inputs]
    shares = [np.mean(a.grid.ravel() + 1 == y) for a, y in zip(answers, puzzles.labels, strict=True)]  # type: ignore[union-attr]
    assert list(result) == KEYS
    assert result["n"] == 40 == result["solved"] + result["unsolved"]
    assert result["solved"] == sum(answer.status == "solved" for answer in answers) > 0
    assert result["exact_accuracy"] == np.mean([share == 1 for share in shares]) == result["solved"] / 40
    assert result["token_accuracy"] == pytest.approx(np.mean(shares)) and result["token_accuracy"] < 1
    assert result["mean_segments"] == np.mean([answer.segments for answer in answers])
    assert (result["wrong"], result["max_segments"], result["restarts"], result["dtype"]) == (0, 6, 2, "float32")


def test_labels_judge_and_never_help():
    puzzles = puzzle_set()
    right = evaluate(solver(), puzzles, max_segments=6)
    scrambled = evaluate(solver(), puzzles._replace(labels=np.full_like(puzzles.labels, 2)), max_segments=6)
    assert all(right[key] == scrambled[key] for key in ("solved", "unsolved", "mean_segments"))
    assert (scrambled["exact_accuracy"], scrambled["wrong"]) == (0, scrambled["solved"])


def test_ignored_cells_do_not_count_and_unlabelled_rows_are_never_right():
    puzzles = puzzle_set()
    exact = evaluate(solver(), puzzles, max_segments=6)["exact_accuracy"]
    labels = puzzles.labels.copy()
    labels[:, 0] = IGNORE
    assert 1 > evaluate(solver(), puzzles._replace(labels=labels), max_segments=6)["exact_accuracy"] >= exact
    nothing = evaluate(solver(), puzzles._replace(labels=np.full_like(labels, IGNORE)), max_segments=6)
    assert (nothing["exact_accuracy"], nothing["token_accuracy"]) == (0, 0)


def test_progress_counts_to_the_end_and_the_q_head_can_stop():
    run, seen = solver(), []
    evaluate(run, puzzle_set(), max_segments=6, progress=seen.append)
    assert seen == list(range(1, 41))
    fix_q(run.model, 1.0, 0.0)
    assert evaluate(run, puzzle_set(), max_segments=6, stop=("q",))["mean_segments"] == 1


def test_nothing_to_measure_is_no_error():
    empty = evaluate(solver(), puzzle_set().take(np.arange(0)))
    assert empty["exact_interval"] == (0, 1)
    assert (empty["n"], empty["exact_accuracy"], empty["solved"]) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_any_shortest_path_is_optimal_whatever_the_label_says(seed: int):
    maze = Maze(6, 7, min_path=6)
    rng = np.random.default_rng(seed)
    puzzle = maze.generate(rng)
    verdicts = set()
    free, path = (maze.vocabulary.index(c) for c in " o")
    flips = [np.flatnonzero(puzzle.question == free)]
    for trial in range(300):
        # Near misses: the answer with up to three cells marked or unmarked.
        readout = puzzle.answer.copy()
        for cell in rng.choice(flips[0], size=trial % 4, replace=False):
            readout[cell] = free + path - readout[cell]
        found = maze.verdicts(puzzle.question, readout, puzzle.answer)
        assert found["optimal"] == maze_shortest(maze.format(puzzle.question), maze.format(readout), 7)
        assert found["optimal"] == maze.verify(puzzle.question, readout)
        assert found["valid"] == maze.valid(puzzle.question, readout)
        verdicts.add(tuple(found.values()))
    assert {(True, True), (False, False)} <= verdicts


def test_another_shortest_path_and_a_detour():
    maze = Maze(3, 3, min_path=4)
    question, label = maze.parse("S       G"), maze.parse("Soo  o  G")
    assert maze.verdicts(question, maze.parse("S  o  ooG"), label) == {"valid": True, "optimal": True}
    assert maze.verdicts(question, maze.parse("S  oo  oG"), label) == {"valid": True, "optimal": True}
    assert maze.verdicts(question, maze.parse("Sooo oooG"), label) == {"valid": False, "optimal": False}
    assert maze.verdicts(question, maze.parse("Soo  o   "), label) == {"valid": False, "optimal": False}
    wide = Maze(3, 5, min_path=4)
    question, label = wide.parse("S   G" + " " * 10), wide.parse("SoooG" + " " * 10)
    detour = wide.parse("S   Go   oooooo")
    assert wide.verdicts(question, detour, label) == {"valid": True, "optimal": False}


def test_a_maze_run_reports_valid_and_optimal_beside_exact():
    maze = Maze(4, 4, min_path=3)
    puzzle = maze.generate(np.random.default_rng(0))
    puzzles = puzzle_set(1)._replace(inputs=puzzle.question[None], labels=puzzle.answer[None])
    arch = ArchConfig(dim=16, heads=2, fast_layers=1, slow_layers=1, expansion_multiple=16)
    result = evaluate(Solver(PuzzleModel(arch, board_of(maze)), maze), puzzles, max_segments=2)
    assert {"valid", "optimal"} <= result.keys() and result["wrong"] == 0


def test_the_digest_is_that_of_the_file_or_of_the_files_of_the_folder(tmp_path: Path):
    puzzles = puzzle_set(3)
    write_csv(tmp_path / "x.csv", SUDOKU, puzzles)
    digest = evaluate(solver(), puzzles._replace(source=str(tmp_path / "x.csv")))["data_sha256"]
    assert digest == hashlib.sha256((tmp_path / "x.csv").read_bytes()).hexdigest()
    write_folder(tmp_path / "x", SUDOKU, puzzles, puzzles)
    digest = evaluate(solver(), puzzles._replace(source=str(tmp_path / "x")))["data_sha256"]
    content = b"".join(path.read_bytes() for path in sorted((tmp_path / "x").rglob("*")) if path.is_file())
    assert digest == hashlib.sha256(content).hexdigest()


def test_eval_prints_a_table_and_writes_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, data, target = run_folder(tmp_path / "run"), tmp_path / "x.csv", tmp_path / "result.json"
    write_csv(data, SUDOKU, puzzle_set(20))
    assert (
        main(["eval", str(run), "--data", str(data), "--json-file", str(target), "--restarts", "1", "--limit", "10"])
        == 0
    )
    out, err = capsys.readouterr()
    result = json.loads(target.read_text())
    assert list(result) == ["skipped", *KEYS] and err == ""
    assert (result["n"], result["restarts"], result["max_segments"], result["data"]) == (10, 1, 6, str(data))
    assert f"{result['exact_accuracy']:.2%}" in out and "puzzles per second" in out
    names = [line[:24].rstrip() for line in out.splitlines()]
    assert names[:6] == ["exact accuracy", "95% interval", "solved", "wrong", "unsolved", "n"]
    assert "confidence error (ECE)" in names and "restarts" in names
    assert not {"skipped", "guesses", "calibration", "ece"} & {*names}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "run", "x.csv"]

    assert main(["eval", str(run), "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 20


def test_a_mistyped_option_of_a_measurement_is_met_with_the_nearest():
    with pytest.raises(TypeError, match="there is no option 'restart'; did you mean 'restarts'"):
        evaluate(solver(), puzzle_set(1), restart=1)


def test_a_measurement_that_is_broken_off_is_that_of_the_first_puzzles():
    puzzles = puzzle_set()
    timing = ("seconds", "puzzles_per_second", "data_sha256")
    measurement = Measurement(solver(), puzzles, 8, max_segments=6, restarts=3)
    for done in measurement:
        known = measurement.result()
        if done in (1, 13, 40):
            first = evaluate(solver(), puzzles.take(np.arange(done)), max_segments=6, restarts=3)
            assert {k: v for k, v in known.items() if k not in timing} == {
                k: v for k, v in first.items() if k not in timing
            }
    assert done == 40


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_what_is_done_and_skip_measures_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run, data, target = run_folder(tmp_path / "run"), tmp_path / "x.csv", tmp_path / "result.json"
    write_csv(data, SUDOKU, puzzle_set(30))
    flags = ["eval", str(run), "--data", str(data), "--json-file", str(target), "--batch-size", "4"]
    assert main(flags) == 0
    whole = json.loads(target.read_text())
    capsys.readouterr()

    verify, calls = Sudoku.verify, []

    def verify_until_stopped(self: Sudoku, question: np.ndarray, answer: np.ndarray) -> bool:
        calls.append(1)
        if len(calls) == 40:
            known.append(json.loads(target.read_text()))
            os.kill(os.getpid(), signal.SIGINT)
        return verify(self, question, answer)

    known: list[dict[str, Any]] = []
    target.unlink()
    monkeypatch.setattr(eval_verb, "EVERY", 0)
    monkeypatch.setattr(Sudoku, "verify", verify_until_stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    try:
        assert main(flags) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    first, words = json.loads(target.read_text()), capsys.readouterr().err
    assert 0 < first["n"] < 30 and f"stopped after {first['n']} of 30" in words and f"--skip {first['n']}" in words
    assert 0 < known[0]["n"] <= first["n"]  # written before anything was stopped
    monkeypatch.setattr(Sudoku, "verify", verify)
    assert main([*flags, "--skip", str(first["n"])]) == 0
    rest = json.loads(target.read_text())
    assert (rest["skipped"], rest["n"]) == (first["n"], 30 - first["n"])
    for key in ("solved", "unsolved", "wrong"):
        assert first[key] + rest[key] == whole[key]
    assert main([*flags, "--skip", "3", "--limit", "5"]) == 0
    assert json.loads(target.read_text())["n"] == 5


def test_eval_reads_a_dataset_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = run_folder(tmp_path / "run")
    write_folder(tmp_path / "x", SUDOKU, puzzle_set(5), puzzle_set(7))
    assert main(["eval", str(run), "--data", str(tmp_path / "x"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 7


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data none.csv", "no file or folder none.csv"),
        ("--data x.csv --limit 0", "--limit must be at least 1 and at most 9,223,372,036,854,775,807, not 0"),
        ("--data x.csv --skip -1", "--skip must be at least 0 and at most 9,223,372,036,854,775,807, not -1"),
        ("--data x.csv --json-file no/where.json", "make it first"),
        ("", "held out no puzzles to measure: name some with --data"),
    ],
)
def test_eval_names_a_mistake(
    flags: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    run = run_folder(tmp_path / "run")
    assert main(["eval", str(run), *flags.split()]) == 2
    assert words in capsys.readouterr().err
