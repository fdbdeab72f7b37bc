"""EleutherAI's lm-eval harness: a model of text behind its interface `LM`. Needs `pip install lm-eval`."""

from __future__ import annotations

from typing import Any, Unpack

from transformers import PreTrainedTokenizerFast

from hrm.files.reading import UserError
from hrm.text.measuring.scoring import Scorer
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling, complete


def lm_eval_adapter(
    model: HRMForCausalLM, tokenizer: PreTrainedTokenizerFast, batch_size: int = 8, **request: Unpack[Request]
) -> Any:
    """An `lm_eval.api.model.LM` for `lm_eval.simple_evaluate(model=...)`; `request` changes the model's budget."""
    try:
        from lm_eval.api.model import LM  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(f"lm-eval cannot be imported ({error}): pip install lm-eval") from error
    scorer = Scorer(model, tokenizer, batch_size, **request)

    class Adapter(LM):
        """The three questions that lm-eval's tasks ask."""

        def loglikelihood(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
            """(log-probability, greedy) of each continuation."""
            scores = scorer.continuations([asked.args for asked in requests])
            return [(score.log_probability, score.greedy) for score in scores]

        def loglikelihood_rolling(self, requests: Any, **kwargs: Any) -> list[float]:
            """Log-probability of each whole text."""
            return [score.log_probability for score in scorer.whole([asked.args[0] for asked in requests])]

        def generate_until(self, requests: Any, **kwargs: Any) -> list[str]:
            """What is written up to a stop word."""
            return [_write(scorer, *asked.args) for asked in requests]

    return Adapter()


def _write(scorer: Scorer, context: str, how: dict[str, Any]) -> str:
    stop = how.get("until") or ()
    room = min(int(how.get("max_gen_toks", 256)), scorer.length // 2)
    greedy = not how.get("do_sample", False)
    temperature, top_p = (1.0 if greedy else float(how.get(name, 1.0)) for name in ("temperature", "top_p"))
    stop = tuple(word for word in ([stop] if isinstance(stop, str) else stop) if word)
    sampling = Sampling(max_new_tokens=room, greedy=greedy, temperature=temperature, top_p=top_p, stop=stop)
    ids = scorer.ids(context)[-(scorer.length - room) :] or [scorer.first]
    return complete(scorer.model, scorer.tokenizer, [ids], sampling, **scorer.request)[0].text
