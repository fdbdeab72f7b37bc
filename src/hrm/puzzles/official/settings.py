"""Converts the settings of an official run, `all_config.yaml`, to a Config and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any, Literal, get_type_hints

from hrm.core.arch import ArchConfig
from hrm.files.reading import UserError, quoted
from hrm.files.records import Json
from hrm.puzzles.config import Config
from hrm.settings import changed, check, fit, settings

Layout = Literal["sapient-hrm", "trm"]

_NAMES: dict[str, Layout] = {
    "hrm.hrm_act_v1@HierarchicalReasoningModel_ACTV1": "sapient-hrm",
    "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1": "sapient-hrm",
    "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1": "trm",
}
# Settings that exist on both sides under the two names.
_ARCH = {
    "hidden_size": "arch.dim", "num_heads": "arch.heads", "L_layers": "arch.fast_layers",
    "H_layers": "arch.slow_layers", "H_cycles": "arch.h_cycles", "L_cycles": "arch.l_cycles",
    "expansion": "arch.expansion", "rms_norm_eps": "arch.norm_eps", "rope_theta": "arch.rope_base",
    "pos_encodings": "arch.positions", "halt_max_steps": "halting.max_segments",
    "halt_exploration_prob": "halting.exploration", "forward_dtype": "train.precision",
}  # fmt: skip
_TRAINING = {
    "global_batch_size": "train.batch_size", "lr": "optim.lr", "lr_warmup_steps": "optim.warmup_steps",
    "weight_decay": "optim.weight_decay", "puzzle_emb_lr": "optim.task_lr",
    "puzzle_emb_weight_decay": "optim.task_weight_decay", "seed": "seed",
}  # fmt: skip
Tree = Mapping[str, object]
_OPTIONAL = {"rms_norm_eps", "rope_theta", "forward_dtype"}
_REQUIRED = object()
_LOSS = "_cross_entropy"
# Architecture that only training sees: the same weights give the same answers.
_TRAINING_ONLY = {"arch.horizon"}


def layout_of(tree: Tree, where: str) -> Layout:
    """Which published model the settings describe; UserError for one that this package cannot run."""
    name = _section(tree, "arch", where).get("name")
    if not isinstance(name, str) or name not in _NAMES:
        known = ", ".join(_NAMES)
        raise UserError(f"{where}: arch.name {quoted(name)} is none of the models that can be read, {known}")
    return _NAMES[name]


def config_of(tree: Tree, where: str) -> Config:
    """The Config of an official run; UserError names `where` and the key that does not fit. The task is left at its
    default: official settings do not tell it."""
    trm = layout_of(tree, where) == "trm"
    arch = _section(tree, "arch", where)
    kinds, defaults = _kinds(), settings(Config())

    def get(section: Tree, key: str, kind: Any, default: object = _REQUIRED) -> Any:
        value = section.get(key, default)
        if value is _REQUIRED:
            raise UserError(f"{where} lacks the setting '{key}'")
        try:
            return fit(kind, value)
        except ValueError as error:
            raise UserError(f"{where}: '{key}' {error}") from None

    values = {
        name: get(arch, key, kinds[name], defaults[name] if key in _OPTIONAL else _REQUIRED)
        for key, name in _ARCH.items()
    }
    values |= {name: get(tree, key, kinds[name], defaults[name]) for key, name in _TRAINING.items()}
    if trm:
        values["arch.slow_layers"] = ArchConfig.slow_layers  # TRM has one stack only
    values["arch.shared"] = trm
    values["arch.horizon"] = "last_cycle" if trm else "last_step"
    values["arch.mixer"] = "mlp" if get(arch, "mlp_t", bool, False) else "attention"
    width, length = get(arch, "puzzle_emb_ndim", int, 0), get(arch, "puzzle_emb_len", int, 16) if trm else 0
    values["arch.task_positions"] = _task_positions(width, length, values["arch.dim"], where)
    alone = trm and get(arch, "no_ACT_continue", bool, True)
    values["halting.q_continue"] = not alone and values["halting.max_segments"] > 1
    loss = get(_section(arch, "loss", where), "loss_type", str)
    values["loss.kind"] = get({"loss_type": loss.removesuffix(_LOSS)}, "loss_type", kinds["loss.kind"])

    ratio = get(tree, "lr_min_ratio", float, 1.0)
    values["optim.schedule"] = "constant" if ratio == 1 else "cosine"
    values["optim.min_ratio"] = 0.0 if ratio == 1 else ratio
    values["optim.betas"] = (get(tree, "beta1", float, 0.9), get(tree, "beta2", float, 0.95))
    values["optim.ema"] = get(tree, "ema_rate", float, 0.999) if get(tree, "ema", bool, False) else 0.0
    # An epoch shows every original puzzle once; how many there are is known to the data set alone.
    config = Config()
    steps = get(tree, "epochs", int, 1) * config.task.puzzles // values["train.batch_size"]
    values["train.steps"] = max(1, steps, values["optim.warmup_steps"])
    config = changed(config, values)
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{where} describes a model that cannot be built: {error}") from None
    return config


def settings_of(config: Config, layout: Layout) -> Json:
    """The official settings of a configuration; UserError for an architecture that the layout has no place for."""
    flat = settings(config)
    trm = layout == "trm"
    arch: Json = {key: flat[name] for key, name in _ARCH.items()}
    arch |= {
        "name": next(name for name, kind in _NAMES.items() if kind == layout),
        "loss": {"name": "losses@ACTLossHead", "loss_type": config.loss.kind + _LOSS},
        "puzzle_emb_ndim": config.arch.dim if config.arch.task_positions else 0,
    }
    if trm:
        arch |= {
            "H_layers": 0,
            "mlp_t": config.arch.mixer == "mlp",
            "puzzle_emb_len": config.arch.task_positions,
            "no_ACT_continue": not config.halting.q_continue,
        }
    data = config.data or "data"
    ema = {"ema": config.optim.ema > 0, "ema_rate": config.optim.ema or 0.999}
    tree: Json = {
        "arch": arch,
        **{key: flat[name] for key, name in _TRAINING.items()},
        **({"data_paths": [data], **ema} if trm else {"data_path": data}),
        "lr_min_ratio": config.optim.min_ratio if config.optim.schedule == "cosine" else 1.0,
        "beta1": config.optim.betas[0],
        "beta2": config.optim.betas[1],
        "epochs": math.ceil(config.train.steps * config.train.batch_size / config.task.puzzles),
    }
    _refuse_what_is_lost(config, layout, tree)
    return tree


def _refuse_what_is_lost(config: Config, layout: Layout, tree: Tree) -> None:
    """UserError unless the Config converts back to itself: otherwise settings would be lost."""
    arch = config.arch
    if arch.shared != (layout == "trm"):
        other = "trm, which has one stack for both roles" if arch.shared else "sapient-hrm, which has two stacks"
        raise UserError(f"this model does not fit into the layout {layout}: use {other}")
    if arch.kv_heads == arch.heads:
        arch = replace(arch, kv_heads=None)
    if arch.shared:
        arch = replace(arch, slow_layers=ArchConfig.slow_layers)
    if layout == "sapient-hrm" and arch.positions == "none":
        raise UserError("the layout sapient-hrm has no place for --arch.positions none: it knows rope and learned")
    mine = settings(replace(config, arch=arch))
    try:
        back = settings(config_of(tree, f"the layout {layout}"))
    except UserError as error:
        raise UserError(f"this model does not fit into the layout {layout}: {error}") from None
    for name in mine:
        if name.startswith("arch.") and name not in _TRAINING_ONLY and mine[name] != back[name]:
            flag = "--" + name.replace("_", "-")
            lost = f"the layout {layout} has no place for {flag} {mine[name]}"
            raise UserError(f"{lost}: there it is always {back[name]}")


def _task_positions(width: int, positions: int, dim: int, where: str) -> int:
    """Positions in front of the grid, from the width of the task embedding and TRM's number of positions."""
    if width == 0 and positions:
        raise UserError(f"{where}: 'puzzle_emb_len' is {positions} without a puzzle embedding: it must be 0 there")
    if width not in (0, dim):
        raise UserError(f"{where}: 'puzzle_emb_ndim' is {width}: only 0 and the hidden size, {dim}, can be read")
    return positions or width // dim


def _section(tree: Tree, key: str, where: str) -> Tree:
    section = tree.get(key)
    if not isinstance(section, Mapping):
        raise UserError(f"{where} has no section '{key}': it should be the all_config.yaml that the original wrote")
    return section


def _kinds() -> dict[str, Any]:
    """The type of every setting by its dotted name."""
    kinds: dict[str, Any] = {"arch.positions": Literal["rope", "learned", "none"]}
    for name, kind in get_type_hints(Config).items():
        inner = {f"{name}.{key}": item for key, item in get_type_hints(kind).items()} if is_dataclass(kind) else {}
        kinds = {name: kind} | inner | kinds
    return kinds
