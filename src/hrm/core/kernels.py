"""Faster forms of the equations in `hrm.core.layers`: low-precision copies, packed matrices, panels, the choice of
attention.

Everything here gives the numbers of the plain equation, up to rounding, and says why it is not written plainly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hrm.files.reading import UserError


def at_least_float32(x: Tensor) -> Tensor:
    """The same values in float32; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def low_precision(x: Tensor) -> bool:
    """Whether the values have 16 bits or fewer."""
    return x.element_size() <= 2


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) with a backward pass that needs the result and one factor a row, and few passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, dim: int) -> Tensor:
        wide = at_least_float32(x)
        factor = torch.rsqrt(torch.linalg.vector_norm(wide, dim=dim, keepdim=True).square() / x.shape[dim] + eps)
        y = wide.mul_(factor).to(x.dtype)  # in place: `wide` is a copy, because only 16-bit states come here
        ctx.save_for_backward(y, factor)
        ctx.dim = dim
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        y, factor = ctx.saved_tensors
        grad = grads[0].to(factor.dtype)
        mean = (grad * y).sum(ctx.dim, keepdim=True) / y.shape[ctx.dim]
        return torch.addcmul(grad, y, mean, value=-1).mul_(factor).to(y.dtype), None, None


def rms_norm(x: Tensor, eps: float, dim: int = -1) -> Tensor:
    """Weightless RMSNorm over one axis, computed in float32 or wider and returned in the dtype of `x`."""
    # The published order of operations gives the numbers of the official code to the last bit in float32, and a
    # compiler fuses it better. In low precision the rounding differs anyway, so the form with fewer passes is used.
    if not low_precision(x) or torch.compiler.is_compiling():
        wide = at_least_float32(x)
        return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)).to(x.dtype)
    if dim == -1 and not torch.is_grad_enabled():
        return F.rms_norm(x, x.shape[-1:], eps=eps)
    return _RMSNorm.apply(x, eps, dim)  # type: ignore[return-value]


def turned(x: Tensor, swapped: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x * cos + swapped * sin in the dtype of `x`, computed in float32 where that is low precision."""
    if low_precision(x):
        return torch.addcmul(x * cos, swapped, sin).to(x.dtype)
    return x * cos + swapped * sin


class _LowPrecision(torch.autograd.Function):
    """Use the low-precision copy of a weight; its gradient goes to the float32 weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].float(), None


def _refuse_qconfig(layer: Weight, value: Any) -> None:
    """UserError for torch's own quantisation, which sets `qconfig`: it knows only nn.Linear itself and would do
    nothing."""
    raise UserError(
        "torch.ao.quantization does not know the layers of this model and would leave them as they are: use torchao's "
        "quantize_, as docs/quantisation.md shows"
    )


class Weight(nn.Module):
    """A layer whose float32 matrix is used in another dtype. The cast copy is made once per change, not per use."""

    weight: nn.Parameter
    qconfig = property(fset=_refuse_qconfig)
    sharded = False
    """Each process has a part of the matrix, and what fetches the others' casts it."""
    _copy: Tensor | None = None
    _copied: tuple[int, int] | None = None

    def refresh(self, dtype: torch.dtype, changed: bool = False) -> None:
        """Update the cast copy; cheap unless the weight has changed, by its version or because `changed` says so."""
        weight = self.weight
        if dtype == weight.dtype or self.sharded:
            if self._copy is not None:
                self._copy = None
            return
        state = (weight.data_ptr(), weight._version)
        # Never an inference tensor, even if it is first made in inference mode: training may follow.
        with torch.inference_mode(False), torch.no_grad():
            if self._copy is None or self._copy.dtype != dtype or self._copy.device != weight.device:
                self._copy, self._copied = weight.to(dtype), state
            elif changed or self._copied != state:
                self._copy.copy_(weight)
                self._copied = state

    def train(self, mode: bool = True) -> Weight:
        """Also drop the cast copy: a fused optimizer changes weights without a new version."""
        self._copied = None
        return super().train(mode)

    def cast(self) -> Tensor:
        """The matrix in the dtype of the last `refresh`, for use in a forward pass."""
        return self.weight if self._copy is None else _LowPrecision.apply(self.weight, self._copy)


class Matrix(Weight):
    """A weight used as x W^T. It can also be stored in an order that a CPU reads faster."""

    in_features: int
    out_features: int
    bias: nn.Parameter | None
    packed: Tensor | None = None
    """The matrix in oneDNN's order, only inside `packed`: it can be neither copied nor saved."""
    panels: Tensor | None = None
    """The matrix as [outputs / PANEL, inputs, PANEL], padded with zeros: compiled code reads it so for a single row."""

    def product(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """x W^T plus the bias, if there is one."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if torch.compiler.is_compiling():
            if self.panels is not None and x.numel() == self.in_features:
                return by_panels(self.panels, x, self.out_features, bias)
        elif self.packed is not None and not torch.is_grad_enabled():
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, "none", [], "")
        return F.linear(x, self.cast(), bias)

    def pack(self) -> None:
        """Set `packed` where it helps: bfloat16 on a CPU with instructions for it."""
        weight = self._plain()
        if weight is None or not weight.is_contiguous():
            return
        if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
            return
        # Weights can change without a new version (fused optimizers, `.data`), so their bits are compared.
        bits = weight.flatten().view(torch.int64 if weight.numel() % 4 == 0 else torch.int16)
        state = (weight.data_ptr(), int(bits.sum()))
        known = _PACKED.get(self)
        if known is None or known[0] != state:
            known = _PACKED[self] = state, torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        self.packed = known[1]

    def _plain(self) -> Tensor | None:
        """The matrix without its history; None where it is quantised: a class of its own, which may not detach."""
        weight = self.cast()
        return weight.detach() if type(weight) in (Tensor, nn.Parameter) else None

    def in_panels(self) -> Tensor | None:
        """The value for `panels`; None for matrices of another class, such as quantised ones."""
        weight = self._plain()
        if weight is None:
            return None
        filled = F.pad(weight, (0, 0, 0, -self.out_features % PANEL))
        return filled.view(-1, PANEL, self.in_features).mT.contiguous()


def by_panels(panels: Tensor, x: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
    """The product of one row x [..., inputs] with `Matrix.panels`; meant to be compiled."""
    # A sum over the middle axis reads memory in order, and the compiler fuses the next operations into its loop.
    wide = (at_least_float32(panels) * at_least_float32(x).view(1, -1, 1)).sum(1).view(-1)
    product = wide[:outputs].view(*x.shape[:-1], -1)
    return (product if bias is None else product + bias).to(x.dtype)


PANEL = 32
"""Rows of a matrix side by side: 64 bytes of bfloat16, one cache line."""
_PACKED: WeakKeyDictionary[Matrix, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()


@contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """Inside, products on a CPU read bfloat16 matrices in oneDNN's own order, which halves the time for few rows. The
    numbers are the same. The reordered matrices stay in memory as long as the module lives."""
    layers = [part for part in module.modules() if isinstance(part, Matrix)]
    try:
        if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            for layer in layers:
                layer.pack()
        yield
    finally:
        for layer in layers:
            layer.packed = None


SHORT = 256
"""Up to this many positions a CPU is faster with plain products in low precision: the backward pass of torch's fused
attention takes six times as long there at 82 positions (benchmarks/train_step.py)."""

Attend = Callable[[Tensor, Tensor, Tensor, bool, Tensor | None], Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(e)) v of queries [b, heads, p, e], keys and values [b, kv_heads, k, e]."""
    return _fastest(q, k, causal, mask)(q, k, v, causal, mask)


def _fastest(q: Tensor, k: Tensor, causal: bool, mask: Tensor | None) -> Attend:
    """The fastest form of attention for these shapes on this device."""
    one = q.shape[2] == 1 and not causal and (mask is None or mask.shape[1] == 1)
    if q.device.type == "cpu" and low_precision(q):
        full = mask is None and not causal
        if one:
            return _one_wide
        if full and k.shape[2] <= SHORT and q.shape[1] == k.shape[1]:
            return _short_full
        if not full and k.shape[2] <= 2 * SHORT:
            return _short
    return _one if one else _fused


def _fused(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Torch's own fused attention."""
    gqa = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=gqa)


def _one(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """One query a row. Heads that share keys are treated as positions, so that torch need not repeat the keys."""
    grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).reshape(q.shape)


def _one_wide(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """One query a row in float32: low-precision attention in torch takes up to 5 times as long as widening all keys."""
    grouped, k, v = q.reshape(len(q), k.shape[1], -1, q.shape[-1]).float(), k.float(), v.float()
    if torch.compiler.is_compiling():
        # Written as sums: compiled code widens keys and values while it reads them, without a copy.
        scores = (grouped[..., None, :] * k[:, :, None]).sum(-1) * q.shape[-1] ** -0.5
        shares = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)
        return (shares[..., None] * v[:, :, None]).sum(-2).to(q.dtype).reshape(q.shape)
    return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).to(q.dtype).reshape(q.shape)


def _short_full(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Full attention (every position sees every other) by plain products."""
    flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
    scores = torch.baddbmm(flat_q.new_empty(1, 1, 1), flat_q, flat_k.mT, beta=0, alpha=q.shape[-1] ** -0.5)
    return (torch.softmax(scores, dim=-1) @ flat_v).view_as(q)


def _short(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Tensor:
    """Masked attention by plain products; the queries of heads that share keys follow one another."""
    heads, per_key = q.shape[1], q.shape[1] // k.shape[1]
    if mask is None:
        mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
    hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
    together = per_key * q.shape[2]
    if mask.shape[0] > 1 or mask.shape[1] > 1:
        hidden = hidden.expand(len(q), heads, -1, -1).reshape(-1, together, k.shape[2])
    else:
        hidden = hidden[0].repeat(1, per_key, 1)
    flat_q = q.reshape(-1, together, q.shape[-1])
    scores = torch.baddbmm(hidden, flat_q, k.flatten(0, 1).mT, alpha=q.shape[-1] ** -0.5)
    return (torch.softmax(scores, dim=-1) @ v.flatten(0, 1)).view_as(q)


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up for x = [gate | up], whose backward pass writes both halves of the gradient in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(x, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x, opened = ctx.saved_tensors
        gate, up = x.chunk(2, dim=-1)
        result = torch.empty_like(x)
        into_gate, into_up = result.chunk(2, dim=-1)
        torch.mul(grads[0], opened, out=into_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=into_gate)
        return result


def gated_silu(x: Float[Tensor, "*b two_d"]) -> Float[Tensor, "*b d"]:
    """silu(gate) * up for x = [gate | up] along the last axis."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        gate, up = x.chunk(2, dim=-1)
        # silu of a contiguous copy takes two thirds of the time, but its last bits depend on the number of rows.
        return F.silu(gate) * up
    return _GatedSiLU.apply(x)  # type: ignore[return-value]


def weights(module: nn.Module) -> Iterator[Weight]:
    """All layers of the module whose matrix is used in the forward dtype."""
    return (part for part in module.modules() if isinstance(part, Weight))
