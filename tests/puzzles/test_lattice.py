"""The lattice of candidates: what the rules alone say, and that packing leaves out nothing that matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hrm.core.arch import ArchConfig
from hrm.core.layers import Context
from hrm.puzzles.lattice import Lattice
from hrm.puzzles.model import PuzzleModel, board_of
from hrm.puzzles.tasks.sudoku import Sudoku

TASK = Sudoku(2, 2)
ARCH = ArchConfig(
    dim=16, mixer="groups", tokens="candidates", deduces=True, positions="none", task_positions=0, q_from="mean",
    shared=True, fast_layers=1, h_cycles=1, l_cycles=1, horizon="last_cycle", expansion_multiple=8,
)  # fmt: skip


def lattice(task: Sudoku = TASK) -> Lattice:
    board = board_of(task)
    return Lattice(board.groups, board.cells, *board.symbols)


def net(seed: int = 0) -> PuzzleModel:
    torch.manual_seed(seed)
    model = PuzzleModel(ARCH, board_of(TASK)).double().eval()
    model.dtype = torch.float64
    return model


def puzzles(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    made = [TASK.generate(rng) for _ in range(count)]
    questions, answers = ([getattr(puzzle, name) for puzzle in made] for name in ("question", "answer"))
    return torch.from_numpy(np.stack(questions).astype(np.int64)), torch.from_numpy(np.stack(answers).astype(np.int64))


def states(seed: int, rows: int = 5) -> torch.Tensor:
    """Candidates with some killed, true ones among them."""
    return torch.rand(rows, 64, generator=torch.Generator().manual_seed(seed)) < 0.6


def refused(alive: np.ndarray) -> bool:
    """The rules of a Sudoku 4x4, restated with loops: [cells, symbols] bool."""
    pinned = {cell: int(row.argmax()) for cell, row in enumerate(alive) if row.sum() == 1}
    if (alive.sum(1) == 0).any():
        return True
    for labels in TASK.groups[:3]:
        for group in range(4):
            cells = np.flatnonzero(labels == group)
            if not alive[cells].any(0).all():
                return True
            held = [pinned[cell] for cell in cells.tolist() if cell in pinned]
            if len(held) != len(set(held)):
                return True
    return False


@given(st.integers(0, 10**6))
def test_the_rules_refuse_what_a_restatement_with_loops_refuses(seed: int):
    table, alive = lattice(), states(seed)
    found = table.contradicted(alive, table.pinned(alive)).tolist()
    assert found == [refused(row.reshape(16, 4).numpy()) for row in alive]


def test_a_right_answer_is_finished_and_never_refused_nor_are_the_states_above_it():
    table = lattice()
    questions, answers = puzzles(20)
    for alive in (table.only(answers), table.start(questions), table.only(answers) | (states(3, 20))):
        assert not table.contradicted(alive, table.pinned(alive)).any()
    assert table.finished(table.only(answers)).all() and not table.finished(table.pinned(table.start(questions))).any()
    assert torch.equal(table.tokens(table.only(answers).double()), answers)


def test_boxes_within_rows_add_no_rule():
    assert lattice(Sudoku(2, 3)).ruling == 4 and all(lattice(Sudoku(2, 3)).full)


def test_packed_candidates_get_the_states_that_all_positions_would():
    """With every candidate alive nothing is left out: the plain pooling over members is the reference."""
    model = net()
    table = model.lattice
    assert table is not None
    empty = torch.ones(2, 16, dtype=torch.long)
    start = model.initial_carry(empty, torch.zeros(2, dtype=torch.long))
    carry, _ = model.deduce(start, table.pack(table.start(empty)), 2)
    groups = tuple((getattr(model, f"members_{i}"), getattr(model, f"group_of_{i}")) for i in range(model.partitions))
    plain, x = start, model.embed(empty, torch.zeros(2, dtype=torch.long))
    for _ in range(2):
        plain = model.recurrence(plain, x, Context(groups=groups))
    for one, other in zip(carry, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_a_puzzle_is_read_the_same_alone_and_among_others():
    model = net()
    table = model.lattice
    assert table is not None
    alive = states(1) | table.only(puzzles(5)[1])
    start = model.initial_carry(alive, torch.zeros(5, dtype=torch.long))
    together = model.deduce(start, table.pack(alive), 3)[1][-1]
    for row in range(5):
        alone = model.deduce(start.select(torch.tensor([row])), table.pack(alive[row : row + 1]), 3)[1][-1]
        assert together.said is None
        for one, other in zip(alone[:3], together[:3], strict=True):
            assert one is not None and other is not None
            torch.testing.assert_close(one[0], other[row], rtol=0, atol=1e-10)


def test_padding_changes_nothing():
    model = net()
    table = model.lattice
    assert table is not None
    alive = states(1) | table.only(puzzles(5)[1])
    start = model.initial_carry(alive, torch.zeros(5, dtype=torch.long))
    plain, padded = (model.deduce(start, table.pack(alive, each), 2) for each in (False, True))
    assert len(table.pack(alive, True).groups.each) % 64 == 0
    for one, other in zip((*plain[0], *plain[1][-1]), (*padded[0], *padded[1][-1]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_readouts_turn_with_the_puzzle(seed: int):
    """Exact symmetry: rows, columns, bands, stacks and digits; transposition exchanges weights and is none."""
    model = net()
    table = model.lattice
    assert table is not None
    uniforms = np.random.default_rng(seed).random((1, TASK.uniforms))
    uniforms[:, -1] = 0.9
    source, symbols = TASK.symmetries(uniforms)
    alive = states(seed, 1) | table.only(puzzles(1)[1])
    new = torch.argsort(torch.from_numpy(symbols[0, 2:] - 2))  # the digit that each one was
    turned = table.by_cell(alive)[:, torch.from_numpy(source[0])][..., new]
    start = model.initial_carry(alive, torch.zeros(1, dtype=torch.long))
    keep, other = (
        table.by_cell(model.deduce(start, table.pack(state.flatten(1)), 3)[1][-1].keep)  # type: ignore[arg-type]
        for state in (table.by_cell(alive), turned)
    )
    torch.testing.assert_close(keep[:, torch.from_numpy(source[0])][..., new], other, rtol=0, atol=1e-10)


def test_what_is_settled_changes_nothing_and_is_not_computed():
    """A digit of which all peers are dead could be left out; so it is."""
    table = lattice()
    _, answers = puzzles(1)
    alive = table.only(answers)
    assert not len(table.pack(alive).rows)
    alive[0, :4] = True
    packed = table.pack(alive)
    assert 0 < len(packed.rows) < int(alive.sum())


def test_gradients_are_those_of_plain_sums():
    model = net()
    table = model.lattice
    assert table is not None
    alive = states(2, 3) | table.only(puzzles(3)[1])
    start = model.initial_carry(alive, torch.zeros(3, dtype=torch.long))
    packed = table.pack(alive)
    model.deduce(start, packed, 2)[1][-1].keep.clamp(-50, 50).sum().backward()  # type: ignore[union-attr]
    quick = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    def plain(values: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        flat = packed.groups.flat
        each = values[0].repeat_interleave(len(packed.groups.sizes), 0)
        sums = torch.zeros(int(flat.max()) + 1, values.shape[2], dtype=values.dtype).index_add(0, flat, each)
        heard = sums[flat].view(len(values[0]), len(weights), -1).unbind(1)
        return sum(each @ weight.T for each, weight in zip(heard, weights, strict=True))[None]  # type: ignore[index]

    packed.groups.mixed = plain  # type: ignore[method-assign]
    model.deduce(start, packed, 2)[1][-1].keep.clamp(-50, 50).sum().backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(quick[name], parameter.grad, rtol=1e-10, atol=1e-12)
