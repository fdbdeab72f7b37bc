"""The promises of the maze task."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hrm.files.reading import UserError
from hrm.puzzles.config import TaskConfig
from hrm.puzzles.tasks import Puzzle, PuzzleError, build
from hrm.puzzles.tasks.maze import MOST_JOINED, WALL, Maze
from hrm.puzzles.tasks.search import MazeSearch
from tests.data import hrm_data
from tests.puzzles.tasks import rules

law = settings(deadline=None, derandomize=True, max_examples=30)
mazes = st.sampled_from([Maze(8, 8, 12), Maze(5, 9, 8), Maze(12, 6, 10)])
seeds = st.integers(0, 1000)


def small(text: str) -> tuple[Maze, np.ndarray]:
    """The task and the tokens of a maze given row by row."""
    lines = text.strip("\n").splitlines()
    task = Maze(len(lines), len(lines[0]), 1)
    return task, task.parse(text)


def test_the_task_describes_itself():
    task = build(TaskConfig(kind="maze", size=(4, 6)))
    assert task.shape == (4, 6) and task.vocabulary[1:] == "# SGo" and task.groups.shape == (6, 24)
    assert task.groups[:2, 8].tolist() == [1, 2]


@law
@given(mazes, st.data())
def test_parse_reads_what_format_writes_in_one_line_or_by_rows(task, data):
    rows, cols = task.shape
    tokens = np.array(data.draw(st.lists(st.integers(1, 5), min_size=rows * cols, max_size=rows * cols)), np.uint8)
    text = task.format(tokens)
    assert np.array_equal(task.parse(text), tokens)
    lines = [text[i : i + cols] for i in range(0, len(text), cols)]
    assert np.array_equal(task.parse("\n".join(lines) + "\n"), tokens)
    assert np.array_equal(task.parse("\r\n".join(line.rstrip(" ") or " " for line in lines)), tokens)


def test_parse_says_what_is_wrong_and_where():
    task = Maze(2, 3, 1)
    with pytest.raises(PuzzleError, match="expected 6 characters for 2x3, got 5"):
        task.parse("S   G")
    with pytest.raises(PuzzleError, match="'x' at row 2, column 1"):
        task.parse("S  x G")
    with pytest.raises(PuzzleError, match="row 2 has more than 3 characters"):
        task.parse("S #\n#  G")


@law
@given(mazes, seeds)
def test_generated_mazes_are_well_posed_and_their_answers_shortest(task, seed):
    puzzle = task.generate(np.random.default_rng(seed))
    task.check(puzzle.question)
    question, answer = task.format(puzzle.question), task.format(puzzle.answer)
    assert rules.maze_shortest(question, answer, task.shape[1])
    assert puzzle.rating == rules.maze_steps(question, task.shape[1]) >= task.min_path
    assert task.verify(puzzle.question, puzzle.answer)


def test_a_maze_of_the_real_size_and_length_can_be_generated():
    puzzle = Maze(30, 30, 110).generate(np.random.default_rng(0))
    assert puzzle.rating >= 110


def test_an_impossible_minimum_path_is_refused_naming_the_flag():
    with pytest.raises(UserError, match=r"--task\.min-path"):
        Maze(10, 10, 110).generate(np.random.default_rng(0))


@law
@given(mazes, seeds, st.floats(0, 1, exclude_max=True))
def test_augmenting_keeps_the_answer_right_and_the_canonical_form(task, seed, uniform):
    puzzle = task.generate(np.random.default_rng(seed))
    turned = task.augment(puzzle.question[None], puzzle.answer[None], np.array([[uniform]]))
    variant = Puzzle(turned[0][0], turned[1][0])
    assert rules.maze_shortest(task.format(variant.question), task.format(variant.answer), task.shape[1])
    assert task.canonical(variant) == task.canonical(puzzle)


@pytest.mark.parametrize(("shape", "images"), [((6, 6), 8), ((5, 7), 4)])
def test_augmenting_reaches_all_symmetries(shape, images):
    task = Maze(shape[0], shape[1], 6)
    puzzle = task.generate(np.random.default_rng(1))
    uniforms = np.linspace(0, 1, 64, endpoint=False)[:, None]
    questions, _ = task.augment(np.tile(puzzle.question, (64, 1)), np.tile(puzzle.answer, (64, 1)), uniforms)
    assert len(np.unique(questions, axis=0)) == images


@law
@given(mazes, seeds, st.data())
def test_verify_rejects_any_single_change(task, seed, data):
    puzzle = task.generate(np.random.default_rng(seed))
    cell = data.draw(st.integers(0, puzzle.answer.size - 1))
    changed = puzzle.answer.copy()
    changed[cell] = data.draw(st.integers(0, 5).filter(lambda token: token != puzzle.answer[cell]))
    assert not task.verify(puzzle.question, changed)


def test_a_detour_is_valid_but_not_shortest_and_another_shortest_path_is_right():
    task, question = small("S   \n # G\n    ")
    detour, shortest, other = (task.parse(t) for t in ("S   \no# G\noooo", "Sooo\n # G\n    ", "Soo \n #oG\n    "))
    assert task.valid(question, detour) and not task.verify(question, detour)
    assert task.verify(question, shortest) and task.verify(question, other)


@pytest.mark.parametrize(
    "marks",
    [
        "S   \n # G\n    ",  # nothing
        "So o\n # G\n    ",  # a gap
        "Sooo\n # G\no   ",  # a stray mark
        "Sooo\no# G\n    ",  # a branch
        "Sooo\n #oG\n    ",  # a square
        "Sooo\n o G\n    ",  # through a wall
        "oooo\n # G\n    ",  # the start painted over
    ],
)
def test_marks_that_are_not_one_chain_on_free_cells_are_not_valid(marks):
    task, question = small("S   \n # G\n    ")
    assert not task.valid(question, task.parse(marks)) and not task.verify(question, task.parse(marks))


def test_neighbouring_start_and_goal_need_no_marks():
    task, question = small("SG\n  ")
    assert task.verify(question, question)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  \n G", "expected one S, found 0"),
        ("SS\n G", "expected one S, found 2"),
        ("S \n  ", "expected one G, found 0"),
        ("S#\n#G", "no way from S to G"),
        ("So\n G", "marked path"),
    ],
)
def test_check_gives_the_reason(text, reason):
    task, question = small(text)
    with pytest.raises(PuzzleError, match=reason):
        task.check(question)


def test_the_drawing_shows_walls_path_and_marks_without_colour():
    task, question = small("S#\n G")
    console = Console(width=40, no_color=True)
    with console.capture() as capture:
        console.print(task.draw(question, task.parse("S#\noG"), [1]))
    assert capture.get().splitlines() == ["SS#!", "ooGG"]


def test_the_answers_of_real_mazes_verify_and_are_shortest():
    task = Maze(30, 30, 110)
    for row in rules.table(hrm_data() / "maze/maze_30x30_hard_train.csv.gz", 200):
        question, answer = task.parse(row["question"]), task.parse(row["answer"])
        task.check(question)
        assert task.verify(question, answer) and rules.maze_shortest(row["question"], row["answer"], 30)
        assert (answer == 5).sum() + 1 == int(row["rating"])


@pytest.mark.slow
def test_the_answers_of_real_mazes_follow_one_rule_and_so_do_ours():
    task = Maze(30, 30, 110)
    for name, count in (("maze_30x30_hard_train", 1000), ("maze_30x30_hard_test_dev700", 700)):
        rows = rules.table(hrm_data() / f"maze/{name}.csv.gz", count)
        assert len(rows) == count
        for row in rows:
            assert rules.maze_first(row["question"], 30) == row["answer"]
            assert task.format(task._answer(task.parse(row["question"]).tobytes())) == row["answer"]


@law
@given(mazes, seeds, st.floats(0, 1, exclude_max=True))
def test_generated_and_augmented_answers_follow_the_same_rule(task, seed, uniform):
    puzzle = task.generate(np.random.default_rng(seed))
    (question,), (answer,) = task.augment(puzzle.question[None], puzzle.answer[None], np.array([[uniform]]))
    for asked, answered in (puzzle[:2], (question, answer)):
        assert task.format(answered) == rules.maze_first(task.format(asked), task.shape[1])


def test_answers_that_are_no_paths_are_turned_as_they_are():
    task, question = small("S# \n  G")
    for label in (np.full_like(question, 5), np.where(question == 4, 2, question)):
        turned = task.augment(question[None], label[None], np.array([[0.3]]))[1][0]
        assert sorted(turned.tolist()) == sorted(label.tolist())
    closed = task.parse("S##\n##G")
    assert np.array_equal(task.augment(closed[None], closed[None], np.zeros((1, 1)))[1][0], closed)


def test_the_groups_of_a_maze_pair_every_cell_with_its_neighbours():
    task = Maze(4, 6, 3)
    pairs = task.groups[2:]
    cells = np.arange(24).reshape(4, 6)
    beside = {(a, b) for a, b in zip(cells[:, :-1].ravel().tolist(), cells[:, 1:].ravel().tolist(), strict=True)}
    beside |= {(a, b) for a, b in zip(cells[:-1].ravel().tolist(), cells[1:].ravel().tolist(), strict=True)}
    together = {tuple(np.flatnonzero(labels == group).tolist()) for labels in pairs for group in range(12)}
    assert beside < together and all(len(pair) == 2 for pair in together) and len(together) == 48
    assert Maze(5, 6, 3).groups.shape == (2, 30)


def test_a_least_size_gives_mazes_of_all_sizes_between_closed_in_by_walls() -> None:
    task = Maze(9, 8, min_path=3, least_size=(4, 5))
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(300):
        question = task.generate(rng).question.reshape(task.shape)
        rows, columns = np.nonzero(question != WALL)
        sizes.add((np.ptp(rows) + 1, np.ptp(columns) + 1))
    assert max(sizes) == (9, 8) and min(rows for rows, _ in sizes) < 6 and min(columns for _, columns in sizes) < 6


def test_corridors_are_one_piece_with_few_loops() -> None:
    task = Maze(12, 11, min_path=20, least_size=(9, 9), corridors=1.0)
    rng = np.random.default_rng(0)
    loops = set()
    for _ in range(50):
        puzzle = task.generate(rng)
        task.check(puzzle.question)
        assert task.verify(puzzle.question, puzzle.answer) and puzzle.rating >= 20
        free = (puzzle.question != WALL).reshape(task.shape)
        search = MazeSearch(free)
        assert sum(wave.bit_count() for wave in search.waves(int(np.flatnonzero(free)[0]))) == free.sum()
        joints = (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum()
        loops.add(int(joints - free.sum()) + 1)
    assert min(loops) < 4 and 4 < max(loops) <= 3 * MOST_JOINED
    plain, none, all_ = (
        maze.generate(np.random.default_rng(3)).question
        for maze in (Maze(9, 9, 5), Maze(9, 9, 5, corridors=0.0), Maze(9, 9, 5, corridors=1.0))
    )
    assert (plain == none).all() and (plain != all_).any()
