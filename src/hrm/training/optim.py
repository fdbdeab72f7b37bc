"""AdamATan2, sign-SGD for tables, the averaged weights and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from hrm.training.config import OptimConfig

# Elements updated at a time on a CPU, so that a piece stays in the cache for all passes over it.
_PIECE = 1 << 18


def local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: all, unless it is sharded."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


class AdamATan2(Optimizer):
    """Adam without epsilon, in HRM's form: step lr / (1-b1^t) * atan2(m, sqrt(v) / sqrt(1-b2^t)) (arXiv 2407.05872)."""

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.95), weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                state["step"] += 1
                tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
                flat = [local(tensor).view(-1) for tensor in tensors]
                size = _PIECE if parameter.device.type == "cpu" else flat[0].numel()
                for pieces in zip(*(tensor.split(size) for tensor in flat), strict=True):
                    _atan2_update(
                        *pieces, step=int(state["step"]), **{k: group[k] for k in ("lr", "betas", "weight_decay")}
                    )


def _atan2_update(
    p: Tensor, g: Tensor, m: Tensor, v: Tensor, step: int, lr: float, betas: tuple[float, float], weight_decay: float
) -> None:
    m.lerp_(g, 1 - betas[0])
    v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
    p.mul_(1 - lr * weight_decay)
    scale = v.sqrt().div_(math.sqrt(1 - betas[1] ** step))
    p.add_(torch.atan2(m, scale), alpha=-lr / (1 - betas[0] ** step))


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """The dense optimizers; Muon takes the matrices inside the stacks and AdamW the rest."""
    parameters = dict(model.named_parameters())
    if config.name == "adam_atan2":
        return [AdamATan2(parameters.values(), config.lr, config.betas, config.weight_decay)]
    adamw: dict[str, Any] = {"betas": config.betas, "weight_decay": config.weight_decay, "fused": True}
    if config.name == "adamw":
        # What is sharded and what is not cannot be updated in one call.
        parts: list[list[nn.Parameter]] = [[], []]
        for parameter in parameters.values():
            parts[local(parameter) is not parameter].append(parameter)
        return [AdamW(part, lr=config.lr, **adamw) for part in parts if part]
    matrices = [p for name, p in parameters.items() if p.ndim == 2 and "recurrence." in name]
    taken = {id(p) for p in matrices}
    rest = [p for p in parameters.values() if id(p) not in taken]
    muon = torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.muon_weight_decay)
    return [muon, AdamW(rest, lr=config.lr, **adamw)]


def lr_factor(step: int, progress: float, config: OptimConfig) -> float:
    """Share of the learning rate at update `step` (from 1); `progress` in [0, 1] is the position after the warm-up."""
    if step < config.warmup_steps:
        return step / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    return config.min_ratio + (1 - config.min_ratio) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class EMA:
    """An exponential moving average of the parameters and of the sparse tables, kept beside the raw values."""

    def __init__(self, model: nn.Module, decay: float, tables: Mapping[str, Tensor] | None = None) -> None:
        self.decay = decay
        self.live = {**dict(model.named_parameters()), **(tables or {})}
        self.average = {name: tensor.detach().clone() for name, tensor in self.live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights by 1 - decay."""
        averages = [local(average) for average in self.average.values()]
        live = [local(tensor.detach()) for tensor in self.live.values()]
        torch._foreach_lerp_(averages, live, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights in the model inside the block."""
        raw = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self._load(self.average)
        try:
            yield
        finally:
            self._load(raw)

    @torch.no_grad()
    def _load(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self.live.items():
            tensor.copy_(values[name])


class SignSGD:
    """The update of a table's touched rows: p = p * (1 - lr*wd) - lr * sign(summed gradient), as HRM trains its puzzle
    embeddings. The module lists in `used` the row numbers and the rows [n, dim] of each forward pass."""

    def __init__(self, name: str, embedding: Any, gather: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """`name` is that of the table `embedding.weight` in the model."""
        self.embedding, self.gather = embedding, gather
        self.tables: dict[str, Tensor] = {name: embedding.weight}

    def collect(self) -> tuple[Tensor, Tensor]:
        """Row numbers and gradients [rows, dim] of this step, from all processes."""
        used, self.embedding.used = self.embedding.used, []
        ids = torch.cat([ids for ids, _ in used])
        grads = torch.cat([torch.zeros_like(rows) if rows.grad is None else rows.grad for _, rows in used])
        return self.gather(ids), self.gather(grads)

    @torch.no_grad()
    def step(self, ids: Tensor, grads: Tensor, lr: float, weight_decay: float) -> None:
        """Sum the gradients of equal rows, then move each touched row by the sign."""
        unique, where = ids.unique(return_inverse=True)
        summed = grads.new_zeros(len(unique), grads.shape[1]).index_add_(0, where, grads)
        rows = self.embedding.weight[unique]
        self.embedding.weight[unique] = rows * (1 - lr * weight_decay) - lr * summed.sign()

    def forget(self) -> None:
        """Leave out the gradients there are."""
        self.embedding.used = []
