"""Questions with hops: how many are answered right by how many hops they have, at every depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hrm.core.calibration import interval
from hrm.files.records import Record
from hrm.text.data import hops as made
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Budget


@dataclass(frozen=True)
class OfHops(Record):
    """Fresh questions of one number of hops."""

    hops: int
    n: int
    accuracy: float
    """At the depth of the budget."""
    interval: list[float]
    skill: float
    """(accuracy - chance) / (1 - chance)."""
    mean_segments: float
    """Of the last token, whose answer counts."""
    by_depth: list[float]
    """Accuracy after 1, 2, ... segments, where all tokens have the same depth."""
    baselines: dict[str, float]


@torch.inference_mode()
def by_hops(
    model: HRMForCausalLM,
    name: str,
    hops: Sequence[int],
    budget: Budget,
    count: int = 1000,
    seed: int = 0,
    batch_size: int = 250,
    progress: Callable[[float], None] | None = None,
) -> list[OfHops]:
    """Ask `count` questions of each number of hops; each is answered by the likeliest token after it."""
    was_training, found = model.training, []
    model.eval()
    for i, each in enumerate(hops):
        asked = made.questions(name, each, count, seed)
        tokens, answers = (torch.from_numpy(part).to(model.device) for part in (asked.tokens, asked.labels[:, -1]))
        right = torch.zeros(budget.max_segments, dtype=torch.long)
        chosen, depth = 0, 0.0
        for some, wanted in zip(tokens.split(batch_size), answers.split(batch_size), strict=True):
            right += _every_depth(model, some, wanted, budget)
            if budget.adaptive:
                thought = model.begin(input_ids=some, budget=budget)
                model.think(thought, budget)
                chosen += int((_said(model, thought.exited.z_h) == wanted).sum())
                depth += float(thought.depth[:, -1].sum())
        if not budget.adaptive:
            chosen, depth = int(right[-1]), float(count * budget.max_segments)
        task = made.task_of(name)
        accuracy = chosen / count
        found.append(
            OfHops(
                each, count, accuracy, list(interval(chosen, count)), (accuracy - task.chance) / (1 - task.chance),
                depth / count, (right / count).tolist(), made.baselines(name, asked),
            )
        )  # fmt: skip
        if progress is not None:
            progress((i + 1) / len(hops))
    model.train(was_training)
    return found


def _every_depth(model: HRMForCausalLM, tokens: Tensor, wanted: Tensor, budget: Budget) -> Tensor:
    """How many are right after each segment [segments]."""
    fixed = budget._replace(halting="fixed", retry_confidence=0.0)
    thought = model.begin(input_ids=tokens, budget=fixed)
    right = []
    for _ in range(budget.max_segments):
        model.segment(thought, budget.schedule)
        right.append((_said(model, thought.exited.z_h) == wanted).sum().cpu())
    return torch.stack(right)


def _said(model: HRMForCausalLM, z: Tensor) -> Tensor:
    return model.lm_head(z[:, -1]).argmax(-1)
