"""Best of n: several texts, ranked by the model's own Q head, the built-in stand-in for a reward model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

from transformers import PreTrainedTokenizerFast

from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.text.measuring.pairs import Pair, is_exact
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Completion, Sampling, complete


def _of_what_was_drawn(completion: Completion) -> float:
    chances = [token.confidence if token.likeliest else 1 - token.confidence for token in completion.tokens]
    return sum(chances) / max(1, len(chances))


RANKS: dict[str, Callable[[Completion], float]] = {
    "q": lambda completion: completion.confidence,
    "q-drawn": _of_what_was_drawn,
    "likelihood": lambda completion: completion.log_likelihood,
}
"""What is best: the mean P(halt) of the tokens, the same with 1 - P(halt) where another token than the likeliest was
drawn (a Q head that learned what is `right` speaks of the likeliest one), or their mean log-probability."""


def best_of(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str | list[int],
    n: int,
    rank: str = "q",
    sampling: Sampling | None = None,
    memory: int | None = None,
    **request: Unpack[Request],
) -> list[Completion]:
    """`n` texts drawn after the prompt, the best first; UserError for greedy sampling, which draws one text n times."""
    if rank not in RANKS:
        raise UserError(f"rank '{rank}' is none of {', '.join(RANKS)}")
    sampling = sampling or Sampling()
    if n < 1 or (n > 1 and sampling.greedy):
        raise UserError(f"best of {n} needs at least one text, and several only where they are drawn, not greedy")
    drawn = complete(model, tokenizer, [prompt] * n, sampling, memory=memory, **request)
    return sorted(drawn, key=RANKS[rank], reverse=True)


def compare_ranks(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    n: int,
    sampling: Sampling | None = None,
    progress: Callable[[float], None] | None = None,
    batch_size: int = 8,
    **request: Unpack[Request],
) -> Json:
    """Shares of questions answered exactly by the best of the same `n` texts under each rank, by one text taken at
    random (`one`, the mean over the n) and by any of them (`any`, the upper bound). `against_likelihood` counts for
    each other rank the questions in which it alone picks a right text, and likelihood alone."""
    sampling = sampling or Sampling()
    totals = dict.fromkeys((*RANKS, "one", "any"), 0.0)
    against = {name: [0, 0] for name in RANKS if name != "likelihood"}
    for at in range(0, len(pairs), batch_size):
        some = pairs[at : at + batch_size]
        prompts = [pair.prompt for pair in some for _ in range(n)]
        drawn = complete(model, tokenizer, prompts, replace(sampling, seed=(sampling.seed + at) % (1 << 63)), **request)
        for i, pair in enumerate(some):
            texts = drawn[i * n : (i + 1) * n]
            right = {id(completion): is_exact(completion.text, pair.answer) for completion in texts}
            picked = {name: right[id(max(texts, key=rank))] for name, rank in RANKS.items()}
            for name in RANKS:
                totals[name] += picked[name]
            for name, counts in against.items():
                counts[0] += picked[name] and not picked["likelihood"]
                counts[1] += picked["likelihood"] and not picked[name]
            totals["one"] += sum(right.values()) / n
            totals["any"] += any(right.values())
        if progress is not None:
            progress((at + len(some)) / len(pairs))
    shares = {name: total / max(1, len(pairs)) for name, total in totals.items()}
    return {"n": len(pairs), "best_of": n, **shares, "against_likelihood": against}
