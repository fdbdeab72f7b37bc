"""What `hrm plan` and `--dry-run` say of a training on text, beside what torch counts and what is measured."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from hrm.cli.main import main as hrm
from hrm.cli.plan import show
from hrm.settings import load_preset
from hrm.text.config import TextConfig
from hrm.text.data import Packed, encode, make_tokenizer
from hrm.text.load import configure
from hrm.text.model import HRMForCausalLM
from hrm.text.model.supervision import supervision
from hrm.text.training.plan import memory_of, plan
from hrm.training import cluster
from hrm.training.cluster import sbatch

SMALL = (
    "--arch.dim 32 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1"
    " --halting.max-segments 2 --text.length 32 --train.batch-size 4"
)


def recipe(dim: int, length: int, precision: str = "float32", recompute: bool = False) -> TextConfig:
    base = load_preset("text-char", TextConfig)
    train = replace(base.train, precision=precision, checkpoint_activations=recompute, batch_size=4)
    arch = replace(base.arch, dim=dim, heads=2, fast_layers=1, slow_layers=1)
    halting = replace(base.halting, max_segments=2)
    return replace(base, arch=arch, halting=halting, text=replace(base.text, length=length), train=train)


def through_all(config: TextConfig) -> TextConfig:
    """With four segments, through all of which the gradient passes."""
    return replace(config, halting=replace(config.halting, max_segments=4, gradient="whole", weight=0.0))


def step(model: HRMForCausalLM, rows: int, length: int) -> None:
    """All segments of a batch."""
    ids, draws = torch.zeros(rows, length, dtype=torch.long), torch.zeros(2, rows, length)
    budget = model.budget(halting="fixed")
    thought = model.begin(input_ids=ids, budget=budget)
    for loss, _ in supervision(model, thought, budget, ids, torch.tensor(float(ids.numel())), draws):
        if loss.requires_grad:
            loss.backward()
            thought.forget()


def measured(config: TextConfig, rows: int) -> int:
    """Bytes at the peak of a real training step, besides weights and the optimizer."""
    model = HRMForCausalLM(configure(config, None, None)).train()
    model.compute_dtype = getattr(torch, config.train.precision)
    model.model.gradient_checkpointing = config.train.checkpoint_activations
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step(model, rows, config.text.length)
    now = most = 0
    for event in found.profiler.kineto_results.events():  # type: ignore[union-attr]
        now += event.nbytes() if event.name() == "[memory]" else 0  # type: ignore[attr-defined]
        most = max(most, now)
    return most


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (recipe(96, 64), 4), (recipe(64, 128, "bfloat16"), 3), (recipe(128, 96, "float32", recompute=True), 4),
        (through_all(recipe(96, 64)), 4), (through_all(recipe(96, 64, recompute=True)), 4),
    ],
    ids=["float32", "bfloat16", "recomputed", "through all segments", "through all segments, recomputed"],
)  # fmt: skip
def test_memory_is_within_a_tenth_of_what_is_measured(config: TextConfig, rows: int) -> None:
    planned = memory_of(config, rows)
    parameters = (planned.whole + planned.split) // (4 * (4 + bool(config.optim.ema)))
    step_bytes = planned.copies + planned.fixed + 4 * parameters + rows * planned.row
    assert step_bytes == pytest.approx(measured(config, rows), rel=0.1)


def test_recomputing_bounds_the_memory_of_a_gradient_through_all_segments() -> None:
    through, again = (memory_of(through_all(recipe(96, 64, recompute=r)), 4).row for r in (False, True))
    assert again < 0.4 * through


def test_flops_are_those_that_torch_counts_with_attention_in_full() -> None:
    config = recipe(32, 16)
    model = HRMForCausalLM(configure(config, None, None)).train()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(model, 4, 16)
    found = plan(config)
    assert found.flops_per_step == counter.get_total_flops()
    share = sum(part.flops_per_token for part in found.parts) * found.tokens_per_step / found.flops_per_step
    assert 0.99 < share <= 1
    assert {part.name: part.visits for part in found.parts}["output layer"] == model.config.max_segments


def test_split_weights_are_divided_among_the_processes() -> None:
    memory = memory_of(recipe(64, 32), 2)
    assert memory.total(2, 2) == memory.total(2) - memory.split // 2
    assert memory.total(memory.rows(10**9), 1) <= 10**9 < memory.total(memory.rows(10**9) + 1)


def test_a_plan_says_what_a_training_takes_and_how_it_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    script = tmp_path / "run.sbatch"
    gpus = ["--gpus", "4", "--gpus-per-node", "2", "--gpu", "a100-80", "--price", "2"]
    words = ["plan", "text-char", *SMALL.split(), *gpus]
    assert hrm([*words, "--json", "--script", str(script)]) == 0
    printed = capsys.readouterr()
    assert f"wrote {script}" in printed.err
    found = json.loads(printed.out)
    assert found["tokens"] == found["steps"] * 4 * 32 and found["flops"] > 0
    assert found["tokens_per_second"] == pytest.approx(4 * 19.5e12 * 0.3 / found["flops_per_token"])
    assert found["cost"] == pytest.approx(found["days"] * 24 * 4 * 2)
    assert found["memory"]["recomputed"]["step"] <= found["memory"]["kept"]["step"]
    assert "nvidia.com" in found["gpu"]["source"]
    text = script.read_text()
    assert "--nodes=2" in text and "torchrun --nnodes 2 --nproc-per-node 2" in text and "hrm train text-char" in text
    assert "hrm train --resume runs/text-char" in text and "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in text
    assert hrm([*words, "--script", str(script)]) == 2
    assert script.read_text() == text and f"--script {script} exists" in capsys.readouterr().err
    show(found)
    shown = capsys.readouterr().out
    assert "4 x NVIDIA A100 80GB SXM" in shown and "20 TFLOP/s" in shown and "at 2 per GPU-hour" in shown


def test_memory_and_start_are_of_the_same_accumulation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*flags: str) -> tuple[dict[str, Any], str]:
        words = ["plan", "text-char", *SMALL.split(), "--gpu", "3090", *flags]
        assert hrm([*words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        show(found)
        return found, capsys.readouterr().out

    found, shown = planned("--train.accumulate", "2", "--train.checkpoint-activations", "--arch.no-gate")
    assert found["accumulate"] == found["rows_at_once"] == 2 and "This is with" not in shown
    for words in ("--arch.dim 32", "--train.accumulate 2", "--train.checkpoint-activations", "--arch.no-gate"):
        assert words in found["torchrun"]
    monkeypatch.setitem(cluster.GPUS, "3090", replace(cluster.GPUS["3090"], gib=0.02))
    found, shown = planned("--train.batch-size", "64")
    assert found["fits"] and found["as_set"]["accumulate"] == 1 and found["as_set"]["rows_at_once"] == 64
    assert found["rows_at_once"] * found["accumulate"] == 64 and found["accumulate"] > 1
    assert found["memory"][found["activations"]]["total"] <= found["usable_bytes"] < found["as_set"]["total"]
    assert f"--train.accumulate {found['accumulate']}" in found["torchrun"]
    assert f"This is with --train.accumulate {found['accumulate']}. As it is set, 1, with 64 rows" in shown
    options = shlex.split(found["torchrun"].partition(" -m hrm ")[2])
    options[options.index("CORPUS")] = __file__
    assert hrm([*options[: options.index("--out")], *options[options.index("--out") + 2 :], "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("plan sudoku-extreme", "hrm train sudoku-extreme --dry-run"),
        ("plan text-char --gpu h10", "did you mean 'h100'"),
        ("plan text-char --gpus 3", "--gpus 3 does not divide --train.batch-size"),
        ("plan text-char --utilisation 1e-300", "--utilisation must be at least 0.001"),
        ("plan nosuch", "nosuch"),
        ("plan text-char --text.length 4096", "--text.length 4096 is longer"),
    ],
)
def test_what_cannot_be_planned_is_said(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hrm(words.split()) == 2
    assert said in capsys.readouterr().err


def test_the_plan_of_gpt_2s_size_keeps_its_numbers() -> None:
    config = load_preset("gpt2-1.5b", TextConfig)
    shape = configure(config, None, None)
    assert (shape.hidden_size, shape.num_attention_heads, shape.fast_layers, shape.slow_layers) == (3072, 12, 6, 6)
    assert (shape.intermediate_size, shape.vocab_size) == (8192, 50_257)
    tokens = config.train.steps * config.train.batch_size * config.text.length
    assert 10e9 <= tokens < 10.001e9


@pytest.mark.parametrize(
    ("device", "name"),
    [("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM"), ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 40GB"),
     ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"), ("AMD Instinct MI300X", "AMD Instinct MI300X"),
     ("Tesla T4", None), ("", None)],
)  # fmt: skip
def test_a_gpu_is_known_by_the_name_its_driver_gives(device: str, name: str | None) -> None:
    found = cluster.known(device)
    assert (found and found.name) == name


def test_a_script_takes_no_command_from_a_recipes_name() -> None:
    made = sbatch("a", ["train", "x\nrm -rf y.yaml", "--data", "CORPUS", "--out", "runs/a b"], 16, 8, 40)
    assert "train 'x\nrm -rf y.yaml' --data" in made
    assert "if [ -f 'runs/a b'/run.json ]" in made and "--resume 'runs/a b'" in made and "--time=1-16:00:00" in made


def test_a_plan_counts_the_tokens_of_the_tokenizer_beside_packed_data(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("char", ["abc"])
    Packed.write(tmp_path / "train", tokenizer, encode(tokenizer, ["abcabc"]))
    preset = load_preset("gpt2-1.5b", TextConfig)
    arch = replace(preset.arch, dim=32, heads=2, fast_layers=1, slow_layers=1)
    halting, text = replace(preset.halting, max_segments=1), replace(preset.text, length=16)
    config = replace(preset, arch=arch, halting=halting, text=text, data=str(tmp_path))
    before = plan(config, 1).parameters
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    fewer = 50_257 - len(tokenizer)
    assert before - plan(config, 1).parameters in (fewer * 32, 2 * fewer * 32)
