"""Folders of transformers' `hrm_text` (HRM-Text, arXiv 2605.20613), in and out: the same weights, fused on disk."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from hrm.core import devices
from hrm.core.arch import parse_horizon
from hrm.files import names
from hrm.files.reading import SMALL, UserError, json_of, quoted, reading
from hrm.files.records import Json
from hrm.text.model import HRMConfig, HRMForCausalLM

_SAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "max_position_embeddings", "rms_norm_eps",
    "embedding_scale", "prefix_lm", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
_TOKENIZER = (
    "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template*", "generation_config.json",
)  # fmt: skip


def model_type(path: Path) -> str | None:
    """The `model_type` of a folder's config.json; None where there is none."""
    file = path / "config.json"
    tree = json_of(file, SMALL) if file.is_file() else None
    kind = tree.get("model_type") if isinstance(tree, dict) else None
    return kind if isinstance(kind, str) else None


def read(path: Path) -> HRMForCausalLM:
    """The model of an `hrm_text` folder: one H cycle is one segment, so it runs at every depth. UserError names the
    file and the setting or tensor that does not fit."""
    where = path / "config.json"
    tree = json_of(where, SMALL)
    with reading(where):
        config = _config(tree, str(where))
    tensors = _tensors(path)
    dtype = tensors["model.embed_tokens.weight"].dtype if "model.embed_tokens.weight" in tensors else torch.float32
    model = HRMForCausalLM(config).to(dtype=dtype)
    mine, wanted = model.state_dict(), _names(config)
    mine |= {name: _take(tensors, theirs, mine[name].shape, str(path)) for name, theirs in wanted.items()}
    if left := tensors.keys() - {*wanted.values(), "lm_head.weight"}:
        raise UserError(f"{path} holds '{min(left)}', which the model that {where.name} describes does not have")
    model.load_state_dict(mine)
    return model


def write(path: Path, model: HRMForCausalLM, segments: int | None = None, tokenizer: Path | None = None) -> list[str]:
    """Write the model at a fixed depth as an `hrm_text` folder; return warnings for the person. `tokenizer`: a folder
    whose tokenizer is copied. UserError for settings outside the family, or a folder in use."""
    config = model.config
    for problem in _outside(model):
        raise UserError(f"this model is none of the hrm_text family: {problem}")
    segments = int(segments or config.max_segments)
    if segments < 1:
        raise UserError(f"--segments {segments} must be at least 1")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: choose a new folder for the converted model")
    state, tensors = model.state_dict(), {}
    for name, theirs in _names(config).items():
        # Ours ends with the gate, theirs begins with it.
        tensor = state[name].roll(config.hidden_size, 0) if "gqkv_proj" in theirs else state[name]
        tensors[theirs] = tensor.detach().cpu().contiguous().clone()  # safetensors refuses tensors that share memory
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=path.name, dir=path.parent))
    try:
        save_file(tensors, scratch / "model.safetensors", {"format": "pt"})
        (scratch / "config.json").write_text(json.dumps(_tree(model, segments), indent=2) + "\n", "utf-8")
        copy_tokenizer(tokenizer, scratch)
        if path.exists():
            path.rmdir()
        scratch.rename(path)
        path.chmod(0o755)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return warnings(config, segments)


def copy_tokenizer(source: Path | None, target: Path) -> None:
    """Copy the tokenizer's files of a folder to another."""
    for pattern in _TOKENIZER if source is not None else ():
        for file in source.glob(pattern):  # type: ignore[union-attr]
            shutil.copy(names.regular(file), target / file.name)


def warnings(config: HRMConfig, segments: int) -> list[str]:
    """What other engines do with the folder, one sentence each."""
    said = f"The export thinks {segments} segments about every token: hrm_text has no halting, and no Q head."
    if config.prefix_lm:
        return [
            said,
            "This model reads its prompt in both directions. transformers does so where token_type_ids are 1 and the "
            "cache is on; its pipeline drops them, and with use_cache=False it generates wrong text.",
            "vLLM reads the prompt of every hrm_text model in both directions; llama.cpp and its relatives read all "
            "text causally and will answer differently.",
        ]
    return [
        said,
        "This model is causal. transformers and llama.cpp run it so.",
        "vLLM has been seen to read the prompt in both directions even where prefix_lm is false: compare a few "
        "answers before you rely on it.",
    ]


def _config(tree: Json, where: str) -> HRMConfig:
    if tree.get("model_type") != "hrm_text":
        raise UserError(f"{where}: model_type is {quoted(tree.get('model_type'))}, not hrm_text")
    from transformers import HrmTextConfig

    theirs = HrmTextConfig(**{key: value for key, value in tree.items() if key not in ("model_type", "architectures")})
    width = theirs.hidden_size // theirs.num_attention_heads
    known = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "head_dim": width}
    for name, wanted in known.items():
        if (value := getattr(theirs, name)) != wanted:
            raise UserError(f"{where}: '{name}' is {value}, and this package has only {wanted}")
    layers, steps = theirs.num_layers_per_stack, list(theirs.L_bp_cycles or [2])
    values: Json = {name: getattr(theirs, name) for name in _SAME}
    values["L_bp_cycles"] = steps  # kept for the way back
    return HRMConfig(
        **values, rope_parameters=dict(theirs.rope_parameters or {}), fast_layers=layers or 0, slow_layers=layers or 0,
        h_cycles=1, l_cycles=theirs.L_cycles, max_segments=theirs.H_cycles, norm="pre", gate=True, join="first_state",
        horizon=f"per_cycle([{min(steps[-1], theirs.L_cycles)}])",
    )  # fmt: skip


def _tree(model: HRMForCausalLM, segments: int) -> Json:
    config = model.config
    cycles = segments * config.h_cycles
    name, steps = parse_horizon(config.horizon)
    horizon = getattr(config, "L_bp_cycles", None) or (steps if name == "per_cycle" else [1])
    return {
        "architectures": ["HrmTextForCausalLM"],
        "model_type": "hrm_text",
        **{name: getattr(config, name) for name in _SAME},
        "dtype": devices.named(model.dtype),
        "head_dim": config.head_dim,
        "rope_parameters": config.rope_parameters,
        "num_layers_per_stack": config.fast_layers,
        "num_hidden_layers": config.fast_layers * cycles * (config.l_cycles + 1),
        "H_cycles": cycles,
        "L_cycles": config.l_cycles,
        "L_bp_cycles": horizon[-cycles:],
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
    }


def _outside(model: HRMForCausalLM) -> Iterator[str]:
    """One sentence for each setting that hrm_text has no place for."""
    config = model.config
    if getattr(config, "quantization_config", None):
        yield "its weights are quantised"
    known = {"norm": "pre", "gate": True, "unit": "swiglu", "join": "first_state", "hierarchy": True}
    for name, wanted in (known | dict.fromkeys(("shared", "share_cycles", "share_segments"), False)).items():
        if getattr(config, name) != wanted:
            yield f"{name} is {getattr(config, name)!r} and would have to be {wanted!r}"
    if config.num_key_value_heads != config.num_attention_heads:
        counts = f"{config.num_key_value_heads} key heads for {config.num_attention_heads} heads"
        yield f"it has {counts}, and hrm_text shares none"
    if config.fast_layers != config.slow_layers:
        yield f"L has {config.fast_layers} layers and H {config.slow_layers}, and hrm_text has one number for both"
    bias = model.lm_head.bias
    if bias is not None and bool(bias.any()):
        yield "its output layer has a bias (head_bias)"


_PARTS = {
    "mixer.qkv": "attn.gqkv_proj", "mixer.out": "attn.o_proj", "mlp.gate_up": "mlp.gate_up_proj",
    "mlp.down": "mlp.down_proj",
}  # fmt: skip


def _names(config: HRMConfig) -> dict[str, str]:
    """What each of our tensors that it has too is called there."""
    found = {"model.z_l_init": "model.z_L_init", "model.embed_tokens.weight": "model.embed_tokens.weight"}
    for mine, theirs in (("recurrence.fast", "L_module"), ("recurrence.slow", "H_module")):
        for layer in range(config.fast_layers):
            for ours, part in _PARTS.items():
                found[f"model.{mine}.layers.{layer}.{ours}.weight"] = f"model.{theirs}.layers.{layer}.{part}.weight"
    return found if config.tie_word_embeddings else found | {"lm_head.weight": "lm_head.weight"}


def _take(tensors: Mapping[str, Tensor], source: str, shape: torch.Size, where: str) -> Tensor:
    """A tensor in our form."""
    if source not in tensors:
        raise UserError(f"{where} lacks '{source}'")
    tensor = tensors[source]
    if "gqkv_proj" in source:
        tensor = tensor.roll(-tensor.shape[1], 0)  # theirs begins with the gate, ours ends with it
    if tensor.shape != shape:
        raise UserError(f"{where}: '{source}' gives {list(tensor.shape)}, but config.json makes it {list(shape)}")
    return tensor


def _tensors(path: Path) -> dict[str, Tensor]:
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{path} holds no .safetensors file")
    tensors: dict[str, Tensor] = {}
    for file in files:
        with reading(file), safe_open(names.regular(file), "pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return tensors
