"""The loop of a training, whatever is trained: steps, measurements, checkpoints, time left, interruption, result."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from hrm.files.reading import reading
from hrm.files.records import Json
from hrm.runs import Run, checkpoint
from hrm.training.config import TrainConfig
from hrm.training.interrupt import Abandoned, Interrupt
from hrm.training.pace import Pace
from hrm.training.progress import Reporter, duration, memory_gib
from hrm.training.trainer import BadBatch, BaseTrainer


class Measures(ABC):
    """How a training is measured on held-out data."""

    compared: tuple[str, ...] = ("data_sha256", "n")
    """Entries of a measurement that must be equal for two to compare."""
    nothing: float = -math.inf
    """The score of a model that has learned nothing yet; patience does not count before a better one."""

    @abstractmethod
    def __call__(self) -> Json:
        """A measurement, with what is compared."""

    @abstractmethod
    def score(self, measured: Json) -> float:
        """Greater is better."""

    @abstractmethod
    def sentence(self, measured: Json) -> str:
        """What a person wants to know of it."""

    @abstractmethod
    def target(self, measured: Json) -> str | None:
        """What was reached, if that is enough to stop."""


class Loop(ABC):
    """Steps to an end, what is due on the way, and how much time is left."""

    def __init__(self, trainer: BaseTrainer, log_every: int, measure_every: int, save_every: int) -> None:
        self.trainer, self.pace = trainer, Pace()
        self.log_every, self.measure_every, self.save_every = log_every, measure_every, save_every

    def run_steps(self) -> bool:
        """Steps until the end, or until a measurement or somebody stops them; False where it is to be resumed."""
        trainer = self.trainer
        try:
            # What was to be measured at the very step of the start may not have been.
            enough = trainer.step_number > 0 and self._due(self.measure_every) and self.measure()
            while not enough and trainer.progress < 1:
                with self.pace.part("update"):
                    trainer.step()
                self.moved()
                if self._due(self.log_every):
                    self.log()
                enough = self._due(self.measure_every) and self.measure()
                if trainer.step_number % self.save_every == 0:
                    self.save()
                if self.asked():
                    break
        except Abandoned:  # all is as it was before the step or the measurement
            return False
        return enough or trainer.progress >= 1

    def left(self) -> float:
        """Seconds to the end, if everything takes as long as it did lately."""
        trainer, steps = self.trainer, self.trainer.train.steps
        done = trainer.step_number
        before = max(0, done - 1)  # what comes at this very step is still to come
        measurements = steps // self.measure_every - before // self.measure_every + (steps % self.measure_every > 0)
        saves = steps // self.save_every - before // self.save_every + 1
        seconds = self.pace.left({"update": steps - done, "measuring": measurements, "saving": saves})
        limit = 60 * trainer.train.minutes
        return min(seconds, max(0.0, limit - trainer.seconds)) if limit else seconds

    def _due(self, every: int) -> bool:
        """Whether something that comes at every n-th step and at the end is due now."""
        return self.trainer.step_number % every == 0 or self.trainer.progress >= 1

    def moved(self) -> None:  # noqa: B027
        """After every step."""

    @abstractmethod
    def log(self) -> None:
        """Write and show what the last steps brought."""

    @abstractmethod
    def measure(self) -> bool:
        """Measure, unless that is done; whether what was found is enough to stop. It may raise Abandoned."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint."""

    @abstractmethod
    def asked(self) -> bool:
        """Whether somebody wants it to stop."""


class TrainingLoop(Loop):
    """The loop of a run that is trained once: it keeps the best checkpoint, and ends early at a target."""

    def __init__(
        self,
        run: Run,
        trainer: BaseTrainer,
        config: TrainConfig,
        measures: Measures | None,
        reporter: Reporter,
    ) -> None:
        """`measures` is None where nothing is held out."""
        super().__init__(trainer, config.log_every, config.eval_every, config.checkpoint_every)
        self.run, self.config = run, config
        self.measures, self.reporter = measures, reporter
        self.accelerator = trainer.accelerator
        self.measured: Json = {}
        self.measurements = [record for record in run.records() if record.get("event") == "eval"]
        # A kill may have prevented that the step of the start was measured.
        was_measured = any(record["step"] == trainer.step_number for record in self.measurements)
        self.accelerator.wait_for_everyone()
        self.saved, self.measured_at = trainer.step_number, trainer.step_number if was_measured else -1

    def follow(self, finish: Callable[[], Json]) -> Json:
        """Train to the end or until asked to stop; returns the result, to which `finish()` adds at the end."""
        run, trainer, reporter = self.run, self.trainer, self.reporter
        with Interrupt(stands=self._stands) as self.interrupt, reporter.bar:
            # Of several processes one alone cannot leave a step; and what is compiled is no time to be disturbed.
            if self.accelerator.num_processes == 1 and not self.config.compile:
                trainer.abandoning = self.interrupt.abandoning
            try:
                finished = self.run_steps()
            except BadBatch as error:
                file = run.path / "bad_batch.safetensors"
                if self.accelerator.is_main_process:
                    save_file({name: tensor.cpu().contiguous() for name, tensor in error.batch.items()}, file)
                raise BadBatch(f"{error}; its batch is in {file}", error.batch) from None
            self.save()
            if finished:
                self._measure()
        result = {
            "state": "finished" if finished else "paused",
            "step": trainer.step_number,
            "training_seconds": trainer.seconds,
            "measuring_share": _measuring(self.measurements, trainer),
        }
        if finished or trainer.step_number:
            spent = duration(trainer.seconds)
            reporter.say(f"{result['state']} at step {trainer.step_number} after {spent} of training")
        else:
            reporter.say("stopped before the first step was done, so there is nothing to save")
        if not finished:
            reporter.say(f"continue with: hrm train --resume {run.path}")
        elif self.accelerator.is_main_process:
            result |= finish()
            run.set_result(result)
        return result

    def log(self) -> None:
        trainer = self.trainer
        metrics = {**trainer.metrics(), "memory_gib": memory_gib(self.accelerator.device)}
        if self.accelerator.is_main_process:
            self.run.log(metrics)
        self.reporter.show(metrics, self.config.steps, trainer.progress, self.left(), trainer.describe(metrics))

    def asked(self) -> bool:
        return _anyone(bool(self.interrupt.asked), self.accelerator)

    def save(self) -> None:
        if self.saved == self.trainer.step_number:
            return
        with self.pace.part("saving"):
            groups, state = self.trainer.pack()
            if self.accelerator.is_main_process:
                checkpoint.save(self.run.checkpoints, self.trainer.step_number, groups, state)
                self._prune()
        self.saved = self.trainer.step_number

    def _stands(self) -> str:
        """What is left of the training, should it end now."""
        saved = checkpoint.complete(self.run.checkpoints)
        if not saved:
            return f"there is no checkpoint yet: hrm train --resume {self.run.path} begins from the start"
        return f"the checkpoint of step {checkpoint.step_of(saved[-1])} stands: hrm train --resume {self.run.path}"

    def _prune(self) -> None:
        checkpoint.prune(self.run.checkpoints, self.config.keep, [p for p in [self.run.best_checkpoint] if p])

    def _measure(self) -> None:
        measures, step = self.measures, self.trainer.step_number
        if measures is None or self.measured_at == step:
            return
        self.measured_at = step
        self.save()
        if not self.accelerator.is_main_process:
            return
        with self.pace.part("measuring"):
            measured = self.measured = measures()
        measured["measuring_seconds"] = self.pace.last["measuring"]
        self.measurements.append(measured)
        self.reporter.say(f"step {step}: {measures.sentence(measured)}")
        best = self.run.best
        # Scores on other data do not compare.
        comparable = best is not None and all(best.get(key) == measured[key] for key in measures.compared)
        if best is not None and comparable:
            with reading(self.run.path / "best.json", "restore it, or remove it"):
                comparable = measures.score(measured) < measures.score(best)
        if not comparable:
            self.run.set_best(step, measured)
            self._prune()
        # Last, because a resumed run takes the line as a sign that all of this is done.
        shares = {"seconds": self.trainer.seconds, "measuring_share": _measuring(self.measurements, self.trainer)}
        self.run.log({**measured, "event": "eval", "step": step, **shares})

    def measure(self) -> bool:
        """Measure; whether that is enough, by the word of the main process: no other one measures."""
        self._measure()
        reason = None
        if self.measures is not None and self.measurements and self.trainer.progress < 1:
            reason = self.measures.target(self.measured) if self.measured else None
            patience = self.config.patience
            if reason is None and patience and _since_best(self.measurements, self.measures) >= patience:
                reason = f"no better on held-out data in {patience} measurements: stopping"
            if reason is not None:
                self.reporter.say(reason)
        return _anyone(reason is not None, self.accelerator)


def _since_best(measurements: list[Json], measures: Measures) -> int:
    """How many measurements came after the best one, once anything was right; those on other data do not count."""
    same = [m for m in measurements if all(m[key] == measurements[-1][key] for key in measures.compared)]
    scores = [measures.score(m) for m in same]
    best = max(scores, default=measures.nothing)
    return len(scores) - 1 - scores.index(best) if best > measures.nothing else 0


def _measuring(measurements: list[Json], trainer: BaseTrainer) -> float:
    """Share of the time so far that measuring on held-out data took."""
    measuring = sum(m.get("measuring_seconds", 0.0) for m in measurements)
    return measuring / max(1e-9, measuring + trainer.seconds)


def _anyone(yes: bool, accelerator: Accelerator) -> bool:
    """Whether it is so in any process; all must agree before they stop."""
    if accelerator.num_processes == 1:
        return yes
    flag = torch.tensor([float(yes)], device=accelerator.device)
    return bool(accelerator.reduce(flag, "sum") > 0)  # type: ignore[operator]
