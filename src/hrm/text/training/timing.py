"""How fast a model of text learns and writes on this machine with cycles and steps of several numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from hrm.core.devices import device_of
from hrm.core.recurrence import Schedule
from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.runs import threads
from hrm.text.config import TextConfig
from hrm.text.model import HRMConfig, HRMForCausalLM
from hrm.text.model.supervision import supervision
from hrm.text.training.plan import memory_of, shape_of

SECONDS = 2.0
"""How long training and generating are each measured, and at least once."""
SCHEDULES = tuple(Schedule(*sizes) for sizes in ((1, 1), (2, 2), (3, 2), (6, 4)))
_PROMPT, _WRITTEN = 8, 16


@dataclass(frozen=True)
class Timed(Record):
    """Tokens a second at full depth with one schedule."""

    h_cycles: int
    l_cycles: int
    own: bool
    """Whether it is the recipe's."""
    training: float
    """Forward and backward passes of all segments; the update of the weights, one a batch, is left out."""
    generating: float
    """Of one text, with the cache."""


@dataclass(frozen=True)
class Timing(Record):
    """What was measured, and where."""

    device: str
    threads: int
    rows: int
    """Of a training step."""
    seconds: float
    schedules: list[Timed]


def timed(
    config: TextConfig,
    schedules: Sequence[Schedule] = (),
    seconds: float | None = None,
    progress: Callable[[float], object] = lambda share: None,
) -> Timing:
    """Each schedule (default: SCHEDULES) once, the recipe's own among them. The weights are random: they cost the same.
    UserError for a model that this machine has no room for."""
    shape, device = shape_of(config), device_of(config.train.device)
    if not shape.hierarchy and schedules:
        raise UserError("a model without hierarchy has no schedule: leave out --schedules")
    own, seconds = Schedule(*shape.schedule), SECONDS if seconds is None else seconds
    schedules = schedules or (SCHEDULES if shape.hierarchy else ())
    rows = 1 if device.type == "cpu" else -(-config.train.batch_size // config.train.accumulate)
    _check_room(config, shape, rows, device)
    torch.manual_seed(config.seed)
    model = HRMForCausalLM(shape).to(device)
    model.compute_dtype = getattr(torch, config.train.precision)
    model.model.gradient_checkpointing = config.train.checkpoint_activations
    threads.settle_for(model, rows * config.text.length, config.train.threads)
    ids = torch.randint(shape.vocab_size, (rows, config.text.length), device=device)
    found: list[Timed] = []
    wanted = sorted({own, *schedules}, key=lambda one: (one.h_cycles * (one.l_cycles + 1), one))
    for schedule in wanted:
        learned = _rate(lambda schedule=schedule: _learn(model, ids, schedule), seconds, device)
        written = _rate(lambda schedule=schedule: _write(model, ids, schedule), seconds, device)
        found.append(Timed(*schedule, schedule == own, learned, written))
        progress(len(found) / len(wanted))
    return Timing(device.type, torch.get_num_threads(), rows, seconds, found)


def _rate(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Tokens a second of work that returns its tokens, after one try that does not count."""
    work()
    _settle(device)
    start, tokens = time.perf_counter(), 0
    while not tokens or time.perf_counter() - start < seconds:
        tokens += work()
        _settle(device)
    return tokens / (time.perf_counter() - start)


def _learn(model: HRMForCausalLM, ids: Tensor, schedule: Schedule) -> int:
    model.train().requires_grad_(True).zero_grad()
    budget, draws = model.budget(halting="fixed", schedule=schedule), torch.zeros(2, *ids.shape, device=ids.device)
    thought = model.begin(input_ids=ids, budget=budget)
    for loss, _ in supervision(model, thought, budget, ids, ids.numel(), draws):
        if loss.requires_grad:
            loss.backward()
            thought.forget()
    return ids.numel()


@torch.inference_mode()
def _write(model: HRMForCausalLM, ids: Tensor, schedule: Schedule) -> int:
    prompt = ids[:1, : min(_PROMPT, ids.shape[1])]
    model.eval().generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=_WRITTEN, do_sample=False, eos_token_id=None,
        pad_token_id=0, halting="fixed", schedule=list(schedule),
    )  # fmt: skip
    return _WRITTEN


def _settle(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _check_room(config: TextConfig, shape: HRMConfig, rows: int, device: torch.device) -> None:
    wanted = memory_of(config, rows, shape).total(rows)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if wanted > free:
        sizes = f"{wanted / 2**30:.1f} GiB, and {free / 2**30:.1f} are free here"
        raise UserError(f"to time this takes about {sizes}: make the model smaller, or leave out --time")
