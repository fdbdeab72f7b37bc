"""Word-level sets of text as a model reads them that knows no words: the words joined, the loss counted per word.

Published perplexities of WikiText and Penn Treebank are per word of the set, line ends included. A model of subwords or
characters reads the text without the marks of the set's tokenizer (as GPT-2 did, section 3.1 of its report).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from hrm.files.records import Json

if TYPE_CHECKING:
    from hrm.text.measuring.losses import Measured

_CONTRACTION = (r" (n't|'(?:s|m|d|ll|re|ve)\b)", r"\1")
_CLOSING = (r" ([,.;:!?%)\]}]|\.\.\.)(?=\s|$)", r"\1")
_OPENING = (r"([(\[{$£]) ", r"\1")
_FORMS: dict[str, tuple[tuple[str, str], ...]] = {
    "wikitext": (
        (r" @([-,.])@ ", r"\1"),
        (r'" ([^"\n]*?) "', r'"\1"'),
        (r"' ([^'\n]*?) '", r"'\1'"),
        (r"(?m)^ ", ""),
        (r"(?m) +$", ""),
        (r"(?m)^((?:= )+)(.*?)((?: =)+)$", lambda found: _heading(*found.groups())),  # type: ignore[dict-item]
        (r"s ' ", r"s' "),
        _OPENING,
        _CLOSING,
        _CONTRACTION,
        (r"(\d) ([°′″])", r"\1\2"),
        (r" / ", "/"),
    ),
    "ptb": (
        (r"(?m)^ ", ""),
        (r"(?m) +$", ""),
        (r"\$ (?=N|\d)", "$"),
        (r"(N|\d) %", r"\1%"),
        (r"s ' ", r"s' "),
        _CONTRACTION,
    ),
}
FORMS = tuple(_FORMS)


def joined(documents: Iterable[str], form: str, count: Callable[[int], object]) -> Iterator[str]:
    """Documents of a word-level set with their words joined as people write them; `count` hears how many words each
    had, line ends among them."""
    for text in documents:
        part = type(text)  # a long text comes in parts
        count(len(text.split()) + text.count("\n"))
        for pattern, replacement in _FORMS[form]:
            text = re.sub(pattern, replacement, text)
        yield part(text)


def per_word(measured: Measured, words: int) -> Json:
    """The number of words, and the perplexity of one: exp of the nats of all tokens, shared among the words."""
    return {"words": words, "perplexity_per_word": math.exp(min(700.0, measured.loss * measured.n / max(1, words)))}


def _heading(begin: str, title: str, end: str) -> str:
    return f"{begin.replace(' ', '')} {title} {end.replace(' ', '')}"
