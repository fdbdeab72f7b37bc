"""Which puzzles are shown is a pure function of seed, step and global row."""

from __future__ import annotations

from itertools import islice

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hrm.puzzles.data import PuzzleSet
from hrm.puzzles.tasks.grid import Grid
from hrm.puzzles.training.batches import Batch, Sampler, uniforms
from tests.training.small import SUDOKU, puzzles

SEEDS, STEPS = st.integers(0, 2**63 - 1), st.integers(0, 2**40)
GRID = Grid(1, 3, vocabulary=250)


def numbered(sizes: list[int]) -> PuzzleSet:
    """Groups of these sizes, mixed; a puzzle and its answer are [group + 1, member + 1, 1], its id is the group."""
    rows = [(group + 1, member + 1, 1) for group, size in enumerate(sizes) for member in range(size)]
    inputs = np.array(rows, np.uint8)[np.random.default_rng(0).permutation(len(rows))]
    group = inputs[:, 0].astype(np.int32) - 1
    return PuzzleSet(inputs, inputs.astype(np.int32), group, group * 7, None, "numbered", len(sizes))


def sampler(seed: int = 0, rows: int = 6, augment: bool = True, reveal: float = 0.7) -> Sampler:
    return Sampler(puzzles(), SUDOKU, rows, seed, augment, reveal)


def equal(left: Batch, right: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@given(SEEDS, STEPS)
def test_a_batch_depends_on_seed_and_step_alone(seed: int, step: int) -> None:
    used = sampler(seed)
    used.batch(step + 1)
    used.batch(0)
    assert equal(used.batch(step), sampler(seed).batch(step))
    assert not equal(used.batch(step), used.batch(step + 1))
    assert not equal(used.batch(step), sampler(seed ^ 1).batch(step))


@given(SEEDS, STEPS, st.integers(1, 12), st.data())
def test_a_part_of_the_rows_is_that_part_of_the_whole(seed: int, step: int, rows: int, draw: st.DataObject) -> None:
    whole = sampler(seed, rows)
    start = draw.draw(st.integers(0, rows - 1))
    part = slice(start, draw.draw(st.integers(start + 1, rows)))
    assert equal(whole.batch(step, part), Batch(*(array[part] for array in whole.batch(step))))


@given(SEEDS, st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 9))
def test_every_group_is_shown_once_per_epoch_in_a_new_order(seed: int, sizes: list[int], rows: int) -> None:
    groups, epochs = len(sizes), 3
    made = Sampler(numbered(sizes), GRID, rows, seed, augment=True, reveal=0.0)
    shown = np.concatenate([made.batch(step).inputs for step in range(-(-epochs * groups // rows))])
    orders = [shown[i * groups : (i + 1) * groups, 0] - 1 for i in range(epochs)]
    assert all(sorted(order) == list(range(groups)) for order in orders)
    assert groups < 8 or not np.array_equal(orders[0], orders[1])


@given(SEEDS)
def test_a_row_keeps_its_answer_and_task_and_every_member_of_a_group_gets_its_turn(seed: int) -> None:
    made = Sampler(numbered([1, 2, 3]), GRID, 30, seed, augment=True, reveal=0.0)
    batch = made.batch(5)
    assert np.array_equal(batch.inputs, batch.labels)
    assert np.array_equal(batch.task_ids, batch.inputs[:, 0] - 1)
    many = np.concatenate([made.batch(step).inputs[:, :2] for step in range(10)])
    assert len(np.unique(many, axis=0)) == 6


@given(SEEDS, STEPS)
def test_augmented_and_revealed_puzzles_still_have_their_answer(seed: int, step: int) -> None:
    batch = sampler(seed).batch(step)
    for question, answer in zip(batch.inputs, batch.labels, strict=True):
        assert SUDOKU.verify(question, answer)


@given(SEEDS, STEPS, st.floats(0, 1))
def test_revealing_only_fills_blanks_with_the_answer(seed: int, step: int, reveal: float) -> None:
    plain, shown = (sampler(seed, 20, augment=False, reveal=share).batch(step) for share in (0.0, reveal))
    changed = plain.inputs != shown.inputs
    assert (plain.inputs[changed] == 1).all()
    assert np.array_equal(shown.inputs[changed], shown.labels[changed])
    assert np.array_equal(plain.labels, shown.labels)


def test_reveal_is_the_share_of_rows_that_get_a_random_share_of_their_blanks() -> None:
    made = sampler(rows=4000, augment=False, reveal=0.25)
    batch, plain = made.batch(0), sampler(rows=4000, augment=False, reveal=0.0).batch(0)
    filled = (batch.inputs != plain.inputs).sum(1) / (plain.inputs == 1).sum(1)
    # With b blanks a drawn share leaves all of them blank once in b + 1 times; b is 10 to 12 here.
    assert 0.2 < (filled > 0).mean() < 0.25
    assert 0.4 < filled[filled > 0].mean() < 0.65 and filled.max() == 1


def test_cells_that_do_not_count_are_never_revealed() -> None:
    made = puzzles()
    labels = made.labels.astype(np.int32)
    labels[:, ::2] = -100
    batch = Sampler(made._replace(labels=labels), SUDOKU, 50, 0, augment=False, reveal=1.0).batch(0)
    assert (batch.inputs >= 0).all() and (batch.labels[:, ::2] == -100).all()


def test_augmentation_can_be_switched_off() -> None:
    known = {row.tobytes() for row in puzzles().inputs.astype(np.int64)}
    rows = sampler(rows=60, augment=False, reveal=0.0).batch(3).inputs
    assert {row.tobytes() for row in rows} <= known
    assert not {row.tobytes() for row in sampler(rows=60, reveal=0.0).batch(3).inputs} <= known


@settings(max_examples=10)
@given(SEEDS, STEPS)
def test_the_stream_is_the_batches_in_order(seed: int, step: int) -> None:
    made = sampler(seed)
    for number, batch in enumerate(islice(made.stream(step, slice(1, 4)), 4)):
        assert equal(batch, made.batch(step + number, slice(1, 4)))


@given(SEEDS, st.integers(0, 5), STEPS)
def test_uniforms_are_uniform_and_differ_by_purpose_and_step(seed: int, purpose: int, step: int) -> None:
    drawn = uniforms(seed, purpose, step, 50, 40)
    assert drawn.min() >= 0 and drawn.max() < 1 and abs(drawn.mean() - 0.5) < 0.05
    assert not np.isin(uniforms(seed, purpose + 1, step, 50, 40), drawn).any()
    assert not np.isin(uniforms(seed, purpose, step + 1, 50, 40), drawn).any()
