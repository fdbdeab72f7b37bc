"""What a maze teaches after each segment, beside a restatement that moves cell by cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.core.arch import ArchConfig
from hrm.puzzles import data, tasks
from hrm.puzzles.model import PuzzleModel, board_of, build
from hrm.puzzles.solving.engine import Attempt, Job, Rules, Segment, solve
from hrm.puzzles.tasks.maze import FREE, GOAL, PATH, START, WALL, Maze
from hrm.puzzles.training.batches import Sampler
from hrm.puzzles.training.trainer import Trainer
from hrm.training.randomness import uniforms
from tests.training.small import config

law = settings(deadline=None, derandomize=True, max_examples=30)
SHAPES = [(8, 8), (5, 9), (7, 4)]
DOWN, LEFT, RIGHT, UP = range(6, 10)
STEPS = {DOWN: (1, 0), LEFT: (0, -1), RIGHT: (0, 1), UP: (-1, 0)}


def made(shape: tuple[int, int], seed: int) -> tuple[Maze, np.ndarray, np.ndarray]:
    """A task with waves, a question and its answer."""
    rng = np.random.default_rng(seed)
    task = Maze(*shape, 4, corridors=0.5, waves=True)
    puzzle = task.generate(rng)
    return task, puzzle.question, puzzle.answer


def by_visit(task: Maze, question: np.ndarray, visits: int) -> np.ndarray:
    """What each cell says after each of `visits` visits [visits + 1, rows, cols], told what its neighbours said."""
    grid = question.reshape(task.shape)
    cells = [(int(r), int(c)) for r, c in np.argwhere(grid != WALL)]
    known = {cell: 0 for cell in cells if grid[cell] == GOAL}
    marked: set[tuple[int, int]] = set()
    said = [grid.copy()]
    for _ in range(visits):
        arrows, marks = dict(known), set(marked)
        for row, col in cells:
            for arrow, (down, right) in STEPS.items():
                near = row + down, col + right
                if (row, col) not in known and near in known:
                    arrows.setdefault((row, col), arrow)
                # A neighbour that is marked, or S once it is reached, points here.
                away = row - down, col - right
                if known.get(away) == arrow and (away in marked or grid[away] == START):
                    marks.add((row, col))
        known, marked = arrows, marks
        now = grid.copy()
        for cell, arrow in known.items():
            if grid[cell] == FREE:
                now[cell] = PATH if cell in marked else arrow
        said.append(now)
    return np.stack(said)


@law
@given(st.sampled_from(SHAPES), st.integers(0, 1000))
def test_a_lesson_says_what_news_from_cell_to_cell_can_have_brought(shape, seed):
    task, question, _ = made(shape, seed)
    told = by_visit(task, question, 2 * task.cells)
    for visits in (0, 1, 2, 5, 11, 23, 2 * task.cells):
        lesson = task.lesson(question, visits)
        assert np.array_equal(lesson.labels.reshape(shape), told[visits])
        assert lesson.ended == np.array_equal(told[visits] == PATH, told[-1] == PATH)


@law
@given(st.sampled_from(SHAPES), st.integers(0, 1000))
def test_the_last_lesson_marks_the_answer_and_points_to_the_goal_elsewhere(shape, seed):
    task, question, answer = made(shape, seed)
    labels = task.lesson(question, 999).labels
    assert np.array_equal(np.where(labels >= DOWN, FREE, labels), answer)
    for cell in np.flatnonzero(labels >= DOWN):
        at, visited = divmod(int(cell), shape[1]), 0
        while labels.reshape(shape)[at] >= DOWN and visited <= task.cells:
            down, right = STEPS[int(labels.reshape(shape)[at])]
            at, visited = (at[0] + down, at[1] + right), visited + 1
        assert labels.reshape(shape)[at] in (GOAL, PATH, START)


def test_an_empty_slot_has_nothing_to_learn_and_never_ends():
    task = Maze(3, 4, 2, waves=True)
    lesson = task.lesson(np.zeros(12, np.int64), 99)
    assert not lesson.labels.any() and not lesson.ended


ARCH = ArchConfig(
    dim=16, fast_layers=1, slow_layers=1, shared=True, h_cycles=1, l_cycles=3, heads=2, horizon="last_cycle",
    mixer="neighbours", positions="none", task_positions=0, q_from="mean",
)  # fmt: skip


def untrained(task: Maze) -> PuzzleModel:
    torch.manual_seed(0)
    return PuzzleModel(ARCH, board_of(task)).eval()


def test_hints_count_as_the_token_that_they_mean_and_leave_every_other_probability():
    task, question, _ = made((5, 9), 0)
    model, inputs, ids = untrained(task), torch.from_numpy(question)[None].long(), torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        readout = model.segment(model.initial_carry(inputs, ids), inputs, ids)[1]
    assert readout.said is not None and readout.said.shape[-1] == len(task.vocabulary) + 4
    words, answers = readout.said.softmax(-1), readout.logits.softmax(-1)
    others = [token for token in range(6) if token != FREE]
    assert torch.allclose(answers[..., others], words[..., others], atol=1e-6)
    assert torch.allclose(answers[..., FREE], words[..., [FREE, *range(6, 10)]].sum(-1), atol=1e-6)


def test_an_attempt_ends_when_the_model_says_what_it_has_said_before_be_it_hints_alone():
    task, question, _ = made((5, 9), 0)
    model, cell = untrained(task), int(np.flatnonzero(question == FREE)[0])
    said = iter([FREE, LEFT, RIGHT, RIGHT, UP, RIGHT, UP])
    segment = model.segment

    def scripted(*given: Any) -> Any:
        carry, readout = segment(*given)
        assert readout.said is not None
        words = torch.zeros_like(readout.said)
        words[:, cell, next(said)] = 1.0
        return carry, readout._replace(said=words)

    model.segment = scripted  # type: ignore[method-assign]
    seen: list[Segment] = []
    rules = Rules(max_segments=200, rests=True, attempts=[Attempt(), Attempt(noise=1)], verify=task.verify)
    ((_, outcome),) = solve(model, [Job(question)], rules, observe=lambda _, new: seen.append(new))
    # The second attempt is not compared with the end of the first.
    assert outcome is not None and (outcome.segments, outcome.attempts) == (7, 2)
    assert [each.attempt for each in seen] == [1, 1, 1, 1, 2, 2, 2]


WAVES = {
    "task": {"kind": "maze", "size": (6, 6), "min_path": 4, "puzzles": 20, "holdout": 0, "waves": True},
    "arch": {
        "dim": 16, "shared": True, "h_cycles": 1, "l_cycles": 3, "horizon": "last_cycle", "mixer": "neighbours",
        "positions": "none", "task_positions": 0, "q_from": "mean",
    },
    "halting": {"max_segments": 40, "q_continue": False, "weight": 0.0, "exploration": 0.5},
    "loss": {"kind": "softmax"},
    "optim": {"name": "muon", "lr": 3e-3, "weight_decay": 0.0},
}  # fmt: skip


def trainer(**changes: Any) -> Trainer:
    settings = config(**WAVES | changes)
    task = tasks.build(settings.task)
    puzzles, _ = data.generate(task, [settings.task.puzzles, 0])
    sampler = Sampler(puzzles, task, settings.train.batch_size, 0, augment=True, reveal=0.0)
    return Trainer(settings, build(settings, board_of(task)), sampler, Accelerator(cpu=True))


def test_a_training_learns_the_lesson_of_each_row_s_own_segment_and_frees_rows_that_have_heard_all():
    training = trainer()
    task, stays = training.sampler.task, training.config.halting.exploration
    for step in range(12):
        training.step()
        slots = training.slots
        explore = uniforms(training.seed, 2, step, len(slots.halted), 2)[:, 0].astype(np.float32)
        for row, question in enumerate(slots.inputs.numpy()):
            ended = task.lesson(question, int(slots.segments[row]) * 3).ended
            assert bool(slots.halted[row]) == (ended and explore[row] >= stays)
    assert training.slots.segments.max() > 3
