"""What a training checkpoint holds, and how it goes in and out of a trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrm.core.recurrence import Carry
from hrm.files.reading import UserError
from hrm.puzzles.training.trainer import Slots, Trainer
from hrm.runs.checkpoint import counted

_COUNTERS = ("step_number", "seconds", "window_steps")


def pack(trainer: Trainer) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """All groups of tensors and the JSON state; a call on every process, because slots are gathered from all."""
    groups, counters = trainer.updates.pack()
    groups = {"weights": dict(trainer.model.state_dict()), "slots": _pack_slots(trainer), **groups}
    # Randomness is a pure function of (seed, step, row): the step is the random state and the data cursor.
    state = {name: getattr(trainer, name) for name in _COUNTERS} | counters | {"seed": trainer.config.seed}
    state["window"] = trainer.accelerator.reduce(trainer.window, "sum").tolist()  # type: ignore[union-attr]
    return groups, state


def unpack(trainer: Trainer, groups: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Put a checkpoint into a trainer built from the same architecture; UserError where the two do not fit."""
    for name in _COUNTERS:
        setattr(trainer, name, counted(state, name))
    if trainer.accelerator.is_main_process:
        trainer.window.copy_(torch.from_numpy(np.array(state["window"], np.float64)))
    try:
        trainer.model.load_state_dict(groups["weights"])
    except RuntimeError as error:
        raise UserError(
            f"the checkpoint does not fit the architecture (--arch...): {str(error).splitlines()[-1].strip()}"
        ) from None
    trainer.updates.unpack(groups, state)
    _unpack_slots(trainer, groups["slots"])


def _pack_slots(trainer: Trainer) -> dict[str, Tensor]:
    slots = trainer.slots._asdict()
    carry = slots.pop("carry")
    gather = trainer.accelerator.gather
    return {name: gather(tensor.contiguous()) for name, tensor in {**carry._asdict(), **slots}.items()}  # type: ignore[misc]


def _unpack_slots(trainer: Trainer, saved: dict[str, Tensor]) -> None:
    size = len(saved["halted"])
    if size != trainer.config.train.batch_size:
        raise UserError(
            f"the run has {size} puzzles in flight and --train.batch-size is {trainer.config.train.batch_size}: "
            "resume with the batch size it was started with"
        )
    device = trainer.accelerator.device
    mine = {name: tensor[trainer.rows].to(device) for name, tensor in saved.items()}
    carry = Carry(*(mine.pop(name).to(trainer.model.dtype) for name in Carry._fields))
    trainer.slots = Slots(carry, **mine)
