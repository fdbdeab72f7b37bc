"""How much memory a training takes, found with tensors that have shapes and no numbers."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hrm.core.kernels import weights
from hrm.files.records import Record

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Memory(Record):
    """Bytes of a training in one process; those of weights, gradients and optimizer that FSDP can split are apart."""

    whole: int
    """Float32 weights, gradients, moments and averages of what every process holds."""
    split: int
    """The same of what `--train.parallel fsdp` divides among the processes."""
    copies: int
    """Weights in the precision of the computation."""
    fixed: int
    """Of a step, however many rows it has."""
    row: int
    """Activations and temporary values of each row that is computed at once."""

    def parts(self, rows: int, processes: int = 1) -> dict[str, int]:
        """`total` by what holds it."""
        return {
            "weights_gradients_optimizer": self.whole + self.split // processes,
            "copies": self.copies,
            "step": self.fixed + rows * self.row,
        }

    def total(self, rows: int, processes: int = 1) -> int:
        """Bytes of a process at the worst moment of a step of this many rows."""
        return sum(self.parts(rows, processes).values())

    def rows(self, size: int, processes: int = 1) -> int:
        """The most rows of a step that fit into this many bytes; 0: none does."""
        return max(0, (size - self.total(0, processes)) // self.row)


def training_memory(
    model: M, step: Callable[[M, int], None], rows: int, ema: bool, dtype: torch.dtype, units: Iterable[nn.Module]
) -> Memory:
    """The memory of training a model on the meta device in `dtype`, with attention that keeps no matrix of scores.

    `step` does the forward and backward passes of this many rows; exact for `rows` and four times as many, since more
    rows may have their worst moment elsewhere. `units` are the parts that FSDP splits.
    """
    each = 4 * (4 + ema)  # weight, gradient and two moments (Muon's matrices have one, counted as two)
    parameters = sum(p.numel() for p in model.parameters())
    split = sum(p.numel() for p in {p for unit in units for p in unit.parameters()})
    peaks = []
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        model = model.to_empty(device="cpu")
        with Allocations(model) as found:
            for layer in weights(model):
                layer.refresh(dtype)
            copies = found.now
            for number in (rows, 4 * rows):
                model.zero_grad(set_to_none=True)
                found.most = found.now
                step(model, number)
                peaks.append(found.most - copies - 4 * parameters)
    row = (peaks[1] - peaks[0]) // (3 * rows)
    return Memory(each * (parameters - split), each * split, copies, peaks[0] - rows * row, row)


class Allocations(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it is on and still in use; `most` is the peak."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[int, object] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self._known[tensor.untyped_storage()._cdata] = tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self._known:
                self._add(storage)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()

        def forget(_: object) -> None:
            if self._known.pop(key, None) is not None:
                self.now -= size

        self._known[key] = weakref.ref(storage, forget)
        self.now += size
        self.most = max(self.most, self.now)
