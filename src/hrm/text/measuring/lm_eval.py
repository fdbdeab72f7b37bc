"""EleutherAI's lm-eval harness: a model of text behind its interface `LM`. Needs the extra [eval]."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, Unpack

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.files.reading import UserError, needs
from hrm.text.measuring.scoring import Scorer
from hrm.text.measuring.subject import Written
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling


@dataclass
class Reading:
    """What a task cost: tokens that were scored or written, the segments that they took, and the questions."""

    tokens: int = 0
    segments: float = 0.0
    asked: int = 0
    cut: int = 0
    """Questions that were longer than the model reads and lost their beginning."""

    def add(self, tokens: int, segments: float, cut: bool) -> None:
        """Count one question."""
        self.tokens, self.segments = self.tokens + tokens, self.segments + segments
        self.asked, self.cut = self.asked + 1, self.cut + cut


def lm_eval_adapter(
    model: HRMForCausalLM | PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    **request: Unpack[Request],
) -> Any:
    """An `lm_eval.api.model.LM` for `lm_eval.simple_evaluate(model=...)`; `request` changes the model's budget. Its
    `readings` has a `Reading` of each task."""
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise UserError(needs("measuring tasks", "lm-eval", "eval", error)) from error
    scorer = Scorer(model, tokenizer, batch_size, **request)

    class Adapter(LM):
        """The three questions that lm-eval's tasks ask."""

        readings: dict[str, Reading]

        def loglikelihood(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            """(log-probability, greedy) of each continuation."""
            scores = scorer.continuations([asked.args for asked in requests], progress)
            for asked, score in zip(requests, scores, strict=True):
                self.readings[asked.task_name].add(score.tokens, score.depth * score.tokens, score.cut)
            return [(score.log_probability, score.greedy) for score in scores]

        def loglikelihood_rolling(self, requests: Any, **kwargs: Any) -> list[float]:
            """Log-probability of each whole text."""
            scores = scorer.whole([asked.args[0] for asked in requests], progress)
            for asked, score in zip(requests, scores, strict=True):
                self.readings[asked.task_name].add(score.tokens, score.depth * score.tokens, False)
            return [score.log_probability for score in scores]

        def generate_until(self, requests: Any, **kwargs: Any) -> list[str]:
            """What is written up to a stop word."""
            said: list[str] = []
            for how, same in groupby(requests, key=lambda asked: asked.args[1]):
                while some := list(islice(same, scorer.batch_size)):
                    written = _write(scorer, [asked.args[0] for asked in some], how)
                    for asked, (one, cut) in zip(some, written, strict=True):
                        self.readings[asked.task_name].add(one.tokens, one.segments, cut)
                        said.append(one.text)
                    if progress is not None:
                        progress(len(said) / len(requests))
            return said

    adapter = Adapter()
    adapter.readings = defaultdict(Reading)
    return adapter


def _write(scorer: Scorer, contexts: list[str], how: dict[str, Any]) -> Iterator[tuple[Written, bool]]:
    """What is written after each context, and whether that one was cut."""
    stop = how.get("until") or ()
    room = min(int(how.get("max_gen_toks", 256)), scorer.length // 2)
    greedy = not how.get("do_sample", False)
    temperature, top_p = (1.0 if greedy else float(how.get(name, 1.0)) for name in ("temperature", "top_p"))
    stop = tuple(word for word in ([stop] if isinstance(stop, str) else stop) if word)
    sampling = Sampling(max_new_tokens=room, greedy=greedy, temperature=temperature, top_p=top_p, stop=stop)
    ids = [scorer.subject.ids(context) for context in contexts]
    read = [each[-(scorer.length - room) :] or [scorer.first] for each in ids]
    said = scorer.subject.write(read, sampling)
    return zip(said, (len(each) > scorer.length - room for each in ids), strict=True)
