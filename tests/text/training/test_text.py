"""Training on text: the losses and gradients of deep supervision, resuming, adapters, going on, and mistakes."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from hrm.cli.main import main as hrm
from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.runs import Run, checkpoint
from hrm.settings import load_preset
from hrm.text.config import TextConfig, is_text
from hrm.text.data import Batch
from hrm.text.load import load_text
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.model.supervision import supervised_loss, supervision
from hrm.text.training import session
from hrm.text.training.replay import ReplayObjective
from hrm.text.training.trainer import TextTrainer, TrainingBatch
from hrm.training.config import OptimConfig
from hrm.training.optim import build_optimizers
from hrm.training.progress import CLOCKED
from tests.data import hrm_data

TINY = dict(vocab_size=20, hidden_size=16, num_attention_heads=2, fast_layers=1, slow_layers=1, intermediate_size=32)
SHAPE = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32 "
SHAPE += "--halting.max-segments 2 --halting.kind q --arch.horizon last_step"
FLAGS = (
    "--text.length 32 --train.batch-size 4 --train.steps 6 --train.eval-every 3 "
    "--train.eval-puzzles 4 --train.checkpoint-every 2 --train.log-every 1 --optim.warmup-steps 2 --train.device cpu"
)


class Same:
    """One batch of random tokens, whatever is asked for."""

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch:
        ids = np.random.default_rng(0).integers(0, 20, (size, length + 1))
        positions = np.broadcast_to(np.arange(length), (size, length)).copy()
        chosen = slice(rows.start, rows.stop)
        return Batch(ids[chosen, :-1], ids[chosen, 1:], positions[chosen])


def trainer(**changes: Any) -> TextTrainer:
    """A tiny trainer on the same batch again and again."""
    base = load_preset("text-char", TextConfig)
    train = replace(base.train, batch_size=4, device="cpu", **changes.pop("train", {}))
    optim = OptimConfig("adamw", lr=1e-2, weight_decay=0.0, warmup_steps=0)
    config = replace(base, text=replace(base.text, length=12), optim=optim, train=train)
    torch.manual_seed(0)
    shape: dict[str, Any] = {**TINY, "max_segments": 3, "halting": "q", **changes}
    model = HRMForCausalLM(HRMConfig(**shape))
    return TextTrainer(config, model, Same(), Accelerator(cpu=True))


def gradients(model: HRMForCausalLM) -> dict[str, Tensor]:
    """The gradients there are."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("target", ["improvement", "right"])
def test_a_backward_pass_per_segment_gives_the_gradient_of_the_summed_losses(target: str) -> None:
    made = trainer(q_target=target, exploration=0.0)
    batch: Any = [torch.from_numpy(array) for array in Same().batch(0, 0, range(4), 4, 12)]
    count, budget, draws = (batch[1] != -100).sum(), made.model.budget(), torch.rand(2, 4, 12)
    made._think(TrainingBatch(batch[0], batch[1], batch[2], torch.zeros_like(batch[0]), draws, count, budget))
    ours = gradients(made.model)
    made.model.zero_grad()
    thought = made.model.begin(input_ids=batch[0], position_ids=batch[2], budget=budget)
    supervised_loss(made.model, thought, budget, batch[1]).backward()
    theirs = gradients(made.model)
    assert ours.keys() == theirs.keys() and len(ours) > 8
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-7)


def halting(**changes: Any) -> tuple[HRMForCausalLM, Any, Any, Any]:
    """A model in float64 whose tokens halt at all depths, and its batch, budget and draws."""
    model = trainer(exploration=0.3, max_segments=4, **changes).model.double()
    torch.manual_seed(5)
    torch.nn.init.normal_(model.model.q_head.weight, std=0.5)
    bias = model.model.q_head.bias
    assert bias is not None
    torch.nn.init.zeros_(bias)
    batch = [torch.from_numpy(array.copy()) for array in Same().batch(0, 0, range(4), 4, 12)]
    batch[1][0, :5] = -100
    return model, batch, model.budget(), torch.rand(2, 4, 12)


def learn(model: HRMForCausalLM, batch: Any, budget: Any, draws: Any, **more: Any) -> tuple[float, dict[str, Tensor]]:
    """The summed loss, and the gradients of a backward pass after each segment."""
    model.zero_grad()
    torch.manual_seed(6)
    thought = model.begin(input_ids=batch[0], position_ids=batch[2], budget=budget)
    total = 0.0
    for loss, _ in supervision(model, thought, budget, batch[1], 43, draws, **more):
        loss.backward()
        total += float(loss.detach())
        thought.forget()
    assert len(thought.depth.unique()) > 2
    return total, gradients(model)


def test_a_halted_token_counts_with_its_last_loss_and_is_no_evidence_of_what_more_would_bring() -> None:
    model, batch, budget, draws = halting()
    total, ours = learn(model, batch, budget, draws)
    model.zero_grad()
    model.model.gathers = False
    config, q_head, counted = model.config, model.model.q_head, batch[1] != -100
    explores, least = draws[0] < config.exploration, 2 + (draws[1] * (budget.max_segments - 1)).long()
    thought = model.begin(input_ids=batch[0], position_ids=batch[2], budget=budget)
    losses, before, went_on = [], None, torch.ones_like(counted)
    for depth in range(1, budget.max_segments + 1):
        model.segment(thought, budget.schedule)
        logits = model.lm_head(thought.exited.z_h).transpose(1, 2)
        token = torch.nn.functional.cross_entropy(logits, batch[1], reduction="none")
        losses.append(token.sum() / 43)
        z = thought.exited.z_h.detach()

        def q_loss(z: Tensor, halts: Tensor, which: Tensor) -> Tensor:
            p = torch.sigmoid(q_head(z)[..., 0] - q_head(z)[..., 1] if budget.q_continue else q_head(z)[..., 0])
            return -(torch.where(halts, p, 1 - p).log() * which).sum() * config.q_weight / 43

        if before is not None:
            gained = before[1] - token.detach()
            losses.append(q_loss(before[0], gained < config.q_gamma, counted & went_on))
        if depth == budget.max_segments:
            losses.append(q_loss(z, torch.ones_like(counted), counted & went_on))
        before = z, token.detach()
        stop = budget.probability(q_head(z)) > budget.exit_threshold
        went_on = went_on & ~(stop & ~(explores & (depth < least)))
        thought.halt(~went_on)
        thought.carry, thought.exited = thought.carry.detach(), thought.exited.detach()
        thought.keys_values.detach()  # type: ignore[union-attr]
    summed = torch.stack(losses).sum() / budget.max_segments
    summed.backward()
    assert total == pytest.approx(float(summed.detach()), rel=1e-9)
    for name, theirs in gradients(model).items():
        torch.testing.assert_close(ours[name], theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"share_cycles": True, "share_segments": True, "num_key_value_heads": 1, "h_cycles": 2},
        {"share_cycles": True, "h_cycles": 2, "l_cycles": 2, "norm": "pre", "gate": True, "join": "first_state"},
        {"dropout": 0.2, "q_target": "right"},
        {"horizon": "per_cycle([1])", "h_cycles": 2},
    ],
)
@pytest.mark.parametrize("recompute", [False, True])
def test_to_compute_only_live_tokens_gives_the_gradients_of_computing_all(
    changes: dict[str, Any], recompute: bool
) -> None:
    model, *rest = halting(**changes)
    model.model.gradient_checkpointing = recompute
    taught = torch.softmax(torch.randn(2, 12, 20, dtype=torch.float64), -1)
    found = []
    for gathers in (True, False):
        model.model.gathers = gathers
        found.append(
            learn(model, *rest, objective=ReplayObjective(model.config, taught, torch.tensor([1.0, 0.5, 2.0, 1.0])))
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-9)
    for name, theirs in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], theirs, rtol=1e-7, atol=1e-9)


def test_the_summed_loss_recomputes_the_live_tokens_of_each_segment() -> None:
    model, batch, budget, _ = halting()
    found = []
    for recompute in (False, True):
        model.zero_grad()
        model.model.gradient_checkpointing = recompute
        torch.manual_seed(7)
        thought = model.begin(input_ids=batch[0], position_ids=batch[2], budget=budget)
        supervised_loss(model, thought, budget, batch[1]).backward()
        found.append(gradients(model))
    for name, theirs in found[0].items():
        torch.testing.assert_close(found[1][name], theirs, rtol=1e-9, atol=1e-12)


def test_parts_of_a_batch_give_the_same_gradient() -> None:
    whole, split = trainer(), trainer(train={"accumulate": 2})
    for made in (whole, split):
        made.step()
    assert split.updates.grad_norm == pytest.approx(whole.updates.grad_norm, rel=1e-5)
    assert split.metrics()["token_loss"] == pytest.approx(whole.metrics()["token_loss"], rel=1e-6)


@pytest.mark.slow
def test_the_loss_of_a_batch_seen_again_and_again_falls_at_every_depth() -> None:
    made = trainer()
    made.step()
    before = made.metrics()
    for _ in range(60):
        made.step()
    made.metrics()
    made.step()
    after = made.metrics()
    for name in ("first_loss", "token_loss"):
        assert after[name] < 0.5 * before[name]
    assert 1 <= after["mean_segments"] <= 3


def test_a_segment_is_forgotten_before_the_next_one_begins() -> None:
    made, alive = trainer(halting="fixed"), []
    batch = [torch.from_numpy(array) for array in Same().batch(0, 0, range(4), 4, 12)]
    thought = made.model.begin(input_ids=batch[0], position_ids=batch[2], budget=made.model.budget())
    for loss, _ in supervision(made.model, thought, made.model.budget(), batch[1], 48, torch.rand(2, 4, 12)):
        loss.backward()
        alive.append(thought.carry.z_h.grad_fn is not None)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()
    assert alive == [True] * 3


def test_rows_taught_by_shares_learn_as_from_labels_where_one_token_has_all_of_them() -> None:
    gradients = []
    for rows in (0, 2):
        made = trainer(halting="fixed")
        ids, targets, positions = (torch.from_numpy(array) for array in Same().batch(0, 0, range(4), 4, 12))
        taught = (
            torch.nn.functional.one_hot(targets[4 - rows :], made.model.config.vocab_size).float() if rows else None
        )
        budget = made.model.budget()
        thought = made.model.begin(input_ids=ids, position_ids=positions, budget=budget)
        objective = None if taught is None else ReplayObjective(made.model.config, taught)
        for loss, _ in supervision(made.model, thought, budget, targets, 48, torch.zeros(2, 4, 12), objective):
            loss.backward()
        gradients.append([p.grad.clone() for p in made.model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_sampled_depths_are_a_function_of_the_step() -> None:
    depths = []
    for _ in range(2):
        made = trainer(depth_sampling=True, halting="fixed")
        depths.append([])
        for _ in range(12):
            made.step()
            depths[-1].append(round(made.metrics()["mean_segments"]))
    assert depths[0] == depths[1] and set(depths[0]) == {1, 2, 3}


def test_depths_of_a_poisson_distribution_are_a_function_of_the_step() -> None:
    made = trainer(depth_mean=2.0, halting="fixed")
    depths = [made.draw().budget.max_segments for made.step_number in range(3000)]
    assert depths[:50] == [made.draw().budget.max_segments for made.step_number in range(50)]
    # Clipped at 1 and 3: P(0) + P(1) = 3 exp(-2), P(2) = 2 exp(-2).
    assert depths.count(1) / 3000 == pytest.approx(3 * math.exp(-2), abs=0.03)
    assert depths.count(2) / 3000 == pytest.approx(2 * math.exp(-2), abs=0.03)
    assert set(depths) == {1, 2, 3}


def test_what_dropout_leaves_out_is_a_function_of_the_step() -> None:
    weights = []
    for stray in (0, 7):
        made = trainer(dropout=0.3, halting="fixed")
        for _ in range(3):
            torch.manual_seed(stray)  # as in a process that begins anywhere
            made.step()
        weights.append(torch.cat([p.detach().flatten() for p in made.model.parameters()]))
    assert torch.equal(*weights)


def test_muon_trains_the_matrices_of_the_stacks() -> None:
    model = trainer().model
    muon, rest = build_optimizers(model, OptimConfig("muon"))
    stacks = {id(p) for p in model.recurrence.parameters() if p.ndim == 2}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == stacks
    assert len(stacks) + sum(len(g["params"]) for g in rest.param_groups) == len([*model.parameters()])


def test_loops_that_begin_late_begin_then() -> None:
    made = trainer(late=0.5, halting="fixed")
    steps = made.train.steps
    made.step_number = steps // 2 - 1
    early = made.draw().budget
    made.step_number = steps // 2
    assert (early.max_segments, early.schedule) == (1, (1, 1))
    assert made.draw().budget == made.model.budget()


@pytest.mark.parametrize("supervise", ["every", "last"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradient_through_all_segments_is_that_of_the_whole_graph(supervise: str, recompute: bool) -> None:
    gradients = []
    for own in (False, True):
        made = trainer(gradient="whole", supervise=supervise, halting="fixed", q_weight=0.0)
        ids, targets, positions = (torch.from_numpy(array) for array in Same().batch(0, 0, range(4), 4, 12))
        budget = made.model.budget()
        made.model.model.gradient_checkpointing = recompute and own
        thought = made.model.begin(input_ids=ids, position_ids=positions, budget=budget)
        if own:
            for loss, _ in supervision(made.model, thought, budget, targets, 48, torch.zeros(2, 4, 12)):
                if loss.requires_grad:
                    loss.backward()
        else:  # the equations once more: nothing is detached, and the losses are added up
            losses = []
            for _ in range(budget.max_segments):
                made.model.segment(thought, budget.schedule)
                logits = made.model.lm_head(thought.carry.z_h)
                flat = logits.flatten(0, 1), targets.flatten()
                losses.append(torch.nn.functional.cross_entropy(*flat, reduction="sum"))
            wanted = losses[-1:] if supervise == "last" else losses
            (sum(wanted) / len(wanted) / 48).backward()  # type: ignore[union-attr]
        gradients.append({name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None})
    plain, ours = gradients
    assert plain.keys() <= ours.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("settings", [{"gradient": "whole"}, {"supervise": "last"}])
def test_what_needs_every_segment_refuses_tokens_that_halt(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match="needs tokens that do not halt in training: use halting='fixed'"):
        trainer(halting="q", **settings)


@pytest.mark.parametrize("halting", ["q", "fixed"])
def test_half_precision_trains_close_to_float32(halting: str) -> None:
    exact, half = trainer(halting=halting), trainer(halting=halting, train={"precision": "bfloat16"})
    for made in (exact, half):
        made.step()
    assert half.updates.grad_norm == pytest.approx(exact.updates.grad_norm, rel=0.05)
    assert half.metrics()["first_loss"] == pytest.approx(exact.metrics()["first_loss"], rel=0.01)


def book(folder: Path, text: str = "the cat sat on the mat. the dog ate the fog. ") -> Path:
    """A little book."""
    (folder / "book.txt").write_text(text * 40)
    return folder / "book.txt"


def train(folder: Path, name: str, *more: str, data: Path | None = None) -> Path:
    """A run of six steps."""
    source = data or book(folder)
    assert (
        hrm(
            [
                "train",
                "text-char",
                "--data",
                str(source),
                "--out",
                str(folder / name),
                *SHAPE.split(),
                *FLAGS.split(),
                *more,
            ]
        )
        == 0
    )
    return folder / name


def last_weights(path: Path) -> dict[str, Tensor]:
    """The newest checkpoint's weights."""
    newest = checkpoint.newest(path / "checkpoints", print)
    assert newest is not None
    return checkpoint.load(newest)[0]["weights"]


def timeless(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics without what the clock decides."""
    own = (*CLOCKED, "tokens_per_second")
    return [{k: v for k, v in r.items() if k not in own} for r in Run.open(path, TextConfig).records()]


@pytest.mark.slow
def test_a_paused_and_resumed_training_equals_a_straight_one_bit_for_bit(tmp_path: Path) -> None:
    constant = ("--optim.schedule", "constant")
    straight = train(tmp_path, "straight", *constant)
    paused = train(tmp_path, "paused", *constant, "--train.steps", "3")
    assert hrm(["train", "--resume", str(paused), "--train.steps", "6"]) == 0
    ours, theirs = last_weights(paused), last_weights(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    resumed = [r for r in timeless(paused) if r.get("event") != "resumed"]
    assert resumed == timeless(straight)


@pytest.mark.slow
def test_a_run_holds_all_that_is_needed_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train(tmp_path, "run", "--json")
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert printed.err.endswith(f'model card: {path / "README.md"}; try: hrm generate {path} "..."\n')
    assert result["state"] == "finished" and len(result["loss_by_depth"]) == 2 and result["n"] > 100
    assert json.loads((path / "result.json").read_text())["loss"] == result["loss"]
    (tmp_path / "book.txt").unlink()
    found = load_text(path, device="cpu")
    ids = found.tokenizer("the cat", return_tensors="pt")["input_ids"]
    out = found.model.generate(ids, max_new_tokens=5, do_sample=False)
    assert is_text(path) and len(found.tokenizer.decode(out[0])) >= len("the cat") and found.run is not None
    assert "hidden" in (path / "README.md").read_text().lower() or "parameters" in (path / "README.md").read_text()
    assert hrm(["solve", str(path), "1234"]) == 2
    assert "is a run on text, not on puzzles: see hrm generate" in capsys.readouterr().err


@pytest.mark.slow
def test_adapters_learn_alone_and_are_merged_when_the_run_is_used(tmp_path: Path) -> None:
    first = train(tmp_path, "first")
    second = tmp_path / "second"
    args = ["train", "text-char", "--model", str(first), "--data", str(book(tmp_path)), "--out", str(second)]
    assert hrm([*args, *FLAGS.split(), "--lora", "2", "--halting.max-segments=2"]) == 0
    start, end = last_weights(first), last_weights(second)
    changed = [name for name in end if name.endswith("lora_B.default.weight") and bool(end[name].any())]
    assert changed and all(torch.equal(end[n], start[n.replace(".base_layer", "")]) for n in end if "lora" not in n)
    merged = load_text(second, device="cpu").model.state_dict()
    assert merged.keys() == start.keys()
    assert not torch.equal(*(w["model.recurrence.fast.layers.0.mixer.qkv.weight"] for w in (merged, start)))


@pytest.mark.slow
def test_a_training_goes_on_with_the_weights_and_tokenizer_of_another_run(tmp_path: Path) -> None:
    first = train(tmp_path, "first")
    args = ["train", "text-char", "--model", str(first), "--data", str(book(tmp_path)), "--out", str(tmp_path / "b")]
    assert hrm([*args, *FLAGS.split()]) == 0
    losses = [next(r["token_loss"] for r in timeless(tmp_path / name)) for name in ("first", "b")]
    assert losses[1] < losses[0]


@pytest.mark.slow
def test_mistakes_end_in_one_sentence_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run"), "--data", str(book(tmp_path))]
    for args, words in (
        (["--out", str(tmp_path / "run")], "--data"),
        (["--settings", "hiden_size=8", *out], "hidden_size"),
        (["--settings", "hidden_size", *out], "NAME=VALUE"),
        (["--settings", "vocab_size=8", *out], "tokenizer"),
        (["--arch.dim", "x", *out], "integer"),
        (["--arch.hidden-size", "8", *out], "use --arch.dim"),
        (["--arch.heads", "7", *out], "--arch.dim"),
        (["--halting.min-segments", "9", *out], "--halting.max-segments"),
        (["--text.length", "5000", *out], "positions"),
        (["--model", "text-nothing", *out], "no text preset"),
        ([*out[:2], "--data", str(tmp_path / "none.txt")], "none.txt"),
        (["--train.target-accuracy", "0.5", *out], "target-accuracy"),
        (["--text.frame", *out], "--text.frame"),
    ):
        assert hrm(["train", "text-char", *args]) == 2
        error = capsys.readouterr().err.strip()
        assert words in error and "\n" not in error
        assert not (tmp_path / "run/run.json").exists()


@pytest.mark.slow
def test_a_character_model_learns_a_real_book(tmp_path: Path) -> None:
    flags = [
        "--arch.dim=48", "--arch.heads=2", "--arch.fast-layers=1", "--arch.slow-layers=1", "--halting.max-segments=2",
        "--text.length", "32", "--train.batch-size", "16", "--train.steps", "100", "--train.eval-every", "100",
        "--optim.lr", "5e-3", "--optim.warmup-steps", "10", "--train.eval-puzzles", "20", "--train.device", "cpu",
    ]  # fmt: skip
    source = hrm_data() / "text/alice.txt"
    assert hrm(["train", "text-char", "--data", str(source), "--out", str(tmp_path / "run"), *flags]) == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["bits_per_character"] < 3.5  # single letters: 4.6


@pytest.mark.slow
def test_a_run_becomes_a_folder_that_the_auto_classes_load(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = train(tmp_path, "run")
    assert hrm(["convert", str(path), str(tmp_path / "out"), "--to", "hrm_lm"]) == 0
    assert (tmp_path / "out/README.md").read_text("utf-8").startswith((path / "README.md").read_text("utf-8"))
    model, own = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), load_text(path, device="cpu")
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")("the cat", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids).logits, own.model(ids).logits)
    assert hrm(["convert", str(path), str(tmp_path / "out"), "--to", "hrm_lm"]) == 2


def test_a_run_to_go_on_with_is_known_for_text_in_either_form_of_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("model: text-char\ntext: {length: 16}\n")
    for flag in (["--resume", str(tmp_path)], [f"--resume={tmp_path}"]):
        assert hrm(["train", *flag, "--text.nosuch", "3"]) == 2
        assert "--text." in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_training_of_text_has_just_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train(tmp_path, "run", "--train.eval-puzzles", "1000")
    said = "measuring the best checkpoint on the"
    assert said not in capsys.readouterr().err
    kept = json.loads((path / "result.json").read_text())
    with monkeypatch.context() as patched:
        stops = contextlib.nullcontext(lambda done: signal.raise_signal(signal.SIGINT))
        patched.setattr(session, "share", lambda *args: stops)
        assert hrm(["train", "--resume", str(path)]) == 0  # nothing is left to train, so it only measures
    shown = capsys.readouterr().err
    assert said in shown and f"the training itself is saved: hrm eval {path}" in shown
    assert "loss" not in json.loads((path / "result.json").read_text())
    assert hrm(["train", "--resume", str(path)]) == 0
    again = json.loads((path / "result.json").read_text())
    clocked = {"seconds", *CLOCKED}
    assert {k: v for k, v in kept.items() if k not in clocked} == {k: v for k, v in again.items() if k not in clocked}


def test_a_line_of_metrics_says_what_to_watch_in_a_long_training() -> None:
    """Gradients by part, how far the last segment has moved both states, perplexity, and the share of the FLOPs."""
    made = trainer(train={"log_every": 2})
    made.step()
    drawn, budget = made.draw(), made.model.budget()
    with torch.no_grad():
        thought = made.model.begin(input_ids=drawn.ids, position_ids=drawn.positions, budget=budget)
        for _ in range(2):
            made.model.segment(thought, budget.schedule)
        before = thought.carry
        made.model.segment(thought, budget.schedule)
    made.flops_per_unit, made.peak_flops = 10.0, 1e6
    made.step()
    found = made.metrics()
    for name, old, new in (("h", before.z_h, thought.carry.z_h), ("l", before.z_l, thought.carry.z_l)):
        moved = ((new - old).norm(dim=-1) / old.norm(dim=-1))[drawn.labels != -100].mean()
        assert found[f"residual_{name}"] == pytest.approx(float(moved), rel=1e-4)
    made.moved.zero_()
    # States of another length, which RMSNorm would not give: the change is relative to the state before.
    made.note_residuals(before, Carry(*(3 * z for z in before)), torch.ones_like(drawn.labels, dtype=torch.bool))
    assert (made.moved[:2] / made.moved[2]).tolist() == pytest.approx([2.0, 2.0], rel=1e-5)
    parts = {name: value for name, value in found.items() if name.startswith("grad_norm_")}
    assert parts.keys() == {f"grad_norm_{name}" for name in ("embed_tokens", "fast", "slow", "q_head", "lm_head")}
    assert sum(value**2 for value in parts.values()) ** 0.5 == pytest.approx(found["grad_norm"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(np.exp(found["token_loss"]))
    assert found["utilisation"] == pytest.approx(found["tokens_per_second"] * 1e-5)
