"""Best of n: several texts, ranked by the model's own Q head, the built-in stand-in for a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hrm.config import UserError
from hrm.evaluation.text_generation import Completion, Sampling, complete
from hrm.evaluation.text_pairs import Pair, is_exact

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hrm.models.text import HRMForCausalLM

RANKS: dict[str, Callable[[Completion], float]] = {
    "q": lambda completion: completion.confidence,
    "likelihood": lambda completion: completion.log_likelihood,
}
"""What is best: the mean P(halt) of the tokens, or their mean log-probability."""


def best_of(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    n: int,
    rank: str = "q",
    sampling: Sampling | None = None,
    **request: Any,
) -> list[Completion]:
    """`n` texts drawn after the prompt, the best first; UserError for greedy sampling, which draws one text n times."""
    if rank not in RANKS:
        raise UserError(f"rank '{rank}' is none of {', '.join(RANKS)}")
    sampling = sampling or Sampling()
    if n < 1 or (n > 1 and sampling.greedy):
        raise UserError(f"best of {n} needs at least one text, and several only where they are drawn, not greedy")
    return sorted(complete(model, tokenizer, [prompt] * n, sampling, **request), key=RANKS[rank], reverse=True)


def compare_ranks(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    n: int,
    sampling: Sampling | None = None,
    progress: Callable[[float], None] | None = None,
    **request: Any,
) -> dict[str, Any]:
    """Shares of questions answered exactly by the best of the same `n` texts under each rank.

    Beside them: by one text taken at random (`one`, the mean over the n) and by any of them (`any`, the upper bound).
    """
    sampling = sampling or Sampling()
    totals = dict.fromkeys((*RANKS, "one", "any"), 0.0)
    for i, pair in enumerate(pairs):
        drawn = complete(model, tokenizer, [pair.prompt] * n, replace(sampling, seed=sampling.seed + i), **request)
        right = {id(completion): is_exact(completion.text, pair.answer) for completion in drawn}
        for name, rank in RANKS.items():
            totals[name] += right[id(max(drawn, key=rank))]
        totals["one"] += sum(right.values()) / n
        totals["any"] += any(right.values())
        if progress is not None:
            progress((i + 1) / len(pairs))
    return {"n": len(pairs), "best_of": n, **{name: total / max(1, len(pairs)) for name, total in totals.items()}}
