"""Checkpoints of a training, written while it waits or beside its next steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hrm.training.interrupt import at_once
from hrm.training.trainer import BaseTrainer


class Saving:
    """Writes the checkpoints of a trainer, one after the other."""

    def __init__(self, trainer: BaseTrainer, directory: Path, after: Callable[[], None]) -> None:
        """A call on every process. `after` is called when a checkpoint is whole, in the thread that asked for it."""
        self.trainer, self.directory, self.after = trainer, directory, after
        self.beside = trainer.train.async_checkpoints
        self._written: Future[None] | None = None
        if self.beside:
            from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

            self._thread = ThreadPoolExecutor(1, "checkpoints")
            self._stager = DefaultStager(StagingOptions(False, False, False, False))
            self._group = None
            if trainer.sharded:  # a checkpoint's messages must not meet those of the steps
                with at_once():
                    self._group = dist.new_group(backend="gloo")

    def begin(self) -> None:
        """Write a checkpoint of this step, or begin to, when the one before is whole; a call on every process."""
        self.wait()
        packed, step = self.trainer.pack(), self.trainer.step_number
        if not self.beside:
            self.trainer.write(self.directory, step, *packed)
            self.after()
            return
        staged: Any = self._stager.stage(packed)  # type: ignore[arg-type]
        groups, state = staged
        self._written = self._thread.submit(self.trainer.write, self.directory, step, groups, state, self._group)

    def look(self) -> None:
        """`wait`, if that takes no time."""
        if self._written is not None and self._written.done():
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint that was begun is whole; raises what went wrong."""
        if self._written is not None:
            written, self._written = self._written, None
            written.result()
            self.after()
