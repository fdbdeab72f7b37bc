"""A trained model with its task: text in, answers out."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hrm.core.devices import device_of, dtype_of
from hrm.core.halting import wants_to_halt
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.puzzles import solvers, tasks
from hrm.puzzles.config import Config, DeductionConfig, Strategy
from hrm.puzzles.model import PuzzleModel, board_of, build
from hrm.puzzles.solving import engine
from hrm.puzzles.solving.answer import Answer, as_grid, confidence, in_form_of, listed, text_of
from hrm.puzzles.solving.engine import Attempt, Deduce, Job, Outcome, Rules, Segment
from hrm.puzzles.tasks import PuzzleError, Symmetry, Task
from hrm.runs import checkpoint as checkpoints
from hrm.runs.folder import Run
from hrm.settings import check_ranges

Question = str | bytes | Sequence[object] | np.ndarray
"""What can be asked: text, or rows or cells in lists and arrays."""
MOST_ATTEMPTS = 1_000_000
"""At one puzzle."""
MOST_SEGMENTS, MOST_DECISIONS = 3000, 100_000
"""Of a model that deduces, where none are said."""


class Asked(NamedTuple):
    """A question as text, and parsed, or None and the reason why it is none."""

    text: str
    job: Job | None
    reason: str = ""
    task: Task | None = None
    """That of its shape, where the solver's own has another one."""


class Solver:
    """Answers the questions of one task with one model, or several in turn. It is never given a label."""

    def __init__(
        self,
        models: PuzzleModel | Sequence[PuzzleModel],
        task: Task,
        device: str | torch.device = "cpu",
        *,
        max_segments: int = 16,
        q_continue: bool = True,
        calibration: tuple[float, float] = (1.0, 0.0),
        strategy: Strategy = Strategy(),  # noqa: B008
        checkpoint: str = "",
        seed: int = 0,
        deduction: DeductionConfig = DeductionConfig(),  # noqa: B008
    ) -> None:
        """`max_segments` and `q_continue` as the models were trained; `checkpoint` names them; `seed` is for restarts
        and views. `calibration` (scale, shift) turns q_halt into a confidence, sigmoid(scale * q + shift); `strategy`
        holds where segments, restarts and views are not said."""
        self.models = [models] if isinstance(models, PuzzleModel) else list(models)
        self.task, self.device = task, torch.device(device)
        for model in self.models:
            model.to(device)
        self.max_segments, self.q_continue, self.checkpoint, self.seed = max_segments, q_continue, checkpoint, seed
        self.calibration, self.deduction = calibration, deduction
        self._strategy = strategy

    @property
    def model(self) -> PuzzleModel:
        """The first model."""
        return self.models[0]

    @property
    def deduces(self) -> bool:
        """Whether the models kill candidates and decide, instead of answering whole."""
        return self.model.arch.deduces

    def complete(self, strategy: Strategy) -> Strategy:
        """The strategy with this solver's own segments, restarts, views and guesses where none are said."""
        last = {"max_segments": self.max_segments, "restarts": 0, "views": 1, "guesses": 0}
        if self.deduces:
            last |= {"max_segments": MOST_SEGMENTS, "guesses": MOST_DECISIONS}
        chosen = [vars(strategy), vars(self._strategy), last]
        return replace(strategy, **{name: next(c[name] for c in chosen if c[name] is not None) for name in last})

    def rules(self, strategy: Strategy) -> Rules:
        """When puzzles leave and what is tried with them; UserError names the flag of an impossible setting."""
        strategy = self.complete(strategy)
        most, restarts, views, guesses = strategy.max_segments, strategy.restarts, strategy.views, strategy.guesses
        assert most is not None and restarts is not None and views is not None and guesses is not None
        check_ranges(strategy)
        if (many := (restarts + 1) * views * len(self.models)) > MOST_ATTEMPTS:
            made = f"--restarts {restarts} with --views {views} make {many:,} attempts"
            raise UserError(f"{made}: use at most {MOST_ATTEMPTS:,}")
        verifies = self.task.verifies
        if views > 1 and not self.task.uniforms:
            raise UserError(f"--views {views} needs symmetries, and a {self.task.name} has none: use --views 1")
        if guesses and not self.task.can_guess:
            lacks = f"needs cells that are blank, and a {self.task.name} has none"
            raise UserError(f"--guesses {guesses} {lacks}: leave it out")
        if "verifier" in strategy.stop and len(strategy.stop) > 1 and not verifies:
            raise UserError(f"--stop verifier is not possible, a {self.task.name} has none: use --stop q")
        by_q = "q" in strategy.stop or not verifies
        # Every model sees every view before anything begins from another state, and then with a guess.
        count = len(self.models)
        attempts = [Attempt(m, v, n) for n, v, m in product(range(restarts + 1), range(views), range(count))]
        made = 0 if self.deduces else guesses
        attempts += [Attempt(guess % count, guess // count % views, guess=guess) for guess in range(1, made + 1)]
        return Rules(
            most, attempts, self.seed,
            verify=self.task.verify if verifies else None,
            early="verifier" in strategy.stop,
            halt=partial(wants_to_halt, q_continue=self.q_continue, margin=strategy.margin) if by_q else None,
            still=strategy.residual if "residual" in strategy.stop else 0.0, rests=True,
            budget=strategy.budget, view=partial(self._view, self.task),
            guess=partial(self._guess, self.task) if made else None, vote=strategy.vote,
            deduce=Deduce(self.deduction.solving_segments, self.deduction.kill, guesses if self.deduces else None),
        )  # fmt: skip

    def solve(
        self, question: Question, trace: bool = False, observe: Callable[[Segment], None] | None = None, **strategy: Any
    ) -> Answer:
        """Answer one question: text in any form, or lists and arrays of its cells. `strategy` are fields of
        hrm.puzzles.config.Strategy, such as restarts=8. `observe` is called after every segment. A wrong question costs
        no forward pass."""
        each = None if observe is None else lambda _, segment: observe(segment)
        return next(self.solve_many([question], trace, observe=each, **strategy))

    def solve_many(
        self,
        texts: Iterable[Question],
        trace: bool = False,
        batch_size: int = 64,
        ordered: bool = True,
        observe: Callable[[int, Segment], None] | None = None,
        **strategy: Any,
    ) -> Iterator[Answer]:
        """Answer a stream of questions, in its order or as completed, with `batch_size` of them in a batch. Memory is
        constant: `texts` is read as slots become free. Answers do not depend on the batch size or the order, up to
        rounding in the last bits of the states."""
        if batch_size < 1:
            raise UserError(f"--batch-size {batch_size} is not possible: use 1 or more")
        rules = self.rules(Strategy.of(strategy))
        asked: dict[int, Asked] = {}
        traces: dict[int, list[Segment]] = {}

        def jobs() -> Iterator[Job | None]:
            for index, question in enumerate(texts):
                asked[index] = self.read(question)
                yield asked[index].job

        def watch(index: int, segment: Segment) -> None:
            if trace:
                traces.setdefault(index, []).append(segment)
            if observe is not None:
                observe(index, segment)

        watched = watch if trace or observe is not None else None
        for index, outcome in engine.solve(self.models, jobs(), rules, batch_size, ordered, watched):
            yield self.answer(asked.pop(index), outcome, traces.pop(index, []) if trace else None)

    def confidence(self, q: tuple[float, ...]) -> float:
        """The chance that a readout with these values is right, as measured on held-out puzzles after training."""
        scale, shift = self.calibration
        return confidence(scale * q[0] + shift)

    def read(self, question: Question) -> Asked:
        """A question in any form, parsed and checked; no forward pass."""
        text = question if isinstance(question, str) else ""
        try:
            text = text_of(question, self.task)
            task = self.task.fitting(text)
            tokens = task.parse_bounded(text)
            task.check(tokens)
        except PuzzleError as error:
            return Asked(text, None, str(error))
        if not self.task.any_size:
            return Asked(text, Job(tokens))
        return Asked(text, Job(tokens, shape=task.shape, adapt=partial(self._adapted, task)), task=task)

    def answer(self, asked: Asked, outcome: Outcome | None, trace: Sequence[Segment] | None = None) -> Answer:
        """What is said of a question and its outcome, None where it was invalid."""
        if outcome is None:
            return Answer("invalid", asked.text, reason=asked.reason)
        task, readout, attempt = asked.task or self.task, outcome.readout, outcome.attempt
        return Answer(
            status=("solved" if task.verifies else "answered") if outcome.accepted else "unsolved",
            question=asked.text, answer=in_form_of(asked.text, task, readout) if outcome.accepted else None,
            segments=outcome.segments, attempts=outcome.attempts, view=attempt.view, model=attempt.model,
            guess=attempt.guess, decisions=outcome.decisions, confidence=self.confidence(outcome.q),
            grid=as_grid(task, readout),
            trace=None if trace is None else [self.describe(segment, task) for segment in trace],
        )  # fmt: skip

    def describe(self, segment: Segment, task: Task | None = None) -> Json:
        """A segment as the trace of an answer holds it; `task` is that of its shape."""
        task, deduced = task or self.task, segment.deduced
        found = {
            "segment": segment.segment, "attempt": segment.attempt, "grid": as_grid(task, segment.readout),
            "confidence": self.confidence(segment.q), "q": segment.q, "residual": segment.residual,
            "wrong": task.wrong(segment.question, segment.readout),
        }  # fmt: skip
        if deduced is not None:
            found["deduced"] = {
                "candidates": listed(task, deduced.candidates), "killed": listed(task, deduced.killed),
                "decided": np.flatnonzero(deduced.decided).tolist(), "depth": deduced.depth,
                "decisions": deduced.decisions, "refused": deduced.refused,
            }  # fmt: skip
        return found

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of one segment of one puzzle, 2 for a multiply-add, counted without computing."""
        # What a model that deduces computes depends on the numbers; it is that of an empty grid.
        device = "cpu" if self.deduces else "meta"
        with torch.device(device), torch.no_grad(), FlopCounterMode(display=False) as counter:
            model = PuzzleModel(self.model.arch, self.model.board).to(device)
            inputs, ids = torch.ones(1, model.board.cells, dtype=torch.long), torch.zeros(1, dtype=torch.long)
            model.segment(model.initial_carry(inputs, ids), inputs, ids)
        return counter.get_total_flops()

    def on(self, shape: tuple[int, int]) -> Solver:
        """The same solver for puzzles of one other shape; for models that fit any."""
        solver = copy.copy(self)
        solver.models, solver.task = [model.on(shape) for model in self.models], self.task.of_shape(*shape)
        return solver

    def fitting(self, text: str) -> Solver:
        """The solver for the shape of one question's text."""
        with suppress(PuzzleError):
            task = self.task.fitting(text)
            return self if task is self.task else self.on(task.shape)
        return self

    def _adapted(self, task: Task, rules: Rules) -> Rules:
        """The rules for a puzzle of another shape."""
        guess = rules.guess and partial(self._guess, task)
        return replace(rules, verify=rules.verify and task.verify, view=partial(self._view, task), guess=guess)

    def _view(self, task: Task, question: np.ndarray, number: int) -> Symmetry:
        """A random symmetry that seed, puzzle and number alone decide."""
        return task.view(self._random("view", question, number).random(task.uniforms))

    def _guess(self, task: Task, question: np.ndarray, shares: np.ndarray, number: int) -> np.ndarray:
        """The question with a guess of the model's; seed, puzzle and number decide."""
        return task.guess(question, shares, self._random("guess", question, number))

    def _random(self, what: str, question: np.ndarray, number: int) -> np.random.Generator:
        """Random numbers that seed, puzzle and number alone decide."""
        key = hashlib.sha256(f"{self.seed} {what} {number} ".encode() + question.astype("<i4").tobytes()).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little")))


def load(
    path: str | Path,
    checkpoint: str | int = "best",
    device: str | None = None,
    precision: str | None = None,
    task: Task | str | None = None,
    also: Sequence[str | Path] = (),
) -> Solver:
    """The solver of a run folder, or the shipped one of that name ("sudoku"); averaged weights if there are any.
    `checkpoint` is "best", "latest" or a step; `task` your own task or FILE.py:CLASS, whose code is run; `also` names
    runs on the same task whose models try in turn. UserError names what is missing."""
    folder = solvers.find(path)
    try:
        run = Run.open(folder, Config)
    except UserError as error:
        if folder.exists():
            raise
        raise UserError(f"{error}; the package itself comes with {' and '.join(solvers.names())}") from None
    own = task is not None
    if task is None or isinstance(task, str):
        task = tasks.build(run.config.task, named=task)
    if own and (task.cells, len(task.vocabulary)) != (run.board["cells"], run.board["vocabulary"]):
        known = f"{run.board['cells']} cells and {run.board['vocabulary']} tokens"
        found = f"{task.name} has {task.cells} and {len(task.vocabulary)}"
        raise UserError(f"{run.path} was trained on {known}, and {found}: name the task it was trained on (--task)")
    models, names = [], []
    for other in (run, *(Run.open(solvers.find(other), Config) for other in also)):
        if any(other.board[key] != run.board[key] for key in ("cells", "vocabulary", "task_ids")):
            differ = f"{other.path} was trained on another task than {run.path}"
            raise UserError(f"{differ}: --also takes runs on the same one")
        where = other.checkpoint(checkpoint, partial(print, file=sys.stderr))
        models.append(_model(other, where, task, precision))
        names.append(str(where))
    if all(model.arch.mixer == "neighbours" for model in models):
        task = task.of_any_size()
    halting, calibration = run.config.halting, (run.best or {}).get("calibration", (1.0, 0.0))
    return Solver(
        models, task, device_of(device), max_segments=halting.max_segments, q_continue=halting.q_continue,
        strategy=solvers.STRATEGIES.get(folder, Strategy()), calibration=tuple(calibration),  # type: ignore[arg-type]
        checkpoint=", ".join(names), seed=run.config.seed,
        deduction=run.config.deduction,
    )  # fmt: skip


def _model(run: Run, where: Path, task: Task, precision: str | None) -> PuzzleModel:
    tensors, _ = checkpoints.load(where, {"weights", "ema"})
    model = build(run.config, board_of(task, run.board["task_ids"])).eval()
    try:
        model.load_state_dict(tensors["weights"] | tensors.get("ema", {}))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} does not hold the weights that {run.path}/config.yaml describes: {reason}") from error
    model.dtype = dtype_of(precision or run.config.train.precision)
    return model
