"""Grid tasks of Reasoning Gym: laid out faithfully, verified only where its scorer's verdict needs no stored answer."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import hrm
from hrm.cli.main import main
from hrm.core.arch import ArchConfig
from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.data.puzzle_set import PuzzleSet
from hrm.puzzles.measuring import evaluate
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.solving import Solver
from hrm.puzzles.tasks import PuzzleError, build
from hrm.puzzles.tasks.gym import DATASETS, make

VERIFIED = {"sudoku", "mini_sudoku", "futoshiki", "n_queens", "kakurasu", "shortest_path"}
SMALL = {
    "futoshiki": ("min_board_size=4", "max_board_size=5"),
    "modulo_grid": ("size_x=7", "size_y=6", "max_holes=4"),
    "sudoku": ("max_empty=40",),
    "kakurasu": ("max_rows=4", "max_cols=6"),
}
FOUR = ["max_rows=4", "max_cols=4"]
FOUR_BY_FOUR = ["max_board_size=4"]
FREE = ".<.-.-." + ("-" * 7 + ".-.-.-.") * 3
ONE_SIZE = {
    "futoshiki": ("max_board_size=4",),
    "n_queens": ("n=6", "max_remove=5"),
    "kakurasu": ("max_rows=4", "max_cols=4"),
    "game_of_life": ("grid_size_x=4", "grid_size_y=6", "simulation_steps=2"),
    "binary_matrix": ("min_n=5", "max_n=5"),
}


def gym() -> Any:
    return pytest.importorskip("reasoning_gym", reason="needs the extra [gym]")


def small(name: str) -> Any:
    return make(name, SMALL.get(name, ()))


def text_of(task: Any, entry: dict[str, Any], answer: np.ndarray) -> str:
    """An answer as the dataset's scorer reads it; what is no answer at all becomes a text that is none."""
    facts, grid = entry["metadata"], answer.reshape(task.shape)
    name = task.dataset
    if name in ("sudoku", "mini_sudoku"):
        rows = [[task.vocabulary[token] for token in row] for row in grid]
    elif name == "n_queens":
        rows = [["Q" if token == task.queen else "_" if token == task.blank else "x" for token in row] for row in grid]
    elif name == "kakurasu":
        rows = [[task.names[token] for token in row[: facts["n_cols"]]] for row in grid[: facts["n_rows"]]]
    elif name == "futoshiki":
        n = facts["board_size"]
        digits = [[token - task.first + 1 for token in row] for row in grid[: 2 * n : 2, : 2 * n : 2].tolist()]
        constraints = {((r, c), (r2, c2)): sign for r, c, r2, c2, sign in facts["constraints"]}
        return task.source.dataset._puzzle_to_string(digits, constraints)
    else:
        return directions(grid)
    return "\n".join(" ".join(row) for row in rows)


def directions(grid: np.ndarray) -> str:
    """The steps along the marks of a maze from S; "lost" where they branch or end."""
    here, end = (tuple(np.argwhere(grid == token)[0].tolist()) for token in (3, 4))
    left, steps = {*map(tuple, np.argwhere(grid == 5).tolist()), end}, []
    while here != end:
        ways = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
        beside = {step: (here[0] + down, here[1] + right) for step, (down, right) in ways.items()}
        beside = {step: cell for step, cell in beside.items() if cell in left}
        if len(beside) > 1:
            beside.pop(next((step for step, cell in beside.items() if cell == end), ""), None)
        if len(beside) != 1:
            return "lost"
        (step, here) = next(iter(beside.items()))
        left.remove(here)
        steps.append(step)
    return "lost" if left else " ".join(steps)


def test_building_a_task_imports_neither_reasoning_gym_nor_torch():
    code = (
        "import sys; from hrm.puzzles.tasks.gym import DATASETS, make; [make(name) for name in DATASETS]; "
        "print([name for name in ('reasoning_gym', 'torch', 'matplotlib') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(hrm.__file__).parents[2]
    )
    assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize("name", DATASETS)
def test_a_task_describes_itself(name: str):
    task = small(name)
    assert task.verifies == (name in VERIFIED)
    assert len(set(task.vocabulary)) == len(task.vocabulary)
    assert task.groups.shape[1] == task.shape[0] * task.shape[1]
    assert task.symbols.stop == len(task.vocabulary) or name == "survo"


def test_the_page_lists_every_dataset_with_its_true_board_and_status():
    page = (Path(__file__).parents[3] / "docs/reasoning-gym.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+)x(\d+) \| (\d+) \| (\w+) \|", page, re.M)
    tasks: dict[str, Any] = {name: make(name) for name in DATASETS}
    status = {True: "solved", False: "answered"}
    true = [(n, *map(str, (*t.shape, len(t.vocabulary))), status[t.verifies]) for n, t in tasks.items()]
    assert rows == true


@pytest.mark.parametrize("name", DATASETS)
def test_the_options_are_those_of_reasoning_gym(name: str):
    gym()
    from reasoning_gym.factory import DATASETS as THEIRS

    theirs = vars(THEIRS[name][1]())
    assert {key: theirs[key] for key in DATASETS[name].defaults} == DATASETS[name].defaults


@pytest.mark.parametrize("name", DATASETS)
def test_puzzles_are_drawn_from_the_random_numbers_alone_and_are_well_posed(name: str):
    gym()
    first, second = small(name), small(name)
    rng = np.random.default_rng(1)
    drawn = [first.generate(rng) for _ in range(6)]
    for puzzle in drawn:
        first.check(puzzle.question)
        assert not first.verifies or first.verify(puzzle.question, puzzle.answer)
        assert first.verify(puzzle.question, puzzle.answer) == first.verifies
        for tokens in (puzzle.question, puzzle.answer):
            assert tokens.min() > 0
            assert np.array_equal(first.parse(first.format(tokens)), tokens)
            assert np.array_equal(first.parse("".join(first.vocabulary[token] for token in tokens)), tokens)
    rng = np.random.default_rng(1)
    for puzzle, again in zip(drawn, [second.generate(rng) for _ in range(6)], strict=True):
        assert np.array_equal(puzzle.question, again.question) and np.array_equal(puzzle.answer, again.answer)
    assert len({puzzle.question.tobytes() for puzzle in drawn}) > 1


@pytest.mark.parametrize("name", sorted(VERIFIED))
def test_the_verifier_decides_as_the_scorer_does_without_the_stored_answer(name: str):
    gym()
    task = small(name)
    verdicts = []
    for seed in range(12):
        entry = task.source.draw(np.random.default_rng(seed))
        if entry["answer"] == "infeasible":
            continue
        question, answer = task.generate(np.random.default_rng(seed))[:2]
        assert task.source.dataset.score_answer(text_of(task, entry, answer), entry) == 1.0
        assert task.verify(question, answer)
        # Changed in one to three of the cells that the answer fills in.
        rng, free = np.random.default_rng(seed), np.flatnonzero(question == changeable(task))
        for _ in range(25):
            other = answer.copy()
            cells = rng.choice(free, min(len(free), int(rng.integers(1, 4))), replace=False)
            other[cells] = rng.choice(np.unique(answer[free]), len(cells))
            score = task.source.dataset.score_answer(text_of(task, entry, other), entry)
            assert task.verify(question, other) == (score == 1.0), (seed, task.format(other))
            verdicts.append(score == 1.0)
            if (judged := task.judge(question, other)) is not None:
                assert judged == (score == 1.0)
    assert len(set(verdicts)) == 2


def changeable(task: Any) -> int:
    return task.vocabulary.index(" " if " " in task.vocabulary else ".")


def test_all_completions_of_a_queens_board_are_right():
    gym()
    task: Any = make("n_queens", ["n=6", "min_remove=5", "max_remove=6"])
    several = 0
    for seed in range(10):
        entry = task.source.draw(np.random.default_rng(seed))
        question = task.generate(np.random.default_rng(seed)).question
        boards = entry["metadata"]["valid_answers"]
        several += len(boards) > 1
        for board in boards:
            assert task.verify(question, task.parse(board)) and task.judge(question, task.parse(board))
    assert several


def test_where_several_answers_are_right_a_label_does_not_make_another_wrong():
    task: Any = make("n_queens", ["n=4"])
    label, other = task.parse("..Q. Q... ...Q .Q.."), task.parse(".Q.. ...Q Q... ..Q.")
    # All layers are silent, so that the readout is the question, in which every queen stands already.
    arch = ArchConfig(dim=16, heads=1, shared=True, fast_layers=1, positions="none", task_positions=0, tied=True)
    model = PuzzleModel(arch, board_of(task))
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if "embed_tokens" not in name:
                weight.zero_()
    number = np.zeros(1, np.int32)
    puzzles = PuzzleSet(other[None], label[None], number, number, None, "made for the test")
    result = evaluate(Solver(model, task, "cpu", max_segments=1), puzzles)
    assert (result["solved"], result["wrong"], result["exact_accuracy"]) == (1, 0, 0.0)


def test_of_survo_the_rules_accept_answers_that_the_scorer_does_not():
    """The reason why it is not verified: the sums do not tell the stored answer from another."""
    gym()
    task: Any = make("survo")
    # Two numbers in two rows and two columns exchanged along a rectangle: 1 + 4 = 2 + 3.
    entry = next(e for e in map(task.source.dataset.__getitem__, range(5000)) if rival(e) is not None)
    assert task.source.dataset.score_answer(entry["answer"], entry) == 1.0
    other = "\n".join(" ".join(map(str, row)) for row in rival(entry) or [])
    assert other and task.source.dataset.score_answer(other, entry) == 0.0


def rival(entry: dict[str, Any]) -> list[list[int]] | None:
    """Another filling with the same numbers and sums: an exchange of two cells in each of two rows, or None."""
    puzzle, solution = np.array(entry["metadata"]["puzzle"]), np.array(entry["metadata"]["solution"])
    n = len(puzzle) - 1
    for r, r2 in np.argwhere(np.triu(np.ones((n, n)), 1)):
        for c, c2 in np.argwhere(np.triu(np.ones((n, n)), 1)):
            block = solution[np.ix_([r, r2], [c, c2])]
            if (puzzle[np.ix_([r, r2], [c, c2])] == 0).all():
                (a, b), (d, _) = block
                for shift in (b - a, a - d):
                    other = block + shift * np.array([[1, -1], [-1, 1]])
                    if shift and sorted(other.ravel()) == sorted(block.ravel()):
                        changed = solution.copy()
                        changed[np.ix_([r, r2], [c, c2])] = other
                        return changed.tolist()
    return None


@pytest.mark.parametrize("name", ONE_SIZE)
def test_symmetries_lead_to_right_answers_and_back(name: str):
    gym()
    task: Any = make(name, ONE_SIZE[name])
    rng = np.random.default_rng(3)
    puzzle = task.generate(rng)
    classes, images = set(), set()
    for _ in range(30):
        uniforms = rng.random(task.uniforms)
        (question,), (answer,) = task.augment(puzzle.question[None], puzzle.answer[None], uniforms[None])
        view = task.view(uniforms)
        assert np.array_equal(view.apply(puzzle.question), question)
        assert np.array_equal(view.undo(answer), puzzle.answer)
        assert right(task, question, answer)
        classes.add(task.canonical(puzzle._replace(question=question)))
        images.add(question.tobytes())
    assert len(classes) == 1 and len(images) > 1
    ignored = np.full((1, answer.size), -100)
    assert np.array_equal(task.augment(puzzle.question[None], ignored, uniforms[None])[1], ignored)


def right(task: Any, question: np.ndarray, answer: np.ndarray) -> bool:
    """By the rules, or computed anew here."""
    if task.verifies:
        task.check(question)
        return task.verify(question, answer)
    board, told = ((x - task.token["0"]).reshape(task.shape) for x in (question, answer))
    if task.dataset == "binary_matrix":
        return np.array_equal(task.source.dataset._get_distances(board.tolist()), told)
    for _ in range(int(task.options["simulation_steps"])):
        near = sum(np.roll(board, (r, c), (0, 1)) for r in (-1, 0, 1) for c in (-1, 0, 1)) - board
        board = ((near == 3) | ((near == 2) & (board == 1))).astype(board.dtype)
    return np.array_equal(board, told)


def test_where_puzzles_differ_in_size_no_symmetry_is_claimed():
    for name in ("futoshiki", "binary_matrix", "rotate_matrix", "spiral_matrix", "arc_1d", "survo"):
        task: Any = make(name)
        assert task.uniforms == 0
        tokens = np.ones((2, task.groups.shape[1]), np.uint8)
        assert task.augment(tokens, tokens, np.empty((2, 0))) == (tokens, tokens)
        assert np.array_equal(task.view(np.empty(0)).apply(tokens[0]), tokens[0])


@pytest.mark.parametrize(
    ("name", "options", "question", "reason"),
    [
        ("n_queens", ["n=4"], "Q..Q" + "." * 12, "two of the queens attack each other"),
        ("n_queens", ["n=4"], "Q" + "." * 15, "the other queens have no place"),
        ("n_queens", ["n=4"], "-" + "." * 15, "no rectangle"),
        ("n_queens", ["n=4"], "Q...", "expected 16 cells, 4 rows of 4, got 1 words or 4 characters"),
        ("n_queens", ["n=4"], "K" + "." * 15, "'K' at row 1, column 1 is none of - . Q"),
        ("kakurasu", FOUR, "....1 ....1 ....1 ....1 9000 9", "'9' cannot stand at row 5, column 5"),
        ("kakurasu", FOUR, "....1 ....1 ....1 ....- 9000-", "expected a sum for each row"),
        ("kakurasu", FOUR, "....1 ....1 ....1 ....1 9000-", "no answer has these sums"),
        ("kakurasu", FOUR, "2...1 ....1 ....1 ....1 9000-", "'2' cannot stand at row 1, column 1"),
        ("futoshiki", FOUR_BY_FOUR, "1-1-.-." + "-" * 7 + (".-.-.-." + "-" * 7) * 2 + ".-.-.-.", "no solution"),
        ("futoshiki", FOUR_BY_FOUR, (".-.-.-." + "-" * 7) * 3 + ".-.-.-.", "several solutions"),
        ("futoshiki", FOUR_BY_FOUR, ".v.-.-." + "-" * 7 + (".-.-.-." + "-" * 7) * 2 + ".-.-.-.", "cannot stand"),
        ("futoshiki", ["max_board_size=5"], ".-.-.-.-." * 1 + "-" * 9 + ".-.-.----" * 3 + "-" * 36, "no rectangle"),
        ("rotate_matrix", ["max_n=2"], "12 34 5.", "'.' cannot stand at row 3, column 2"),
        ("sudoku", [], "_" * 81, "several solutions"),
        ("shortest_path", ["max_rows=5", "max_cols=5"], "S#" + " " * 4 + "#" * 5 + " " * 13 + "G", "no way"),
    ],
)  # fmt: skip
def test_wrong_questions_get_their_reason(name: str, options: list[str], question: str, reason: str):
    task = make(name, options)
    with pytest.raises(PuzzleError, match=reason):
        task.check(task.parse(question))


@pytest.mark.parametrize(
    ("name", "options", "question", "answer", "wrong"),
    [
        ("n_queens", ["n=4"], "." * 16, "Q....Q..........", [0, 5]),
        ("n_queens", ["n=4"], ".Q" + "." * 14, "...Q.........Q..", [1]),
        ("kakurasu", FOUR, "....1 ....2 ....3 ....4 1234-", "10001 01002 00103 00004 1234-", [19, 23]),
        ("kakurasu", FOUR, "....1 ....2 ....3 ....4 1234-", "10001 01002 00103 000.4 1234-", [18, 19, 23]),
        ("futoshiki", FOUR_BY_FOUR, FREE, FREE.replace(".", "1"), [*range(0, 7, 2), *range(14, 21, 2), 1]),
    ],
)
def test_cells_that_break_a_rule_are_found(name: str, options: list[str], question: str, answer: str, wrong: list[int]):
    task: Any = make(name, options)
    asked, told = task.parse(question), task.parse(answer)
    found = np.flatnonzero(task.conflicts(asked, told)).tolist()
    assert set(wrong) <= set(found) and (name == "futoshiki" or found == wrong)
    assert not task.verify(asked, told)


def test_the_drawing_shows_names_and_marks_without_colour():
    task = make("kakurasu", FOUR)
    console = Console(width=60, no_color=True)
    with console.capture() as capture:
        question = task.parse(". . . . 10 " * 4 + "10 10 10 10 -")
        console.print(task.draw(question, task.parse("1 1 1 1 10 " * 4 + "10 10 10 10 -"), marked=[4]))
    shown = capture.get().splitlines()
    assert [shown[0].split(), shown[1].split()] == [["1", "1", "1", "1", "10!"], ["1", "1", "1", "1", "10"]]
    assert shown[4].split() == ["10"] * 4


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nqueens", [], r"no grid task of Reasoning Gym is named 'nqueens' \(--task.gym\); did you mean 'n_queens'"),
        ("sokoban", [], "'sokoban' .*: use sudoku, mini_sudoku, futoshiki"),
        ("n_queens", ["m=3"], "n_queens has no option 'm': it has n, min_remove, max_remove"),
        ("n_queens", ["max-remov=3"], "did you mean 'max_remove'"),
        ("n_queens", ["n"], "'n' is not NAME=VALUE: for n_queens write for example n=8"),
        ("n_queens", ["n=six"], "n must be a whole number, not 'six'"),
        ("kakurasu", ["p_ones=nan"], "p_ones must be from 0 to 1000"),
        ("n_queens", ["min_remove=8"], "min_remove=8 exceeds max_remove=7"),
        ("rotate_matrix", ["max_n=80"], "rotate_matrix of 81 x 80 cells is not possible"),
    ],
)
def test_impossible_settings_are_refused_with_what_to_do(name: str, options: list[str], message: str):
    with pytest.raises(UserError, match=message):
        build(TaskConfig(kind="gym", gym=name, gym_options=tuple(options)))


def test_what_reasoning_gym_refuses_and_that_it_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    gym()
    with pytest.raises(UserError, match=r"refuses --task\.gym-options of n_queens: n must be between 4 and 12"):
        make("n_queens", ["n=3", "max_remove=2"]).generate(np.random.default_rng(0))
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"n_queens needs Reasoning Gym, which .*: .* pip install '\.\[gym\]'"):
        make("n_queens").generate(np.random.default_rng(0))


def test_without_reasoning_gym_puzzles_are_still_read_and_verified(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    task = make("n_queens", ["n=4"])
    question = task.parse("_Q__ ____ ____ ____")
    task.check(question)
    assert task.verify(question, task.parse(". Q . .  . . . Q  Q . . .  . . Q ."))
    assert not task.verify(question, task.parse(". . Q .  Q . . .  . . . Q  . Q . ."))


TINY = shlex.split("--task.holdout 6 --train.steps 2 --train.batch-size 8 --optim.warmup-steps 1")


@pytest.mark.parametrize(("name", "statuses"), [("kakurasu", {"solved", "unsolved"}), ("binary_matrix", {"answered"})])
def test_the_command_line_builds_checks_shows_trains_solves_and_measures(
    name: str, statuses: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    gym()
    monkeypatch.chdir(tmp_path)
    options = {"kakurasu": ["max_rows=4", "max_cols=4"], "binary_matrix": ["max_n=4"]}[name]
    flags = ["--gym", name, "--gym-options", *options]
    assert main(["data", "build", *flags, "--puzzles", "30", "--test", "6", "--out", "p.csv"]) == 0
    assert main(["data", "check", "p.csv", "--against", "p_test.csv", *flags]) == 0
    assert main(["data", "build", *flags, "--convert", "p.csv", "--out", "folder"]) == 0
    assert main(["data", "check", "folder", *flags]) == 0
    capsys.readouterr()
    assert main(["data", "show", "p.csv", *flags, "--json"]) == 0
    question = json.loads(capsys.readouterr().out)["question"]
    task = ["--task.kind", "gym", "--task.gym", name, "--task.gym-options", *options]
    arch = shlex.split("--arch.tokens cells --arch.positions groups --arch.dim 16")
    run = ["train", "gym-mini-sudoku", "--data", "p.csv", "--out", "run", *task, *TINY, *arch]
    assert main(run) == 0
    capsys.readouterr()
    assert main(["solve", "run", question, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["status"] in statuses
    assert main(["solve", "run", question.replace(".", "x").replace("1", "x"), "--json"]) == 2
    assert "cannot stand" in (reason := json.loads(capsys.readouterr().out)["reason"]) or "is none of" in reason
    assert main(["eval", "run", "--data", "p_test.csv", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 6 and (name != "kakurasu" or result["wrong"] == 0)
    assert main(["data", "check", "p.csv"]) == 2
    assert name == "binary_matrix" or "--gym" in capsys.readouterr().err  # 4x4 cells could be a Sudoku


def test_of_two_ways_to_name_the_task_only_one_is_needed(capsys: pytest.CaptureFixture[str]):
    assert main(["data", "build", "--task", "gym", "--out", "x.csv"]) == 2
    assert "--task gym needs the dataset's name: add for example --gym n_queens" in capsys.readouterr().err
    assert main(["data", "build", "--task", "maze", "--gym", "n_queens", "--out", "x.csv"]) == 2
    assert "--task maze is no dataset of Reasoning Gym" in capsys.readouterr().err
