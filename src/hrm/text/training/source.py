"""What a model of text is trained and measured on, before it has tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from hrm.files.names import sources
from hrm.text import data as corpus
from hrm.text.config import TALKS, TextConfig
from hrm.text.data import Packed, chat, gym
from hrm.text.data.forms import preferences
from hrm.text.data.hops import Hops
from hrm.text.data.preferences import encode_pairs
from hrm.text.data.tokenizers import add_frame
from hrm.training.progress import Reporter

HELD_OUT = 2000
"""Questions with hops to measure on at most; they cost nothing to make."""


def in_place(config: TextConfig) -> bool:
    """Whether the data are packed already, and read where they are."""
    return config.text.kind == "rows" or (
        config.text.kind != "hops" and config.data is not None and corpus.is_packed(config.data)
    )


def made(config: TextConfig, held_out: bool = False, alone: bool = False, most: int = HELD_OUT) -> Hops:
    """The questions with hops of a recipe, which are made when they are read; `alone`: each with one answer. `most`:
    how many are held out."""
    assert config.data is not None
    text, rising = config.text, round(config.text.rising * config.train.steps)
    examples = min(text.examples, most) if held_out else text.examples
    return Hops(config.data, text.hops, examples, config.seed, text.length, rising, held_out, alone)


class Source:
    """The training and the held-out part of the data, before tokenization."""

    def __init__(self, config: TextConfig, say: Callable[[str], object]) -> None:
        self.config, text = config, config.text
        self.talks = text.kind in TALKS
        self.way = corpus.ReadOptions(say, config.encoding)
        assert config.data is not None
        names, others = sources(config.data), sources(config.validation) if config.validation else []
        self.held: Any = None
        self.left_out: int | None = None
        if text.kind == "gym":
            fresh = min(500, max(1, round(text.holdout * text.examples)))
            self.items, made = gym.gym_sets(names[0], text.options, text.examples, fresh, config.seed)
            self.held, self.left_out = made
        elif text.kind == "chat":
            self.items: Any = list(chain.from_iterable(chat.conversations(name, self.way) for name in names))
            self.held = list(chain.from_iterable(chat.conversations(name, self.way) for name in others)) or None
        elif text.kind == "preference":
            self.items = list(chain.from_iterable(preferences(name, self.way) for name in names))
            self.held = list(chain.from_iterable(preferences(name, self.way) for name in others)) or None
        else:
            self.items = corpus.texts(names, text.field, self.way)
            self.held = corpus.texts(others, text.field, self.way) if others else None
        if self.held is None and text.holdout:
            self.items, self.held = corpus.hold_out(self.items, text.holdout)
        if text.kind != "preference":  # of these not all may fit
            self._doubt()

    def _doubt(self) -> None:
        """Say what makes the held-out part doubtful."""
        kept, held = self.items, self.held
        if held is None or self.config.text.kind == "gym":
            return
        if self.config.text.kind == "preference":
            kept, held = ([chosen for chosen, _ in part] for part in (kept, held))
        for doubt in corpus.doubts(kept, held):
            self.way.say(doubt)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer in the settings; one of characters knows those of the training part."""
        kind, text = self.config.text.tokenizer, self.config.text
        if kind != "char" or not self.talks:
            return corpus.make_tokenizer(kind, self.items)
        pieces = [chat.written(messages, text.template) for messages in self.items]
        tokenizer = corpus.make_tokenizer(kind, ("".join(text for text, _ in some) for some in pieces))
        if text.frame:
            add_frame(tokenizer, (some[0][0] for some in pieces))
        return tokenizer

    def pack(self, tokenizer: PreTrainedTokenizerFast, folder: Path, reporter: Reporter) -> None:
        """Both parts as packed tokens."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, items in (("train", self.items), ("validation", self.held)):
            if items is None:
                continue
            template, length = self.config.text.template, self.config.text.length
            if self.config.text.kind == "preference":
                packed = Packed.write(folder / name, tokenizer, encode_pairs(tokenizer, items, template, length))
                if (long := sum(1 for _ in items) - packed.facts["documents"] // 2) > 0:
                    reporter.say(f"{long:,} pairs of {name} are left out: longer than --text.length {length}")
                continue
            tokens = chat.examples(tokenizer, items, template) if self.talks else corpus.encode(tokenizer, items)
            packed = Packed.write(folder / name, tokenizer, tokens)
            if name == "validation" and self.left_out is not None:
                out = (
                    f"{self.left_out:,} more were made that are among the {len(self.items):,} trained on, and left out"
                )
                reporter.say(f"{len(items):,} questions are held out; none is trained on ({out})")
            if packed.facts["unknown"]:
                reporter.say(f"{packed.facts['unknown']:,} tokens of {name} are unknown to the tokenizer")
        if self.config.text.kind == "preference":
            self._doubt()
