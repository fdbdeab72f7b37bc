"""The training loop for every kind of model: steps, measurements, checkpoints, time left, interruption, result."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from safetensors.torch import save_file

from hrm.files.reading import reading
from hrm.files.records import Json
from hrm.runs import Run, checkpoint
from hrm.training.interrupt import Abandoned, Abandoning, Interrupt
from hrm.training.progress import Reporter, duration, memory_gib
from hrm.training.saving import Saving
from hrm.training.trainer import BadBatch, BaseTrainer, anyone

_LATELY = 20
"""The mean is over this many recent updates."""


class Pace:
    """Measures the seconds of an update, a measurement and a save, and of the training as a whole."""

    def __init__(self) -> None:
        self.last: dict[str, float] = defaultdict(float)
        """Seconds of each part: the latest time, or for an update the mean of recent ones."""
        self._told = time.perf_counter()
        self._lately: deque[float] = deque(maxlen=_LATELY)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block as one such part; a block that raises does not count."""
        start = time.perf_counter()
        yield
        self.last[name] = time.perf_counter() - start
        if name == "update":
            self._lately.append(self.last[name])
            self.last[name] = sum(self._lately) / len(self._lately)

    def left(self, parts: Mapping[str, int]) -> float:
        """Estimated seconds for this many of each part."""
        return sum(count * self.last[name] for name, count in parts.items())

    def spent(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        seconds, self._told = now - self._told, now
        return seconds


class Evaluator(ABC):
    """How a training is measured on held-out data."""

    compared: tuple[str, ...] = ("data_sha256", "n")
    """Entries that must be equal before two measurements can be compared."""
    nothing: float = -math.inf
    """The score of a model that has learned nothing yet; patience does not count before a better one."""

    @abstractmethod
    def __call__(self) -> Json:
        """Measure on the held-out data; the result has the `compared` entries."""

    @abstractmethod
    def score(self, measured: Json) -> float:
        """Greater is better."""

    @abstractmethod
    def sentence(self, measured: Json) -> str:
        """The measurement in one sentence, for a person."""

    @abstractmethod
    def target(self, measured: Json) -> str | None:
        """A sentence that says which target was reached, or None to continue."""


class Loop(ABC):
    """Runs steps until the end, with what is due on the way: metrics, measurements, checkpoints."""

    def __init__(self, trainer: BaseTrainer, log_every: int, measure_every: int, save_every: int) -> None:
        self.trainer, self.pace = trainer, Pace()
        self.log_every, self.measure_every, self.save_every = log_every, measure_every, save_every

    def run_steps(self) -> bool:
        """Run until the end, a measurement that ends the training, or a request to stop; False if it can be resumed."""
        trainer = self.trainer
        try:
            # The run may have been killed after this step but before its measurement.
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
        except Abandoned:  # the step or measurement was undone before this was raised
            return False
        return enough or trainer.progress >= 1

    def left(self) -> float:
        """Estimated seconds to the end, at the recent speed."""
        trainer, steps = self.trainer, self.trainer.train.steps
        done = trainer.step_number
        before = max(0, done - 1)  # the measurement and save of this step have not happened yet
        measurements = steps // self.measure_every - before // self.measure_every + (steps % self.measure_every > 0)
        saves = steps // self.save_every - before // self.save_every + 1
        seconds = self.pace.left({"update": steps - done, "measuring": measurements, "saving": saves})
        limit = 60 * trainer.train.minutes
        return min(seconds, max(0.0, limit - trainer.seconds)) if limit else seconds

    def _due(self, every: int) -> bool:
        """Whether something that happens every n steps, and at the end, is due now."""
        return self.trainer.step_number % every == 0 or self.trainer.progress >= 1

    def moved(self) -> None:  # noqa: B027
        """Called after every step."""

    @abstractmethod
    def log(self) -> None:
        """Write and show the metrics of the last steps."""

    @abstractmethod
    def measure(self) -> bool:
        """Measure, unless this step was measured; returns whether training should stop. May raise Abandoned."""

    @abstractmethod
    def save(self) -> None:
        """Write a checkpoint."""

    @abstractmethod
    def asked(self) -> bool:
        """Whether a person or the system asked to stop."""


class TrainingLoop(Loop):
    """The loop of a run folder: it keeps the best checkpoint, and ends early at a target or when patience runs out."""

    def __init__(self, run: Run, trainer: BaseTrainer, measures: Evaluator | None, reporter: Reporter) -> None:
        """`measures` is None where nothing is held out."""
        config = trainer.train
        super().__init__(trainer, config.log_every, config.eval_every, config.checkpoint_every)
        self.run, self.config = run, config
        self.measures, self.reporter = measures, reporter
        self.accelerator = trainer.accelerator
        self.measured: Json = {}
        self.measurements = [record for record in run.records() if record.get("event") == "eval"]
        # The run may have been killed before this step was measured.
        was_measured = any(record["step"] == trainer.step_number for record in self.measurements)
        self.accelerator.wait_for_everyone()
        self.saving = Saving(trainer, run.checkpoints, self._prune)
        self.saved, self.measured_at = trainer.step_number, trainer.step_number if was_measured else -1

    def follow(self, finish: Callable[[Abandoning], Json]) -> Json:
        """Train to the end or until asked to stop; returns the result, with that of `finish` if training ended."""
        run, trainer, reporter = self.run, self.trainer, self.reporter
        with Interrupt(intact=self._intact) as self.interrupt:
            if not self.accelerator.is_main_process:
                self.interrupt.says = ""
            with reporter.bar:
                finished = self._train()
            self.interrupt.says = ""  # from here on all is saved
            result: Json = {
                "state": "finished" if finished else "paused", "step": trainer.step_number,
                "training_seconds": trainer.seconds, "measuring_share": _measuring(self.measurements, trainer),
            }  # fmt: skip
            if finished or trainer.step_number:
                spent = duration(trainer.seconds)
                reporter.say(f"{result['state']} at step {trainer.step_number} after {spent} of training")
            else:
                reporter.say("stopped before the first step was done, so there is nothing to save")
            if not finished:
                reporter.say(f"continue with: hrm train --resume {run.path}")
            elif self.accelerator.is_main_process:
                self._conclude(result, finish)
            # A signal that reaches all processes ends none of them before the main one is done.
            self.accelerator.wait_for_everyone()
        return result

    def _train(self) -> bool:
        """Train, save, and at the end measure; returns whether training ended."""
        # With several processes all must finish the step together, and an exception inside compiled code is not safe.
        if self.accelerator.num_processes == 1 and not self.config.compile:
            self.trainer.abandoning = self.interrupt.abandoning
        try:
            finished = self.run_steps()
        except BadBatch as error:
            file = self.run.path / "bad_batch.safetensors"
            if self.accelerator.is_main_process:
                save_file({name: tensor.cpu().contiguous() for name, tensor in error.batch.items()}, file)
            raise BadBatch(f"{error}; its batch is in {file}", error.batch) from None
        self.save()
        if finished:
            self._measure()
        self.saving.wait()
        return finished

    def _conclude(self, result: Json, finish: Callable[[Abandoning], Json]) -> None:
        """Add what `finish` measures to the result and write it; a signal ends the measurement, not the program."""
        path = self.run.path
        self.run.set_result(result)  # a result of before must not pass for that of this training
        try:
            result |= finish(self.interrupt.abandoning)
        except Abandoned:
            self.reporter.say(
                f"stopped measuring, but the training itself is saved: hrm eval {path} measures it, and "
                f"hrm train --resume {path} writes its result.json"
            )
        self.run.set_result(result)

    def log(self) -> None:
        trainer = self.trainer
        metrics = {**trainer.metrics(), "memory_gib": memory_gib(self.accelerator.device)}
        if self.accelerator.is_main_process:
            self.run.log(metrics)
        self.reporter.show(metrics, self.config.steps, trainer.progress, self.left(), trainer.describe(metrics))

    def asked(self) -> bool:
        return anyone(bool(self.interrupt.asked), self.accelerator)

    def save(self) -> None:
        if self.saved == self.trainer.step_number:
            return
        with self.pace.part("saving"):
            self.saving.begin()
        self.saved = self.trainer.step_number

    def moved(self) -> None:
        self.saving.look()

    def _intact(self) -> str:
        """A sentence on what could be resumed if the process ended now."""
        saved = checkpoint.complete(self.run.checkpoints)
        if not saved:
            return f"there is no checkpoint yet: hrm train --resume {self.run.path} begins from the start"
        return f"the checkpoint of step {checkpoint.step_of(saved[-1])} is intact: hrm train --resume {self.run.path}"

    def _prune(self) -> None:
        if self.accelerator.is_main_process:
            checkpoint.prune(self.run.checkpoints, self.config.keep, [p for p in [self.run.best_checkpoint] if p])

    def _measure(self) -> None:
        measures, step = self.measures, self.trainer.step_number
        if measures is None or self.measured_at == step:
            return
        self.measured_at = step
        self.save()
        self.trainer.gather()
        if not self.accelerator.is_main_process:
            return
        with self.pace.part("measuring"):
            measured = self.measured = measures()
        self.saving.wait()  # what is best must be there before best.json says so
        measured["measuring_seconds"] = self.pace.last["measuring"]
        self.measurements.append(measured)
        self.reporter.say(f"step {step}: {measures.sentence(measured)}")
        best = self.run.best
        # A score on other held-out data cannot be compared.
        comparable = best is not None and all(best.get(key) == measured[key] for key in measures.compared)
        if best is not None and comparable:
            with reading(self.run.path / "best.json", "restore it, or remove it"):
                comparable = measures.score(measured) < measures.score(best)
        if not comparable:
            self.run.set_best(step, measured)
            self._prune()
        # Logged last: to a resumed run this line means that the measurement, its checkpoint and best.json are complete.
        shares = {"seconds": self.trainer.seconds, "measuring_share": _measuring(self.measurements, self.trainer)}
        self.run.log({**measured, "event": "eval", "step": step, **shares})

    def measure(self) -> bool:
        """Measure; whether training should stop. Only the main process measures, and it decides for all."""
        self._measure()
        reason = None
        if self.measures is not None and self.measurements and self.trainer.progress < 1:
            reason = self.measures.target(self.measured) if self.measured else None
            patience = self.config.patience
            if reason is None and patience and _since_best(self.measurements, self.measures) >= patience:
                reason = f"no better on held-out data in {patience} measurements: stopping"
            if reason is not None:
                self.reporter.say(reason)
        return anyone(reason is not None, self.accelerator)


def _since_best(measurements: list[Json], measures: Evaluator) -> int:
    """Measurements since the best one, for patience; 0 before any success. Those on other data do not count."""
    same = [m for m in measurements if all(m[key] == measurements[-1][key] for key in measures.compared)]
    scores = [measures.score(m) for m in same]
    best = max(scores, default=measures.nothing)
    return len(scores) - 1 - scores.index(best) if best > measures.nothing else 0


def _measuring(measurements: list[Json], trainer: BaseTrainer) -> float:
    """Share of the time so far spent on measuring held-out data."""
    measuring = sum(m.get("measuring_seconds", 0.0) for m in measurements)
    return measuring / max(1e-9, measuring + trainer.seconds)
