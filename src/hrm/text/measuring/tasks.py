"""Tasks of multiple choice, last words and minimal pairs from local JSON lines, asked without a framework."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from transformers import PreTrainedTokenizerFast

from hrm.files.reading import UserError, lines_of, nearest, parsed, reading, shown
from hrm.files.records import Json
from hrm.text.measuring.scoring import Scorer
from hrm.text.model import HRMForCausalLM
from hrm.text.model.budget import Request
from hrm.text.writing.generation import Sampling, complete

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz")
ANSWER = ("piqa", "arc_easy", "arc_challenge", "boolq")
"""Tasks whose questions end in "Answer:" on a new line, as in LLM Foundry; the others' in themselves."""


class Choice(NamedTuple):
    """A question with several (context, continuation) to choose from; `gold` is the right one."""

    options: tuple[tuple[str, str], ...]
    gold: int
    group: str = ""


class KnownContinuation(NamedTuple):
    """A context whose continuation is known."""

    context: str
    continuation: str


class NumberAnswer(NamedTuple):
    """A question whose answer is a number that the model has to write."""

    question: str
    answer: float


Item = Choice | KnownContinuation | NumberAnswer


def names(folder: Path) -> dict[str, Path]:
    """The tasks of a folder: a file of JSON lines each."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: --data-folder wants the one with the tasks' .jsonl files")
    return {
        path.name[: -len(ending)]: path
        for ending in ENDINGS
        for path in sorted(folder.iterdir())
        if path.name.endswith(ending)
    }


def load(name: str, folder: Path, limit: int | None = None) -> list[Item]:
    """The items of a task; UserError for an unknown name, or with file and line for a row of no known form."""
    known = names(folder)
    if name not in known:
        near = nearest(name, known) or f": it has {', '.join(known) or 'none'}"
        raise UserError(f"no task '{name}' in {folder}{near}")
    path = known[name]
    lines = ((number, line) for number, line in enumerate(lines_of(path), 1) if line.strip())
    items = [_item(name, line, f"{path}, line {number}") for number, line in islice(lines, limit)]
    if not items:
        raise UserError(f"{path} holds no items")
    return items


def _item(name: str, line: bytes, where: str) -> Item:
    row = parsed(line, where, "fetch the file again")
    with reading(where, "fetch the file again"):
        item = _formed(name, row)
    if not isinstance(row, dict):
        raise UserError(f"{where} is not an object with fields: fetch the file again")
    if item is None:
        raise UserError(f"{where}: a row with {shown(row)} is of no known form: see docs/text-measuring.md")
    if isinstance(item, Choice) and not 0 <= item.gold < len(item.options):
        raise UserError(f"{where}: choice {item.gold} is none of {len(item.options)}: fetch the file again")
    number = isinstance(item, NumberAnswer)
    asked = item.options if isinstance(item, Choice) else (item[:1] if number else item,)
    finite = not number or math.isfinite(item.answer)
    if not finite or not all(isinstance(text, str) for texts in asked for text in texts):
        raise UserError(f"{where}: what is asked and answered must be text: fetch the file again")
    return item


def _formed(name: str, row: Json) -> Item | None:
    """The item that a row's fields make; None for fields of no known form."""
    if isinstance(row, dict):
        asked = "\nAnswer:" if name in ANSWER else ""
        if "sentence_good" in row:
            return Choice((("", row["sentence_good"]), ("", row["sentence_bad"])), 0, str(row.get("UID", "")))
        if "endings" in row:
            return Choice(tuple((row["ctx"], " " + ending) for ending in row["endings"]), int(row["label"]))
        if "choices" in row:
            return Choice(tuple((row["query"] + asked, " " + choice) for choice in row["choices"]), int(row["gold"]))
        if "context_options" in row:
            after = " " + row["continuation"]
            return Choice(tuple((context, after) for context in row["context_options"]), int(row["gold"]))
        if "continuation" in row:
            return KnownContinuation(row["context"] + asked, " " + row["continuation"])
        if "answer" in row:
            return NumberAnswer(row.get("context") or row["question"], float(row["answer"]))
    return None


def evaluate_task(
    model: HRMForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    items: Sequence[Item],
    batch_size: int = 8,
    progress: Callable[[float], None] | None = None,
    **request: Unpack[Request],
) -> Json:
    """Accuracy with its standard error, that of guessing, and the mean depth; without examples in the prompt. Choices:
    by log-probability, and a byte of the continuation (`accuracy_per_byte`). Known continuations: every token the
    likeliest, and `perplexity`. Numbers: the first number that is written."""
    start = time.perf_counter()
    kinds = {type(item) for item in items}
    if len(kinds) != 1:
        raise UserError("a task's rows must be of one form, and this one mixes several: split the file")
    measure: Any = {Choice: _choices, KnownContinuation: _words, NumberAnswer: _sums}[kinds.pop()]
    found = measure(Scorer(model, tokenizer, batch_size, **request), items, progress)
    accuracy = found["accuracy"]
    error = math.sqrt(accuracy * (1 - accuracy) / max(1, len(items) - 1))
    return {"n": len(items), **found, "standard_error": error, "seconds": time.perf_counter() - start}


def _choices(scorer: Scorer, items: Sequence[Choice], progress: Callable[[float], None] | None) -> Json:
    scores = iter(scorer.continuations([option for item in items for option in item.options], progress))
    by_sum = by_byte = tokens = segments = 0.0
    groups: dict[str, list[bool]] = defaultdict(list)
    for item in items:
        own = [next(scores) for _ in item.options]
        sums = [score.log_probability for score in own]
        per_byte = [s / max(1, len(text.strip().encode())) for s, (_, text) in zip(sums, item.options, strict=True)]
        # Equal options tell nothing apart: the right one wins no tie.
        right = sums[item.gold] > max((s for i, s in enumerate(sums) if i != item.gold), default=-math.inf)
        by_sum += right
        by_byte += per_byte.index(max(per_byte)) == item.gold
        groups[item.group].append(right)
        tokens += sum(score.tokens for score in own)
        segments += sum(score.depth * score.tokens for score in own)
    found: Json = {
        "accuracy": by_sum / len(items),
        "accuracy_per_byte": by_byte / len(items),
        "guessing": sum(1 / len(item.options) for item in items) / len(items),
        "mean_segments": segments / max(1, tokens),
    }
    if len(groups) > 1:
        found["groups"] = {name: sum(rights) / len(rights) for name, rights in sorted(groups.items())}
    return found


def _words(scorer: Scorer, items: Sequence[KnownContinuation], progress: Callable[[float], None] | None) -> Json:
    scores = scorer.continuations([(item.context, item.continuation) for item in items], progress)
    tokens = max(1, sum(score.tokens for score in scores))
    return {
        "accuracy": sum(score.greedy for score in scores) / len(items),
        "perplexity": math.exp(min(700, -sum(score.log_probability for score in scores) / len(items))),
        "mean_segments": sum(score.depth * score.tokens for score in scores) / tokens,
    }


def _sums(scorer: Scorer, items: Sequence[NumberAnswer], progress: Callable[[float], None] | None) -> Json:
    right = segments = tokens = 0
    sampling = Sampling(max_new_tokens=32, greedy=True, stop=("\n\n",))
    for at in range(0, len(items), scorer.batch_size):
        some = items[at : at + scorer.batch_size]
        prompts: Any = [scorer.tokenizer(f"Q: {item.question}\nA:", verbose=False)["input_ids"] for item in some]
        said = complete(scorer.model, scorer.tokenizer, prompts, sampling, **scorer.request)
        for item, completion in zip(some, said, strict=True):
            right += _number(completion.text) == item.answer
            tokens += len(completion.tokens)
            segments += sum(token.depth for token in completion.tokens)
        if progress is not None:
            progress((at + len(some)) / len(items))
    return {"accuracy": right / len(items), "mean_segments": segments / max(1, tokens)}


def _number(text: str) -> float | None:
    """The first number in a text."""
    found = re.search(r"-?\d[\d,]*(\.\d+)?", text)
    return float(found[0].replace(",", "")) if found else None
