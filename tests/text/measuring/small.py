"""A small model of characters with a tokenizer, and text to measure it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from hrm.text.data import Packed, encode, make_tokenizer
from hrm.text.model import HRMForCausalLM
from tests.text.model import small

TEXT = "the cat sat on the mat.\nthe dog sat on the log.\n\u00e9t\u00e9 \u00e0 la mer, \u20ac5?\n" * 4


def pair(dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[HRMForCausalLM, PreTrainedTokenizerFast]:
    """A model whose tokens get different depths, and the tokenizer of TEXT's characters."""
    tokenizer = make_tokenizer("char", [TEXT])
    settings: dict[str, Any] = {"halting": "q", "vocab_size": len(tokenizer), "max_position_embeddings": 24}
    settings["readout"] = (27.3, -10.0, 27.3, -10.0, -4.0, 1.5)  # as small.READOUT, for fewer tokens
    return small.model(dtype=dtype, **(settings | changes)), tokenizer


def packed(folder: Path, tokenizer: PreTrainedTokenizerFast, *texts: str) -> Packed:
    """Documents as a folder of tokens."""
    return Packed.write(folder, tokenizer, encode(tokenizer, texts or (TEXT,)))


def saved(folder: Path, **changes: Any) -> Path:
    """Both as `save_pretrained` writes them."""
    model, tokenizer = pair(**changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def saved_gpt2(folder: Path, width: int = 32) -> Path:
    """A random GPT-2 with the tokenizer of TEXT's characters, as `save_pretrained` writes them."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer("char", [TEXT])
    torch.manual_seed(1)
    form: dict[str, Any] = {"n_positions": 128, "n_embd": width, "n_layer": 2, "n_head": 2, "initializer_range": 0.1}
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **form, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
