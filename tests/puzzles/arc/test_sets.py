"""Which ARC pairs are trained on: test pairs of the tasks to answer never are, in whatever form they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrm.files.reading import UserError
from hrm.puzzles.arc import files as arc
from hrm.puzzles.arc.files import ArcTask, Pair
from hrm.puzzles.arc.sets import PreparedTasks, TaskRecord, leaks, prepare
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.tasks import build
from hrm.puzzles.tasks.arc import Arc
from tests.data import hrm_data

KIND = TaskConfig(kind="arc", size=(6, 6), copies=5, holdout=0)


def pair(seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    return Pair(*(rng.integers(0, 10, (4, 5)).astype(np.uint8) for _ in range(2)))


def task(name: str, first: int) -> ArcTask:
    return ArcTask(name, (pair(first), pair(first + 1)), (pair(first + 2),))


def turned(one: Pair) -> Pair:
    assert one.output is not None
    colours = np.array([0, 3, 1, 2, 5, 4, 9, 8, 7, 6], np.uint8)
    return Pair(*(np.rot90(colours[grid]).copy() for grid in (one.input, one.output)))


def prepared(
    folder: Path, learn: list[ArcTask], answer: list[ArcTask], before: TaskRecord | None = None, **settings: object
) -> PreparedTasks:
    for name, tasks in (("learn", learn), ("answer", answer)):
        if tasks:
            arc.write(folder / f"{name}.jsonl", tasks)
    config = Config(
        task=replace(KIND, **settings),  # type: ignore[arg-type]
        data=str(folder / "learn.jsonl") if learn else None,
        validation=str(folder / "answer.jsonl") if answer else None,
    )
    return prepare(config, build(config.task), before)


def trained(made: PreparedTasks) -> set[bytes]:
    """All pairs that are shown, in their symmetric form."""
    board = Arc(6)
    rows = zip(made.training.inputs, made.training.labels, strict=True)
    return {Pair(board.decode(question), board.decode(answer)).key() for question, answer in rows}


def test_all_pairs_of_training_tasks_and_the_demonstrations_of_the_others_are_trained_on(tmp_path: Path):
    learn, answer = [task("a", 0), task("b", 10)], [task("c", 20)]
    made = prepared(tmp_path, learn, answer)
    assert trained(made) == {pair(n).key() for n in (0, 1, 2, 10, 11, 12, 20, 21)}
    assert made.record.names == ("a", "b", "c") and made.held_out is None
    assert made.training.task_ids.tolist() == [1, 1, 6, 6, 11, 11, 1, 6]
    assert made.training.num_task_ids == 1 + 3 * 5
    assert made.training.groups.tolist() == [0, 0, 1, 1, 2, 2, 0, 1]


def test_either_kind_of_tasks_is_enough(tmp_path: Path):
    assert len(prepared(tmp_path, [task("a", 0)], []).training.inputs) == 3
    assert len(prepared(tmp_path, [], [task("a", 0)]).training.inputs) == 2
    with pytest.raises(UserError, match="--data FILE"):
        prepared(tmp_path, [], [])


def test_test_pairs_of_training_tasks_are_held_out_on_request(tmp_path: Path):
    learn = [task(name, 10 * i) for i, name in enumerate("abcd")]
    made = prepared(tmp_path, learn, [task("e", 90)], holdout=3)
    assert made.held_out is not None and len(made.held_out.inputs) == 3
    assert len(made.training.inputs) == 4 * 3 - 3 + 2
    held = {Pair(Arc(6).decode(q), Arc(6).decode(a)).key() for q, a in zip(*made.held_out[:2], strict=True)}
    assert held < {pair(n).key() for n in (2, 12, 22, 32)} and not held & trained(made)


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param(task("c", 50), id="the same id"),
        pytest.param(ArcTask("z", (pair(22),), (pair(60),)), id="a test pair as demonstration"),
        pytest.param(ArcTask("z", (pair(60),), (Pair(pair(22).input, pair(70).output),)), id="a test input"),
    ],
)
def test_a_training_task_that_is_to_be_answered_is_refused_unless_dropped_or_allowed(tmp_path: Path, leak: ArcTask):
    learn, answer = [task("a", 0), leak], [task("c", 20)]
    with pytest.raises(UserError, match=rf"1 tasks of .*learn.jsonl are among .* the first is {leak.id}: .* drop"):
        prepared(tmp_path, learn, answer)
    made = prepared(tmp_path, learn, answer, leaks="drop")
    assert trained(made) == {pair(n).key() for n in (0, 1, 2, 20, 21)}
    assert made.notes == ("left out 1 training tasks that are among the tasks to answer",)
    assert len(prepared(tmp_path, learn, answer, leaks="allow").training.inputs) > len(made.training.inputs)


def test_a_pair_that_is_a_test_pair_of_another_task_turned_and_recoloured_is_left_out(tmp_path: Path):
    other = ArcTask("z", (turned(pair(22)), pair(60)), (pair(61),))
    made = prepared(tmp_path, [other], [task("c", 20)])
    assert trained(made) == {pair(n).key() for n in (60, 61, 20, 21)}
    assert made.notes == ("left out 1 training pairs that are test pairs of other tasks in a symmetric form",)
    assert leaks([other], [task("c", 20)]) == {"c": ["z"]}


def test_a_demonstration_like_the_own_test_pair_stays(tmp_path: Path):
    own = ArcTask("c", (pair(20), turned(pair(22))), (pair(22),))
    made = prepared(tmp_path, [], [own])
    assert trained(made) == {pair(20).key(), pair(22).key()}
    made.record.check_unseen([own], "--leaks")


def test_a_run_remembers_its_tasks_and_what_it_was_trained_on(tmp_path: Path):
    made = prepared(tmp_path, [task("a", 0)], [task("c", 20)])
    made.record.save(tmp_path / "data")
    record = TaskRecord.load(tmp_path / "data")
    assert record == made.record and record.numbers([task("c", 0), task("a", 0)]) == [1, 0]
    record.check_unseen([task("c", 20)], "--leaks")
    for seen in (task("a", 0), ArcTask("new", (pair(80),), (pair(81), turned(pair(2))))):
        with pytest.raises(UserError, match=f"answers of 1 of 1 tasks, the first is {seen.id}: .* --leaks"):
            record.check_unseen([seen], "--leaks")
    with pytest.raises(UserError, match=r"1 of 2 tasks have no embedding .* the first is x: .* --new-tasks FILE"):
        record.numbers([task("a", 0), task("x", 0)])
    with pytest.raises(UserError, match="was not trained on ARC tasks"):
        TaskRecord.load(tmp_path)


def test_new_tasks_are_numbered_after_the_known_ones(tmp_path: Path):
    before = prepared(tmp_path, [task("a", 0)], [task("c", 20)]).record
    made = prepared(tmp_path, [], [task("d", 30), task("a", 0)], before)
    assert made.record.names == ("a", "c", "d") and before.trained < made.record.trained
    assert made.training.task_ids.tolist() == [11, 11, 1, 1] and made.training.num_task_ids == 16


def test_a_grid_larger_than_the_board_is_refused_with_its_task(tmp_path: Path):
    large = ArcTask("big", (Pair(np.zeros((7, 2), np.uint8), np.zeros((1, 1), np.uint8)),), (pair(1),))
    with pytest.raises(UserError, match=r"task big: a grid of 7x2 is larger than the board .*: leave it out"):
        prepared(tmp_path, [large], [])


@pytest.mark.slow
def test_the_real_sets_give_away_what_is_known_to_be_given_away():
    sets = {
        name: arc.read(hrm_data() / f"{name}.jsonl.gz")
        for name in ("arc_agi_1/training", "arc_agi_1/evaluation", "arc_agi_2/training", "concept_arc/corpus")
    }
    evaluation = sets["arc_agi_1/evaluation"]
    assert len(leaks(sets["arc_agi_2/training"], evaluation)) == 376
    # ARC-1 itself holds two: the same pairs in other colours.
    within = {"070dd51e": ["40853293"], "50a16a69": ["caa06a1f"]}
    assert leaks(sets["arc_agi_1/training"], evaluation) == within
    assert leaks(sets["concept_arc/corpus"], evaluation) == {}


@pytest.mark.slow
def test_the_real_leak_is_refused_by_default_and_dropped_on_request():
    config = Config(
        task=TaskConfig(kind="arc", copies=2, holdout=0),
        data=str(hrm_data() / "arc_agi_2/training.jsonl.gz"),
        validation=str(hrm_data() / "arc_agi_1/evaluation.jsonl.gz"),
    )
    with pytest.raises(UserError, match="376 tasks of"):
        prepare(config, build(config.task))
    made = prepare(replace(config, task=replace(config.task, leaks="drop")), build(config.task))
    assert len(made.record.names) == 1000 - 376 + 400
    made.record.check_unseen(arc.read(config.validation or ""), "--leaks")
