"""Folders of the official HRM and TRM programs: `all_config.yaml` beside `step_N`, a state dict saved by torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from hrm.core.arch import ArchConfig
from hrm.files.reading import SMALL, UserError, reading, text_of, yaml_of
from hrm.puzzles.config import Config, TaskConfig
from hrm.puzzles.model import Board, PuzzleModel
from hrm.puzzles.official import names
from hrm.puzzles.official.settings import Layout, Tree, config_of, layout_of, settings_of

SETTINGS = "all_config.yaml"
_INITIAL_STATES = ("z_h_init", "z_l_init")
# Grids of the published data sets by vocabulary, for models in which no weight tells the number of cells.
_KNOWN_CELLS = {11: 81, 6: 900, 12: 900}


class ImportedModel(NamedTuple):
    """A model in our terms: its task, settings, training step, board and weights under our names in float32."""

    config: Config
    step: int
    cells: int
    vocabulary: int
    task_ids: int
    weights: dict[str, Tensor]


def find(path: Path) -> Path | None:
    """The state dict that a path means: the file itself, or the newest of an official folder; None if there is none."""
    if path.is_file():
        return path
    named = ((re.fullmatch(r"step_(\d+)", file.name), file) for file in path.glob("step_*") if file.is_file())
    if steps := {int(match[1]): file for match, file in named if match}:
        return steps[max(steps)]
    return path / "checkpoint" if (path / "checkpoint").is_file() else None


def read(path: Path, shape: tuple[int, int] | None = None) -> ImportedModel:
    """The model of an official folder, or of a `step_N` file in one; `shape` is the grid's rows and columns. Objects
    are never unpickled, only tensors. UserError in one sentence names the file and the key that does not fit."""
    file = find(path)
    if file is None:
        has = f"a folder of the official programs has {SETTINGS} and a file step_N"
        raise UserError(f"{path} holds no checkpoint: {has}")
    where = file.parent / SETTINGS
    tree = _settings(where)
    config = config_of(tree, str(where))
    tensors = names.bare(_state_dict(file), str(file))
    cells, vocabulary, task_ids = _sizes(tensors, config.arch, shape, tree.get("seq_len"), str(file))
    config = replace(config, task=_task(cells, vocabulary, shape))
    with torch.device("meta"):
        model = PuzzleModel(config.arch, Board(cells, vocabulary, (0, vocabulary), np.zeros((0, cells)), task_ids))
    weights = {}
    for name, like in model.state_dict().items():
        theirs = names.official(name)
        tensor = _take(tensors, theirs, str(file))
        if tensor.shape != like.shape:
            found, wanted = list(tensor.shape), list(like.shape)
            raise UserError(f"{file}: '{theirs}' is {found}, but {where.name} makes it {wanted}")
        weights[name] = tensor.to(torch.float32, copy=True)
        del tensors[theirs]
    if tensors:
        extra = next(iter(tensors))
        raise UserError(f"{file} holds '{extra}', which the model that {where.name} describes does not have")
    step = re.fullmatch(r"step_(\d+)", file.name)
    return ImportedModel(config, int(step[1]) if step else 0, cells, vocabulary, task_ids, weights)


def write(path: Path, layout: Layout, config: Config, cells: int, weights: Mapping[str, Tensor], step: int) -> Path:
    """Write our weights as an official folder; return the state dict's file. Initial states are stored in the forward
    dtype, as the original does, in which they are used anyway. UserError for a folder in use or an architecture that
    the layout has no place for."""
    # seq_len: the originals take it from the data and ignore it here; `read` does not have to guess.
    tree = settings_of(config, layout) | {"seq_len": cells}
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: choose a new folder for the converted model")
    dtype = getattr(torch, config.train.precision)
    state = {}
    for name, tensor in weights.items():
        kind = dtype if name in _INITIAL_STATES else torch.float32
        state[names.PREFIX + names.official(name)] = tensor.detach().cpu().to(kind).contiguous()
    path.mkdir(parents=True, exist_ok=True)
    (path / SETTINGS).write_text(yaml.safe_dump(tree), encoding="utf-8")
    file = path / f"step_{step}"
    torch.save(state, file.with_suffix(".tmp"))
    os.replace(file.with_suffix(".tmp"), file)
    return file


def _settings(where: Path) -> Tree:
    if not where.is_file():
        raise UserError(f"{where} is missing: the settings must lie beside the checkpoint")
    tree = yaml_of(text_of(where, SMALL), where)
    if not isinstance(tree, Mapping):
        raise UserError(f"{where} must consist of `key: value` lines")
    layout_of(tree, str(where))
    return tree


def _state_dict(file: Path) -> dict[str, Tensor]:
    with reading(file, "get it from its publisher as a plain state dict or as safetensors"):
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise UserError(f"{file} holds no state dict: names and their tensors, and nothing else")
    return dict(state)


def _take(tensors: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    if name not in tensors:
        raise UserError(f"{where} lacks '{name}'")
    tensor = tensors[name]
    if not tensor.is_floating_point():
        raise UserError(f"{where}: '{name}' holds {tensor.dtype} instead of floating-point numbers")
    return tensor


def _sizes(
    tensors: Mapping[str, Tensor], arch: ArchConfig, shape: tuple[int, int] | None, stated: object, where: str
) -> tuple[int, int, int]:
    """Cells, vocabulary and number of task ids, as far as the weights tell them."""
    vocabulary = _rows(tensors, "embed_tokens.embedding_weight", where)
    task_ids = _rows(tensors, "puzzle_emb.weights", where) if arch.task_positions else 1
    cells = None
    if arch.positions == "learned":
        cells = _rows(tensors, "embed_pos.embedding_weight", where) - arch.task_positions
    elif arch.mixer == "mlp":
        cells = _rows(tensors, "L_level.layers.0.mlp_t.down_proj.weight", where) - arch.task_positions
    elif isinstance(stated, int):
        cells = stated
    if shape is not None and cells not in (None, shape[0] * shape[1]):
        raise UserError(f"--shape {shape[0]} {shape[1]} has {shape[0] * shape[1]} cells, but {where} is for {cells}")
    cells = cells or (shape[0] * shape[1] if shape else _KNOWN_CELLS.get(vocabulary))
    if cells is None or cells < 1:
        raise UserError(f"{where} does not tell the size of its grid: give rows and columns, such as --shape 9 9")
    return cells, vocabulary, task_ids


def _rows(tensors: Mapping[str, Tensor], name: str, where: str) -> int:
    tensor = _take(tensors, name, where)
    if tensor.ndim != 2:
        raise UserError(f"{where}: '{name}' is {list(tensor.shape)} instead of a matrix")
    return len(tensor)


def _task(cells: int, vocabulary: int, shape: tuple[int, int] | None) -> TaskConfig:
    """The task that has this many cells and tokens: a Sudoku, the mazes of Maze-Hard, or any other grid."""
    side = vocabulary - 2
    boxes = [(rows, side // rows) for rows in range(2, side) if side % rows == 0 and rows <= side // rows]
    if cells == side * side and boxes and shape in (None, (side, side)):
        return TaskConfig(kind="sudoku", box=boxes[-1])
    root = round(cells**0.5)
    if shape is None and root * root != cells:
        raise UserError(f"a grid of {cells} cells is not square: give its rows and columns with --shape")
    rows, columns = shape or (root, root)
    if vocabulary == 6:
        return TaskConfig(kind="maze", size=(rows, columns), min_path=min(TaskConfig.min_path, cells - 1))
    return TaskConfig(kind="grid", size=(rows, columns), vocabulary=vocabulary)
