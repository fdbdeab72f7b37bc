"""Questions with hops: how many are answered right by how many hops they have, at every depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
                depth / count, [each / count for each in right.tolist()], made.baselines(name, asked),
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


def table(found: Sequence[OfHops]) -> str:
    """What was measured, in lines of about 80 characters."""
    depths = sorted({d for d in (1, 2, 4, 8, 16, len(found[0].by_depth)) if d <= len(found[0].by_depth)})
    known = list(found[0].baselines)
    head = f"{'hops':>4}{'right':>8}{'95% interval':>15}{'skill':>7}{'depth':>7}"
    lines = [head + "".join(f"{f'at {d}':>7}" for d in depths) + "".join(f"{name:>10}" for name in known)]
    for one in found:
        spread = f"{one.interval[0]:.1%}-{one.interval[1]:.1%}"
        row = f"{one.hops:>4}{one.accuracy:>8.1%}{spread:>15}{one.skill:>7.2f}{one.mean_segments:>7.1f}"
        row += "".join(f"{one.by_depth[d - 1]:>7.0%}" for d in depths)
        lines.append(row + "".join(f"{one.baselines[name]:>10.1%}" for name in known))
    lines.append(f"{found[0].n:,} fresh questions of each; `at 4`: right where every token takes 4 segments")
    lines.append("skill: (right - chance) / (1 - chance); chance: guessing; majority: always the commonest")
    lines.append("answer; copy: the last token again; one step: the rule applied once")
    return "\n".join(lines)


def draw(found: Sequence[OfHops], path: Path) -> None:
    """The share right by hops: as the budget says, and at fixed depths."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes, hops = figure.add_subplot(), [one.hops for one in found]
    axes.plot(hops, [100 * one.accuracy for one in found], "ko-", ms=4, label="as used")
    most = len(found[0].by_depth)
    for depth in sorted({d for d in (1, 2, 4, 8, 16, 32, most) if d <= most}) if most > 1 else []:
        right = [100 * one.by_depth[depth - 1] for one in found]
        axes.plot(hops, right, "-", lw=1, label=f"{depth} segment{'s' if depth > 1 else ''}")
    axes.plot(hops, [100 * one.baselines["chance"] for one in found], ":", color="gray", label="chance")
    axes.set(xlabel="hops", ylabel="right, %", ylim=(0, 102))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
