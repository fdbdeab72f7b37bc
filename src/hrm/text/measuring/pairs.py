"""Questions with known answers: what the model answers greedily, and how near that comes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hrm.core import devices
from hrm.core.calibration import interval
from hrm.files.reading import UserError, needs
from hrm.files.records import Json
from hrm.text.data import Packed, ReadOptions
from hrm.text.data.chat import chat_prompt, conversations
from hrm.text.measuring.fresh import prompts_of
from hrm.text.measuring.subject import Written, subject_of
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling


class Pair(NamedTuple):
    """A prompt as the model was trained to see it, and the right answer."""

    prompt: str | list[int]
    """Its text, or its tokens."""
    answer: str


def pairs_of(
    source: str | Path,
    tokenizer: PreTrainedTokenizerFast,
    template: str | None = None,
    limit: int | None = None,
    way: ReadOptions | None = None,
) -> list[Pair]:
    """The last answer of each conversation, or question with its answer, in a file; UserError names file and line.
    `template` is that of the training; default: the tokenizer's chat template, or else the question and an empty line.
    """
    found = []
    for messages in islice(conversations(source, way), limit):
        last = max(i for i, message in enumerate(messages) if message["role"] == "assistant")
        found.append(Pair(chat_prompt(tokenizer, messages[:last], template), messages[last]["content"]))
    return found


def packed_pairs(packed: Packed, tokenizer: PreTrainedTokenizerFast, limit: int | None = None) -> list[Pair]:
    """The last answer of each packed document, told from its question by what counts in the loss."""
    if packed.mask is None:
        raise UserError(f"{packed.folder} holds running text, no answers: name questions with --data")
    found = []
    for asked, begin, end in islice(zip(prompts_of(packed), packed.documents, packed.documents[1:]), limit):  # noqa: B905
        answer = packed.tokens[begin + len(asked) : end].tolist()
        found.append(Pair(asked, str(tokenizer.decode(answer, skip_special_tokens=True))))
    return found


def evaluate_pairs(
    model: HRMForCausalLM | PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    batch_size: int = 8,
    sampling: Sampling | None = None,
    progress: Callable[[float], None] | None = None,
    **request: Unpack[Request],
) -> Json:
    """Exact match of greedy answers, and BLEU, chrF, ROUGE-L and METEOR (0 to 100) where the extra [eval] is installed.
    Of a model with depth also its mean, and the calibration of the mean confidence of an answer. `answers` lists what
    was said."""
    if not pairs:
        raise UserError("there are no questions to answer")
    sampling = sampling or Sampling(greedy=True)
    # Prompts of like length share a batch, which then has little padding.
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt))
    subject = subject_of(model, tokenizer, **request)
    found: dict[int, Written] = {}
    start = time.perf_counter()
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        found |= zip(rows, subject.write([pairs[i].prompt for i in rows], sampling), strict=True)
        if progress is not None:
            progress(len(found) / len(order))
    seconds, answers = time.perf_counter() - start, [found[i] for i in range(len(pairs))]
    right = [is_exact(a.text, pair.answer) for a, pair in zip(answers, pairs, strict=True)]
    texts, wanted = [a.text.strip() for a in answers], [pair.answer.strip() for pair in pairs]
    n, tokens = max(1, len(pairs)), sum(a.tokens for a in answers)
    said = [
        {"answer": pair.answer, "said": a.text, "right": exact}
        | ({} if a.confidence is None else {"confidence": a.confidence})
        for pair, a, exact in zip(pairs, answers, right, strict=True)
    ]
    return {
        "n": len(pairs), "exact_match": sum(right) / n, "exact_match_interval": list(interval(sum(right), len(pairs))),
        **overlap(texts, wanted), **subject.thought(answers, right), "tokens": tokens,
        "ended": sum(a.ended for a in answers) / n, "tokens_per_second": tokens / max(1e-9, seconds),
        "seconds": seconds, "device": str(model.device), "dtype": devices.named(model.dtype), "answers": said,
    }  # fmt: skip


def is_exact(said: str, answer: str) -> bool:
    """Whether both are equal, ignoring spaces at both ends."""
    return said.strip() == answer.strip()


def overlap(said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU and chrF of sacrebleu, mean ROUGE-L (F1, no stemming) and mean METEOR, 0 to 100; nothing without
    [eval], and no METEOR without WordNet. BLEU counts runs of up to four words; where no answer has four words, over
    shorter n-grams."""
    if missing := next((name for name in ("sacrebleu", "rouge_score") if find_spec(name) is None), None):
        print(needs("measuring BLEU, chrF and ROUGE", missing, "eval"), file=sys.stderr)
        return {}
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    scorer = RougeScorer(["rougeL"], use_stemmer=False, tokenizer=_Words())
    f1 = [scorer.score(right, text)["rougeL"].fmeasure for text, right in zip(said, wanted, strict=True)]
    texts, references = list(said), [list(wanted)]
    return {
        "bleu": BLEU(effective_order=True).corpus_score(texts, references).score,
        "chrf": CHRF().corpus_score(texts, references).score,
        "rouge_l": 100 * sum(f1) / len(f1),
        **_meteor(said, wanted),
    }


def wordnet() -> Any | None:
    """NLTK's WordNet, by which METEOR knows synonyms; None where its data is not at hand."""
    try:
        from nltk.corpus import wordnet

        wordnet.ensure_loaded()
    except (ImportError, LookupError):
        return None
    return wordnet


def _meteor(said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    if (synonyms := wordnet()) is None:
        print("METEOR is left out: it needs WordNet, python -m nltk.downloader wordnet", file=sys.stderr)
        return {}
    from nltk.translate.meteor_score import meteor_score

    words = _Words().tokenize
    scores = [
        meteor_score([words(right)], words(text), wordnet=synonyms) for text, right in zip(said, wanted, strict=True)
    ]
    return {"meteor": 100 * sum(scores) / len(scores)}


class _Words:
    """Words for ROUGE and METEOR: rouge-score's own in English, but it drops every letter outside a to z."""

    def tokenize(self, text: str) -> list[str]:
        """Runs of letters and digits in lower case; of a text without any, what stands between spaces."""
        return re.findall(r"[^\W_]+", text.lower()) or text.split()
