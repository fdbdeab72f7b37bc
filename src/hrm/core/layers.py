"""The parts of a block: weightless RMSNorm, rotary positions, attention, SwiGLU and the other token mixers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hrm.core.arch import ArchConfig
from hrm.files.reading import UserError


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two standard deviations, rescaled so that the result has exactly `std`."""
    # The variance of a standard normal cut at +-2 is 1 - 2*2*pdf(2) / (cdf(2) - cdf(-2)).
    kept = math.erf(2 / math.sqrt(2))
    variance = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / kept
    scale = std / math.sqrt(variance)
    with torch.no_grad():
        return nn.init.trunc_normal_(tensor, std=scale, a=-2 * scale, b=2 * scale)


def at_least_float32(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 if that is what they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


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


def low_precision(x: Tensor) -> bool:
    """Whether the values have 16 bits or fewer."""
    return x.element_size() <= 2


def rms_norm(x: Tensor, eps: float, dim: int = -1) -> Tensor:
    """Weightless RMSNorm over one axis, computed in float32 or wider and returned in the dtype of `x`."""
    # The published order of operations: in float32 it gives the originals' numbers to the last bit, and a compiler
    # fuses it better. Low precision has its own rounding, and takes the form with fewer passes.
    if not low_precision(x) or torch.compiler.is_compiling():
        wide = at_least_float32(x)
        return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)).to(x.dtype)
    if dim == -1 and not torch.is_grad_enabled():
        return F.rms_norm(x, x.shape[-1:], eps=eps)
    return _RMSNorm.apply(x, eps, dim)  # type: ignore[return-value]


class _LowPrecision(torch.autograd.Function):
    """Use the low-precision copy of a weight; its gradient goes to the float32 weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].float(), None


def _refuse_qconfig(layer: Weight, value: Any) -> None:
    """UserError: torch's own quantisation, which marks layers so, knows only nn.Linear itself and would do nothing."""
    raise UserError(
        "torch.ao.quantization does not know the layers of this model and would leave them as they are: use torchao's "
        "quantize_, as docs/quantisation.md shows"
    )


class Weight(nn.Module):
    """A layer whose float32 matrix is used in another dtype; the cast copy is made once per change, not per use."""

    weight: nn.Parameter
    qconfig = property(fset=_refuse_qconfig)
    _copy: Tensor | None = None
    _copied: tuple[int, int] | None = None

    def refresh(self, dtype: torch.dtype, changed: bool = False) -> None:
        """Bring the cast copy up to date; cheap unless the weight is known or said to have changed."""
        weight = self.weight
        if dtype == weight.dtype:
            self._copy = None
            return
        state = (weight.data_ptr(), weight._version)
        # Not an inference tensor, also where it is first made in inference mode: training may follow.
        with torch.inference_mode(False), torch.no_grad():
            if self._copy is None or self._copy.dtype != dtype or self._copy.device != weight.device:
                self._copy, self._copied = weight.to(dtype), state
            elif changed or self._copied != state:
                self._copy.copy_(weight)
                self._copied = state

    def train(self, mode: bool = True) -> Weight:
        """Also forget what was copied: a fused optimizer changes weights without telling."""
        self._copied = None
        return super().train(mode)

    def cast(self) -> Tensor:
        """The matrix in the dtype of the last `refresh`."""
        return self.weight if self._copy is None else _LowPrecision.apply(self.weight, self._copy)


class Linear(Weight, nn.Linear):
    """A linear layer with truncated LeCun normal weights, without bias unless asked for."""

    packed: Tensor | None = None
    """The matrix as `packed` puts it, only while that is in force: it cannot be copied or saved."""
    panels: Tensor | None = None
    """The matrix [outputs / PANEL, inputs, PANEL], filled up with zeros: how compiled code reads it for one row."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        truncated_normal_(self.weight, self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if torch.compiler.is_compiling():
            if self.panels is not None and x.numel() == self.in_features:
                return by_panels(self.panels, x, self.out_features, bias)
        elif self.packed is not None and not torch.is_grad_enabled():
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, bias, "none", [], "")
        return F.linear(x, self.cast(), bias)

    def pack(self) -> None:
        """Fill `packed` where that helps: bfloat16 on a CPU that multiplies it."""
        weight = self.cast().detach()
        plain = type(weight) is Tensor and weight.is_contiguous()  # quantised matrices are classes of their own
        if not plain or weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
            return
        # Weights can change without a new version (fused optimizers, `.data`): their bits tell.
        bits = weight.flatten().view(torch.int64 if weight.numel() % 4 == 0 else torch.int16)
        state = (weight.data_ptr(), int(bits.sum()))
        known = _PACKED.get(self)
        if known is None or known[0] != state:
            known = _PACKED[self] = state, torch.ops.mkldnn._reorder_linear_weight(weight, 1)
        self.packed = known[1]

    def in_panels(self) -> Tensor | None:
        """What `panels` is to be; None for matrices of another class, such as quantised ones."""
        weight = self.cast().detach()
        if type(weight) is not Tensor:
            return None
        filled = F.pad(weight, (0, 0, 0, -self.out_features % PANEL))
        return filled.view(-1, PANEL, self.in_features).mT.contiguous()


def by_panels(panels: Tensor, x: Tensor, outputs: int, bias: Tensor | None) -> Tensor:
    """`Linear` of one row x [..., inputs], by `Linear.panels`; to be compiled."""
    # A sum over the middle axis goes through memory in order, and what follows joins the same loop.
    wide = (at_least_float32(panels) * at_least_float32(x).view(1, -1, 1)).sum(1).view(-1)
    product = wide[:outputs].view(*x.shape[:-1], -1)
    return (product if bias is None else product + bias).to(x.dtype)


PANEL = 32
"""Rows of a matrix side by side: 64 bytes of bfloat16, a line of the cache."""
_PACKED: WeakKeyDictionary[Linear, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()


@contextmanager
def packed(module: nn.Module) -> Iterator[None]:
    """Inside, products on a CPU read bfloat16 matrices in oneDNN's own order: few rows take half the time.

    The numbers are the same. The reordered matrices stay in memory as long as the module lives.
    """
    layers = [part for part in module.modules() if isinstance(part, Linear)]
    try:
        if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            for layer in layers:
                layer.pack()
        yield
    finally:
        for layer in layers:
            layer.packed = None


class Embedding(Weight, nn.Embedding):
    """A table of vectors with truncated normal entries."""

    def __init__(self, rows: int, columns: int, std: float) -> None:
        self.std = std
        super().__init__(rows, columns)

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        truncated_normal_(self.weight, self.std)

    def forward(self, ids: Int[Tensor, "*b"]) -> Float[Tensor, "*b d"]:
        return F.embedding(ids, self.cast())


def rotary_angles(positions: int, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [positions, head_dim] of the rotary embedding, rotate-half (arXiv 2104.09864)."""
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)


def rotate(
    x: Float[Tensor, "b p h e"], cos: Float[Tensor, "*c p e"], sin: Float[Tensor, "*c p e"]
) -> Float[Tensor, "b p h e"]:
    """Turn each pair (i, i + e/2) of every head by its position's angle, in float32."""
    swapped = x.roll(x.shape[-1] // 2, dims=-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    if low_precision(x):
        return torch.addcmul(x * cos, swapped, sin).to(x.dtype)
    return x * cos + swapped * sin


@runtime_checkable
class KeyValues(Protocol):
    """All that attention knows of caches and halting."""

    def update(self, keys: Tensor, values: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """Keep new keys and values [b, heads, p, e] in a slot; return all that this call may look at."""
        ...


@dataclass(frozen=True)
class Context:
    """What the blocks need besides the state."""

    rope: tuple[Tensor, Tensor] | None = None
    causal: bool = False
    mask: Bool[Tensor, "b #h p k"] | None = None
    keys_values: KeyValues | None = None
    groups: tuple[tuple[Tensor, Tensor], ...] = ()
    """For each partition of the positions: members [groups, size] and the group of each position [positions]."""
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Attention of queries to keys and values [b, heads, p, e] in place of torch's; it knows the mask."""
    drop: Callable[[Tensor, nn.Module], Tensor] | None = None
    """Dropout of what a part of a block adds to the state."""

    @property
    def full(self) -> bool:
        """Every position may look at every other."""
        return self.mask is None and not self.causal


SHORT = 256
"""Up to this many positions a CPU is faster with plain products in low precision: the backward pass of torch's fused
attention takes six times as long there at 82 positions (benchmarks/train_step.py)."""


class Attention(nn.Module):
    """Multi-head attention through torch's scaled_dot_product_attention, optionally with a sigmoid output gate."""

    norm_dim = -1

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = arch.heads, arch.kv_heads or arch.heads
        self.head_dim = arch.dim // arch.heads
        self.gated = arch.gate
        # One product makes queries, keys, values and the gate, in this order of rows.
        rows = self.heads + 2 * self.kv_heads + (self.heads if arch.gate else 0)
        self.qkv = Linear(arch.dim, rows * self.head_dim)
        self.out = Linear(arch.dim, arch.dim)

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        turned, kept = self.heads + self.kv_heads, self.kv_heads
        rows = self.qkv(z).view(*z.shape[:2], -1, self.head_dim)
        qk, v, gate = rows.split_with_sizes((turned, kept, rows.shape[2] - turned - kept), dim=2)
        if context.rope is not None:
            qk = rotate(qk, *context.rope)
        q, k = qk.split_with_sizes((self.heads, kept), dim=2)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if context.keys_values is not None:
            k, v = context.keys_values.update(k, v, slot)
        if context.attend is not None:
            mixed = context.attend(q, k, v)
        elif q.shape[2] == 1 and not context.causal and (context.mask is None or context.mask.shape[1] == 1):
            mixed = self._one(q, k, v, context.mask)
        elif (
            q.device.type == "cpu"
            and low_precision(q)
            and k.shape[2] <= SHORT
            and self.kv_heads == self.heads
            and context.full
        ):
            flat_q, flat_k, flat_v = (t.flatten(0, 1) for t in (q, k, v))
            scores = torch.baddbmm(flat_q.new_empty(1, 1, 1), flat_q, flat_k.mT, beta=0, alpha=self.head_dim**-0.5)
            mixed = (torch.softmax(scores, dim=-1) @ flat_v).view_as(q)
        elif q.device.type == "cpu" and low_precision(q) and k.shape[2] <= 2 * SHORT and not context.full:
            mixed = self._short(q, k, v, context)
        else:
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=context.mask, is_causal=context.causal, enable_gqa=self.kv_heads != self.heads
            )
        mixed = mixed.transpose(1, 2)
        if self.gated:
            mixed = mixed * torch.sigmoid(gate)
        return self.out(mixed.flatten(2))

    def _one(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """One query a row. The heads that share keys are as good as positions, and torch need not repeat the keys."""
        grouped = q.reshape(len(q), self.kv_heads, -1, self.head_dim)
        if q.device.type == "cpu" and low_precision(q):
            # Torch's attention in low precision takes up to five times as long as widening all keys.
            grouped, k, v = grouped.float(), k.float(), v.float()
            if torch.compiler.is_compiling():
                # Sums, which compiled code makes while it reads the keys and values, in no wider copy.
                scores = (grouped[..., None, :] * k[:, :, None]).sum(-1) * self.head_dim**-0.5
                shares = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)
                return (shares[..., None] * v[:, :, None]).sum(-2).to(q.dtype).reshape(q.shape)
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=mask).to(q.dtype).reshape(q.shape)

    def _short(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Masked attention by plain products; the queries of heads that share keys follow one another."""
        mask = context.mask
        if mask is None:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()[None, None]
        hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill_(~mask, -torch.inf)
        together = self.heads // self.kv_heads * q.shape[2]
        if mask.shape[0] > 1 or mask.shape[1] > 1:
            hidden = hidden.expand(len(q), self.heads, -1, -1).reshape(-1, together, k.shape[2])
        else:
            hidden = hidden[0].repeat(1, self.heads // self.kv_heads, 1)
        flat_q = q.reshape(-1, together, self.head_dim)
        scores = torch.baddbmm(hidden, flat_q, k.flatten(0, 1).mT, alpha=self.head_dim**-0.5)
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
        return F.silu(gate) * up
    return _GatedSiLU.apply(x)  # type: ignore[return-value]


def gated_rms(x: Float[Tensor, "*b two_d"], eps: float) -> Float[Tensor, "*b d"]:
    """sigmoid(gate) * rms(gate * up) for x = [gate | up] along the last axis."""
    gate, up = x.chunk(2, dim=-1)
    return torch.sigmoid(gate) * rms_norm(gate * up, eps)


class SwiGLU(nn.Module):
    """Gated feed-forward layer: down(silu(gate x) * up x), arXiv 2002.05202.

    With the bounded unit it is down(sigmoid(g) * rms(g * v)), g = gate x and v = up x: no input makes the output large.
    """

    def __init__(self, dim: int, arch: ArchConfig) -> None:
        super().__init__()
        inner = math.ceil(round(arch.expansion * dim * 2 / 3) / arch.expansion_multiple) * arch.expansion_multiple
        self.gate_up = Linear(dim, 2 * inner)
        self.down = Linear(inner, dim)
        self.bounded, self.eps = arch.unit == "bounded", arch.norm_eps

    def forward(self, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        x = self.gate_up(z)
        return self.down(gated_rms(x, self.eps) if self.bounded else gated_silu(x))


class PositionMLP(SwiGLU):
    """A SwiGLU over the position axis in the place of attention; the norm after it is over positions (TRM)."""

    norm_dim = -2

    def __init__(self, arch: ArchConfig, positions: int) -> None:
        super().__init__(positions, arch)

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:  # type: ignore[override]
        return super().forward(z.transpose(1, 2)).transpose(1, 2)


class GroupMixer(nn.Module):
    """Sum gated values over every group a position belongs to and hand the sums back to its members.

    With one state per candidate this is equivariant to every symmetry of the task that permutes the groups.
    """

    norm_dim = -1

    def __init__(self, arch: ArchConfig, partitions: int) -> None:
        super().__init__()
        self.gate_up = Linear(arch.dim, 2 * arch.dim)
        self.out = nn.ModuleList(Linear(arch.dim, arch.dim) for _ in range(partitions))

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        values = gated_silu(self.gate_up(z))
        mixed = torch.zeros_like(z)
        for out, (members, group_of) in zip(self.out, context.groups, strict=True):
            count, size = members.shape
            pooled = values.index_select(1, members.flatten()).unflatten(1, (count, size)).sum(2)
            # Twice the mean: at the start the sum over partitions then has about the variance of the state.
            mixed = mixed + out(pooled * (2 / size)).index_select(1, group_of)
        return mixed


def weights(module: nn.Module) -> Iterator[Weight]:
    """Every matrix that is used in the forward dtype."""
    return (part for part in module.modules() if isinstance(part, Weight))
