"""One update of the weights: gradients are summed over processes, clipped, and skipped where they are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from hrm.files.reading import UserError, quoted
from hrm.files.records import Json
from hrm.runs.checkpoint import counted
from hrm.training.config import OptimConfig, TrainConfig
from hrm.training.optim import EMA, AdamATan2, SignSGD, build_optimizers, local, lr_factor

COUNTERS = ("grad_norm", "lr", "loss_scale", "good_steps", "bad_steps", "bad_in_a_row")


class Updates:
    """Optimizers, their learning rate and the averaged weights."""

    def __init__(
        self,
        model: nn.Module,
        optim: OptimConfig,
        train: TrainConfig,
        accelerator: Accelerator,
        sparse: SignSGD | None = None,
        optimizers: list[Optimizer] | None = None,
    ) -> None:
        """`optimizers` for parameter groups of your own; default: those in the settings, for all parameters."""
        self.model, self.optim, self.train, self.accelerator = model, optim, train, accelerator
        self.optimizers = optimizers or build_optimizers(model, optim)
        self.base_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.sparse = sparse
        self.split = [part for part in model.modules() if hasattr(part, "reshard")]  # FSDP's
        self.ema = EMA(model, optim.ema, sparse.tables if sparse else None) if optim.ema else None
        self.scales = train.precision == "float16"
        self.loss_scale = 2.0**15 if self.scales else 1.0
        self.good_steps = self.bad_steps = self.bad_in_a_row = 0
        self.grad_norm, self.lr = 0.0, 0.0
        self.grad_norms: dict[str, float] = {}
        """Of each part of the model, where the last update was `watched`."""

    def step(self, number: int, done: float, watched: bool = False) -> bool:
        """Do update `number` (from 0), after which the share `done` of the training is done, and clear the gradients;
        False if one was not finite."""
        for part in self.split:  # what was used last without gradient is still whole
            part.reshard()  # type: ignore[operator]
        task = self.sparse.collect() if self.sparse else None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        # Those that are sharded have been summed in the backward pass.
        own = [grad for grad in grads if local(grad) is grad]
        if self.accelerator.num_processes > 1 and own:
            summed = self.accelerator.reduce(torch.cat([g.flatten() for g in own]), "sum")
            for grad, total in zip(own, summed.split([g.numel() for g in own]), strict=True):  # type: ignore[union-attr]
                grad.copy_(total.view_as(grad))
        if self.loss_scale != 1:
            for grad in grads:
                grad.div_(self.loss_scale)
        norm = self._norm(grads, len(own) < len(grads))
        self.grad_norm = float(norm)
        self.grad_norms = self._norms() if watched else {}
        finite = bool(np.isfinite(self.grad_norm)) and (task is None or bool(task[1].isfinite().all()))
        if finite:
            self._move(grads, norm, task, number, done)
        else:
            self.bad_steps += 1
            self.bad_in_a_row += 1
            self.good_steps = 0
            if self.scales:
                self.loss_scale /= 2
        self.forget()
        return finite

    def _norm(self, grads: list[Tensor], sharded: bool) -> Tensor:
        """Of all gradients together, those of which each process has a part among them."""
        if not sharded:
            return torch.nn.utils.get_total_norm(grads)
        parts = torch.zeros(2, device=self.accelerator.device)
        for grad in grads:
            parts[int(local(grad) is grad)] += torch.linalg.vector_norm(local(grad)).square()
        return (self.accelerator.reduce(parts[0].clone(), "sum") + parts[1]).sqrt()  # type: ignore[operator]

    def _norms(self) -> dict[str, float]:
        """The norm of the gradients of each part of the model."""
        squares: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if (grad := parameter.grad) is None:
                continue
            words = name.removeprefix("model.").split(".")
            part = f"grad_norm_{words[1] if words[0] == 'recurrence' else words[0]}"
            square = torch.linalg.vector_norm(local(grad)).square()
            if local(grad) is grad:  # the same in every process
                square = square / self.accelerator.num_processes
            squares[part] = squares.get(part, torch.zeros_like(square)) + square
        found: Any = self.accelerator.reduce(torch.stack(list(squares.values())), "sum") if squares else []
        return {name: float(value) ** 0.5 for name, value in zip(squares, found, strict=True)}

    def forget(self) -> None:
        """Clear the gradients without an update."""
        for parameter in self.model.parameters():
            parameter.grad = None
        if self.sparse:
            self.sparse.forget()

    @property
    def hopeless(self) -> bool:
        """Whether too many updates in a row were skipped."""
        return self.bad_in_a_row >= self.train.max_bad_steps

    def complaint(self, step: int) -> str:
        """The error message for `hopeless`."""
        return (
            f"{self.bad_in_a_row} updates in a row had a non-finite loss or gradient, the last at step "
            f"{step}: lower --optim.lr, set --optim.clip, or use --train.precision float32"
        )

    def _move(
        self, grads: list[Tensor], norm: Tensor, task: tuple[Tensor, Tensor] | None, number: int, done: float
    ) -> None:
        config = self.optim
        if config.clip:
            factor = (config.clip / (norm + 1e-6)).clamp(max=1)
            for grad in grads:
                local(grad).mul_(factor)
        warmup = config.warmup_steps / self.train.steps
        after = (done - warmup) / max(1e-9, 1 - warmup)
        factor = lr_factor(number + 1, max(0.0, after), config)
        self.lr = config.lr * factor
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        for optimizer in self.optimizers:
            optimizer.step()
        if task is not None and self.sparse is not None:
            self.sparse.step(*task, lr=config.task_lr * factor, weight_decay=config.task_weight_decay)
        if self.ema:
            self.ema.update()
        self.bad_in_a_row = 0
        self.good_steps += 1
        if self.scales and self.good_steps % 1000 == 0:
            self.loss_scale = min(2 * self.loss_scale, 2.0**24)

    def pack(self) -> tuple[dict[str, dict[str, Tensor]], Json]:
        """Averaged weights and optimizer state under the parameters' names, and the counters."""
        groups = {"ema": dict(self.ema.average)} if self.ema else {}
        optimizer: dict[str, Tensor] = {}
        for part, parameter, name in self._named_parameters():
            optimizer |= {f"{name}.{key}": value for key, value in part.state.get(parameter, {}).items()}
        groups["optimizer"] = optimizer
        return groups, {name: getattr(self, name) for name in COUNTERS}

    def unpack(self, groups: dict[str, dict[str, Tensor]], state: Json) -> None:
        """Restore what `pack` returned; ValueError or UserError for anything else."""
        for name in COUNTERS:
            setattr(self, name, _counter(state, name))
        if self.ema:
            average = groups.get("ema") or groups["weights"]
            for name, tensor in self.ema.average.items():
                tensor.copy_(average[name])
        saved: dict[str, dict[str, Tensor]] = {}
        for name, value in groups["optimizer"].items():
            parameter_name, _, key = name.rpartition(".")
            saved.setdefault(parameter_name, {})[key] = value
        for part, parameter, name in self._named_parameters():
            if name in saved:
                wanted = _STATES.get(type(part), saved[name].keys())
                if wanted != saved[name].keys():
                    raise ValueError(f"its optimizer has {quoted(sorted(saved[name]))} of {name}, not {sorted(wanted)}")
                if "step" in saved[name]:
                    saved[name]["step"] = saved[name]["step"].reshape(())  # one that was sharded has a dimension
                for key, value in saved[name].items():
                    if value.dim() and value.shape != parameter.shape:
                        raise UserError(f"the optimizer's {key} of {name} is {list(value.shape)}: another checkpoint's")
                part.state[parameter] = {
                    # A fused optimizer counts on the device, the others on the CPU.
                    key: value.to(parameter.device) if key != "step" or part.defaults.get("fused") else value
                    for key, value in saved[name].items()
                }

    def _named_parameters(self) -> Iterator[tuple[Optimizer, nn.Parameter, str]]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    yield optimizer, parameter, names[id(parameter)]


_ADAM = {"step", "exp_avg", "exp_avg_sq"}
_STATES: dict[type[Optimizer], set[str]] = {AdamW: _ADAM, AdamATan2: _ADAM, Muon: {"momentum_buffer"}}
"""The state that each optimizer keeps for a parameter."""


def _counter(state: Json, name: str) -> float:
    """A counter from a checkpoint; ValueError for an impossible value."""
    value = state[name]
    if name in ("good_steps", "bad_steps", "bad_in_a_row"):
        return counted(state, name)
    if value is None and name == "grad_norm":  # a value that was not finite is null in JSON
        return math.nan
    if not isinstance(value, int | float) or type(value) is bool or not 0 <= value < math.inf:
        raise ValueError(f"its {name} is {quoted(value)}")
    return value
