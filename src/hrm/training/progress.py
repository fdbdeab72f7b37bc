"""What a person sees while a model trains: a live line in a terminal, plain lines elsewhere, and the trackers."""

from __future__ import annotations

from collections.abc import Mapping

import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, filter_trackers, get_available_trackers
from rich.progress import BarColumn, Progress, TextColumn

from hrm.console import Console
from hrm.files.reading import UserError, needs
from hrm.files.records import Json
from hrm.training.config import TrainConfig

_BAR = 8
CLOCKED = (
    "seconds", "training_seconds", "measuring_seconds", "measuring_share", "steps_per_second", "puzzles_per_second",
    "tokens_per_second", "utilisation", "memory_gib",
)  # fmt: skip
"""Metrics that depend on clock and machine; a resumed run repeats all others exactly."""


def memory_gib(device: torch.device) -> float:
    """Peak memory of the accelerator, or what this process holds now on a CPU, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return psutil.Process().memory_info().rss / 2**30


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people read them."""
    whole = max(0, round(seconds))
    if whole >= 100 * 3600:
        return in_days(whole)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_days(seconds: float) -> str:
    """A long time in days, or in years."""
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 700 else f"{days / 365.25:,.0f} years"


def fitting(parts: list[str], width: int) -> str:
    """The first parts, most important first, that fit into a line of this width."""
    line = parts[0][: max(0, width)]
    for part in parts[1:]:
        if len(line) + 2 + len(part) > width:
            break
        line += f"  {part}"
    return line


class Reporter:
    """Shows metrics on stderr and hands them to the trackers; silent on all but the main process."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.device, self.shown = accelerator.device, accelerator.is_main_process
        self.console = Console(stderr=True, quiet=not self.shown)
        self.live = self.console.is_terminal and self.shown
        columns = BarColumn(bar_width=_BAR), TextColumn("{task.fields[line]}", markup=False)
        self.bar = Progress(*columns, console=self.console, disable=not self.live)
        self.job = self.bar.add_task("train", total=1.0, line="starting")
        self.trackers: list[GeneralTracker] = []
        self._tracked = config.track
        installed = [str(name) for name in get_available_trackers()]
        if missing := [name for name in config.track if name not in installed]:
            raise UserError(needs(f"--train.track {missing[0]}", missing[0], "track"))

    def start(self, accelerator: Accelerator, run: str, folder: str, config: Mapping[str, object]) -> None:
        """Open the trackers that the configuration asks for."""
        if self._tracked:
            # Otherwise TensorBoard would create a folder with the run's name inside the run.
            board = [TensorBoardTracker("tensorboard", folder)] if "tensorboard" in self._tracked else []
            others = [name for name in self._tracked if name != "tensorboard"]
            accelerator.log_with = [*board, *filter_trackers(others, folder)]  # type: ignore[arg-type]
            accelerator.project_configuration.logging_dir = folder
            # TensorBoard accepts numbers and text only.
            plain = {name: value if isinstance(value, int | float) else str(value) for name, value in config.items()}
            accelerator.init_trackers(run, plain, {"wandb": {"dir": folder}})
            self.trackers = accelerator.trackers

    def say(self, text: str) -> None:
        """Print a line."""
        if self.shown:
            (self.bar.console if self.live else self.console).print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, steps: int, step: int, seconds: float) -> None:
        """Show the expected time on the live line until the first step is done."""
        self._redraw(step / steps, [f"step {step + 1}/{steps}", f"left {duration(seconds)}"])

    def _redraw(self, progress: float, parts: list[str]) -> None:
        self.bar.update(self.job, completed=progress, line=fitting(parts, self.bar.console.width - _BAR - 1))

    def show(self, metrics: Json, total_steps: int, progress: float, left: float, details: str) -> None:
        """Redraw the live line, or print one, and feed the trackers."""
        first, loss = f"step {metrics['step']}/{total_steps}", f"loss {metrics['loss']:.4f}"
        rate, grad = f"{metrics['steps_per_second']:.2f} steps/s", f"grad {metrics['grad_norm']:.2g}"
        memory, end = f"{metrics['memory_gib']:.2f} GiB", f"left {duration(left)}"
        details += f"  residual {metrics['residual_h']:.1%}" if "residual_h" in metrics else ""
        details += f"  {metrics['utilisation']:.0%} of the FLOPs" if "utilisation" in metrics else ""
        details += f"  {metrics['skipped_updates']} skipped" if metrics.get("skipped_updates") else ""
        if self.live:
            self._redraw(progress, [first, end, f"{progress:.0%}", loss, *details.split("  "), rate, memory, grad])
        else:
            self.say("  ".join((first, loss, details, grad, rate, memory, end)))
        for tracker in self.trackers:
            numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and k != "step"}
            tracker.log(numbers, step=metrics["step"])
