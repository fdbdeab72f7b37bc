"""One new token in compiled code: the operations of a stack's blocks fused, keys and values written in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hrm.core.kernels import Weight, by_panels
from hrm.core.layers import Context, Linear
from hrm.core.recurrence import Recurrence, Stack
from hrm.files.reading import UserError
from hrm.text.model.cache import HRMCache
from hrm.text.model.key_values import KeyValueStore
from hrm.text.model.selection import LiveTokens


class _BufferKeyValues(NamedTuple):
    """The cache as compiled code sees it: plain buffers, written at one position."""

    places: list[tuple[Tensor, Tensor, bool]]
    position: Tensor
    length: int

    def update(self, keys: Tensor, values: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """Write the new token's keys and values [b, heads, 1, e]; return all of them."""
        all_keys, all_values, writes = self.places[slot]
        if writes:
            all_keys.index_copy_(2, self.position, keys)
            all_values.index_copy_(2, self.position, values)
        return all_keys[:, :, : self.length], all_values[:, :, : self.length]


class Decoder:
    """The stacks and the head of a model, compiled for one new token a row. The first use takes seconds. On a CPU the
    weights are copied into an order that is read faster: panels for one row, constants of the compiled code for
    several. So it is valid only for the weights it was made from."""

    def __init__(self, recurrence: Recurrence, head: nn.Module) -> None:
        """UserError without a C++ compiler on a CPU, or for quantised weights."""
        layers = (part for module in (recurrence, head) for part in module.modules() if isinstance(part, Weight))
        if any(type(layer.weight.detach()) is not Tensor for layer in layers):
            raise UserError("compile_config compiles plain weights, and this model's are quantised: leave it out")
        self.on_cpu = next(recurrence.parameters()).device.type == "cpu"
        if self.on_cpu:
            from torch._inductor import cpp_builder, exc

            try:
                cpp_builder.get_cpp_compiler()
            except exc.InvalidCxxCompiler:
                problem = "compile_config needs a C++ compiler and there is none: install g++ or clang, or leave it out"
                raise UserError(problem) from None
        self._modules = nn.ModuleList((recurrence, head))
        self._state = _bits(self._modules)
        self._panels: list[tuple[Linear, Tensor]] | None = None
        self._frozen = False
        self._steps: dict[tuple[nn.Module, bool], Callable[..., Tensor]] = {}
        self._head, self._product = head, _compiled(by_panels)
        self._window = torch.empty(0)

    def __reduce__(self) -> tuple:
        """Copied and pickled models start without compiled code."""
        return type(None), ()

    @property
    def current(self) -> bool:
        """Whether the weights are still those it was made from."""
        return self._state == _bits(self._modules)

    @staticmethod
    def can(context: Context, z: Tensor) -> bool:
        """Whether this is one new token a row after cached ones, with every row computed and without gradient."""
        store = context.keys_values
        if torch.is_grad_enabled() or z.shape[1] != 1 or not isinstance(store, KeyValueStore):
            return False
        plain = context.attend is None and context.drop is None and not context.causal
        all_rows = not isinstance(store.selection, LiveTokens)
        return plain and isinstance(store.cache, HRMCache) and store.past > 0 and all_rows and not store.fills

    @contextmanager
    def at_work(self) -> Iterator[Decoder]:
        """A context in which the decoder can be called; afterwards the weights are as before."""
        import torch._inductor.config as inductor

        before = inductor.freezing
        inductor.freezing = self._frozen = False  # type: ignore[assignment]
        self._show_panels()
        try:
            yield self
        finally:
            inductor.freezing = before  # type: ignore[assignment]
            for layer, _ in self._panels or ():
                layer.panels = None

    def __call__(self, stack: Stack, z: Tensor, context: Context, slot: int) -> Tensor:
        """`Stack.forward` of a state [b, 1, d]."""
        store, (cos, sin) = context.keys_values, context.rope  # type: ignore[misc]
        assert isinstance(store, KeyValueStore)
        length = store.past + 1
        if len(self._window) < length or self._window.device != z.device:
            self._window = torch.arange(2 * length, device=z.device)
        places = store.places(slot, stack.slots)
        window = self._window[:length]
        several = len(z) > 1
        self._order(several)
        if (stack, several) not in self._steps:
            self._steps[stack, several] = _compiled(_step(stack))
            for tensor, axis in [(window, 0), *((t, 2) for place in places for t in place[:2])]:
                torch._dynamo.mark_dynamic(tensor, axis)
            if context.mask is not None:
                torch._dynamo.mark_dynamic(context.mask, context.mask.dim() - 1)
        z = self._steps[stack, several](z, cos, sin, context.mask, window[-1:], window, places)
        store.placed(slot, stack.slots)
        return z

    def head(self, z: Tensor) -> Tensor:
        """The logits of states [b, p, d]."""
        head = self._head
        if not isinstance(head, Linear) or head.panels is None or z.numel() != head.in_features:
            return head(z)
        return self._product(head.panels, z, head.out_features, head.bias)

    def _order(self, several: bool) -> None:
        """On a CPU, choose how compiled code reads weights: as constants for several rows, in panels for one."""
        if not self.on_cpu:
            return
        if several != self._frozen:
            import torch._inductor.config as inductor

            inductor.freezing = self._frozen = several  # type: ignore[assignment]
        if not several and self._panels is None:
            layers = [part for part in self._modules.modules() if isinstance(part, Linear)]
            self._panels = [(layer, panels) for layer in layers if (panels := layer.in_panels()) is not None]
            self._show_panels()

    def _show_panels(self) -> None:
        for layer, panels in self._panels or ():
            layer.panels = panels


def _step(stack: Stack) -> Callable[..., Tensor]:
    def step(
        z: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, position: Tensor, window: Tensor, places: list
    ) -> Tensor:
        keys_values = _BufferKeyValues(places, position, window.shape[0])
        return stack(z, Context(rope=(cos, sin), mask=mask, keys_values=keys_values))

    return step


def _compiled(function: Any) -> Callable[..., Tensor]:
    # torch limits the compiled versions per code object, so every use gets its own copy of the function.
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, None, function.__closure__)
    # Guards on modules take a tenth of a token's time; `current` does their work.
    return torch.compile(own, options={"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe})


def _bits(module: nn.Module) -> tuple:
    """Addresses of the matrices and sums of their bits, because weights can change without a new version."""
    found = []
    for weight in (part.cast().detach().flatten() for part in module.modules() if isinstance(part, Weight)):
        form = torch.uint8 if weight.numel() * weight.element_size() % 8 else torch.int64
        found.append((weight.data_ptr(), weight.dtype, int(weight.view(form).sum())))
    return tuple(found)
