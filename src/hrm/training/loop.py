"""Deep supervision: one segment, one loss, one update; puzzles stay in their slots until they halt (HRM section 2)."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from hrm.config import Config
from hrm.models.halting import continue_target, halted, wants_to_halt
from hrm.models.puzzle import PuzzleModel, Readout
from hrm.models.recurrence import Carry
from hrm.training.batches import Batch, Sampler
from hrm.training.objective import objective
from hrm.training.optim import EMA, SignSGD, build_optimizers, lr_factor

_WINDOW = ("loss", "token_loss", "halt_loss", "continue_loss", "halted", "exact", "tokens", "segments", "q_right")


class BadBatch(Exception):
    """Too many non-finite updates in a row; carries the puzzles of the last one."""

    def __init__(self, message: str, puzzles: dict[str, Tensor]) -> None:
        super().__init__(message)
        self.puzzles = puzzles


class Slots(NamedTuple):
    """The puzzles in flight: carry, segments done [b], halted [b], and the data they work on."""

    carry: Carry
    segments: Tensor
    halted: Tensor
    inputs: Tensor
    labels: Tensor
    task_ids: Tensor

    def part(self, rows: slice) -> Slots:
        """Some of the slots."""
        carry, *rest = self
        return Slots(Carry(carry.z_h[rows], carry.z_l[rows]), *(tensor[rows] for tensor in rest))


class Trainer:
    """Holds everything that changes while training; `step` does one update."""

    def __init__(self, config: Config, model: PuzzleModel, sampler: Sampler, accelerator: Accelerator) -> None:
        self.config, self.sampler, self.accelerator = config, sampler, accelerator
        self.model = model.to(accelerator.device).train()
        model.dtype = getattr(torch, config.train.precision)
        if config.train.checkpoint_activations:
            model.recompute_activations()
        if config.train.compile:
            model.compile_stacks()
        self.optimizers = build_optimizers(model, config.optim)
        self.base_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.sign_sgd = SignSGD(model.task_embedding, self._gather) if model.task_embedding is not None else None
        self.ema = EMA(model, config.optim.ema) if config.optim.ema else None
        self.step_number, self.seconds = 0, 0.0
        self.loss_scale = 2.0**15 if model.dtype == torch.float16 else 1.0
        self.good_steps = self.bad_steps = self.bad_in_a_row = 0
        self.grad_norm, self.lr = 0.0, 0.0
        rows = config.train.batch_size // accelerator.num_processes
        self.rows = slice(accelerator.process_index * rows, (accelerator.process_index + 1) * rows)
        self.slots = self._empty_slots(rows)
        self.window = torch.zeros(
            len(_WINDOW), dtype=torch.float64 if accelerator.device.type == "cpu" else torch.float32
        )
        self.window = self.window.to(accelerator.device)
        self.window_steps, self.window_start = 0, time.perf_counter()
        self.batches = None

    @property
    def progress(self) -> float:
        """Share of the training that is done, by steps or by minutes, whichever is further; in [0, 1]."""
        return self._share(self.step_number)

    def _share(self, steps: int) -> float:
        config = self.config.train
        by_time = self.seconds / (60 * config.minutes) if config.minutes else 0.0
        return min(1.0, max(steps / config.steps, by_time))

    def step(self) -> None:
        """One segment for every slot, its losses, and one update of the weights."""
        started = time.perf_counter()
        if self.batches is None:
            self.batches = self.sampler.stream(self.step_number, self.rows)
        explore = self._refill(next(self.batches))
        parts = [self._segment(rows, explore) for rows in self._parts()]
        carries, segments, stops = zip(*parts, strict=True)
        carry = Carry(torch.cat([c.z_h for c in carries]), torch.cat([c.z_l for c in carries]))
        self.slots = self.slots._replace(carry=carry, segments=torch.cat(segments), halted=torch.cat(stops))
        self._update()
        self.step_number += 1
        self.seconds = self._agreed(self.seconds + time.perf_counter() - started)

    def close(self) -> None:
        """End the thread that prepares batches."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def metrics(self) -> dict[str, Any]:
        """Means since the last call, over all processes; accuracies are of the puzzles that halted."""
        sums = dict(zip(_WINDOW, self.accelerator.reduce(self.window, "sum").tolist(), strict=True))  # type: ignore[union-attr]
        now = time.perf_counter()
        steps, size = max(1, self.window_steps), self.config.train.batch_size
        finished = max(1.0, sums["halted"])
        rate = steps / max(1e-9, now - self.window_start)
        self.window.zero_()
        self.window_steps, self.window_start = 0, now
        return {
            "step": self.step_number,
            **{name: sums[name] / steps / size for name in ("loss", "token_loss", "halt_loss", "continue_loss")},
            "exact_accuracy": sums["exact"] / finished,
            "token_accuracy": sums["tokens"] / finished,
            "mean_segments": sums["segments"] / finished,
            "q_halt_accuracy": sums["q_right"] / finished,
            "halted": int(sums["halted"]),
            "grad_norm": self.grad_norm,
            "lr": self.lr,
            "skipped_updates": self.bad_steps,
            "steps_per_second": rate,
            "puzzles_per_second": sums["halted"] / steps * rate,
            "seconds": self.seconds,
        }

    def _gather(self, tensor: Tensor) -> Tensor:
        """The rows of all processes."""
        return self.accelerator.gather(tensor)  # pyright: ignore[reportReturnType]

    def _agreed(self, seconds: float) -> float:
        """The main process's clock where time decides, so that all processes use one rate and stop at one step."""
        if self.accelerator.num_processes == 1 or not self.config.train.minutes:
            return seconds
        clock = torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(clock))  # type: ignore[arg-type]

    def _empty_slots(self, rows: int) -> Slots:
        """All halted, so that the first step fills every slot."""
        board, device = self.model.board, self.accelerator.device
        grid = torch.zeros(rows, board.cells, dtype=torch.long, device=device)
        ids = torch.zeros(rows, dtype=torch.long, device=device)
        with torch.no_grad():
            carry = self.model.initial_carry(grid, ids)
        return Slots(carry, ids.clone(), torch.ones(rows, dtype=torch.bool, device=device), grid, grid.clone(), ids)

    def _refill(self, batch: Batch) -> Tensor:
        """Give halted slots their row of the new batch; a row that is not needed is discarded. Returns the uniforms."""
        inputs, labels, ids, explore = (torch.from_numpy(a).to(self.accelerator.device) for a in batch)
        old = self.slots
        free = old.halted
        self.slots = old._replace(
            segments=torch.where(free, 0, old.segments),
            inputs=torch.where(free[:, None], inputs, old.inputs),
            labels=torch.where(free[:, None], labels, old.labels),
            task_ids=torch.where(free, ids, old.task_ids),
        )
        return explore

    def _parts(self) -> list[slice]:
        rows, parts = len(self.slots.halted), self.config.train.accumulate
        return [slice(i * rows // parts, (i + 1) * rows // parts) for i in range(parts)]

    def _segment(self, rows: slice, explore: Tensor) -> tuple[Carry, Tensor, Tensor]:
        """Forward, loss and backward for some rows; returns their detached carry, segments done and who halts."""
        config, model = self.config, self.model
        start, segments, fresh, inputs, labels, ids = self.slots.part(rows)
        carry = start.where(fresh, model.initial_carry(inputs, ids))
        carry, readout = model.segment(carry, inputs, ids)
        carry = carry.detach()
        with torch.no_grad():
            segments = segments + 1
            stop = halted(readout.q, segments, explore[rows], config.halting)
            target = None
            if config.halting.q_continue:
                next_q = model.segment(carry, inputs, ids)[1].q
                target = continue_target(next_q, segments >= config.halting.max_segments)
        losses = objective(readout, labels, target, config.loss, config.halting)
        (losses.total * (self.loss_scale / config.train.batch_size)).backward()
        self._count(losses, readout, segments, stop)
        return carry, segments, stop

    @torch.no_grad()
    def _count(self, losses: Any, readout: Readout, segments: Tensor, stop: Tensor) -> None:
        confident = wants_to_halt(readout.q, q_continue=False)
        sums = (
            losses.total, losses.token, losses.halt, losses.go_on, stop.sum(), (losses.correct & stop).sum(),
            (losses.tokens_right * stop).sum(), (segments * stop).sum(), ((confident == losses.correct) & stop).sum(),
        )  # fmt: skip
        self.window += torch.stack([value.detach().to(self.window.dtype) for value in sums])

    def _update(self) -> None:
        """Sum the gradients over processes, then move the weights, unless something is not finite."""
        self.window_steps += 1
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        task = self.sign_sgd.collect() if self.sign_sgd else None
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.accelerator.num_processes > 1:
            summed = self.accelerator.reduce(torch.cat([g.flatten() for g in grads]), "sum")
            for grad, total in zip(grads, summed.split([g.numel() for g in grads]), strict=True):  # type: ignore[union-attr]
                grad.copy_(total.view_as(grad))
        if self.loss_scale != 1:
            for grad in grads:
                grad.div_(self.loss_scale)
        norm = torch.nn.utils.get_total_norm(grads)
        self.grad_norm = float(norm)
        if np.isfinite(self.grad_norm) and (task is None or bool(task[1].isfinite().all())):
            self._apply(parameters, norm, task)
        else:
            self._skip()
        for parameter in parameters:
            parameter.grad = None

    def _apply(self, parameters: list[nn.Parameter], norm: Tensor, task: tuple[Tensor, Tensor] | None) -> None:
        config = self.config.optim
        if config.clip:
            torch.nn.utils.clip_grads_with_norm_(parameters, config.clip, norm)
        warmup = config.warmup_steps / self.config.train.steps
        after = (self._share(self.step_number + 1) - warmup) / max(1e-9, 1 - warmup)
        factor = lr_factor(self.step_number + 1, max(0.0, after), config)
        self.lr = config.lr * factor
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, base in zip(groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        for optimizer in self.optimizers:
            optimizer.step()
        if task is not None and self.sign_sgd is not None:
            self.sign_sgd.step(*task, lr=config.task_lr * factor, weight_decay=config.task_weight_decay)
        if self.ema:
            self.ema.update()
        self.bad_in_a_row = 0
        self.good_steps += 1
        if self.model.dtype == torch.float16 and self.good_steps % 1000 == 0:
            self.loss_scale = min(2 * self.loss_scale, 2.0**24)

    def _skip(self) -> None:
        """Leave the weights alone, start the rows with a broken state afresh, and give up after too many in a row."""
        self.bad_steps += 1
        self.bad_in_a_row += 1
        self.good_steps = 0
        if self.model.dtype == torch.float16:
            self.loss_scale /= 2
        slots = self.slots
        if self.bad_in_a_row >= self.config.train.max_bad_steps:
            gather = self.accelerator.gather
            puzzles: dict[str, Tensor] = {
                name: gather(getattr(slots, name)) for name in ("inputs", "labels", "task_ids")
            }  # type: ignore[misc]
            raise BadBatch(
                f"{self.bad_in_a_row} updates in a row had a non-finite loss or gradient, the last at step "
                f"{self.step_number}: lower --optim.lr, set --optim.clip, or use --train.precision float32",
                puzzles,
            )
        broken = ~(slots.carry.z_h.isfinite() & slots.carry.z_l.isfinite()).flatten(1).all(1)
        self.slots = slots._replace(halted=slots.halted | broken)
