"""Learning from preferences (DPO, arXiv 2305.18290): a chosen answer is to gain on a rejected one, against the model
before. As in all training here, every segment has a loss of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor

from hrm.core.kernels import at_least_float32
from hrm.files.records import Json
from hrm.text.config import TextConfig
from hrm.text.data.preferences import PairBatch, Pairs
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Budget
from hrm.text.model.thought import Thought
from hrm.text.training.trainer import TextTrainer
from hrm.training.loop import Evaluator


class DrawnPairs(NamedTuple):
    """A batch on its device."""

    ids: Int[Tensor, "b p"]
    labels: Int[Tensor, "b p"]
    positions: Int[Tensor, "b p"]
    types: Int[Tensor, "b p"]
    reference: Float[Tensor, "b s"]
    budget: Budget


def log_likelihood(model: HRMForCausalLM, thought: Thought, labels: Int[Tensor, "b p"]) -> Float[Tensor, " b"]:
    """Of the labelled tokens of each row together, in nats, at their current depth."""
    counted = labels != -100
    logits = at_least_float32(model.lm_head(thought.exited.z_h[counted]))
    each = -F.cross_entropy(logits, labels[counted], reduction="none")
    return torch.zeros(labels.shape, device=labels.device, dtype=each.dtype).masked_scatter(counted, each).sum(1)


def preference_loss(
    found: Float[Tensor, " b"], reference: Float[Tensor, " b"], beta: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " b"]]:
    """The loss of each pair of rows (chosen, rejected), -log sigmoid of the difference of their rewards (eq. 7), and
    the rewards, beta (log p - log p before)."""
    rewards = beta * (found - reference)
    return -F.logsigmoid(rewards[::2] - rewards[1::2]), rewards


def by_depth(model: HRMForCausalLM, drawn: DrawnPairs) -> Iterator[tuple[Thought, Float[Tensor, " b"]]]:
    """The log-likelihood of each row after each segment; states pass on without gradient."""
    tokens = {"input_ids": drawn.ids, "position_ids": drawn.positions, "token_type_ids": drawn.types}
    thought = model.begin(**tokens, budget=drawn.budget)
    for segment in range(drawn.budget.max_segments):
        if segment:
            thought.detach()
        model.segment(thought, drawn.budget.schedule)
        yield thought, log_likelihood(model, thought, drawn.labels)
        thought.forget()


class PreferenceTrainer(TextTrainer):
    """Trains on pairs; a batch has `train.batch_size` of them."""

    names = ("loss", "last_loss", "right", "chosen", "rejected", "pairs", "tokens")

    def __init__(self, config: TextConfig, model: HRMForCausalLM, data: Pairs, accelerator: Accelerator) -> None:
        self.pairs = data
        super().__init__(config, model, data, accelerator)  # type: ignore[arg-type]

    def draw(self) -> DrawnPairs:  # type: ignore[override]
        batch = self.pairs.pairs(self.seed, self.step_number, self.rows, self.train.batch_size)
        return drawn(batch, self.accelerator.device, self._deep(self.model.budget(halting="fixed")))

    def compute(self, drawn: DrawnPairs) -> None:  # type: ignore[override]
        *rows, budget = drawn
        part = 2 * -(-len(self.rows) // self.train.accumulate)
        for some in zip(*(t.split(part) for t in rows), strict=True):
            self._learn(DrawnPairs(*some, budget))  # type: ignore[call-arg]

    def batch_of(self, drawn: DrawnPairs) -> dict[str, Tensor]:  # type: ignore[override]
        return {"inputs": drawn.ids, "labels": drawn.labels}

    def try_out(self, rows: int) -> None:
        batch = self.pairs.pairs(self.seed, self.step_number, range(rows), self.train.batch_size)
        self._learn(drawn(batch, self.accelerator.device, self.model.budget(halting="fixed")))

    def _learn(self, part: DrawnPairs) -> None:
        """Forward, loss and backward for some pairs, segment by segment."""
        beta, total, carries = self.config.text.beta, 0.0, []
        for segment, (thought, found) in enumerate(by_depth(self.model, part)):
            losses, rewards = preference_loss(found, part.reference[:, segment], beta)
            loss = losses.sum() / self.train.batch_size / part.budget.max_segments
            (loss * self.updates.loss_scale).backward()
            total += float(loss.detach())
            if self.logged:
                carries = [*carries[-1:], thought.carry.detach()]
        if len(carries) == 2:
            self.note_residuals(carries[0], carries[1], part.labels != -100)
        chosen, rejected, pairs = rewards[::2].sum(), rewards[1::2].sum(), len(losses)
        right = (rewards[::2] > rewards[1::2]).sum()
        read = (part.labels != -100).sum()
        sums = (total * self.train.batch_size, losses.sum(), right, chosen, rejected, pairs, read)
        self.window += torch.stack([torch.as_tensor(value).detach().to(self.window) for value in sums])

    def means(self, sums: dict[str, float], steps: int) -> Json:
        """Of the pairs."""
        pairs = max(1.0, sums["pairs"])
        names = {"loss": "loss", "last_loss": "last_loss", "reward_accuracy": "right"}
        names |= {"reward_chosen": "chosen", "reward_rejected": "rejected"}
        found = {name: sums[key] / pairs for name, key in names.items()}
        return {
            **found,
            "reward_margin": found["reward_chosen"] - found["reward_rejected"],
            "tokens": int(sums["tokens"]),
        }

    def describe(self, metrics: Json) -> str:
        """How often, and by how much, the chosen answer is preferred to the rejected one."""
        return (
            f"prefers the chosen in {metrics['reward_accuracy']:.1%}  margin {metrics['reward_margin']:+.3f}  "
            f"{metrics['tokens_per_second']:.0f} tokens/s"
        )


def drawn(batch: PairBatch, device: torch.device, budget: Budget) -> DrawnPairs:
    """A batch as tensors."""
    arrays = (*batch.rows, batch.rows.token_types, batch.reference)
    return DrawnPairs(*(torch.from_numpy(array).to(device) for array in arrays), budget)  # type: ignore[call-arg]


@torch.no_grad()
def likelihoods(
    model: HRMForCausalLM, pairs: Pairs, size: int = 8, progress: Callable[[float], None] | None = None
) -> np.ndarray:
    """Log-likelihood of every answer after every segment [answers, segments], float32."""
    found, was_training = [], model.training
    model.eval()
    for first in range(0, pairs.rows, size):
        batch = pairs.take(range(first, min(first + size, pairs.rows)))
        each = by_depth(model, drawn(batch, model.device, model.budget(halting="fixed")))
        found.append(torch.stack([said for _, said in each], dim=1).float().cpu().numpy())
        if progress is not None:
            progress(min(1.0, (first + size) / pairs.rows))
    model.train(was_training)
    return np.concatenate(found)


def measure(model: HRMForCausalLM, pairs: Pairs, beta: float) -> Json:
    """How the model prefers the chosen answers, after its last segment, and by depth."""
    assert pairs.reference is not None
    found, before = (torch.from_numpy(array) for array in (likelihoods(model, pairs), pairs.reference))
    rows = [preference_loss(said, old, beta) for said, old in zip(found.T, before.T, strict=True)]
    losses = [float(loss.mean()) for loss, _ in rows]
    accuracies = [float((rewards[::2] > rewards[1::2]).float().mean()) for _, rewards in rows]
    chosen, rejected = (float(rows[-1][1][i::2].mean()) for i in (0, 1))
    return {
        "n": pairs.rows, "preference_loss": losses[-1], "reward_accuracy": accuracies[-1],
        "reward_margin": chosen - rejected, "reward_chosen": chosen, "reward_rejected": rejected,
        "preference_loss_by_depth": losses, "reward_accuracy_by_depth": accuracies,
    }  # fmt: skip


class HeldOutPairs(Evaluator):
    """Measures the averaged weights, if there are any, on the held-out pairs."""

    def __init__(self, trainer: TextTrainer, held_out: Pairs) -> None:
        self.trainer, self.held_out = trainer, held_out

    def __call__(self) -> Json:
        with self.trainer.as_measured() as model:
            found = measure(model, self.held_out, self.trainer.config.text.beta)
        return {**found, "data_sha256": self.held_out.fingerprint}

    def score(self, measured: Json) -> float:
        return -measured["preference_loss"]

    def sentence(self, measured: Json) -> str:
        return (
            f"of {measured['n']:,} held-out pairs the chosen answer is preferred in {measured['reward_accuracy']:.1%}, "
            f"by {measured['reward_margin']:+.3f}; loss {measured['preference_loss']:.4f} (without learning 0.6931)"
        )

    def target(self, measured: Json) -> str | None:
        return None
