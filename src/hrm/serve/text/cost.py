"""What a text costs in floating-point operations: what thought is billed by."""

from __future__ import annotations

from torch import nn

from hrm.core.kernels import Matrix
from hrm.core.recurrence import Schedule
from hrm.text.model import HRMForCausalLM


class Cost:
    """Floating-point operations of a model: two for each product with a weight, and for those of attention."""

    def __init__(self, model: HRMForCausalLM) -> None:
        fast, slow = model.recurrence.fast, model.recurrence.slow or model.recurrence.fast
        self._fast, self._slow = _products(fast), _products(slow)
        self._layers = len(fast.layers), len(slow.layers)
        self._width = model.config.hidden_size
        self.head = 2.0 * model.config.hidden_size * model.config.vocab_size
        """Of the output layer, for one token."""

    def segment(self, schedule: Schedule, tokens: int, keys: int) -> float:
        """Of one segment of `tokens` tokens, each of which looks at `keys` keys."""
        steps, updates = schedule.h_cycles * schedule.l_cycles, schedule.h_cycles
        products = steps * self._fast + updates * self._slow
        looks = (steps * self._layers[0] + updates * self._layers[1]) * 2 * keys * self._width
        return 2.0 * tokens * (products + looks)


def _products(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, Matrix))
