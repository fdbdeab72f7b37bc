"""Devices, processes, and the threads of a CPU for a training."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from hrm.core.devices import not_available
from hrm.files.reading import UserError
from hrm.runs import Run, threads
from hrm.training.config import TrainConfig
from hrm.training.interrupt import at_once


def make_accelerator(train: TrainConfig, flag: str = "--train.device") -> Accelerator:
    """Accelerate's view of devices and processes; one process outside `torchrun` or `accelerate launch`. Its state
    belongs to the whole process, so accelerate refuses a second one of another kind. `flag` is the verb's name for the
    device."""
    device, count = train.device, torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    launched = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    # accelerate joins processes on CPUs only on request; otherwise each would consider itself the only one.
    cpu = device == "cpu" or (device == "auto" and not count)
    if launched > max(1, count) and not cpu:
        raise UserError(f"{launched} processes and {count} accelerators: start {max(1, count)}, or use {flag} cpu")
    found = PartialState._shared_state
    if found and launched == 1 and found["num_processes"] == 1 and cpu != (found["device"].type == "cpu"):
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier training in this process
    patience = InitProcessGroupKwargs(timeout=timedelta(minutes=train.timeout))
    with at_once() if launched > 1 else nullcontext():  # here processes wait for each other
        if launched > 1 and os.environ.get("GROUP_WORLD_SIZE") == "1":
            _meet_again("gloo" if cpu else "nccl", patience.timeout)
        accelerator = Accelerator(cpu=cpu, kwargs_handlers=[patience])
    if device not in ("auto", accelerator.device.type):
        raise not_available(flag, device, accelerator.device)
    if launched > accelerator.num_processes:
        raise UserError(f"processes cannot train together on {accelerator.device.type}: use {flag} cpu")
    if train.batch_size % accelerator.num_processes:
        raise UserError(
            f"--train.batch-size {train.batch_size} must be a multiple of the number of processes, "
            f"{accelerator.num_processes}"
        )
    return accelerator


def _meet_again(backend: str, timeout: timedelta | None) -> None:
    """Join processes that torchrun has started again. All starts share its store, so each needs a part of its own: one
    that finds the addresses of processes before it waits for them forever."""
    env = os.environ
    again = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    if again == "0" or env.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    shared = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]
    store = dist.PrefixStore(f"start {again}", shared)  # type: ignore[attr-defined]
    rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def choose_threads(run: Run, accelerator: Accelerator, model: nn.Module, positions: int) -> str:
    """Set the threads of a training on a CPU and record their number in the run; returns a note for the person."""
    if accelerator.device.type != "cpu":
        return accelerator.device.type
    config = run.config
    share = positions // config.train.accumulate // accelerator.num_processes
    number, said = threads.settle(threads.work_of(model, share), config.train.threads)
    if accelerator.is_main_process and not config.train.threads:
        run.set_config(replace(config, train=replace(config.train, threads=number)))
    return f"cpu with {said}"
