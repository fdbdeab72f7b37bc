"""Learning to deduce: the losses as the equations say, what advances a state, and that it learns."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import torch

from hrm.cli.main import main as hrm
from hrm.puzzles.config import Config, DeductionConfig
from hrm.puzzles.model import Readout
from hrm.puzzles.training.deducing import decided, losses, state_of
from hrm.runs import Run
from tests.puzzles.test_lattice import lattice, puzzles, states

TINY = shlex.split(
    "--task.box 2 2 --task.puzzles 100 --task.holdout 20 --arch.dim 16 --deduction.segments 3 --train.batch-size 16 "
    "--train.device cpu --train.precision float32 --train.threads 1 --train.no-compile --optim.warmup-steps 20 "
    "--optim.schedule constant --train.minutes 0 --train.log-every 10"
)


def readout(seed: int, rows: int) -> Readout:
    generator = torch.Generator().manual_seed(seed)
    keep, logits = torch.randn(rows, 64, generator=generator), torch.randn(rows, 16, 6, generator=generator)
    return Readout(logits, torch.randn(rows, 2, generator=generator), keep)


def test_losses_are_those_of_a_restatement_with_loops():
    table, (_, answers) = lattice(), puzzles(4)
    alive = states(5, 4)
    alive[:2] |= table.only(answers[:2])
    config = DeductionConfig()
    state, said = state_of(table, alive, answers), [readout(0, 4), readout(1, 4)]
    found = losses(table, said, state, config)
    truth = (answers - table.first).tolist()
    contradicts = [not all(alive[b, c * 4 + truth[b][c]] for c in range(16)) for b in range(4)]
    assert contradicts == state.contradicts.tolist() == [False, False, True, True]
    keep = symbol = contradiction = 0.0
    candidates = cells = 0
    for number, one in enumerate(said):
        for b in range(4):
            q = float(one.q[b, 0].sigmoid())
            contradiction -= np.log(1 - q if contradicts[b] else q)
            for c in range(16):
                possible = [s for s in range(4) if alive[b, c * 4 + s]]
                if len(possible) == 1 or contradicts[b]:
                    continue
                cells += number == 0
                shares = one.logits[b, c, 2:].log_softmax(0)
                symbol -= float(shares[truth[b][c]])
                for s in possible:
                    candidates += number == 0
                    p = float(one.keep[b, c * 4 + s].sigmoid())  # type: ignore[index]
                    keep -= 4.0 * np.log(p) if s == truth[b][c] else 0.5 * np.log(1 - p)
    expected = [4 * keep / 2 / candidates, 4 * symbol / 2 / cells, contradiction / 2]
    torch.testing.assert_close(
        torch.stack(found[1:]), torch.tensor(expected, dtype=torch.float32), rtol=1e-4, atol=1e-5
    )
    total = expected[0] + config.symbol_weight * expected[1] + config.contradiction_weight * expected[2]
    torch.testing.assert_close(found.total, torch.tensor(total, dtype=torch.float32), rtol=1e-4, atol=1e-5)


def test_a_decision_pins_one_open_candidate_and_changes_no_other_cell():
    table = lattice()
    alive = states(7, 64)
    new = decided(table, alive, torch.randn(64, 16, 6), torch.rand(64, 2), 1.5)
    before, after = table.by_cell(alive), table.by_cell(new)
    for b in range(64):
        changed = [c for c in range(16) if not torch.equal(before[b, c], after[b, c])]
        assert len(changed) == (before[b].sum(1) > 1).any()
        for c in changed:
            assert after[b, c].sum() == 1 and before[b, c].sum() > 1 and (before[b, c] & after[b, c]).any()


def test_decisions_are_drawn_from_the_distribution_at_a_temperature():
    table = lattice()
    rows = 20_000
    alive = torch.zeros(rows, 64, dtype=torch.bool)
    alive[:, ::4] = True
    alive[:, :3] = True  # one open cell with three symbols
    logits = torch.zeros(rows, 16, 6)
    logits[:, 0, 2:5] = torch.tensor([0.0, 1.5, 3.0])
    new = decided(table, alive, logits, torch.rand(rows, 2, generator=torch.Generator().manual_seed(0)), 1.5)
    shares = new[:, :3].float().mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 2.0]).softmax(0), rtol=0, atol=0.02)


def test_small_sudokus_are_learned_and_every_answer_is_verified(tmp_path: Path):
    run = str(tmp_path / "run")
    training = ["--train.steps", "150", "--train.eval-every", "150", "--train.checkpoint-every", "150"]
    assert hrm(["train", "sudoku-deduce", "--out", run, *TINY, *training]) == 0
    best = Run.open(Path(run), Config).best
    assert best is not None and best["exact_accuracy"] >= 0.9


def test_an_interrupted_training_ends_as_the_whole_one(tmp_path: Path):
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    every = ["--optim.warmup-steps", "2", "--train.eval-every", "100", "--train.checkpoint-every", "4"]
    assert hrm(["train", "sudoku-deduce", "--out", whole, *TINY, "--train.steps", "8", *every]) == 0
    shutil.copytree(whole, parts)
    shutil.rmtree(Run.open(Path(parts), Config).checkpoint("latest"))
    assert hrm(["train", "--resume", parts]) == 0
    from hrm.runs import checkpoint

    one, other = (checkpoint.load(Run.open(Path(run), Config).checkpoint("latest"), {"weights", "slots"})[0]
                  for run in (whole, parts))  # fmt: skip
    for group in ("weights", "slots"):
        for name, tensor in one[group].items():
            assert torch.equal(tensor, other[group][name]), name
