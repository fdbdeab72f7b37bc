"""An accelerator that is none: tensors that say they are on it, compute on the CPU, and meet only their like.

    with pretend.accelerator():
        ...  # an Accelerator finds it; whatever forgets to move a tensor raises RuntimeError

Its numbers are the CPU's, so results can be compared with those of a training there. It cannot show kernels, speed and
memory, nor what other libraries do on a device they know by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

_ACROSS = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_INDEXED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)  # by tensors of either side


class _Backend(_DummyBackendModule):
    on = False

    def is_available(self) -> bool:
        return self.on

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)


_setup_privateuseone_for_python_backend("pretend", backend_module=_Backend())
DEVICE = torch.device("pretend", 0)


class _There(Tensor):
    """A tensor on the device; `here` holds its numbers."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        # A tensor of one's own class that is made under inference_mode cannot be viewed.
        with torch.inference_mode(False):
            there = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
                device=DEVICE,
            )  # fmt: skip
        there.here = here
        return there

    def __repr__(self, **kwargs: Any) -> str:
        return f"There({self.here!r})"

    def tolist(self) -> Any:
        return self.here.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("it is on the accelerator: copy it to the CPU first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """For calls without such a tensor: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _There)]
    # A CPU tensor without dimensions counts as a number, everywhere in torch.
    strays = [tensor for tensor in tensors if not isinstance(tensor, _There) and tensor.ndim]
    asked = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
    if there and strays and asked is None and func not in (*_ACROSS, *_INDEXED):
        raise RuntimeError(f"{func} has tensors on {DEVICE} and on the CPU: {[tuple(t.shape) for t in tensors]}")
    if func is torch.ops.aten.copy_.default:
        arrives = isinstance(args[0], _There)
    else:
        arrives = bool(there) if asked is None else asked.type == DEVICE.type
    args, kwargs = tree_map_only(_There, lambda tensor: tensor.here, (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), (args, kwargs))
    out = func(*args, **kwargs)
    known = {id(tensor.here): tensor for tensor in there}  # what is changed in place stays the same tensor

    def wrapped(value: Any) -> Any:
        return known[id(value)] if id(value) in known else _There(value) if isinstance(value, Tensor) else value

    return tree_map(wrapped, out) if arrives else out


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """Within it torch and an Accelerator find the pretended device."""
    kept = [(state, dict(state._shared_state)) for state in (PartialState, AcceleratorState, GradientState)]
    lifted = torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch, _Mode():
        patch.setattr(PartialState, "default_device", DEVICE)
        patch.setattr(_Backend, "on", True)
        AcceleratorState._reset_state(True)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(1.0, device=...) is made here and then moved
        try:
            yield DEVICE
        finally:
            torch._C._set_only_lift_cpu_tensors(lifted)
            for state, shared in kept:
                state._shared_state.clear()
                state._shared_state.update(shared)
