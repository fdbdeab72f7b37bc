"""A tiny model of characters to talk with, as a saved folder or as a run with held-out text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hrm.cli.main import main
from hrm.text.chat.session import Session, Settings
from hrm.text.load import TextModel
from hrm.text.writing.generation import Sampling
from tests.text.measuring.small import TEXT, pair

TEMPLATE = (
    "{% for m in messages %}{{ 'h' if m['role'] == 'user' else 'a' }}?{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}a?{% endif %}"
)


def loaded(template: str | None = None, **changes: Any) -> TextModel:
    """A model that never ends a text, and its tokenizer."""
    import torch

    model, tokenizer = pair(torch.float64, head_bias=True, **changes)
    with torch.no_grad():
        model.lm_head.bias.zero_()  # type: ignore[union-attr]
        model.lm_head.bias[:2] = -1e4  # type: ignore[index]
    tokenizer.chat_template = template
    return TextModel(model, tokenizer, "tiny")


def session(settings: Settings | None = None, memory: int = 24, talks: bool = False, **changes: Any) -> Session:
    """A talk with it: greedy, five tokens an answer, unless told otherwise."""
    settings = settings or Settings(stop="length", sampling=Sampling(max_new_tokens=5, greedy=True))
    return Session(loaded(TEMPLATE if talks else None, **changes), settings, memory)


def saved(folder: Path, **changes: Any) -> Path:
    """Both as `save_pretrained` writes them."""
    model, tokenizer, *_ = loaded(**changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(folder: Path) -> Path:
    """A run that has hardly learned anything, with held-out text."""
    book = folder / "book.txt"
    book.write_text(TEXT * 3, "utf-8")
    shape = "--arch.dim 16 --arch.heads 2 --arch.fast-layers 1 --arch.slow-layers 1 --arch.intermediate-size 32"
    shape += " --halting.max-segments 2"
    flags = "--text.length 16 --train.batch-size 2 --train.steps 1 --optim.warmup-steps 0 --train.device cpu"
    out = ["--out", str(folder / "run"), *shape.split(), *flags.split()]
    assert main(["train", "text-char", "--data", str(book), *out]) == 0
    return folder / "run"
