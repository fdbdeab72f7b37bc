"""Causal models of transformers without depth, such as GPT-2: loaded and measured as those that think in segments."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.core import devices
from hrm.core.devices import device_of, dtype_of
from hrm.files import names
from hrm.files.reading import SMALL, UserError, json_of, quoted, reading
from hrm.files.records import Json
from hrm.text.data import Tokens
from hrm.text.data.tokenizers import code_refused, saved_tokenizer
from hrm.text.load import TextModel, check_weights, silent
from hrm.text.measuring.losses import Fixed, LossTotals, Measured, TokenScores, WindowsRead
from hrm.text.measuring.subject import Plain
from hrm.text.model import HRMConfig


class PlainModel(NamedTuple):
    """A model in evaluation mode on its device, with its tokenizer; it has no run, and has held nothing out."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    name: str
    """The folder that it is from."""
    run: None = None
    held_out: tuple[Path, ...] = ()
    length: int | None = None
    template: str | None = None


Loaded = TextModel | PlainModel


def is_plain(path: str | Path) -> bool:
    """Whether a folder holds a model that transformers saved and that does not think in segments."""
    path = Path(path)
    if (path / "run.json").is_file() or not (path / "config.json").is_file():
        return False
    config = json_of(path / "config.json", SMALL)
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind not in (None, HRMConfig.model_type, "hrm_text")


def load_plain(path: str | Path, device: str | None = None, precision: str | None = None) -> PlainModel:
    """The causal model of a folder that `save_pretrained` wrote with its tokenizer: from safetensors alone, and without
    code of its own. UserError names what is missing."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = Path(path)
    names.folder_of_files(path)
    if not any(path.glob("*.safetensors")):
        raise UserError(f"{path} holds no .safetensors: save the model again, pickled weights are never read")
    where = device_of(device)
    with reading(path, "save a causal model and its tokenizer there"), code_refused(path), silent():
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise UserError(f"{path} holds a model of type {quoted(config.model_type)}, which does not continue texts")
        tokenizer = saved_tokenizer(path)
        dtype = "auto" if precision is None else dtype_of(precision)
        how: Json = {"use_safetensors": True, "dtype": dtype, "output_loading_info": True, "local_files_only": True}
        how |= {"ignore_mismatched_sizes": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, **how)
        model, found = loaded
        check_weights(model, found, path)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(f"{path} has a tokenizer without tokenizer.json: save it again with a fast one")
        if len(tokenizer) > (size := model.get_input_embeddings().num_embeddings):
            raise UserError(f"{path} has a tokenizer of {len(tokenizer)} tokens and a model of {size}")
        model = model.to(where).eval()
        _check_causal(model, path)
    return PlainModel(model, tokenizer, str(path))


def evaluate_plain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    packed: Tokens,
    length: int,
    stride: int | None = None,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    limit: int | None = None,
) -> Measured:
    """Measure every token of a text as `evaluate` does, at the one depth that there is."""
    windows = WindowsRead(tokenizer, packed, length, stride, limit, progress)
    subject, tally, start = Plain(model, tokenizer), LossTotals(), time.perf_counter()
    with torch.inference_mode():
        for tokens, labels, answers in windows.batches(batch_size, model.device):
            columns = subject.scores(*_apart(tokens["input_ids"], labels, tokens["position_ids"]))
            tally.add(TokenScores(*(column.float().cpu().numpy() for column in columns)), 1, answers)
    seconds, means = time.perf_counter() - start, tally.result(windows.size)
    return Measured(
        n=windows.seen, answers=tally.answers if windows.answering else None, **means, **windows.size._asdict(),
        max_segments=1, halting="fixed", exit_threshold=None, schedule=[], length=length, stride=stride or length,
        fixed=[Fixed(segments=1, **means)], adaptive=[], tokens_per_second=windows.seen / seconds, seconds=seconds,
        device=str(model.device), dtype=devices.named(model.dtype),
    )  # fmt: skip


def _apart(ids: Tensor, labels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [b, p] with several documents as rows of one each, filled up after it: no such model keeps them apart."""
    pieces = list(_pieces(labels, positions))
    width = max(end - start for _, start, end in pieces)
    inputs, wanted = ids.new_zeros(len(pieces), width), labels.new_full((len(pieces), width), -100)
    for piece, (row, start, end) in enumerate(pieces):
        inputs[piece, : end - start] = ids[row, start:end]
        wanted[piece, : end - start] = labels[row, start:end]
    return inputs, wanted


def _pieces(labels: Tensor, positions: Tensor) -> Iterator[tuple[int, int, int]]:
    """Row, begin and end of each document, up to its last label; none for one without."""
    for row, (own, places) in enumerate(zip(labels.cpu(), positions.cpu(), strict=True)):
        starts = [0, *(place for place in (places == 0).nonzero()[:, 0].tolist() if place)]
        for start, stop in zip(starts, [*starts[1:], len(own)], strict=True):
            if len(counted := (own[start:stop] != -100).nonzero()[:, 0]):
                yield row, start, start + int(counted[-1]) + 1


@torch.inference_mode()
def _check_causal(model: PreTrainedModel, path: Path) -> None:
    """UserError for a model whose prediction after the first token depends on the second."""
    both = torch.tensor([[0, 0], [0, 1]], device=model.device)
    one, other = model(input_ids=both, use_cache=False).logits[:, 0].float()
    if (one - other).abs().max() > 1e-5 * one.abs().max():
        raise UserError(f"{path} holds a model that reads in both directions: it does not continue texts")
