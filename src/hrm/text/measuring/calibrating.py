"""Calibrating halting: a readout that says when deeper thought changes nothing, within a loss that was promised."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hrm.core.kernels import at_least_float32
from hrm.files.reading import SMALL, UserError, json_of
from hrm.files.records import Json, Record
from hrm.runs import Run, durable
from hrm.text.config import CALIBRATION, TextConfig
from hrm.text.data import Tokens
from hrm.text.data.hops import Hops
from hrm.text.load import as_trained, before_calibration, form_of
from hrm.text.measuring.card import model_card
from hrm.text.measuring.losses import WindowsRead, halt_at, read
from hrm.text.measuring.subject import LOGITS
from hrm.text.model import Budget, HRMForCausalLM, Thought
from hrm.text.model.halting import FIRST, signs

LEVELS = 12
"""Thresholds that are tried at most, from the one under which tokens think longest."""
NEVER = (-20.0, 0.0, 0.0, 0.0)
"""A readout of later segments that halts nothing, where nothing could be learned of them."""
_MATCHES = 3
"""Runs in which the Q head's threshold is brought to the readout's mean depth."""
_STEEPEST = 13.0
"""Largest score of a threshold: in float32 no probability is much closer to 1 and still below it."""


@dataclass(frozen=True, kw_only=True)
class Halted(Record):
    """Halting in one way, beside thinking to the end."""

    mean_segments: float
    accuracy: float
    """The share that is right: of the answers, all tokens of which must be, where there are any, else of the tokens."""
    lost: float
    """Percentage points of accuracy that full depth has more."""
    lost_at_most: float
    """The upper end of the 95 % interval of `lost`."""
    exit_threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration(Record):
    """A fitted readout, and what halting by it costs on text that it was not fitted to."""

    fitted_on: int
    """Tokens."""
    n: int
    """Tokens on which thresholds were tried."""
    answers: int | None = None
    max_segments: int
    accuracy: float
    """At full depth."""
    promised: float
    """Percentage points of accuracy that may be lost."""
    readout: list[float]
    tried: list[Halted]
    """Thresholds from the strictest on, up to the first that breaks the promise."""
    chosen: Halted | None = None
    """The last one that keeps it."""
    q: Halted | None = None
    """The Q head at the same mean depth."""
    random: Halted | None = None
    """The same depths dealt out at random."""


class Window(NamedTuple):
    """Some rows: tokens [b, p], labels [b, p], and of each labelled token its answer, where there are answers."""

    tokens: dict[str, Tensor]
    labels: Tensor
    answers: np.ndarray | None

    def halves(self) -> Iterator[Window]:
        """Every other row, and the rest."""
        counted = self.labels != -100
        row = torch.arange(len(self.labels), device=counted.device)[:, None].expand_as(counted)[counted].cpu().numpy()
        for odd in (0, 1):
            answers = None
            if self.answers is not None:
                _, answers = np.unique(self.answers[row % 2 == odd], return_inverse=True)
            yield Window({name: column[odd::2] for name, column in self.tokens.items()}, self.labels[odd::2], answers)


class Readings(NamedTuple):
    """What full depth says of labelled tokens [n], after each of M segments."""

    first: np.ndarray
    """Signs after the first segment [n, 2]."""
    later: np.ndarray
    """After the others [M - 1, n, 4]."""
    likeliest: np.ndarray
    """The likeliest tokens [M, n]."""
    right: np.ndarray
    """Whether the likeliest token at full depth is right, or all of an answer, [n] or [answers]."""
    halts: np.ndarray
    """The Q head's P(halt) [M, n]."""


def calibrate(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    packed: Tokens | Hops,
    length: int,
    promised: float,
    batch_size: int = 8,
    limit: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Calibration:
    """Fit a readout on every other row of a text, and choose on the rest the lowest threshold whose loss of accuracy
    against full depth is within `promised` percentage points with 95 % confidence. UserError for a model or text that
    allows none."""
    budget = model.budget()
    if budget.max_segments < 2:
        raise UserError("this model thinks one segment about every token, so there is nothing to halt")
    rows = -(-min(limit or packed.count, packed.count) // length)
    windows = WindowsRead(tokenizer, packed, length, None, limit, None)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        # Halves of each batch, not every other one: questions of one kind may fill whole batches.
        every = [Window(*each) for each in windows.batches(min(2 * batch_size, max(2, rows)), model.device)]
        every = [window for window in every if len(window.labels) > 1]
        if not every:
            raise UserError("calibrating takes two parts of held-out text and this is one row: name more with --data")
        fitting, trying = zip(*(window.halves() for window in every), strict=True)
        found = _Calibrating(model, fitting, trying, budget, promised, progress).result(windows.answering)
    model.train(was_training)
    return found


def check(run: Path) -> None:
    """UserError for files that a readout could not be stored in."""
    is_run = (run / "run.json").is_file()
    config: Json = json_of((run / "model" if is_run else run) / "config.json", SMALL)
    if is_run and config.get("halting") == "readout":
        before_calibration(run)


def store(run: Path, found: Calibration) -> Path:
    """Write a chosen readout into the configuration of a run, or of a folder that `save_pretrained` wrote; returns the
    file. Of a run, the whole calibration is kept beside it, with what halted its tokens before."""
    assert found.chosen is not None and found.chosen.exit_threshold is not None
    is_run = (run / "run.json").is_file()
    file = (run / "model" if is_run else run) / "config.json"
    config: Json = json_of(file, SMALL)
    if is_run:
        before = before_calibration(run) if config.get("halting") == "readout" else config
        kept = {name: before[name] for name in ("halting", "exit_threshold") if name in before}
        durable.write_json(run / CALIBRATION, {**found, "before": kept})
    config |= {"halting": "readout", "readout": found.readout, "exit_threshold": found.chosen.exit_threshold}
    durable.write(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
    return file


def undo(run: Path) -> str:
    """Let the tokens of a run halt as before it was calibrated, and say how; UserError where that is not known."""
    if not (run / CALIBRATION).is_file():
        raise UserError(f"{run} has no {CALIBRATION}, which says what halted tokens before: nothing to undo")
    return forget(run)


def forget(run: Path) -> str:
    """The same for a run whose weights change; returns how tokens halt."""
    form, file = form_of(run), run / "model" / "config.json"
    as_trained(form, run)
    config: Json = json_of(file, SMALL)
    config |= {"halting": form.halting, "exit_threshold": form.exit_threshold, "readout": list(form.readout)}
    durable.write(file, json.dumps(config, indent=2, sort_keys=True) + "\n")
    (run / CALIBRATION).unlink(missing_ok=True)
    tell_card(run)
    return str(config["halting"])


def tell_card(run: Path) -> None:
    """Let the card of a finished run say how its tokens halt."""
    if (run / "run.json").is_file() and (run / "README.md").is_file():
        durable.write(run / "README.md", model_card(Run.open(run, TextConfig)))


def fit(features: np.ndarray, target: np.ndarray) -> list[float]:
    """Weights [k] of a logistic regression of what is settled [n] on signs [n, k], the first of which is 1: Newton's
    method, with a prior that few or one-sided observations do not move far."""
    mean, scale = features.mean(0), features.std(0)
    mean[0], scale = 0.0, np.where(scale > 0, scale, 1.0)
    x = (features - mean) / scale
    weights, prior = np.zeros(x.shape[1]), np.diag([0.1, *[1.0] * (x.shape[1] - 1)])
    for _ in range(50):
        share = 1 / (1 + np.exp(-np.clip(x @ weights, -50, 50)))
        slope = x.T @ (share - target) + prior @ weights
        curvature = (x.T * (share * (1 - share))) @ x + prior
        step = np.linalg.solve(curvature, slope)
        # Far from the solution a whole Newton step may overshoot.
        weights = weights - step / max(1.0, float(np.abs(step).max()))
    weights = weights / scale
    weights[0] -= float(weights[1:] @ mean[1:])
    return weights.tolist()


def settled_tokens(likeliest: np.ndarray) -> np.ndarray:
    """At which depths [M, n] the likeliest token is that of the last one and stays it in between."""
    same = likeliest == likeliest[-1]
    return np.logical_and.accumulate(same[::-1])[::-1]


def lost_between(full: np.ndarray, halted: np.ndarray) -> tuple[float, float]:
    """Percentage points of accuracy by which `halted` [n] is worse than `full`, of the same things, and the upper end
    of the 95 % interval (Bonett and Price 2012, for paired shares)."""
    n, lost, gained = len(full), int((full & ~halted).sum()), int((~full & halted).sum())
    more, less = (lost + 1) / (n + 2), (gained + 1) / (n + 2)
    half = 1.959964 * math.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return 100 * (lost - gained) / n, 100 * (more - less + half)


class _Calibrating:
    """One calibration: the half that is fitted to, and the half on which promises are tried."""

    def __init__(
        self, model: HRMForCausalLM, fitting: Sequence[Window], trying: Sequence[Window], budget: Budget,
        promised: float, progress: Callable[[float], None] | None,
    ) -> None:  # fmt: skip
        self.model, self.fitting, self.trying, self.budget, self.promised = model, fitting, trying, budget, promised
        self.full = budget._replace(halting="fixed", retry_confidence=0.0)
        self.asks_q = model.config.q_weight > 0
        self.progress, self.done = progress, 0
        self.batches = len(fitting) + len(trying) * (LEVELS + 2 + _MATCHES * self.asks_q)
        self.truth = np.zeros(0, bool)
        """What is right at full depth in the half for trying."""

    def result(self, answering: bool) -> Calibration:
        """Fit, try thresholds, and compare."""
        learned = self._readings(self.fitting)
        readout = self._fit(learned)
        first, later = learned.first @ readout[:FIRST], learned.later @ readout[FIRST:]
        thresholds = self._levels(np.concatenate((first[None], later)))
        tokens = len(learned.first)
        del learned, first, later
        known = self._readings(self.trying)
        self.truth = known.right
        if not self.truth.any():
            what = f"none of {len(self.truth):,} {'answers' if answering else 'tokens'} is right at full depth"
            raise UserError(f"{what}, so nothing could be lost: give what the model can do with --data")
        asked = self.budget._replace(halting="readout", readout=tuple(readout))
        tried, chosen = list[Halted](), None
        # From the strictest on, and never past the first that breaks the promise: then it holds for the chosen one
        # as if it had been tried alone (fixed sequence testing).
        for threshold in thresholds:
            tried.append(self._run(asked._replace(exit_threshold=threshold)))
            if tried[-1].lost_at_most > self.promised:
                break
            chosen = tried[-1]
        q = random = None
        if chosen is not None:
            q = self._at_depth(known.halts, chosen.mean_segments) if self.asks_q else None
            assert chosen.exit_threshold is not None
            random = self._run(asked._replace(exit_threshold=chosen.exit_threshold), torch.Generator().manual_seed(0))
        return Calibration(
            fitted_on=tokens, n=len(known.first), answers=len(self.truth) if answering else None,
            max_segments=self.budget.max_segments, accuracy=float(self.truth.mean()), promised=self.promised,
            readout=readout, tried=tried, chosen=chosen, q=q, random=random,
        )  # fmt: skip

    def _fit(self, seen: Readings) -> list[float]:
        settled = settled_tokens(seen.likeliest)
        # After the last segment every token halts, so that nothing is to be learned of it.
        between = seen.later[:-1].reshape(-1, seen.later.shape[-1])
        return fit(seen.first, settled[0]) + (fit(between, settled[1:-1].ravel()) if len(between) else [*NEVER])

    def _levels(self, scores: np.ndarray) -> list[float]:
        """Thresholds that spread the mean depth evenly, the strictest first; `scores` are logits [M, n]."""
        most, least = self.budget.max_segments, self.budget.min_segments
        wanted = (most - (most - least) * level / LEVELS for level in range(1, LEVELS + 1))
        return sorted({_probability(self._score(scores, depth)) for depth in wanted}, reverse=True)

    def _score(self, scores: np.ndarray, depth: float) -> float:
        """The score above which tokens would have to halt for a mean depth."""
        if depth <= self.budget.min_segments:
            return -math.inf
        low, high = -_STEEPEST, _STEEPEST
        for _ in range(30):
            middle = (low + high) / 2
            halts = scores > middle
            halts[: self.budget.min_segments - 1], halts[-1] = False, True
            low, high = (middle, high) if halts.argmax(0).mean() + 1 < depth else (low, middle)
        return high

    def _at_depth(self, halts: np.ndarray, depth: float) -> Halted:
        """The Q head at the threshold that comes nearest to a mean depth."""
        scores, wanted = np.log(np.clip(halts, 1e-12, 1) / np.clip(1 - halts, 1e-12, 1)), depth
        found = list[Halted]()
        for _ in range(_MATCHES):
            threshold = _probability(self._score(scores, wanted))
            found.append(self._run(self.budget._replace(halting="q", exit_threshold=threshold)))
            wanted += depth - found[-1].mean_segments
        return min(found, key=lambda each: abs(each.mean_segments - depth))

    def _run(self, budget: Budget, generator: torch.Generator | None = None) -> Halted:
        """The half for trying, read under a budget; `generator`: with the same depths dealt out at random."""
        model, right, depths = self.model, list[np.ndarray](), list[Tensor]()
        for window in self.trying:
            thought = model.begin(**window.tokens, budget=budget)
            model.think(thought, budget)
            depths.append(thought.depth)
            if generator is None:
                right.append(self._right(thought, window))
            self._tell()
        counted = [window.labels != -100 for window in self.trying]
        each = torch.cat([depth[here] for depth, here in zip(depths, counted, strict=True)])
        if generator is not None:
            dealt = each[torch.randperm(len(each), generator=generator).to(each.device)]
            sizes = [int(here.sum()) for here in counted]
            for window, depth, here, some in zip(self.trying, depths, counted, dealt.split(sizes), strict=True):
                thought = model.begin(**window.tokens, budget=budget)
                halt_at(model, thought, depth.masked_scatter(here, some), budget)
                right.append(self._right(thought, window))
        halted = np.concatenate(right)
        lost, most = lost_between(self.truth, halted)
        return Halted(
            mean_segments=float(each.double().mean()), accuracy=float(halted.mean()), lost=lost, lost_at_most=most,
            exit_threshold=None if generator else budget.exit_threshold,
        )  # fmt: skip

    def _right(self, thought: Thought, window: Window) -> np.ndarray:
        """Whether each labelled token is the likeliest one, or all of each answer are."""
        right = read(self.model, thought, window.labels, self.budget).right > 0
        return right if window.answers is None else np.bincount(window.answers, ~right) == 0

    def _readings(self, windows: Sequence[Window]) -> Readings:
        firsts, laters, likeliest, halts, right = (list[np.ndarray]() for _ in range(5))
        for window in windows:
            counted, before = window.labels != -100, None
            thought = self.model.begin(**window.tokens, budget=self.full)
            columns = []
            for _ in range(self.full.max_segments):
                self.model.segment(thought, self.full.schedule)
                z = thought.exited.z_h[counted]
                columns.append([torch.cat(part).cpu().numpy() for part in zip(*self._seen(z, before), strict=True)])
                before = z
            found, best, halt = zip(*columns, strict=True)
            firsts.append(found[0].astype(np.float64))
            laters.append(np.stack(found[1:]).astype(np.float64))
            likeliest.append(np.stack(best))
            halts.append(np.stack(halt))
            right.append(self._right(thought, window))
            self._tell()
        rest = (np.concatenate(part, axis=1) for part in (laters, likeliest, halts))
        later, best, halt = rest
        return Readings(np.concatenate(firsts), later, best, np.concatenate(right), halt)

    def _seen(self, z: Tensor, before: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Signs, likeliest token and P(halt) of states [n, d], in pieces because logits are large."""
        size = max(1, LOGITS // self.model.config.vocab_size)
        pieces = zip(z.split(size), (None,) * -(-len(z) // size) if before is None else before.split(size), strict=True)
        for some, old in pieces:
            new, was = (None if each is None else self._log_p(each) for each in (some, old))
            assert new is not None
            yield signs(new, was), new.argmax(-1), self.budget.probability(self.model.q_head(some)).float()

    def _log_p(self, z: Tensor) -> Tensor:
        return torch.log_softmax(at_least_float32(self.model.lm_head(z)), dim=-1)

    def _tell(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done / self.batches)


def _probability(score: float) -> float:
    return round(1 / (1 + math.exp(-score)), 6)
