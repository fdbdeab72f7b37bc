"""The parts of a block as the papers write them: RMSNorm, rotary positions, attention, SwiGLU, other token mixers.

`hrm.core.kernels` has their faster forms. What a new layer must do:
- Keep its matrices in a `Weight`: `Linear`, `Embedding`, or a new class. The forward pass uses `self.cast()`, never
  `self.weight`, because models keep float32 weights and compute in bfloat16.
- Leave the cast copy to the model, which calls `refresh(dtype)` on all `weights(...)` before a forward pass. A layer
  made of Linears has nothing to do.
- A token mixer takes (z [b, p, d], context, slot) and returns what is added to z. Its `norm_dim` is the axis of the
  norm beside it. Keys and values pass through `context.keys_values`, under the given slot.
- A feed-forward unit takes the same. List it in `UNITS`; its `slots` is the number of slots that it uses itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hrm.core.arch import ArchConfig
from hrm.core.kernels import Matrix, Weight, attention, gated_silu, rms_norm, turned


def truncated_normal_(tensor: Tensor, std: float) -> Tensor:
    """Fill with a normal cut at two standard deviations, rescaled so that the result has exactly `std`."""
    # The variance of a standard normal cut at +-2 is 1 - 2*2*pdf(2) / (cdf(2) - cdf(-2)).
    kept = math.erf(2 / math.sqrt(2))
    variance = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / kept
    scale = std / math.sqrt(variance)
    with torch.no_grad():
        return nn.init.trunc_normal_(tensor, std=scale, a=-2 * scale, b=2 * scale)


class Linear(Matrix, nn.Linear):
    """A linear layer with truncated LeCun normal weights, without bias unless asked for."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        """Draw new weights."""
        truncated_normal_(self.weight, self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self.product(x)


class Embedding(Weight, nn.Embedding):
    """A table of vectors with truncated normal entries."""

    def __init__(self, rows: int, columns: int, std: float) -> None:
        self.std = std
        super().__init__(rows, columns)

    def reset_parameters(self) -> None:
        """Draw new vectors."""
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
    return turned(x, swapped, cos, sin)


@runtime_checkable
class KeyValues(Protocol):
    """What attention sees of caches and halting."""

    def update(self, keys: Tensor, values: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """Store new keys and values [b, heads, p, e] in a slot; return all that this call may look at."""
        ...


class PackedGroups:
    """Groups of positions of several grids that stand in one row, of which only some are there. Sums over a group are
    those of torch's embedding bags, which take a fifth of the time of index_add on a CPU."""

    def __init__(self, group_of: Int[Tensor, "n partitions"], counts: tuple[int, ...], sizes: tuple[int, ...]) -> None:
        """`group_of`: of each position, partition after partition; `counts` groups of each partition, and `sizes`
        positions of one where none is missing."""
        self.counts, self.sizes, self.flat = counts, sizes, group_of.flatten()
        partitions = len(sizes)
        self.source = self.flat.argsort() // partitions
        members = torch.bincount(self.flat, minlength=sum(counts))
        self.starts = members.cumsum(0) - members
        self.each = torch.arange(0, len(self.flat), partitions, device=group_of.device)
        self.weights: dict[nn.Module, list[Tensor]] = {}
        """Of the mixers that were here, where no gradient is asked for."""

    @torch.compiler.disable  # pyright: ignore[reportArgumentType]
    def mixed(self, values: Float[Tensor, "1 n d"], weights: list[Tensor]) -> Float[Tensor, "1 n e"]:
        """The sum, over the groups of a position, of what their members add up to, times the weights [e, d] of the
        partition. There are fewer groups than positions, so that the products are taken of the groups."""
        pool, spread = (_bags, _bags) if not torch.is_grad_enabled() else (_Bags.apply, _Bags.apply)
        to_groups, to_positions = (self.source, self.starts), (self.flat, self.each)
        sums: Tensor = pool(values[0], *to_groups, *to_positions)  # type: ignore[assignment]
        parts = zip(sums.split(self.counts), weights, strict=True)
        if torch.is_grad_enabled():
            heard = torch.cat([F.linear(part, weight) for part, weight in parts])
        else:
            heard = sums.new_empty(len(sums), len(weights[0]))
            for (part, weight), out in zip(parts, heard.split(self.counts), strict=True):
                torch.mm(part, weight.t(), out=out)
        return spread(heard, *to_positions, *to_groups)[None]  # type: ignore[index]


def _bags(values: Tensor, index: Tensor, starts: Tensor, *back: Tensor) -> Tensor:
    return F.embedding_bag(index, values, starts, mode="sum")


class _Bags(torch.autograd.Function):
    """Sums of the values [n, d] over the bags that begin at `starts` of `index`; the gradient is the sum over the bags
    in which each value lies."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, index: Tensor, starts: Tensor, back_index: Tensor, back_starts: Tensor
    ) -> Tensor:
        ctx.back = back_index, back_starts
        return _bags(values, index, starts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        index, starts = ctx.back
        return _bags(grads[0].contiguous(), index, starts), None, None, None, None


@dataclass(frozen=True)
class Context:
    """What blocks need besides the state: positions, mask, cache, groups, the grid."""

    rope: tuple[Tensor, Tensor] | None = None
    causal: bool = False
    mask: Bool[Tensor, "b #h p k"] | None = None
    keys_values: KeyValues | None = None
    groups: tuple[tuple[Tensor, Tensor], ...] = ()
    """For each partition of the positions: members [groups, size] and the group of each position [positions]."""
    packed: PackedGroups | None = None
    """In the place of `groups`, where the positions are some of those of several grids."""
    shape: tuple[int, int] = (0, 0)
    """Rows and columns of the grid that the positions are."""
    attend: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """Replaces torch's attention of queries, keys and values [b, heads, p, e]; it has its own mask."""
    back: Callable[[Tensor, int], Tensor] | None = None
    """Replaces `before`, what stands one position back of [b, p, e] in a slot."""
    drop: Callable[[Tensor, nn.Module], Tensor] | None = None
    """Dropout for what a part of a block adds to the state."""
    places: Int[Tensor, "b p"] | None = None
    """Where the positions stand among all keys, -1 for the last place; default: they are the last ones in order."""


class Attention(nn.Module):
    """Multi-head attention through torch's scaled_dot_product_attention, optionally with a sigmoid output gate."""

    norm_dim = -1

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = arch.heads, arch.kv_heads or arch.heads
        self.head_dim = arch.dim // arch.heads
        self.gated = arch.gate
        # One product computes queries, keys, values and the gate, in this order of rows.
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
        mixed = attention(q, k, v, context.causal, context.mask) if context.attend is None else context.attend(q, k, v)
        mixed = mixed.transpose(1, 2)
        if self.gated:
            mixed = mixed * torch.sigmoid(gate)
        return self.out(mixed.flatten(2))


def gated_rms(x: Float[Tensor, "*b two_d"], eps: float) -> Float[Tensor, "*b d"]:
    """sigmoid(gate) * rms(gate * up) for x = [gate | up] along the last axis."""
    gate, up = x.chunk(2, dim=-1)
    return torch.sigmoid(gate) * rms_norm(gate * up, eps)


class SwiGLU(nn.Module):
    """Gated feed-forward layer: down(silu(gate x) * up x), arXiv 2002.05202. With the bounded unit it is
    down(sigmoid(g) * rms(g * v)), g = gate x and v = up x: no input makes the output large."""

    slots = 0
    """Slots of `context.keys_values` that it needs besides those of attention."""

    def __init__(self, dim: int, arch: ArchConfig) -> None:
        super().__init__()
        inner = arch.inner(dim)
        self.gate_up = Linear(dim, 2 * inner)
        self.down = Linear(inner, dim)
        self.bounded, self.eps = arch.unit == "bounded", arch.norm_eps

    def gated(self, z: Float[Tensor, "b p d"]) -> Float[Tensor, "b p i"]:
        """What the down projection reads."""
        x = self.gate_up(z)
        return gated_rms(x, self.eps) if self.bounded else gated_silu(x)

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        return self.down(self.gated(z))


class ConvSwiGLU(SwiGLU):
    """A SwiGLU that sees one position back: down(silu(a * h + b * h before)), h = silu(gate x) * up x (2512.14693)."""

    slots = 1

    def __init__(self, dim: int, arch: ArchConfig) -> None:
        super().__init__(dim, arch)
        self.kernel = Linear(2, self.down.in_features)

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        h = self.gated(z)
        back, here = self.kernel.cast().unbind(1)
        last = before(h, context, slot) if context.back is None else context.back(h, slot)
        return self.down(F.silu(back * last + here * h))


def before(x: Float[Tensor, "b p e"], context: Context, slot: int) -> Float[Tensor, "b p e"]:
    """What stands one position before each, zero where that is none to be seen; kept in a slot as keys are."""
    kept = x[:, None]
    if context.keys_values is not None:
        kept, _ = context.keys_values.update(kept, kept[..., :1], slot)
    length = kept.shape[2]
    places = torch.arange(-x.shape[1], 0, device=x.device) if context.places is None else context.places
    back = (length + places - 1).clamp(min=0).expand(x.shape[:2])
    seen = length + places > 0
    if context.mask is not None:
        seen = seen & context.mask[:, 0].expand(*x.shape[:2], -1).gather(2, back[..., None])[..., 0]
    return kept[:, 0].gather(1, back[..., None].expand_as(x)) * seen[..., None]


UNITS: dict[str, type[SwiGLU]] = {"swiglu": SwiGLU, "bounded": SwiGLU, "conv": ConvSwiGLU}
"""Feed-forward layers by the name of their setting."""


class PositionMLP(SwiGLU):
    """A SwiGLU over the position axis, in place of attention; the norm after it is over positions (TRM)."""

    norm_dim = -2

    def __init__(self, arch: ArchConfig, positions: int) -> None:
        super().__init__(positions, arch)

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        return super().forward(z.transpose(1, 2), context, slot).transpose(1, 2)


class GroupMixer(nn.Module):
    """Sum gated values over every group a position belongs to and hand the sums back to its members. With one state per
    candidate this is equivariant to every symmetry of the task that permutes the groups."""

    norm_dim = -1

    def __init__(self, arch: ArchConfig, partitions: int) -> None:
        super().__init__()
        self.gate_up = Linear(arch.dim, 2 * arch.dim)
        self.out = nn.ModuleList(Linear(arch.dim, arch.dim) for _ in range(partitions))

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        values = gated_silu(self.gate_up(z))
        if (packed := context.packed) is not None:
            kept = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
            weights = packed.weights.get(self) if kept else None
            if weights is None:
                sizes = zip(self.out, packed.sizes, strict=True)
                weights = [out.cast() * (2 / size) for out, size in sizes]  # type: ignore[operator]
            if kept:
                packed.weights[self] = weights
            return packed.mixed(values, weights)  # pyright: ignore[reportAttributeAccessIssue]
        mixed = torch.zeros_like(z)
        for out, (members, group_of) in zip(self.out, context.groups, strict=True):
            count, size = members.shape
            pooled = values.index_select(1, members.flatten()).unflatten(1, (count, size)).sum(2)
            # Twice the mean: at the start the sum over partitions then has about the variance of the state.
            mixed = mixed + out(pooled * (2 / size)).index_select(1, group_of)
        return mixed


class NeighbourMixer(nn.Module):
    """Sum gated values of the four neighbours, each direction with weights of its own; nothing comes from beyond the
    edge. So a visit carries news one cell far, and the same weights fit a grid of any shape."""

    norm_dim = -1

    def __init__(self, arch: ArchConfig) -> None:
        super().__init__()
        self.gate_up = Linear(arch.dim, 2 * arch.dim)
        self.out = Linear(arch.dim, 4 * arch.dim)

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        sent = self.out(gated_silu(self.gate_up(z))).unflatten(1, context.shape)
        down, up, right, left = sent.chunk(4, dim=-1)
        mixed = F.pad(down[:, :-1], (0, 0, 0, 0, 1, 0)) + F.pad(up[:, 1:], (0, 0, 0, 0, 0, 1))
        mixed = mixed + F.pad(right[:, :, :-1], (0, 0, 1, 0)) + F.pad(left[:, :, 1:], (0, 0, 0, 1))
        return mixed.flatten(1, 2)
