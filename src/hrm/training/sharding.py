"""FSDP2: weights, gradients and optimizer state split over the processes, and checkpoints that any number of them read.

A checkpoint is the same whoever writes it: one safetensors file per group with whole tensors. Each process writes its
shares through `torch.distributed.checkpoint`, which puts them together, and reads only its shares.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load as load_shares
from torch.distributed.checkpoint.state_dict_saver import save as save_shares
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hrm.core.kernels import weights
from hrm.files.records import Json
from hrm.runs import checkpoint
from hrm.training.config import TrainConfig
from hrm.training.optim import local
from hrm.training.trainer import Groups


def shard(units: Iterable[nn.Module], train: TrainConfig, accelerator: Accelerator) -> None:
    """Split the weights of each unit over all processes. What is in no unit stays whole on each, and its gradients are
    summed as without sharding."""
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(getattr(torch, train.precision), torch.float32, cast_forward_inputs=False)
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=train.reshard, mp_policy=policy)
        assert isinstance(unit, FSDPModule)
        unit.set_gradient_divide_factor(1.0)  # losses are shares of the whole batch already
        unit.set_force_sum_reduction_for_comms(True)  # all that gloo can
        for layer in weights(unit):
            layer.sharded = True


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; a call on every process."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save(directory: Path, step: int, groups: Groups, state: Json, accelerator: Accelerator, apart: Any = None) -> None:
    """Write a checkpoint; a call on every process, which waits until it is whole. `apart`: the group of processes that
    it takes, instead of that of the training."""
    parts = {name for name, named in groups.items() if any(isinstance(tensor, DTensor) for tensor in named.values())}
    split = {name: groups.pop(name) for name in parts}
    place = [directory]
    if accelerator.is_main_process:
        with checkpoint.writing(directory, step, groups, state) as temporary:
            place[0] = temporary
            dist.broadcast_object_list(place, group=apart)
            _write(temporary, split, apart)
            for name in split:
                [file] = (temporary / name).glob("*.safetensors")
                file.rename(temporary / f"{name}.safetensors")
                shutil.rmtree(temporary / name)
    else:
        dist.broadcast_object_list(place, group=apart)
        _write(place[0], split, apart)
    if apart is None:
        accelerator.wait_for_everyone()
    else:
        dist.barrier(apart)


def _write(folder: Path, groups: Groups, apart: Any) -> None:
    for name, named in groups.items():
        writer = HuggingFaceStorageWriter(str(folder / name), save_distributed=True, enable_consolidation=True)
        alone: dict[str, Tensor] = {}
        known: set[int] = set()
        for key, tensor in named.items():
            tensor = tensor.detach() if tensor.dim() else tensor.detach().reshape(1)  # without it zero is written
            place = local(tensor).data_ptr()
            alone[key] = tensor.clone() if place in known else tensor  # safetensors refuses what shares memory
            known.add(place)
        save_shares(alone, storage_writer=writer, process_group=apart)


def load(path: Path, like: Mapping[str, Mapping[str, Tensor]]) -> tuple[Groups, Json]:
    """A checkpoint's groups and state, of the groups in `like` only the shares that its tensors have here. An
    optimizer's tensors are split as the parameter whose name they begin with in `like["weights"]`."""
    rest = {file.name.removesuffix(".safetensors") for file in path.glob("*.safetensors")} - like.keys() - {"optimizer"}
    groups, state = checkpoint.load(path, rest)
    for name in {*like, "optimizer"}:
        file = path / f"{name}.safetensors"
        if not file.is_file():
            continue
        checkpoint.verify(path, [name])
        with safe_open(file, framework="pt") as opened:
            shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118
        known = like.get(name, {})
        named: dict[str, Tensor] = {}
        for key, shape in shapes.items():
            similar = known.get(key, like["weights"].get(key.rpartition(".")[0]))
            fits = similar is not None and list(similar.shape) == shape
            named[key] = torch.zeros_like(similar) if fits else torch.zeros(shape)  # type: ignore[arg-type]
        load_shares(named, storage_reader=_OneFile(file))  # type: ignore[arg-type]
        groups[name] = named
    return groups, state


class _OneFile(HuggingFaceStorageReader):
    """Reads one safetensors file of a folder that holds several."""

    def __init__(self, file: Path) -> None:
        super().__init__(str(file.parent))
        self.fs: Any = _Listing(file)


class _Listing:
    """All that a reader asks of a file system: which files there are."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def ls(self, path: str) -> list[str]:
        return [str(self.file)]
