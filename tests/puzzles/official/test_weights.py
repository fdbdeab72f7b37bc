"""Official checkpoints: what is read computes the published function, what is written is what was read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from hrm.files.reading import UserError
from hrm.puzzles.config import Config
from hrm.puzzles.model import Board, PuzzleModel, board_of
from hrm.puzzles.official import ImportedModel, read, write
from hrm.puzzles.tasks import build
from hrm.settings import load_preset, presets, settings
from hrm.training.config import OptimConfig
from tests.puzzles.official import files as files
from tests.reference import puzzles
from tests.reference.net import official_net_of

LAYOUTS: dict[str, dict[str, Any]] = {
    "HRM": {},
    "HRM, learned positions": {"pos_encodings": "learned"},
    "HRM, no puzzle embedding": {"puzzle_emb_ndim": 0},
    "HRM, bfloat16": {"forward_dtype": "bfloat16"},
    "TRM, attention": {"name": files.TRM, "H_cycles": 2, "L_cycles": 3},
    "TRM, MLP mixing": {"name": files.TRM, "mlp_t": True, "pos_encodings": "none"},
    "TRM, bfloat16": {"name": files.TRM, "mlp_t": True, "pos_encodings": "none", "forward_dtype": "bfloat16"},
}


def layout_of(changes: dict[str, Any]) -> Any:
    return "trm" if changes.get("name") == files.TRM else "sapient-hrm"


def model_of(found: ImportedModel) -> PuzzleModel:
    """Our model with the imported weights, every one of them needed."""
    model = PuzzleModel(found.config.arch, board_of(build(found.config.task), found.task_ids)).eval()
    model.load_state_dict(found.weights)
    return model


@pytest.mark.parametrize(
    "prefix", ["", "model.inner.", "_orig_mod.model.inner.", "_orig_mod.", "model.inner._orig_mod."]
)
def test_names_are_read_with_every_prefix(tmp_path: Path, prefix: str) -> None:
    tree = files.settings()
    tensors = files.state(tree)
    found = read(files.write(tmp_path, tree, tensors, prefix))
    assert len(found.weights) == len(tensors)
    assert torch.equal(
        found.weights["recurrence.slow.layers.1.mlp.down.weight"], tensors["H_level.layers.1.mlp.down_proj.weight"]
    )


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("segments", [1, 16])
def test_a_converted_model_computes_the_published_function(
    tmp_path: Path, changes: dict[str, Any], segments: int
) -> None:
    tree = files.settings(**changes)
    tensors = files.state(tree)
    model = model_of(read(files.write(tmp_path, tree, tensors)))
    arch = model.arch
    net = official_net_of(tensors)
    generator = torch.Generator().manual_seed(1)
    inputs, ids = torch.randint(1, 11, (2, 81), generator=generator), torch.tensor([1, 0]) * min(1, arch.task_positions)
    x = puzzles.embed(net, inputs, ids, arch.task_positions)
    z_h, z_l = puzzles.start(net, x)
    base = 1e4 if tree["arch"]["pos_encodings"] == "rope" else None
    form = puzzles.trm_segment if arch.shared else puzzles.hrm_segment
    with torch.no_grad():
        carry = model.initial_carry(inputs, ids)
        for _ in range(segments):
            z_h, z_l = form(net, z_h, z_l, x, tree["arch"]["H_cycles"], tree["arch"]["L_cycles"], 4, base)
            carry, readout = model.segment(carry, inputs, ids)
    logits, q = puzzles.readout(net, z_h, arch.task_positions)
    assert (readout.logits - logits).abs().max().item() < 1e-5
    assert (readout.q - q).abs().max().item() < 1e-5
    assert torch.equal(readout.logits.argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_official_to_ours_to_official_gives_the_same_tensors_and_settings(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    tree = files.settings(**changes)
    tensors = files.state(tree)
    found = read(files.write(tmp_path / "in", tree, tensors))
    file = write(tmp_path / "out", layout_of(changes), found.config, found.cells, found.weights, found.step)
    assert file.name == "step_26041"
    again: dict[str, Tensor] = torch.load(file, weights_only=True)
    assert {name.removeprefix("_orig_mod.model.inner.") for name in again} == tensors.keys()
    for name, tensor in tensors.items():
        other = again["_orig_mod.model.inner." + name]
        assert other.dtype == tensor.dtype and torch.equal(other, tensor), name
    written = yaml.safe_load((tmp_path / "out" / "all_config.yaml").read_text())
    for key, value in tree["arch"].items():
        assert written["arch"][key] == value, key
    kept = (
        "global_batch_size",
        "lr",
        "lr_min_ratio",
        "lr_warmup_steps",
        "beta1",
        "beta2",
        "weight_decay",
        "seed",
        "epochs",
    )
    assert {key: written[key] for key in kept} == {key: tree[key] for key in kept}
    assert written["puzzle_emb_lr"] == tree["puzzle_emb_lr"]


PUBLISHED = [
    name
    for name in presets(Config)
    if name.startswith(("sudoku-extreme", "sudoku-full", "maze-hard", "arc-1", "arc-2"))
    and not name.endswith(("-fast", "-mlp"))
]


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_presets_survive_the_way_out_and_back(tmp_path: Path, preset: str) -> None:
    config = load_preset(preset)
    layout: Any = "trm" if config.arch.shared else "sapient-hrm"
    small = Config(config.task, _narrow(config), config.halting, config.loss, config.optim, config.train)
    task = build(small.task)
    board = board_of(task, 3)
    torch.manual_seed(0)
    model = PuzzleModel(small.arch, board)
    write(tmp_path, layout, small, board.cells, model.state_dict(), 7)
    found = read(tmp_path)
    assert (found.step, found.cells, found.vocabulary, found.task_ids) == (7, board.cells, board.vocabulary, 3)
    for name, tensor in model.state_dict().items():
        exact = tensor if not name.endswith("_init") else tensor.to(torch.bfloat16).float()
        assert torch.equal(found.weights[name], exact), name
    wanted, back = settings(small), settings(found.config)
    # The official files do not say that grids are those of ARC.
    assert found.config.task.kind == {"arc": "grid"}.get(small.task.kind, small.task.kind)
    for name in wanted:
        if name.startswith(("arch.", "halting.", "loss.", "optim.")):
            assert back[name] == wanted[name], name


def _narrow(config: Config) -> Any:
    return replace(config.arch, dim=16, heads=2)


def test_settings_become_a_configuration_of_ours(tmp_path: Path) -> None:
    tree = files.settings(files.TRM, halt_max_steps=8, forward_dtype="bfloat16") | {
        "ema": True,
        "ema_rate": 0.99,
        "lr_min_ratio": 0.1,
    }
    config = read(files.write(tmp_path, tree, files.state(tree))).config
    assert config.arch.shared and config.arch.horizon == "last_cycle" and config.arch.task_positions == 3
    assert config.halting.max_segments == 8 and not config.halting.q_continue
    assert config.train.precision == "bfloat16" and config.train.steps == 20000 * 1000 // 384
    expected = OptimConfig(lr=7e-5, task_lr=7e-5, schedule="cosine", min_ratio=0.1, ema=0.99)
    assert config.optim == expected


@pytest.mark.parametrize(
    ("vocabulary", "cells", "kind", "detail"),
    [(11, 81, "sudoku", (3, 3)), (6, 900, "maze", (30, 30)), (12, 900, "grid", (30, 30))],
)
def test_the_task_follows_from_the_published_vocabularies(
    tmp_path: Path, vocabulary: int, cells: int, kind: str, detail: Any
) -> None:
    tree = files.settings()
    task = read(files.write(tmp_path, tree, files.state(tree, cells, vocabulary))).config.task
    assert task.kind == kind and (task.box if kind == "sudoku" else task.size) == detail
    found = build(task)
    assert found.shape[0] * found.shape[1] == cells and len(found.vocabulary) == vocabulary


def test_other_grids_are_told_by_their_weights_or_by_the_shape(tmp_path: Path) -> None:
    tree = files.settings(pos_encodings="learned")
    task = read(files.write(tmp_path / "6x6", tree, files.state(tree, 36, 8))).config.task
    assert (task.kind, task.box) == ("sudoku", (2, 3))
    tree = files.settings()
    folder = files.write(tmp_path / "grid", tree, files.state(tree, 12, 5))
    with pytest.raises(UserError, match=r"does not tell the size of its grid.*--shape"):
        read(folder)
    task = read(folder, shape=(3, 4)).config.task
    assert (task.kind, task.size, task.vocabulary) == ("grid", (3, 4), 5)
    tree = files.settings(files.TRM, mlp_t=True, pos_encodings="none")
    with pytest.raises(UserError, match="is for 81"):
        read(files.write(tmp_path / "mlp", tree, files.state(tree)), shape=(9, 10))


def test_the_newest_step_is_read_unless_a_file_is_named(tmp_path: Path) -> None:
    tree = files.settings()
    for step in (999, 1000):
        files.write(tmp_path, tree, files.state(tree, seed=step), step=step)
    (tmp_path / "step_2000_all_preds.0").write_bytes(b"not weights")
    assert read(tmp_path).step == 1000
    older = read(tmp_path / "step_999")
    assert older.step == 999 and not torch.equal(older.weights["z_h_init"], read(tmp_path).weights["z_h_init"])
    (tmp_path / "step_999").rename(tmp_path / "checkpoint")
    (tmp_path / "step_1000").unlink()
    assert torch.equal(read(tmp_path).weights["z_h_init"], older.weights["z_h_init"])


def spoil(tensors: dict[str, Tensor], how: str) -> None:
    name = "L_level.layers.0.self_attn.o_proj.weight"
    if how == "missing":
        del tensors[name]
    elif how == "shape":
        tensors[name] = tensors[name][:-1]
    elif how == "transposed":
        tensors["lm_head.weight"] = tensors["lm_head.weight"].T
    elif how == "integers":
        tensors[name] = torch.zeros(32, 32, dtype=torch.int64)
    elif how == "extra":
        tensors["H_level.layers.2.mlp.down_proj.weight"] = torch.zeros(32, 256)
    elif how == "vector":
        tensors["embed_tokens.embedding_weight"] = torch.zeros(32)
    else:
        tensors["model." + name] = tensors[name]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"lacks 'L_level\.layers\.0\.self_attn\.o_proj\.weight'"),
        (
            "shape",
            r"'L_level\.layers\.0\.self_attn\.o_proj\.weight' is \[31, 32\], but all_config.yaml makes it \[32, 32\]",
        ),
        ("transposed", r"'lm_head\.weight' is \[32, 11\]"),
        ("integers", r"'L_level\.layers\.0\.self_attn\.o_proj\.weight' holds torch\.int64"),
        ("extra", r"holds 'H_level\.layers\.2\.mlp\.down_proj\.weight', which the model .* does not have"),
        ("vector", r"'embed_tokens\.embedding_weight' is \[32\] instead of a matrix"),
        ("twice", r"holds 'L_level\.layers\.0\.self_attn\.o_proj\.weight' twice"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path, how: str, message: str) -> None:
    tree = files.settings()
    tensors = files.state(tree)
    spoil(tensors, how)
    with pytest.raises(UserError, match=message) as error:
        read(files.write(tmp_path, tree, tensors, prefix=""))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1"}, "arch.name .*trm_singlez"),
        ({"hidden_size": "wide"}, "'hidden_size' must be an integer, not 'wide'"),
        ({"pos_encodings": "alibi"}, "'pos_encodings' must be one of rope, learned, none"),
        ({"puzzle_emb_ndim": 64}, "'puzzle_emb_ndim' is 64: only 0 and the hidden size, 32"),
        ({"num_heads": 5}, "cannot be built: --arch.dim 32 is not divisible"),
        ({"loss": {"loss_type": "focal"}}, "'loss_type' must be one of stablemax, softmax"),
        ({"loss": None}, "has no section 'loss'"),
        ({"L_cycles": ...}, "lacks the setting 'L_cycles'"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_read_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tree = files.settings()
    tensors = files.state(tree)
    tree["arch"] |= change
    tree["arch"] = {key: value for key, value in tree["arch"].items() if value is not ...}
    with pytest.raises(UserError, match=message) as error:
        read(files.write(tmp_path, tree, tensors))
    assert str(tmp_path / "all_config.yaml") in str(error.value)


def test_trm_without_a_puzzle_embedding_needs_no_room_for_it(tmp_path: Path) -> None:
    tree = files.settings(files.TRM, puzzle_emb_ndim=0)
    with pytest.raises(UserError, match="'puzzle_emb_len' is 3 without a puzzle embedding"):
        read(files.write(tmp_path, tree, files.state(tree)))
    tree["arch"]["puzzle_emb_len"] = 0
    assert read(files.write(tmp_path, tree, files.state(tree))).config.arch.task_positions == 0


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    files.write(tmp_path, files.settings(), {})
    torch.save({"lm_head.weight": Bomb(tmp_path / "gone off")}, tmp_path / "step_26041")
    with pytest.raises(UserError, match=r"objects, which could run code.*plain state dict"):
        read(tmp_path)
    assert not (tmp_path / "gone off").exists()


@pytest.mark.parametrize(
    "content", [b"", b"no pickle at all", b"PK\x03\x04 a broken archive"], ids=["empty", "text", "archive"]
)
def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    files.write(tmp_path, files.settings(), {})
    (tmp_path / "step_26041").write_bytes(content)
    with pytest.raises(UserError, match="step_26041"):
        read(tmp_path)
    torch.save([torch.zeros(1)], tmp_path / "step_26041")
    with pytest.raises(UserError, match="no state dict"):
        read(tmp_path)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        read(tmp_path)
    tree = files.settings()
    files.write(tmp_path, tree, files.state(tree))
    (tmp_path / "all_config.yaml").write_text("arch: [")
    with pytest.raises(UserError, match=r"all_config\.yaml is not valid YAML"):
        read(tmp_path)
    (tmp_path / "all_config.yaml").unlink()
    with pytest.raises(UserError, match=r"all_config\.yaml is missing"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("layout", "change", "flag"),
    [
        ("sapient-hrm", {"gate": True}, "--arch.gate True"),
        ("sapient-hrm", {"norm": "pre"}, "--arch.norm pre"),
        ("sapient-hrm", {"hierarchy": False}, "--arch.hierarchy False"),
        ("sapient-hrm", {"shared": True}, "use trm, which has one stack"),
        ("sapient-hrm", {"mixer": "mlp", "positions": "none"}, "--arch.positions none"),
        ("sapient-hrm", {"mixer": "mlp", "positions": "learned"}, "--arch.mixer mlp"),
        ("sapient-hrm", {"task_positions": 2}, "--arch.task-positions 2"),
        ("sapient-hrm", {"positions": "groups"}, "'pos_encodings' must be one of"),
        ("sapient-hrm", {"expansion_multiple": 8}, "--arch.expansion-multiple 8"),
        ("trm", {"kv_heads": 2}, "--arch.kv-heads 2"),
        ("trm", {}, "use sapient-hrm, which has two stacks"),
    ],
    ids=str,
)
def test_an_architecture_that_a_layout_has_no_place_for_is_refused(
    tmp_path: Path, layout: Any, change: dict[str, Any], flag: str
) -> None:
    config = Config()
    config = replace(config, arch=replace(config.arch, **({"shared": layout == "trm" and bool(change)} | change)))
    with pytest.raises(UserError, match=flag):
        write(tmp_path / "out", layout, config, 81, {}, 0)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path, "sapient-hrm", Config(), 81, {}, 0)


@pytest.mark.slow
def test_reading_and_writing_keep_the_published_parameter_count(tmp_path: Path) -> None:
    config = Config()
    torch.manual_seed(0)
    model = PuzzleModel(config.arch, Board(81, 11, (2, 9), build(config.task).groups))
    write(tmp_path, "sapient-hrm", config, 81, model.state_dict(), 26041)
    found = read(tmp_path)
    parameters = {name for name, _ in model.named_parameters()}
    assert sum(t.numel() for name, t in found.weights.items() if name in parameters) == 27_275_266
