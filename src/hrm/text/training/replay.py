"""The loss against forgetting: old rows learn the predictions that the model made before."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hrm.core.kernels import at_least_float32
from hrm.text.model import HRMConfig
from hrm.text.model.supervision import TokenObjective, chosen_of


class ReplayObjective(TokenObjective):
    """The last rows of a batch [b, p] are old. They learn probabilities of all next tokens, `taught` [old, p, v],
    instead of single targets; `weights` [b] is how much each row counts, by default all the same."""

    def __init__(
        self, config: HRMConfig, taught: Float[Tensor, "n p v"], weights: Float[Tensor, " b"] | None = None
    ) -> None:
        super().__init__(config)
        self.taught, self.of_rows = taught, weights

    def losses(self, logits: Float[Tensor, "n v"], targets: Int[Tensor, " n"], live: Tensor) -> Float[Tensor, " n"]:
        old = live[len(live) - len(self.taught) :]
        first = len(targets) - int(old.sum())
        new, wide = super().losses(logits[:first], targets[:first], live), at_least_float32(logits[first:])
        # Cross-entropy against a whole distribution: its gradient is that of the Kullback-Leibler divergence.
        taught = torch.logsumexp(wide, dim=-1) - (chosen_of(self.taught, old) * wide).sum(-1)
        return torch.cat((new, taught))

    def weights(self, chosen: Tensor | None) -> Float[Tensor, " n"] | None:
        if self.of_rows is None:
            return None
        return chosen_of(self.of_rows[:, None].expand(-1, self.taught.shape[1]), chosen)
