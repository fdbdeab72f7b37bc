"""A plain Transformer to compare a model with: of equal size, by the same recipe, on as many tokens of another text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hrm.files.reading import UserError
from hrm.runs import Run, checkpoint
from hrm.settings import changed, check, kind_of
from hrm.text.config import TextConfig
from hrm.text.training.session import train_text
from hrm.training.progress import duration

_PLAIN: dict[str, Any] = {
    "arch.hierarchy": False, "arch.shared": False, "halting.kind": "fixed", "halting.max_segments": 1, "model": None,
    "lora": 0, "validation": None, "text.kind": "text",
}  # fmt: skip


def recipe(run: Run[TextConfig], text: Path) -> TextConfig:
    """The run's own recipe without hierarchy, of as many blocks, for the steps that it has made, with its tokenizer."""
    saved = checkpoint.complete(run.checkpoints)
    steps = checkpoint.step_of(saved[-1]) if saved else 0
    if not steps:
        raise UserError(
            f"{run.path} has no checkpoint after a step yet: train it first, or leave out --baselines transformer"
        )
    config = changed(run.config, _PLAIN | {"data": str(text), "text.tokenizer": str(run.path / "tokenizer")})
    optim = replace(config.optim, warmup_steps=min(config.optim.warmup_steps, max(1, steps // 2)))
    train = replace(config.train, steps=steps, minutes=0, patience=0, track=())
    return replace(config, optim=optim, train=train)


def train(path: Path, text: Path, out: Path) -> str:
    """Train it into a new run folder, with the trainer's own notes of progress and time left; returns in words what was
    trained, and how long. UserError for a run that is no training on text."""
    if kind_of(path) is not TextConfig:
        raise UserError(f"--baselines transformer takes its recipe from a run of hrm train on text, and {path} is none")
    run = Run.open(path, TextConfig)
    config = recipe(run, text)
    check(config)
    result = train_text(config, out)
    if result["state"] != "finished":
        raise UserError("the training of the plain Transformer was stopped: without it there is nothing to compare")
    tokens = config.train.steps * config.train.batch_size * config.text.length
    return f"{tokens:,} tokens in {config.train.steps:,} steps, {duration(result['training_seconds'])}"
