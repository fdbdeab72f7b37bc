"""Solvers that come with the package: found by name, unless a folder has it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import hrm
from hrm.cli.main import main
from hrm.puzzles import solvers
from hrm.puzzles.config import Strategy
from hrm.puzzles.solving.engine import Segment
from hrm.puzzles.tasks.maze import Maze
from tests.puzzles.solving.small import questions, run_folder, solver


def test_a_run_becomes_a_solver_that_can_be_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = run_folder(tmp_path / "run")
    best = json.loads((run / "best.json").read_text())
    (run / "best.json").write_text(json.dumps(best | {"n": 500, "calibration": [2.0, 0.5], "data": "/home/me/x.csv"}))
    home = tmp_path / "shipped"
    assert main(["convert", str(run), str(home / "four"), "--to", "hrm"]) == 0
    text = "".join(path.read_text() for path in home.rglob("*") if path.suffix in (".json", ".yaml"))
    assert str(tmp_path) not in text and "/home" not in text

    monkeypatch.setattr(solvers, "HOME", home)
    monkeypatch.chdir(tmp_path)
    assert solvers.names() == ["four"]
    loaded = hrm.load("four")
    assert loaded.calibration == (2.0, 0.5) and str(home) in loaded.checkpoint
    question = "2..14..232.41.2."
    assert loaded.solve(question).answer == solver().solve(question).answer


def test_a_folder_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home = tmp_path / "shipped"
    for folder in (home / "four", tmp_path / "four"):
        run_folder(folder)
    monkeypatch.setattr(solvers, "HOME", home)
    monkeypatch.chdir(tmp_path)
    assert not hrm.load("four").checkpoint.startswith(str(home))


def test_an_unknown_name_is_still_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["solve", str(tmp_path / "nothing"), "1"]) == 2
    assert "there is no run at" in capsys.readouterr().err


def test_a_shipped_solver_tries_as_much_as_it_says_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "shipped"
    run_folder(home / "four")
    monkeypatch.setattr(solvers, "HOME", home)
    monkeypatch.setattr(solvers, "STRATEGIES", {home / "four": Strategy(max_segments=3, restarts=2, views=2)})
    monkeypatch.chdir(tmp_path)
    hard = next(a.question for a in solver().solve_many(questions(60), restarts=8) if a.status == "unsolved")
    loaded = hrm.load("four")
    answer = loaded.solve(hard)
    assert (answer.restarts, answer.segments) == (5, 18)
    answer = loaded.solve(hard, restarts=0, views=1)
    assert (answer.restarts, answer.segments) == (0, 3)
    assert hrm.load(home / "four" / ".." / "four").solve(hard).restarts == 0


def drawn(task: Maze, tokens: np.ndarray) -> str:
    text, cols = task.format(tokens), task.shape[1]
    return "\n".join(text[at : at + cols] for at in range(0, len(text), cols))


def test_the_maze_solver_solves_mazes_of_several_shapes_in_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = [Maze(9, 21, 20), Maze(24, 24, 50), Maze(15, 8, 12)]
    asked = [drawn(task, task.generate(np.random.default_rng(seed)).question) for seed, task in enumerate(tasks)]
    (tmp_path / "mazes.txt").write_text("\n\n".join(asked) + "\n")
    assert main(["solve", "maze", str(tmp_path / "mazes.txt"), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for task, text, answer in zip(tasks, asked, answers, strict=True):
        assert answer["status"] == "solved" and answer["question"] == text
        assert task.verify(task.parse(text), task.parse(answer["answer"]))
        assert np.array(answer["grid"]).shape == task.shape


def test_the_maze_solver_gives_the_same_answer_when_walls_surround_the_maze() -> None:
    task, loaded, alike = Maze(9, 9, 10), hrm.load("maze"), 0
    for seed in range(8):
        question = task.generate(np.random.default_rng(seed)).question
        walled = np.pad(question.reshape(task.shape), 2, constant_values=task.vocabulary.index("#"))
        inside, outside = loaded.solve_many([drawn(task, question), drawn(Maze(13, 13, 1), walled.ravel())])
        assert inside.status == outside.status == "solved"
        assert inside.grid is not None and outside.grid is not None
        alike += np.array_equal(outside.grid[2:-2, 2:-2], inside.grid)
    assert alike >= 7  # another view may find another of the shortest paths


@pytest.mark.slow
def test_the_maze_solver_solves_mazes_four_times_as_wide_as_any_it_learned_from() -> None:
    task, rng = Maze(60, 60, 220), np.random.default_rng(0)
    for _ in range(2):
        question = task.generate(rng).question
        answer = hrm.load("maze").solve(drawn(task, question))
        assert answer.status == "solved" and task.verify(question, task.parse(answer.answer or ""))


def test_the_maze_solver_stops_where_it_has_nothing_more_to_say() -> None:
    task, seen = Maze(9, 9, 10), list[Segment]()
    question = task.generate(np.random.default_rng(0)).question
    answer = hrm.load("maze").solve(drawn(task, question), stop=("q",), views=1, restarts=0, observe=seen.append)
    assert answer.segments == len(seen) < 20


@pytest.mark.parametrize("text", ["S  #G", "S\n \nG", "S ##\n##G#", "S x\n  G"])
def test_what_is_no_maze_ends_in_one_sentence(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["solve", "maze", text]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("hrm solve: invalid: ") and "\n" not in error


def test_mazes_that_no_one_can_know_the_shape_of_are_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(tmp_path / "flat.csv")
    build = ["data", "build", "--task", "maze", "--size", "5", "9", "--min-path", "3", "--puzzles", "2", "--out", made]
    assert main(build) == 0
    assert main(["eval", "maze", "--data", made]) == 2
    assert "mazes that are not square can only be solved, drawn" in capsys.readouterr().err
    assert main(["eval", "maze", "--data", str(tmp_path / "none.csv")]) == 2
    assert capsys.readouterr().err.startswith("hrm eval: there is no file or folder")


def test_a_shipped_solver_is_small() -> None:
    for name in solvers.names():
        assert sum(file.stat().st_size for file in (solvers.HOME / name).rglob("*") if file.is_file()) < 1_000_000
