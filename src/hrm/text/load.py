"""Models of text and their tokenizers: made new, taken from a run, or from any folder that transformers saves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

from hrm.core.devices import device_of, dtype_of
from hrm.files import names
from hrm.files.reading import SMALL, UserError, json_of, needs, quoted, reading, reason, shown
from hrm.files.records import Json
from hrm.runs import Run
from hrm.runs import checkpoint as checkpoints
from hrm.settings import kind_of, presets
from hrm.text import hrm_text, learned
from hrm.text.arch import HaltingConfig
from hrm.text.config import CALIBRATION, TALKS, LearnConfig, TextConfig, groups_of
from hrm.text.data.chat import chat_template
from hrm.text.data.growing import rebuild_tokenizer, tokenizer_from
from hrm.text.data.rows import held_out
from hrm.text.data.tokenizers import code_refused, saved_tokenizer
from hrm.text.learned import State
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.names import TOKENIZERS

ADAPTED = ["qkv", "out", "gate_up", "down"]
"""The layers that get adapters."""


class TextModel(NamedTuple):
    """A model in evaluation mode on its device, with its tokenizer."""

    model: HRMForCausalLM
    tokenizer: PreTrainedTokenizerFast
    name: str
    """The checkpoint or folder that it is from."""
    run: Run[TextConfig] | None = None
    held_out: tuple[Path, ...] = ()
    """Folders of packed text that it has not learned from."""
    length: int | None = None
    """Tokens of the rows that it was trained on."""

    @property
    def template(self) -> str | None:
        """How its run wrote questions; None: as the tokenizer's chat template says, or by an empty line."""
        config = None if self.run is None else self.run.config.text
        return config.template if config is not None and config.kind in TALKS else None

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer as `save_pretrained` does; its chat template says how its run wrote questions."""
        asked = self.run is not None and self.run.config.text.kind in TALKS
        if self.template is not None or (asked and not self.tokenizer.chat_template):
            self.tokenizer.chat_template = chat_template(self.template)
        self.tokenizer.save_pretrained(folder)


def load_text(
    path: str | Path, checkpoint: str | int = "best", device: str | None = None, precision: str | None = None
) -> TextModel:
    """The model and tokenizer of a run (averaged weights, where there are any) or of a saved folder. `checkpoint` is
    "best", "latest" or a step; device and precision are those at hand and the run's own unless given. UserError names
    what is missing."""
    path = Path(path)
    where = device_of(device)
    if not (path / "run.json").is_file() and (path / "config.json").is_file():
        model, tokenizer = load_saved(path)
        dtype = None if precision is None else dtype_of(precision)
        if dtype is not None:
            refuse_quantised(model, path)
        return TextModel(model.to(device=where, dtype=dtype).eval(), tokenizer, str(path))
    if kind_of(path) is LearnConfig:
        return _load_learner(path, checkpoint, where, precision)
    run = Run.open(path, TextConfig)
    file = run.checkpoint(checkpoint, partial(print, file=sys.stderr))
    model = architecture(run)
    tensors, _ = checkpoints.load(file, {"weights", "ema"})
    fill(model, tensors["weights"] | tensors.get("ema", {}), file)
    if run.config.lora:
        merge(model)
    dtype = dtype_of(precision or run.config.train.precision)
    model = model.to(device=where, dtype=dtype).eval()
    inside, elsewhere = run.data / "validation", run.config.validation or run.config.data
    held = inside if inside.is_dir() or elsewhere is None else held_out(elsewhere)
    # What was held out of preferences has bad answers in it, which are no text to measure on.
    parts = (held,) if held and held.is_dir() and run.config.text.kind != "preference" else ()
    return TextModel(model, load_tokenizer(run.path), str(file), run, parts, run.config.text.length)


def _load_learner(path: Path, which: str | int, device: torch.device, precision: str | None) -> TextModel:
    run = Run.open(path, LearnConfig)
    file = run.checkpoint(which, partial(print, file=sys.stderr))
    tensors, state = learned.load(file, {"weights"})
    model, tokenizer = rebuild(state, tensors["weights"], file)
    model = model.to(device=device, dtype=dtype_of(precision or run.config.precision)).eval()
    held = tuple(sorted(run.path.glob("books/*/validation")))
    return TextModel(model, tokenizer, str(file), None, held, run.config.length)


def rebuild(state: State, weights: dict[str, Tensor], where: Path) -> tuple[HRMForCausalLM, PreTrainedTokenizerFast]:
    """Model and tokenizer as a learner's checkpoint holds them: both grow, so each checkpoint has its own form."""
    with reading(where):
        config = _form(partial(HRMConfig.from_dict, state.model), where)
        if config.fast_layers + config.slow_layers > len(weights):
            raise UserError(f"{where} does not hold the weights of {config.fast_layers + config.slow_layers} layers")
        model = HRMForCausalLM(config)
        fill(model, weights, where)
        tokenizer = rebuild_of(state)
    if len(tokenizer) > config.vocab_size:
        raise UserError(f"{where} has a tokenizer of {len(tokenizer)} tokens and a model of {config.vocab_size}")
    return model, tokenizer


def rebuild_of(state: State) -> PreTrainedTokenizerFast:
    """The tokenizer of a learner's checkpoint: its tokens, or where they are no characters its files."""
    return rebuild_tokenizer(state.tokens) if state.tokenizer is None else tokenizer_from(state.tokenizer)


def architecture(run: Run[TextConfig]) -> HRMForCausalLM:
    """A model of a run's form, adapters included, with fresh weights."""
    with reading(run.path / "model"):
        model = HRMForCausalLM(form_of(run.path))
    return adapt(model, run.config.lora) if run.config.lora else model


def form_of(path: Path) -> HRMConfig:
    """The form of a run's model."""
    return _form(partial(HRMConfig.from_pretrained, names.folder_of_files(path / "model")), path / "model")


def _form(read: Callable[[], HRMConfig], where: Path) -> HRMConfig:
    """A configuration from a file; UserError with the place for one that no model can have."""
    try:
        with reading(where):
            return read()
    except UserError as error:
        raise error if str(where) in str(error) else UserError(f"{where}: {error}") from error


def before_calibration(path: Path) -> Json:
    """What halted the tokens of a run before it was calibrated, `halting` and `exit_threshold`: what was kept, else
    what the run's settings say; nothing of a saved folder."""
    known: Json = {}
    if (path / "run.json").is_file():
        trained = Run.open(path, TextConfig).config.halting
        known = {"halting": trained.kind, "exit_threshold": trained.exit_threshold}
    if not (path / CALIBRATION).is_file():
        return known
    found = json_of(path / CALIBRATION, SMALL)
    if not isinstance(found, dict) or not isinstance(found.get("before"), dict):
        raise UserError(f"{path / CALIBRATION} does not say what halted tokens before: restore it, or delete it")
    return known | {name: found["before"][name] for name in known if name in found["before"]}


def as_trained(config: HRMConfig, path: Path) -> bool:
    """Let tokens halt as before the run or folder was calibrated, for a training whose weights will be others; returns
    whether this changed anything."""
    if config.halting != "readout":
        return False
    usual = {"halting": HaltingConfig.kind, "exit_threshold": HaltingConfig.exit_threshold, "readout": ()}
    form = _form(partial(HRMConfig.from_dict, config.to_dict() | usual | before_calibration(path)), path / CALIBRATION)
    for name in usual:
        setattr(config, name, getattr(form, name))
    return True


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The tokenizer that lies beside a run's weights."""
    with reading(path / "tokenizer"):
        return saved_tokenizer(path / "tokenizer")


def load_saved(path: Path) -> tuple[HRMForCausalLM, PreTrainedTokenizerFast]:
    """Model and tokenizer of a folder that `save_pretrained` wrote, or of transformers' hrm_text, which then runs at
    every depth; UserError for one of another kind."""
    from transformers import AutoConfig

    names.folder_of_files(path)
    json_of(path / "config.json", SMALL)  # says best what is wrong with it
    with reading(path, "save a model and its tokenizer there"), code_refused(path):
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if config.model_type == "hrm_text":
            return hrm_text.read(path), saved_tokenizer(path)
        if config.model_type != HRMConfig.model_type:
            raise UserError(f"{path} holds a model of type {quoted(config.model_type)}, and not one of this package")
        if getattr(config, "quantization_config", None) and find_spec("torchao") is None:
            raise UserError(needs(f"{path}, which is quantised,", "torchao", "quantize"))
        tokenizer = saved_tokenizer(path)
    return load_model(path), tokenizer


def load_model(path: Path, **more: Any) -> HRMForCausalLM:
    """Only the model of a folder that `save_pretrained` wrote; `more` for `from_pretrained`."""
    names.folder_of_files(path)
    with reading(path, "save a model there"), code_refused(path), silent():
        how: Json = {"output_loading_info": True, "ignore_mismatched_sizes": True, "local_files_only": True}
        loaded: Any = HRMForCausalLM.from_pretrained(path, trust_remote_code=False, **how, **more)
        model, found = loaded
        check_weights(model, found, path)
        for name, value in vars(model.generation_config).items():
            wanted = bool if name.startswith(("use_", "output_", "return_", "do_")) else int | float | str | list | dict
            if value is not None and not name.startswith("_") and not isinstance(value, wanted):
                raise ValueError(f"generation_config.json says of {name} {quoted(value)}")
        return model


def refuse_quantised(model: HRMForCausalLM, path: Path) -> None:
    """UserError for a model whose weights cannot be changed any more."""
    if getattr(model.config, "quantization_config", None):
        raise UserError(f"{path} is quantised, and its weights stay as they are: use the model from before that")


def quantised(model: HRMForCausalLM) -> HRMForCausalLM:
    """A copy of the model with the matrices of its blocks in 8 bits; UserError without torchao."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(needs("--quantize", "torchao", "quantize", error)) from None
    from transformers import TorchAoConfig

    with TemporaryDirectory() as folder, silent():
        model.save_pretrained(folder)
        return load_model(Path(folder), quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))


def configure(
    config: TextConfig, tokenizer: PreTrainedTokenizerFast | None, existing: HRMConfig | None = None
) -> HRMConfig:
    """The form of a recipe's model for a tokenizer; `existing`: of the model that it continues. UserError names what
    does not fit."""
    if existing is not None:
        if tokenizer is not None and (size := len(tokenizer)) > existing.vocab_size:
            raise UserError(f"the tokenizer has {size} tokens and the model {existing.vocab_size}: use its own")
        return HRMConfig.from_dict(existing.to_dict() | config.changes)
    if config.model is not None and config.model not in (known := presets(TextConfig)):
        shapes = ", ".join(known)
        raise UserError(f"no text preset, run or saved model is named '{config.model}' (--model): there are {shapes}")
    tokens = TOKENIZERS.get(config.text.tokenizer, {}) if tokenizer is None else tokens_of(tokenizer)
    return HRMConfig.of(**groups_of(config), **tokens)


def tokens_of(tokenizer: PreTrainedTokenizerFast) -> Json:
    """What a model has to know of a tokenizer: its size, and which tokens begin, end and fill up a text."""
    ends = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(tokenizer, name) for name in ends} | {"vocab_size": len(tokenizer)}


def adapt(model: HRMForCausalLM, rank: int) -> HRMForCausalLM:
    """The model with low-rank adapters (LoRA, arXiv 2106.09685), which alone will learn; changed in place."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError(needs("--lora", "peft", "lora", error)) from None
    return inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=ADAPTED), model)  # type: ignore[return-value, arg-type]


def merge(model: HRMForCausalLM) -> None:
    """Add the adapters to the weights and take them out."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()  # type: ignore[attr-defined]
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.get_base_layer())


def fill(model: HRMForCausalLM, weights: dict[str, Tensor], where: Path) -> None:
    """Put a checkpoint's weights into a model of the same form; UserError where they do not fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"{where} does not hold the weights that its run describes: {reason(error)}") from error
    check_numbers(model, where)


@contextmanager
def silent() -> Iterator[None]:
    """What transformers loads or saves in here, it does without bars and tables on standard error."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def check_weights(model: PreTrainedModel, found: Json, path: Path) -> None:
    """UserError where weights are missing, of another size or NaN; `found` is what `from_pretrained` says of them."""
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{path} lacks the weights {shown(missing, 3)}: save the model again")
    if wrong := sorted(name for name, *_ in found["mismatched_keys"]):
        raise UserError(
            f"{path} has the weights {shown(wrong, 3)} in sizes that its config.json does not say: restore it"
        )
    check_numbers(model, path)


def check_numbers(model: PreTrainedModel, where: Path) -> None:
    """UserError for weights that are NaN, which nothing after them would notice."""
    for name, tensor in model.state_dict().items():
        if type(tensor) is Tensor and tensor.is_floating_point() and tensor.sum().isnan():
            raise UserError(f"{where} gives no numbers (NaN) in {quoted(name)}: its weights are damaged")
