"""What settings of a text model are called: here, in transformers, in other HRM code, and in older recipes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from hrm.files.reading import UserError, nearest, quoted, yaml_of
from hrm.files.records import Json
from hrm.text.arch import GROUPS, TextArch

TRANSLATED = {
    "num_heads": "num_attention_heads",
    "H_layers": "slow_layers",
    "L_layers": "fast_layers",
    "H_cycles": "h_cycles",
    "L_cycles": "l_cycles",
    "halt_max_steps": "max_segments",
    "halt_exploration_prob": "exploration",
    "use_act": "halting",
    "use_hierarchical": "hierarchy",
}
"""Settings of the official HRM and its kin that have another name here, but for use_act with the same values."""
ELSEWHERE = {
    other: ours
    for ours, others in {
        "fast_layers and slow_layers": ("num_layers_per_stack", "num_hidden_layers", "num_layers", "n_layer"),
        "horizon, such as 'per_cycle([1, 2])'": ("L_bp_cycles",),
        "horizon": ("H_bp_cycles",),
        "max_segments": ("max_steps",),
        "q_continue": ("no_ACT_continue",),
        "hierarchy": ("use_hierarchy",),
        "num_attention_heads": ("n_head", "heads"),
        "num_key_value_heads": ("num_kv_heads", "kv_heads"),
        "hidden_size and num_attention_heads, from which it follows": ("head_dim",),
        "hidden_size": ("dim", "d_model", "n_embd"),
        "intermediate_size": ("expansion", "d_ff"),
        "rope_parameters, for positions are always rotary": ("positions", "pos_encodings"),
        "rope_theta": ("rope_base",),
        "max_position_embeddings": ("seq_len", "block_size", "n_positions"),
        "rms_norm_eps": ("norm_eps",),
        "tie_word_embeddings": ("tied",),
        "dtype": ("forward_dtype",),
        "dropout": ("attention_dropout", "hidden_dropout"),
    }.items()
    for other in others
}
"""How other code calls a setting that has no exact counterpart, and what comes nearest here."""
_OTHERWISE = {
    "arch.dim": "hidden_size",
    "arch.heads": "num_attention_heads",
    "arch.kv_heads": "num_key_value_heads",
    "arch.norm_eps": "rms_norm_eps",
    "arch.tied": "tie_word_embeddings",
    "halting.kind": "halting",
    "halting.rule": "halting_rule",
    "halting.weight": "q_weight",
    "halting.target": "q_target",
    "halting.gamma": "q_gamma",
}
_DERIVED = ("arch.expansion", "arch.expansion_multiple", "arch.rope_base", "arch.rope")
"""Settings of a recipe of which a model keeps only what follows: `intermediate_size` and `rope_parameters`."""
NAMES = {
    place: _OTHERWISE.get(place, field.name)
    for group, kind in GROUPS.items()
    for field in fields(kind)
    if (place := f"{group}.{field.name}") not in _DERIVED
}
"""Every other setting of a recipe ("arch.dim") and what `HRMConfig` calls it ("hidden_size")."""
PLACES = {name: place for place, name in NAMES.items()}
TOKENIZERS: dict[str, Json] = {
    "char": {"vocab_size": 256},
    "gpt2": {"vocab_size": 50257, "bos_token_id": 50256, "eos_token_id": 50256},
    "roberta-base": {"vocab_size": 50265, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2},
    "sapientinc/HRM-Text-1B": {"vocab_size": 65536, "bos_token_id": 6, "eos_token_id": 11, "pad_token_id": 5},
}
"""What is known of tokenizers without loading them; of characters, that there are rarely more."""
_NOT_SAID = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "grown_fast", "grown_slow", "use_cache")
"""Settings of a model that follow from its tokenizer or its history."""


def instead(name: str, known: Iterable[str] = PLACES) -> str:
    """The end of a sentence about a name that is no setting: which does the same, or is called nearly so."""
    return f": use {ELSEWHERE[name]}" if name in ELSEWHERE else nearest(name, list(known))


def translated(given: Mapping[str, Any]) -> Json:
    """Settings with the names of other HRM code put into those of here; UserError where one is given by both."""
    found: Json = {}
    for name, value in given.items():
        ours = TRANSLATED.get(name, name)
        if ours in found or (ours != name and ours in given):
            raise UserError(f"{quoted(name)} is called {ours} here, and {ours} is given as well: give one of them")
        if name == "use_act" and isinstance(value, bool):
            value = "q" if value else "fixed"
        found[ours] = value
    return found


def to_model(groups: Mapping[str, Any]) -> Json:
    """The groups of a recipe, by their names in it, as settings of `HRMConfig`."""
    flat = {f"{group}.{name}": value for group, part in groups.items() for name, value in vars(part).items()}
    found = {NAMES[place]: value for place, value in flat.items() if place in NAMES}
    arch: TextArch = groups["arch"]
    if arch.intermediate_size is None and arch.inner(arch.dim) != TextArch().inner(arch.dim):
        found["intermediate_size"] = arch.inner(arch.dim)
    if arch.rope or arch.rope_base != TextArch.rope_base:
        parts = (part.partition("=") for part in arch.rope)
        scaled = {name: yaml_of(value, "--arch.rope") for name, _, value in parts}
        found["rope_parameters"] = {"rope_type": "default"} | scaled | {"rope_theta": arch.rope_base}
    return found


def from_model(settings: Mapping[str, Any]) -> Json:
    """The same back: by their places in a recipe, those that are among these settings of a model."""
    found = {PLACES[name]: value for name, value in settings.items() if name in PLACES}
    rope = settings.get("rope_parameters")
    return found | (_rope(rope) if isinstance(rope, Mapping) else {})


def _rope(parameters: Mapping[str, Any]) -> Json:
    rope = {name: value for name, value in parameters.items() if value is not None}
    base = {"arch.rope_base": rope.pop("rope_theta")} if "rope_theta" in rope else {}
    if rope.get("rope_type") == "default":
        del rope["rope_type"]
    return base | {"arch.rope": tuple(f"{name}={value}" for name, value in rope.items())}


def typed(changes: Iterable[str], where: str = "--settings", lenient: bool = False) -> Json:
    """What a list of NAME=VALUE in transformers' names, as older recipes have it, says by today's places. UserError,
    which begins with `where`, for what is no setting; `lenient`: what is none any more is passed over."""
    given: Json = {}
    for change in changes:
        if not re.fullmatch(r"\w+=.*", change, re.DOTALL):
            raise UserError(f"{where} {change} must look like NAME=VALUE, such as max_segments=4")
        name, _, text = change.partition("=")
        given |= translated({name: yaml_of(text, f"{where} {quoted(change)}")})
    if "hidden_size" in given:  # what follows from another setting, unless it is given as well
        given = {"embedding_scale": None} | given
    if "num_attention_heads" in given:
        given = {"num_key_value_heads": None} | given
    found: Json = {}
    for name, value in given.items():
        if name == "rope_theta":
            found["arch.rope_base"] = value
        elif name == "rope_parameters" and isinstance(value, Mapping):
            found |= _rope(value)
        elif name in PLACES:
            found[PLACES[name]] = value
        elif name in _NOT_SAID and not lenient:
            raise UserError(f"{where} {name}: the tokenizer or the training decides this, leave it out")
        elif not (lenient and name in _NOT_SAID):
            raise UserError(f"{where} {name}={quoted(value)}: the model has no setting '{name}'{instead(name)}")
    return found


def shown(places: Mapping[str, Any]) -> list[str]:
    """Settings by their places as words of a command line: --arch.dim 128 --arch.no-gate."""
    words: list[str] = []
    for place, value in places.items():
        group, _, name = place.replace("_", "-").partition(".")
        if isinstance(value, bool):
            words.append(f"--{group}.{'' if value else 'no-'}{name}")
        else:
            words += [f"--{group}.{name}", *(map(str, value) if isinstance(value, tuple | list) else [str(value)])]
    return words


def here(name: str) -> str | None:
    """The place of a setting that transformers or other HRM code calls otherwise: "arch.dim" for "hidden_size"."""
    place = PLACES.get(TRANSLATED.get(name, name), "")
    return None if place.rpartition(".")[2] in ("", name) else place


def nested(places: Mapping[str, Any]) -> dict[str, Json]:
    """Settings by their places as a recipe holds them: {"arch": {"dim": 128}}."""
    tree: dict[str, Json] = {}
    for place, value in places.items():
        group, _, name = place.partition(".")
        tree.setdefault(group, {})[name] = value
    return tree
