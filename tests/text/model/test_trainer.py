"""The script that a user of transformers writes: examples/train_with_transformers.py, whole."""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

import hrm
from hrm.cli.main import main

EXAMPLE = runpy.run_path(str(Path(__file__).parents[3] / "examples/train_with_transformers.py"))
TEXT = "the cat sat on the mat and the dog lay on the log. " * 60


class Stop(TrainerCallback):
    """Ends a training after its second update."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 2


def made(out: Path, halting: str = "fixed", callbacks: Any = None, dropout: float = 0.0, **more: Any) -> Trainer:
    args = replace(EXAMPLE["arguments"](out, 4, 2, use_cpu=True, disable_tqdm=True), **more)
    return EXAMPLE["trainer"](TEXT, args, halting, callbacks, hidden_size=16, intermediate_size=32, dropout=dropout)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    assert isinstance(trainer.model, hrm.HRMForCausalLM)
    return trainer.model.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_the_whole_script_trains_measures_resumes_and_predicts(halting: str, tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", halting, dropout=0.1)
    whole.train()
    measured = [entry for entry in whole.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in measured] == [2, 4] and measured[1]["eval_loss"] < measured[0]["eval_loss"]
    assert whole.state.best_global_step == 4 and 0 < measured[1]["eval_accuracy"] < 1
    assert whole.evaluate()["eval_loss"] == pytest.approx(measured[1]["eval_loss"])
    said = whole.predict(whole.eval_dataset)  # type: ignore[arg-type]
    assert said.predictions.shape == (len(whole.eval_dataset), 64)  # type: ignore[arg-type]
    # Stopped and resumed it is the same to the last bit, dropout and exploration included.
    made(tmp_path / "halves", halting, [Stop()], dropout=0.1).train()
    again = made(tmp_path / "halves", halting, dropout=0.1)
    again.train(resume_from_checkpoint=True)
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(again).items())
    whole.save_model(str(tmp_path / "best"))
    assert main(["generate", str(tmp_path / "best"), "the cat", "--max-new-tokens", "3", "--json"]) == 0


@pytest.mark.slow
def test_recomputation_and_two_batches_an_update_change_nothing_and_bfloat16_little(tmp_path: Path) -> None:
    found = {}
    arms: Any = (
        ("plain", {}),
        ("kept", {"activation_checkpointing": False}),
        ("one", {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}),
        ("bf16", {"bf16": True}),
    )
    for name, more in arms:
        trainer = made(tmp_path / name, **more)
        trainer.train()
        found[name] = trainer.evaluate()["eval_loss"]
    assert found["kept"] == found["plain"]
    assert found["one"] == pytest.approx(found["plain"], rel=1e-4)
    assert found["bf16"] != found["plain"] and found["bf16"] == pytest.approx(found["plain"], rel=1e-2)


@pytest.mark.parametrize("halting", ["fixed", "q"])
def test_scaled_float16_which_a_trainer_uses_on_accelerators_alone_learns_here(halting: Any) -> None:
    # On a CPU accelerate ignores fp16=True: this is what it does elsewhere, autocast and a scaler.
    torch.manual_seed(0)
    form: dict[str, Any] = {"vocab_size": 30, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    model = hrm.HRMForCausalLM(
        hrm.HRMConfig(**form, fast_layers=1, slow_layers=1, max_segments=2, halting=halting)
    ).train()
    optimizer, scaler = torch.optim.AdamW(model.parameters(), 1e-2), torch.amp.GradScaler("cpu")
    ids, losses = torch.arange(24).view(2, 12), []
    for _ in range(8):
        with torch.autocast("cpu", torch.float16):
            out = model(ids, labels=ids)
        optimizer.zero_grad()
        scaler.scale(out.loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(out.loss.detach()))
    assert out.logits.dtype == torch.float16 and losses[-1] < 0.8 * losses[0]
