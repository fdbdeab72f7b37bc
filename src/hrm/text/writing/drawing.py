"""The next token of one text, drawn as transformers' `generate` draws it: the same settings and seed, the same text."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)  # fmt: skip

from hrm.text.writing.generation import Sampling


class Drawing:
    """Draws the tokens of one text, with random numbers of its own."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.sampling = sampling
        self._processors = _processors(sampling)
        self._random = None if sampling.takes_likeliest else torch.Generator(device).manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token of the unchanged logits is taken."""
        return self._random is None and not self._processors

    def __call__(self, logits: Float[Tensor, "1 v"], ids: list[int]) -> int:
        """The token after `ids`."""
        scores = logits.to(torch.float32, copy=True)
        if self._processors:
            read = torch.tensor([ids], device=logits.device)
            scores = self._processors(read, scores)  # type: ignore[arg-type]
        if self._random is None:
            return int(scores.argmax(-1))
        return int(torch.multinomial(torch.softmax(scores, dim=-1), 1, generator=self._random))


def _processors(sampling: Sampling) -> LogitsProcessorList:
    """In the order of `generate`."""
    found = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        found.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.takes_likeliest:
        return found
    if sampling.temperature != 1:
        found.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        found.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        found.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        found.append(MinPLogitsWarper(sampling.min_p))
    return found
