"""Training on text: fresh states for every batch, a loss and a backward pass after each segment, then one update."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from hrm.runs.checkpoint import counted
from hrm.text.config import TextConfig
from hrm.text.data import Batch
from hrm.text.model import HRMForCausalLM
from hrm.text.model.loss import supervision
from hrm.training.interrupt import Abandoned
from hrm.training.loop import BadBatch, Paced
from hrm.training.randomness import uniforms
from hrm.training.updates import Updates

_EXPLORATION, _DEPTH = 4, 5
_WINDOW = ("loss", "first_loss", "token_loss", "segments", "tokens")


class Rows(Protocol):
    """Where rows of tokens come from."""

    def batch(self, seed: int, step: int, rows: range, size: int, length: int) -> Batch: ...


class TextTrainer(Paced):
    """Holds everything that changes while a model of text is trained; `step` does one update."""

    def __init__(self, config: TextConfig, model: HRMForCausalLM, data: Rows, accelerator: Accelerator) -> None:
        super().__init__(config.train, accelerator)
        self.config, self.data = config, data
        self.model = model.to(accelerator.device).train()
        dtype = getattr(torch, config.train.precision)
        model.model.compute_dtype = None if dtype == torch.float32 else dtype
        model.model.gradient_checkpointing = config.train.checkpoint_activations
        if config.train.compile:
            model.model.gathers = False
            for stack in (model.model.recurrence.fast, model.model.recurrence.slow):
                if stack is not None:
                    stack.compile(dynamic=False)
        self.updates = Updates(model, config.optim, config.train, accelerator)
        share = config.train.batch_size // accelerator.num_processes
        self.rows = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        self.wide = torch.float32 if accelerator.device.type == "mps" else torch.float64  # all that Metal has
        self.window = torch.zeros(len(_WINDOW), dtype=torch.float64)
        self.window_steps, self.window_start = 0, time.perf_counter()

    def step(self) -> None:
        """All segments of one batch, each with a backward pass, and one update of the weights."""
        started = time.perf_counter()
        train, device = self.config.train, self.accelerator.device
        size, length = train.batch_size, self.config.text.length
        batch = self.data.batch(self.config.seed, self.step_number, self.rows, size, length)
        tensors = [torch.from_numpy(array).to(device) for array in (*batch, batch.token_types)]
        draws = uniforms(self.config.seed, _EXPLORATION, self.step_number, size, 2 * length)[self.rows.start :]
        draws = draws[: len(self.rows)].reshape(len(self.rows), 2, length).transpose(1, 0, 2).astype(np.float32)
        explore = torch.from_numpy(np.ascontiguousarray(draws)).to(device)
        count = (tensors[1] != -100).sum()
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count, "sum")
        budget = self._budget()
        part = -(-len(self.rows) // train.accumulate)
        window = self.window.clone()
        try:
            with self.abandoning():
                for *rows, some in zip(*(t.split(part) for t in tensors), explore.split(part, dim=1), strict=True):
                    self._think(*rows, some, count, budget)  # type: ignore[arg-type]
        except Abandoned:
            self.window.copy_(window)
            self.updates.forget()
            raise
        self.window_steps += 1
        if not self.updates.step(self.step_number, self.share) and self.updates.hopeless:
            raise BadBatch(
                self.updates.complaint(self.step_number), dict(zip(("inputs", "labels"), tensors[:2], strict=True))
            )
        self.step_number += 1
        self.seconds = self.agreed(self.seconds + time.perf_counter() - started)

    def _budget(self) -> Any:
        """What tokens may spend in this step: the model's own, or fewer segments where depth is sampled."""
        budget = self.model.model.budget()
        if self.model.config.depth_sampling and budget.max_segments > 1:
            budget = budget.sampled(uniforms(self.config.seed, _DEPTH, self.step_number, 1, 1)[0, 0])
        return budget

    def _think(
        self, ids: Tensor, labels: Tensor, positions: Tensor, types: Tensor, draws: Tensor, count: Tensor, budget: Any
    ) -> None:
        """Forward, loss and backward for some rows, segment by segment."""
        thought = self.model.begin(input_ids=ids, position_ids=positions, token_type_ids=types, budget=budget)
        counted = labels != -100
        total, first, last = 0.0, None, None
        for loss, each in supervision(self.model, thought, budget, labels, count, draws):  # type: ignore[arg-type]
            (loss * self.updates.loss_scale).backward()
            if thought.kept is not None:
                thought.kept.forget()
            total = total + loss.detach().to(self.wide)
            first, last = (each if first is None else first), each
        assert first is not None and last is not None
        sums = (total * count, first.sum(), last.sum(), thought.depth[counted].sum(), counted.sum())
        self.window += torch.stack([torch.as_tensor(value).detach().cpu().double() for value in sums])

    def trial(self, rows: int) -> None:
        """Compute a step at full depth for some rows, of which nothing remains."""
        window, length, device = self.window.clone(), self.config.text.length, self.accelerator.device
        batch = self.data.batch(self.config.seed, self.step_number, range(rows), self.config.train.batch_size, length)
        tensors = [torch.from_numpy(array).to(device) for array in (*batch, batch.token_types)]
        draws, count = torch.zeros(2, rows, length, device=device), (tensors[1] != -100).sum().clamp(min=1)
        with torch.random.fork_rng(devices=[]):  # of dropout
            self._think(*tensors, draws, count, self.model.model.budget())  # type: ignore[call-arg]
        self.window.copy_(window)
        self.updates.forget()

    def metrics(self) -> dict[str, Any]:
        """Means over the tokens since the last call, over all processes."""
        sums = dict(zip(_WINDOW, self._window_of_all(), strict=True))
        now, tokens = time.perf_counter(), max(1.0, sums["tokens"])
        rate = max(1, self.window_steps) / max(1e-9, now - self.window_start)
        per_step = sums["tokens"] / max(1, self.window_steps)
        self.window.zero_()
        self.window_steps, self.window_start = 0, now
        return {
            "step": self.step_number,
            "loss": sums["loss"] / tokens,
            "first_loss": sums["first_loss"] / tokens,
            "token_loss": sums["token_loss"] / tokens,
            "mean_segments": sums["segments"] / tokens,
            "tokens": int(sums["tokens"]),
            "grad_norm": self.updates.grad_norm,
            "lr": self.updates.lr,
            "skipped_updates": self.updates.bad_steps,
            "steps_per_second": rate,
            "tokens_per_second": per_step * rate,
            "seconds": self.seconds,
        }

    def _window_of_all(self) -> list[float]:
        if self.accelerator.num_processes == 1:
            return self.window.tolist()
        return self.accelerator.reduce(self.window.to(self.accelerator.device), "sum").tolist()  # type: ignore[union-attr]

    @property
    def positions(self) -> int:
        """Tokens of a row."""
        return self.config.text.length

    def close(self) -> None:
        """Nothing is open."""

    def describe(self, metrics: dict[str, Any]) -> str:
        """What is worth seeing while it runs; losses in nats per token, after the first and the last segment."""
        return (
            f"nats {metrics['first_loss']:.3f} > {metrics['token_loss']:.3f}  depth {metrics['mean_segments']:.1f}  "
            f"{metrics['tokens_per_second']:.0f} tokens/s"
        )

    def pack(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """What a checkpoint holds; a call on every process. Randomness and data are functions of the step."""
        groups, counters = self.updates.pack()
        state = {"step_number": self.step_number, "seconds": self.seconds, "window_steps": self.window_steps}
        state |= counters | {"seed": self.config.seed, "window": self._window_of_all()}
        return {"weights": dict(self.model.state_dict()), **groups}, state

    def unpack(self, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Go on from a checkpoint of the same form."""
        for name in ("step_number", "seconds", "window_steps"):
            setattr(self, name, counted(state, name))
        if self.accelerator.is_main_process:
            self.window.copy_(torch.from_numpy(np.array(state["window"], np.float64)))
        self.model.load_state_dict(groups["weights"])
        self.updates.unpack(groups, state)
