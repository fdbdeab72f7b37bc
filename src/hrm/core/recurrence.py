"""The recurrence: two stacks of blocks, a flat list of visits, and the horizon of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrm.core.arch import ArchConfig, parse_horizon
from hrm.core.kernels import at_least_float32, rms_norm
from hrm.core.layers import UNITS, Attention, Context, GroupMixer, NeighbourMixer, PositionMLP


class Visit(NamedTuple):
    """One application of a stack; `slot` is the first of those in which its layers store keys and values."""

    role: str
    cycle: int
    step: int
    slot: int


class Schedule(NamedTuple):
    """A segment: `h_cycles` cycles of `l_cycles` steps of L and one update of H."""

    h_cycles: int
    l_cycles: int

    def visits(self, n_fast: int, n_slow: int, first_slot: int = 0) -> tuple[Visit, ...]:
        """The applications of the two stacks in order, for stacks of `n_fast` and `n_slow` slots."""
        per_cycle = self.l_cycles * n_fast + n_slow
        return tuple(
            Visit("L" if step < self.l_cycles else "H", cycle, step, first_slot + cycle * per_cycle + step * n_fast)
            for cycle in range(self.h_cycles)
            for step in range(self.l_cycles + 1)
        )

    def until(self, cycle: int, step: int) -> Interrupted:
        """This schedule, broken off after a step of L with an update of H: what the model would say by then."""
        return Interrupted(*self, cycle, step)

    def without(self, role: str) -> Reduced:
        """This schedule with one module knocked out: L takes no step, or H makes no update but one at the end, which
        is read out."""
        return Reduced(*self, role)


class _Changed(Schedule):
    """Not equal to the whole schedule of the same numbers: what is remembered by schedule is not that of this one."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and tuple.__eq__(self, other) and vars(self) == vars(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self), *self, *vars(self).values()))


class Interrupted(_Changed):
    """A schedule's visits up to one step of L, then the update of H that ends its cycle."""

    last: tuple[int, int]

    def __new__(cls, h_cycles: int, l_cycles: int, cycle: int, step: int) -> Interrupted:
        new = super().__new__(cls, h_cycles, l_cycles)
        new.last = cycle, step
        return new

    def visits(self, n_fast: int, n_slow: int, first_slot: int = 0) -> tuple[Visit, ...]:
        cycle, step = self.last
        return tuple(
            visit
            for visit in super().visits(n_fast, n_slow, first_slot)
            if visit.cycle < cycle or (visit.cycle == cycle and (visit.step <= step or visit.role == "H"))
        )


class Reduced(_Changed):
    """A schedule's visits without the steps of L, or without the updates of H but for one at the end."""

    role: str

    def __new__(cls, h_cycles: int, l_cycles: int, role: str) -> Reduced:
        new = super().__new__(cls, h_cycles, l_cycles)
        new.role = role
        return new

    def visits(self, n_fast: int, n_slow: int, first_slot: int = 0) -> tuple[Visit, ...]:
        every = super().visits(n_fast, n_slow, first_slot)
        updates = tuple(visit for visit in every if visit.role == "H")
        if self.role == "L":
            return updates
        # In the slots of the first update, which writes the keys that cycles may share.
        last = updates[0]._replace(cycle=self.h_cycles - 1)
        return (*(visit for visit in every if visit.role == "L"), last)


Horizon = Callable[[Visit, Schedule], bool]
Watch = Callable[[Visit, "Carry"], None]
"""Told the states after each visit."""


def last_step(visit: Visit, schedule: Schedule) -> bool:
    """The last step of L and the last update of H: the one-step gradient of HRM."""
    return visit.cycle == schedule.h_cycles - 1 and visit.step >= schedule.l_cycles - 1


def last_cycle(visit: Visit, schedule: Schedule) -> bool:
    """Every step of the last cycle (TRM)."""
    return visit.cycle == schedule.h_cycles - 1


def every_visit(visit: Visit, schedule: Schedule) -> bool:
    """All of them."""
    return True


def trailing(k: int) -> Horizon:
    """The last min(N, k-1) updates of H, and enough last steps of L to make k in all (HRM-Text)."""

    def horizon(visit: Visit, schedule: Schedule) -> bool:
        slow = min(schedule.h_cycles, k - 1)
        if visit.role == "H":
            return visit.cycle >= schedule.h_cycles - slow
        return visit.cycle * schedule.l_cycles + visit.step >= schedule.h_cycles * schedule.l_cycles - (k - slow)

    return horizon


def per_cycle(steps: list[int]) -> Horizon:
    """Every update of H and the last steps[h] steps of L in cycle h, the list padded with 1 on the left."""

    def horizon(visit: Visit, schedule: Schedule) -> bool:
        counts = [1] * max(0, schedule.h_cycles - len(steps)) + steps
        return visit.role == "H" or visit.step >= schedule.l_cycles - counts[visit.cycle]

    return horizon


def horizon_of(text: str) -> Horizon:
    """The horizon a configuration names, such as "last_step" or "trailing(3)"."""
    name, argument = parse_horizon(text)
    if name == "trailing":
        return trailing(argument)
    if name == "per_cycle":
        return per_cycle(argument)
    return {"last_step": last_step, "last_cycle": last_cycle}[name]


class Carry(NamedTuple):
    """The state kept between segments, each [rows, positions, dim]."""

    z_h: Tensor
    z_l: Tensor

    def select(self, rows: Tensor) -> Carry:
        """The carry of some rows, by index or mask."""
        return Carry(self.z_h[rows], self.z_l[rows])

    def detach(self) -> Carry:
        """The same values, cut off from the gradient."""
        return Carry(self.z_h.detach(), self.z_l.detach())

    def where(self, rows: Tensor, other: Carry) -> Carry:
        """`other` in the rows where the mask [rows] is true, this carry elsewhere."""
        mask = rows[:, None, None]
        return Carry(torch.where(mask, other.z_h, self.z_h), torch.where(mask, other.z_l, self.z_l))


def shorten(x: Tensor, eps: float, dim: int = -1) -> Tensor:
    """RMSNorm for vectors with a root mean square above 1; shorter ones stay the same to the last bit. A grown block
    needs this: a second full norm would change its input by `eps`."""
    wide = at_least_float32(x)
    return (wide * wide.square().mean(dim, keepdim=True).clamp(min=1).rsqrt()).to(x.dtype)


def _keep(new: Tensor, part: nn.Module) -> Tensor:
    return new


class Block(nn.Module):
    """A token mixer and a feed-forward unit, each with a residual, post-norm or pre-norm."""

    grown = False
    """Added to a trained stack: while its outputs are zero, it must return its input exactly."""

    def __init__(self, arch: ArchConfig, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.mlp = UNITS[arch.unit](arch.dim, arch)
        self.post, self.eps = arch.norm == "post", arch.norm_eps
        self.norm_dim: int = mixer.norm_dim  # type: ignore[assignment]

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int) -> Float[Tensor, "b p d"]:
        drop = context.drop or _keep
        if self.post:
            norm = shorten if self.grown else rms_norm
            z = norm(z + drop(self.mixer(z, context, slot), self.mixer), self.eps, self.norm_dim)
            return norm(z + drop(self.mlp(z, context, slot + 1), self.mlp), self.eps)
        z = z + drop(self.mixer(rms_norm(z, self.eps, self.norm_dim), context, slot), self.mixer)
        return z + drop(self.mlp(rms_norm(z, self.eps), context, slot + 1), self.mlp)


def silent(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's weights, "<matrix>.weight" to tensor, with zeros where it adds to the state: it returns its input
    until it learns."""
    outputs = {"out", "down"}
    return {name: torch.zeros_like(w) if outputs & {*name.split(".")} else w.clone() for name, w in block.items()}


def slots_per_layer(unit: str) -> int:
    """Slots of keys and values of a block: attention's, then those of its feed-forward unit."""
    return 1 + UNITS[unit].slots


class Stack(nn.Module):
    """The blocks of one module. Pre-norm stacks end in one more norm. This is what torch.compile works on."""

    def __init__(self, arch: ArchConfig, layers: int, make_mixer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(arch, make_mixer()) for _ in range(layers))
        self.slots_per_layer = slots_per_layer(arch.unit)
        self.exit_norm, self.eps = arch.norm == "pre", arch.norm_eps
        self.recompute = False

    def forward(self, z: Float[Tensor, "b p d"], context: Context, slot: int = 0) -> Float[Tensor, "b p d"]:
        for layer in self.layers:
            if self.recompute and torch.is_grad_enabled():
                z = checkpoint(layer, z, context, slot, use_reentrant=False)  # type: ignore[assignment]
            else:
                z = layer(z, context, slot)
            slot += self.slots_per_layer
        return rms_norm(z, self.eps) if self.exit_norm else z

    @property
    def slots(self) -> int:
        """How many slots of keys and values a visit uses."""
        return len(self.layers) * self.slots_per_layer


class Recurrence(nn.Module):
    """The fast and the slow stack (one object in TRM) and the loop over their visits; HRM section 2."""

    def __init__(self, arch: ArchConfig, positions: int, partitions: int = 0) -> None:
        super().__init__()

        def make_mixer() -> nn.Module:
            if arch.mixer == "groups":
                return GroupMixer(arch, partitions)
            if arch.mixer == "neighbours":
                return NeighbourMixer(arch)
            return PositionMLP(arch, positions) if arch.mixer == "mlp" else Attention(arch)

        # A plain Transformer is one stack, visited once, that starts from the input.
        plain = not arch.hierarchy
        self.fast = Stack(arch, arch.fast_layers + (arch.slow_layers if plain else 0), make_mixer)
        self.slow = None if arch.shared or plain else Stack(arch, arch.slow_layers, make_mixer)
        self.schedule = Schedule(1, 0) if plain else Schedule(arch.h_cycles, arch.l_cycles)
        self.first_state = arch.join == "first_state" or plain
        self.horizon = horizon_of(arch.horizon)

    def forward(
        self,
        carry: Carry,
        x: Float[Tensor, "b p d"],
        context: Context,
        schedule: Schedule | None = None,
        first_slot: int = 0,
        visit_with: Callable[[Stack, Tensor, Context, int], Tensor] = Stack.__call__,
        watch: Watch | None = None,
    ) -> Carry:
        """One segment from `carry` with input `x` [b, p, d]; the new carry is not detached."""
        schedule = schedule or self.schedule
        fast, slow = self.fast, self.slow or self.fast
        z_h, z_l = carry
        # Compiled code would be specialised on the slot number, so it is passed on only where it is used.
        kept = context.keys_values is not None
        for visit in schedule.visits(fast.slots, slow.slots, first_slot):
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.horizon(visit, schedule)):
                if visit.role == "L":
                    injected = z_h if self.first_state else z_h + x
                    z_l = visit_with(fast, z_l + injected, context, visit.slot if kept else 0)
                else:
                    z_h = visit_with(slow, z_h + z_l, context, visit.slot if kept else 0)
            if watch is not None:
                watch(visit, Carry(z_h, z_l))
        return Carry(z_h, z_l)
