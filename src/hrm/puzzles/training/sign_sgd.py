"""Sign-SGD for the sparse task embeddings, as the official HRM trains its puzzle embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hrm.puzzles.model import TaskEmbedding


class SignSGD:
    """The update of the sparse task embeddings: p = p * (1 - lr*wd) - lr * sign(summed gradient), touched rows only."""

    def __init__(self, embedding: TaskEmbedding, gather: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        self.embedding, self.gather = embedding, gather
        self.tables = {"task_embedding.weight": embedding.weight}

    def collect(self) -> tuple[Tensor, Tensor]:
        """Task ids and gradients [rows, dim] of this step, from all processes."""
        used, self.embedding.used = self.embedding.used, []
        ids = torch.cat([ids for ids, rows in used])
        grads = torch.cat([torch.zeros_like(rows) if rows.grad is None else rows.grad for _, rows in used])
        return self.gather(ids), self.gather(grads)

    @torch.no_grad()
    def step(self, ids: Tensor, grads: Tensor, lr: float, weight_decay: float) -> None:
        """Sum the gradients of equal ids, then move each touched row by the sign."""
        unique, where = ids.unique(return_inverse=True)
        summed = torch.zeros(len(unique), grads.shape[1], dtype=grads.dtype, device=grads.device).index_add_(
            0, where, grads
        )
        rows = self.embedding.weight[unique]
        self.embedding.weight[unique] = rows * (1 - lr * weight_decay) - lr * summed.sign()

    def forget(self) -> None:
        """Leave out the gradients there are."""
        self.embedding.used = []
