"""A trained model with its task: text in, answers out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from hrm import tasks
from hrm.config import UserError
from hrm.models.halting import wants_to_halt
from hrm.models.puzzle import PuzzleModel, board_of, build
from hrm.runs import checkpoint as checkpoints
from hrm.runs.folder import Run
from hrm.solving import engine
from hrm.solving.answer import Answer, as_grid, confidence, in_form_of
from hrm.solving.conflicts import conflicts
from hrm.solving.engine import Job, Outcome, Rules, Segment
from hrm.tasks import PuzzleError, Task

StopRule = Literal["verifier", "q"]


class Solver:
    """Answers the questions of one task with one model. It is given questions only, never a label."""

    def __init__(
        self,
        model: PuzzleModel,
        task: Task,
        device: str | torch.device = "cpu",
        *,
        max_segments: int = 16,
        q_continue: bool = True,
        checkpoint: str = "",
        seed: int = 0,
    ) -> None:
        """`max_segments` and `q_continue` as the model was trained; `checkpoint` names it; `seed` is for restarts."""
        self.model, self.task, self.device = model.to(device), task, torch.device(device)
        self.max_segments, self.q_continue, self.checkpoint, self.seed = max_segments, q_continue, checkpoint, seed

    def rules(self, max_segments: int | None = None, restarts: int = 0, stop: StopRule = "verifier") -> Rules:
        """When puzzles leave: once the verifier accepts or, with stop "q" or without a verifier, as the Q head says."""
        max_segments = self.max_segments if max_segments is None else max_segments
        if max_segments < 1:
            raise UserError(f"{max_segments} segments are not enough for an answer (--max-segments): use 1 or more")
        if restarts < 0:
            raise UserError(f"{restarts} restarts are not possible (--restarts): use 0 or more")
        if restarts and not self.task.verifies:
            raise UserError(f"only a verifier can ask for a restart, and a {self.task.name} has none: use --restarts 0")
        return Rules(
            max_segments,
            restarts,
            self.seed,
            verify=self.task.verify if self.task.verifies else None,
            halt=partial(wants_to_halt, q_continue=self.q_continue) if stop == "q" or not self.task.verifies else None,
        )

    def solve(
        self,
        text: str,
        max_segments: int | None = None,
        restarts: int = 0,
        trace: bool = False,
        stop: StopRule = "verifier",
        observe: Callable[[Segment], None] | None = None,
    ) -> Answer:
        """Answer one question; `observe` is called after every segment. A wrong question costs no forward pass."""
        each = None if observe is None else lambda _, segment: observe(segment)
        return next(self.solve_many([text], max_segments, restarts, trace, stop, observe=each))

    def solve_many(
        self,
        texts: Iterable[str],
        max_segments: int | None = None,
        restarts: int = 0,
        trace: bool = False,
        stop: StopRule = "verifier",
        batch_size: int = 64,
        ordered: bool = True,
        observe: Callable[[int, Segment], None] | None = None,
    ) -> Iterator[Answer]:
        """Answer a stream of questions, in its order or as completed, with `batch_size` of them in a batch.

        Memory is constant: `texts` is read as slots become free. Answers do not depend on the batch size or the order,
        up to rounding in the last bits of the states.
        """
        if batch_size < 1:
            raise UserError(f"a batch of {batch_size} is not possible (--batch-size): use 1 or more")
        rules = self.rules(max_segments, restarts, stop)
        asked: dict[int, tuple[str, str]] = {}
        traces: dict[int, list[Segment]] = {}

        def jobs() -> Iterator[Job | None]:
            for index, text in enumerate(texts):
                job, reason = self._read(text)
                asked[index] = text, reason
                yield job

        def watch(index: int, segment: Segment) -> None:
            if trace:
                traces.setdefault(index, []).append(segment)
            if observe is not None:
                observe(index, segment)

        watched = watch if trace or observe is not None else None
        for index, outcome in engine.solve(self.model, jobs(), rules, batch_size, ordered, watched):
            text, reason = asked.pop(index)
            if outcome is None:
                yield Answer("invalid", text, reason=reason)
            else:
                yield self._answer(text, outcome, traces.pop(index, []) if trace else None)

    def _read(self, text: str) -> tuple[Job | None, str]:
        """The question, or None and the reason why it is none."""
        try:
            question = self.task.parse(text)
            self.task.check(question)
        except PuzzleError as error:
            return None, str(error)
        return Job(question), ""

    def _answer(self, text: str, outcome: Outcome, trace: list[Segment] | None) -> Answer:
        task = self.task
        return Answer(
            status=("solved" if task.verifies else "answered") if outcome.accepted else "unsolved",
            question=text,
            answer=in_form_of(text, task, outcome.readout) if outcome.accepted else None,
            segments=outcome.segments,
            restarts=outcome.restarts,
            confidence=confidence(outcome.q[0]),
            grid=as_grid(task, outcome.readout),
            trace=None if trace is None else [self._describe(segment) for segment in trace],
        )

    def _describe(self, segment: Segment) -> dict[str, Any]:
        return {
            "segment": segment.segment,
            "restart": segment.restart,
            "grid": as_grid(self.task, segment.readout),
            "confidence": confidence(segment.q[0]),
            "q": segment.q,
            "residual": segment.residual,
            "wrong": conflicts(self.task, segment.question, segment.readout),
        }


def load(
    path: str | Path,
    checkpoint: str | int = "best",
    device: str | None = None,
    precision: str | None = None,
    task: Task | None = None,
) -> Solver:
    """The solver of a run folder: averaged weights where there are any; the device at hand and the run's own precision.

    `checkpoint` is "best", "latest" or a step; `task` the one it was trained on, where that was one of your own.
    UserError names what is missing.
    """
    run = Run.open(path)
    where = run.checkpoint(checkpoint, partial(print, file=sys.stderr))
    tensors, _ = checkpoints.load(where, {"weights", "ema"})
    task = task or tasks.build(run.config.task)
    model = build(run.config, board_of(task, run.board["task_ids"])).eval()
    try:
        model.load_state_dict(tensors["weights"] | tensors.get("ema", {}))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} does not hold the weights that {run.path}/config.yaml describes: {reason}") from error
    model.dtype = _dtype(precision or run.config.train.precision)
    halting = run.config.halting
    return Solver(
        model,
        task,
        _device(device),
        max_segments=halting.max_segments,
        q_continue=halting.q_continue,
        checkpoint=str(where),
        seed=run.config.seed,
    )


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"unknown precision '{name}' (--precision): use float32, bfloat16 or float16")
    return dtype


def _device(name: str | None) -> torch.device:
    if name is None or name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used (--device): {reason}; use cpu or leave it out") from error
    return device
