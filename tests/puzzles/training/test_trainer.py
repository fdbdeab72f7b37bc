"""One step of deep supervision: who halts, who stays, what moves, and what happens when numbers break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hrm.cli.main import main as hrm
from hrm.core.recurrence import Carry
from hrm.puzzles import solvers, tasks
from hrm.puzzles.config import Config
from hrm.puzzles.solving import load
from hrm.puzzles.training.trainer import Slots, Trainer
from hrm.runs import Run
from hrm.training.optim import lr_factor
from hrm.training.trainer import BadBatch
from tests.training import small
from tests.training.small import config, trainer


def weights(of: Trainer) -> dict[str, Tensor]:
    """A copy of everything that training changes in the model."""
    return {name: tensor.detach().clone() for name, tensor in of.model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def eager(of: Trainer, q_halt: float = 5.0) -> Trainer:
    """Make every puzzle want to halt after each segment (or never, with a low value), whatever it learns."""
    with torch.no_grad():
        assert of.model.q_head.bias is not None
        of.model.q_head.bias.copy_(torch.tensor([q_halt, 0.0]))
    return of


def poison(of: Trainer, row: int = 0) -> None:
    """Break one puzzle's state, as an overflow would; it must be in its slot for another segment."""
    of.slots.carry.z_h[row] = torch.nan


def test_the_first_step_fills_every_slot_with_its_row_of_the_first_batch() -> None:
    made = trainer()
    batch = made.sampler.batch(0)
    made.step()
    assert torch.equal(made.slots.inputs, torch.from_numpy(batch.inputs))
    assert torch.equal(made.slots.labels, torch.from_numpy(batch.labels))
    assert made.slots.segments.tolist() == [1] * 8


def test_slots_are_refilled_only_when_their_puzzle_has_halted() -> None:
    made = eager(trainer(config(halting={"max_segments": 4, "exploration": 0.7}), task_ids=4))
    seen = set()
    for step in range(12):
        before, batch = made.slots, made.sampler.batch(step)
        made.step()
        after = made.slots
        for row in range(8):
            old = (before.inputs[row], before.labels[row], before.task_ids[row])
            new = tuple(torch.from_numpy(array)[row] for array in batch[:3])
            free = bool(before.halted[row])
            expected = new if free else old
            found = (after.inputs[row], after.labels[row], after.task_ids[row])
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert after.segments[row] == (1 if free else before.segments[row] + 1)
            seen.add((free, int(after.segments[row])))
    assert {(True, 1), (False, 2), (False, 3), (False, 4)} <= seen


def test_a_refilled_slot_starts_from_the_initial_state_and_the_others_from_their_carry() -> None:
    made = trainer(config(halting={"max_segments": 2}))
    made.slots = made.slots._replace(halted=torch.arange(8) % 2 == 0, segments=torch.zeros(8, dtype=torch.long))
    carry = Carry(torch.randn(8, 17, 16), torch.randn(8, 17, 16))
    made.slots = made.slots._replace(carry=carry)
    batch = made.sampler.batch(0)
    inputs = torch.where(made.slots.halted[:, None], torch.from_numpy(batch.inputs), made.slots.inputs)
    with torch.no_grad():
        start = made.model.initial_carry(inputs, made.slots.task_ids)
        mask = made.slots.halted[:, None, None]
        mixed = Carry(torch.where(mask, start.z_h, carry.z_h), torch.where(mask, start.z_l, carry.z_l))
        expected, _ = made.model.segment(mixed, inputs, made.slots.task_ids)
    made.step()
    assert torch.equal(made.slots.carry.z_h, expected.z_h) and torch.equal(made.slots.carry.z_l, expected.z_l)
    assert not made.slots.carry.z_h.requires_grad


@pytest.mark.parametrize("exploration", [0.0, 1.0])
def test_eager_puzzles_halt_at_once_without_exploration_and_between_two_and_the_longest_with_it(
    exploration: float,
) -> None:
    made = eager(trainer(config(halting={"max_segments": 5, "exploration": exploration}, optim={"lr": 0.0})))
    halted: set[int] = set()
    for _ in range(40):
        made.step()
        halted |= set(made.slots.segments[made.slots.halted].tolist())
    assert halted == ({1} if exploration == 0 else {2, 3, 4, 5})


@pytest.mark.parametrize("q_continue", [True, False])
def test_reluctant_puzzles_halt_exactly_at_the_longest(q_continue: bool) -> None:
    settings = config(halting={"max_segments": 3, "exploration": 0.5, "q_continue": q_continue}, optim={"lr": 0.0})
    made = eager(trainer(settings), q_halt=-5.0)
    for step in range(9):
        made.step()
        assert made.slots.segments.tolist() == [step % 3 + 1] * 8
        assert made.slots.halted.tolist() == [step % 3 == 2] * 8


def test_the_metrics_are_means_over_the_puzzles_that_halted() -> None:
    made = eager(trainer(config(halting={"max_segments": 3, "exploration": 0.0}, optim={"lr": 0.0})), q_halt=-5.0)
    for _ in range(6):
        made.step()
    found = made.metrics()
    assert (found["halted"], found["mean_segments"], found["step"]) == (16, 3.0, 6)
    assert found["loss"] == pytest.approx(
        found["token_loss"] + 0.5 * (found["halt_loss"] + found["continue_loss"]), rel=1e-5
    )
    assert found["q_halt_accuracy"] == 1 - found["exact_accuracy"]
    assert made.metrics()["loss"] == 0, "the window starts anew after each look"


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulating_gives_the_gradient_of_the_whole_batch(parts: int) -> None:
    whole, split = trainer(config(), task_ids=4), trainer(config(train={"accumulate": parts}), task_ids=4)
    for _ in range(4):
        whole.step()
        split.step()
        assert split.updates.grad_norm == pytest.approx(whole.updates.grad_norm, rel=1e-4)
        assert torch.equal(split.slots.inputs, whole.slots.inputs)
        assert torch.allclose(split.slots.carry.z_h, whole.slots.carry.z_h, atol=1e-4)
    assert split.metrics()["loss"] == pytest.approx(whole.metrics()["loss"], rel=1e-5)


def test_recomputed_activations_give_the_same_gradient() -> None:
    plain, recomputed = trainer(), trainer(config(train={"checkpoint_activations": True}))
    for _ in range(3):
        plain.step()
        recomputed.step()
    assert same(weights(plain), weights(recomputed))


def test_averaging_leaves_the_training_of_the_raw_weights_as_it_was() -> None:
    plain, averaged = trainer(task_ids=4), trainer(config(optim={"ema": 0.9}), task_ids=4)
    for _ in range(4):
        plain.step()
        averaged.step()
    assert same(weights(plain), weights(averaged))
    assert averaged.updates.ema is not None and not same(averaged.updates.ema.average, weights(averaged))


def test_the_rate_of_every_optimizer_follows_warm_up_and_cosine() -> None:
    made = trainer(config(optim={"name": "muon", "schedule": "cosine", "min_ratio": 0.1, "muon_lr": 0.02}))
    rates = []
    for _ in range(30):
        made.step()
        muon, adam = (optimizer.param_groups[0]["lr"] for optimizer in made.updates.optimizers)
        assert muon / 0.02 == pytest.approx(adam / 1e-3)
        rates.append(made.updates.lr / 1e-3)
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == pytest.approx([lr_factor(99, i / 26, made.config.optim) for i in range(27)])
    assert rates[3:] == sorted(rates[3:], reverse=True) and rates[-1] == pytest.approx(0.1)


def test_clipping_bounds_the_step_that_plain_descent_would_take() -> None:
    free, clipped = trainer(), trainer(config(optim={"clip": 1e-3}))
    norms: list[float] = []
    clipped.updates.optimizers[0].register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            float(torch.nn.utils.get_total_norm([p.grad for g in optimizer.param_groups for p in g["params"]]))
        )
    )
    free.step()
    clipped.step()
    assert clipped.updates.grad_norm == free.updates.grad_norm > 0.1, "the norm reported is the one before clipping"
    assert norms == pytest.approx([1e-3], rel=1e-3)


@pytest.mark.parametrize("name", ["adam_atan2", "muon"])
def test_a_non_finite_update_is_skipped_and_counted_and_its_puzzle_replaced(name: Any) -> None:
    made = trainer(config(optim={"name": name, "ema": 0.9}), task_ids=4)
    made.step()
    before = weights(made)
    average = {key: value.clone() for key, value in made.updates.ema.average.items()} if made.updates.ema else {}
    puzzle = made.slots.inputs.clone()
    poison(made, row=2)
    made.step()
    assert same(before, weights(made)) and made.updates.ema is not None and same(average, made.updates.ema.average)
    assert (made.updates.bad_steps, made.updates.bad_in_a_row, made.step_number) == (1, 1, 2)
    assert made.slots.halted.tolist() == [row == 2 for row in range(8)]
    made.step()
    assert made.metrics()["skipped_updates"] == 1 and made.updates.bad_in_a_row == 0
    assert not same(before, weights(made))
    assert made.slots.segments.tolist() == [1 if row == 2 else 3 for row in range(8)]
    assert torch.equal(made.slots.inputs[torch.arange(8) != 2], puzzle[torch.arange(8) != 2])


def test_a_non_finite_gradient_of_the_task_embeddings_alone_is_skipped_too() -> None:
    made = trainer(task_ids=4)
    made.step()
    before = weights(made)
    assert made.model.task_embedding is not None
    assert made.updates.sparse is not None
    collect = made.updates.sparse.collect

    def overflowing() -> tuple[Tensor, Tensor]:
        ids, grads = collect()
        return ids, grads * 1e38 * 1e38

    made.updates.sparse.collect = overflowing
    made.step()
    assert same(before, weights(made)) and made.updates.bad_steps == 1


def test_training_stops_after_too_many_bad_updates_in_a_row_with_their_puzzles() -> None:
    made = trainer(config(train={"max_bad_steps": 3}, halting={"max_segments": 16}))
    made.step()
    for expected in (1, 2):
        poison(made, row=expected)
        made.step()
        assert made.updates.bad_in_a_row == expected
    poison(made)
    with pytest.raises(BadBatch, match=r"3 updates in a row .* step 3: lower --optim.lr") as error:
        made.step()
    assert {name: tuple(tensor.shape) for name, tensor in error.value.batch.items()} == {
        "inputs": (8, 16),
        "labels": (8, 16),
        "task_ids": (8,),
    }


def test_bad_updates_that_are_not_in_a_row_do_not_stop_the_training() -> None:
    made = trainer(config(train={"max_bad_steps": 2}))
    for _ in range(4):
        made.step()
        poison(made)
        made.step()
        made.slots = made.slots._replace(halted=torch.ones(8, dtype=torch.bool))
    assert (made.updates.bad_steps, made.step_number) == (4, 8)


def test_a_training_that_diverges_ends_with_one_sentence_and_saves_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(
        optim={"name": "adamw", "lr": 1e3, "weight_decay": 1e3, "warmup_steps": 0}, train={"max_bad_steps": 3}
    )
    assert hrm(small.command(tmp_path / "run", settings)) == 1
    sentences = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hrm train:")]
    file = tmp_path / "run" / "bad_batch.safetensors"
    assert len(sentences) == 1 and "3 updates in a row" in sentences[0] and str(file) in sentences[0]
    puzzles = load_file(file)
    assert all(
        small.SUDOKU.verify(question, answer)
        for question, answer in zip(puzzles["inputs"].numpy(), puzzles["labels"].numpy(), strict=True)
    )
    assert Run.open(tmp_path / "run", Config).config.optim.lr == 1e3


def test_float16_starts_with_a_scaled_loss_and_halves_the_scale_at_an_overflow() -> None:
    made = trainer(config(train={"precision": "float16"}))
    made.step()
    reference = trainer()
    reference.step()
    assert made.updates.grad_norm == pytest.approx(reference.updates.grad_norm, rel=0.02)
    made.updates.loss_scale = 2.0**40
    before = weights(made)
    made.step()
    assert same(before, weights(made)) and made.updates.loss_scale == 2.0**39


def test_slots_keep_their_parts_in_order() -> None:
    made = trainer()
    made.step()
    parts = [made.slots.part(slice(start, start + 2)) for start in range(0, 8, 2)]
    for name in Slots._fields[1:]:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(made.slots, name))


def test_a_preset_begins_with_the_weights_of_another_run_on_smaller_mazes(tmp_path: Path) -> None:
    small_one, large_one = str(tmp_path / "small"), str(tmp_path / "large")
    flags = "--task.puzzles 6 --task.holdout 2 --task.min-path 2 --train.steps 2 --train.batch-size 2"
    flags += " --optim.warmup-steps 0 --optim.lr 0 --optim.muon-lr 0 --train.no-compile"
    flags += " --train.checkpoint-every 2 --arch.dim 8"
    begin = ["train", "maze-any", *flags.split(), "--quiet"]
    assert hrm([*begin, "--task.size", "5", "6", "--task.least-size", "4", "4", "--out", small_one]) == 0
    assert (
        hrm(
            [
                *begin,
                "--task.size",
                "7",
                "7",
                "--task.least-size",
                "5",
                "5",
                "--seed",
                "1",
                "--out",
                large_one,
                "--init",
                small_one,
            ]
        )
        == 0
    )
    one, other = (
        load_file(Run.open(path, Config).checkpoint("latest") / "weights.safetensors")
        for path in (small_one, large_one)
    )
    assert same(one, other)


def test_a_preset_begins_with_the_weights_of_a_solver_that_comes_with_the_package(tmp_path: Path) -> None:
    flags = "--task.size 6 6 --task.least-size 5 5 --task.puzzles 6 --task.holdout 2 --task.min-path 2"
    flags += " --optim.warmup-steps 0 --optim.lr 0 --optim.muon-lr 0 --train.no-compile --train.steps 1 --quiet"
    out = str(tmp_path / "more")
    assert hrm(["train", "maze-any", "--init", "maze", *flags.split(), "--train.batch-size", "2", "--out", out]) == 0
    one, other = (
        load_file(Run.open(path, Config).checkpoint("latest") / "weights.safetensors")
        for path in (solvers.find("maze"), out)
    )
    assert same(one, other)


BEGINS = "--task.size 5 6 --task.least-size 4 4 --task.puzzles 6 --task.holdout 2 --task.min-path 2"
BEGINS += " --optim.warmup-steps 0 --train.no-compile --train.batch-size 2 --train.steps 1 --quiet"


@pytest.mark.parametrize(("preset", "solver"), [("maze-any", "maze"), ("sudoku-deduce", "sudoku")])
def test_a_run_of_more_layers_begins_as_the_same_function(tmp_path: Path, preset: str, solver: str) -> None:
    layers = load(solver).model.arch.fast_layers + 1
    flags = f"--arch.fast-layers {layers} --optim.lr 0 --optim.muon-lr 0 --optim.warmup-steps 0 --train.no-compile"
    flags += " --train.steps 1 --train.batch-size 2 --train.precision float32 --task.puzzles 6 --quiet"
    if solver == "maze":
        flags += " --task.size 6 6 --task.least-size 5 5 --task.min-path 2 --task.holdout 0"
    out = str(tmp_path / "more")
    assert hrm(["train", preset, "--init", solver, *flags.split(), "--out", out]) == 0
    was, now = load(solver).model, load(out).model
    task = tasks.build(Run.open(out, Config).config.task)
    question = torch.from_numpy(task.generate(np.random.default_rng(1)).question[None].astype(np.int64))
    ids = torch.zeros(1, dtype=torch.long)
    if solver == "maze":
        was, now = (model.on(task.shape) for model in (was, now))
    with torch.no_grad():
        before, after = (model.segment(model.initial_carry(question, ids), question, ids)[1] for model in (was, now))
    torch.testing.assert_close(after.logits, before.logits, rtol=1e-4, atol=1e-3)
    assert len(now.recurrence.fast.layers) == layers


def test_weights_that_do_not_fit_are_refused_before_anything_is_written_or_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    begin = ["train", "maze-any", *BEGINS.split(), "--arch.dim", "8", "--out", str(out)]
    assert hrm([*begin, "--init", "maze"]) == 2
    assert "do not fit the architecture (--arch...): embed_tokens.weight is 6x32 there and 6x8 here" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    assert hrm(begin) == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert hrm([*begin, "--init", "maze", "--overwrite"]) == 2
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_run_that_lost_the_weights_it_begins_with_is_not_resumed_with_random_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ["train", "maze-any", *BEGINS.split(), "--init", "maze", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as killed:
        killed.setattr(Trainer, "save", lambda *_: (_ for _ in ()).throw(MemoryError))
        assert hrm(begin) != 0
    assert Run.open(tmp_path / "run", Config).board["begins_with_weights"]
    capsys.readouterr()
    assert hrm(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "no intact checkpoint, not even that of its start" in capsys.readouterr().err
