"""Settings of trainings on text, of learners, and of how text is drawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from hrm.files.ranges import ABOVE_ZERO, BELOW_ONE, MANY, Range
from hrm.settings import Recipe, kind_of
from hrm.training import config as training
from hrm.training.config import OptimConfig, TrainConfig


def is_text(path: str | Path) -> bool:
    """Whether a folder is a run of text, or a model of text that transformers saved."""
    path = Path(path)
    if (path / "run.json").is_file():
        return kind_of(path).family != "puzzle"
    return (path / "config.json").is_file()


@dataclass(frozen=True)
class CorpusConfig:
    """What a text model reads."""

    kind: Literal["text", "chat", "gym", "rows"] = "text"
    """text: running text; chat: questions and answers or conversations, with the loss on the answers; gym: the same,
    made by the data set of Reasoning Gym that --data names; rows: HRM's .npy folder of next-token rows."""
    tokenizer: str = "char"
    """char: a character model of the data; else a folder, file or Hub name. An existing model brings its own."""
    field: str = "text"
    """Field of JSONL and parquet files that holds the text."""
    template: str | None = None
    """Of questions: a text with {question} and {answer}; default: the tokenizer's chat template, or an empty line."""
    options: tuple[str, ...] = ()
    """Of a Reasoning Gym data set, each as NAME=VALUE: max_terms=3."""
    examples: Annotated[int, Range(1, 10**8)] = 5000
    """Questions to make with it."""
    frame: bool = False
    """What all questions begin and end with is one token each, which keeps rows short; with the tokenizer char."""
    length: Annotated[int, Range(2, 1 << 20)] = 256
    """Tokens of a training row."""
    holdout: Annotated[float, Range(0, 0.9)] = 0.1
    """Share of the text set aside to measure on, in contiguous blocks, where no validation file is given."""


@dataclass(frozen=True)
class TextConfig(Recipe):
    """A training of a text model. Order of precedence: class default < preset < file < flag."""

    family: ClassVar = "text"
    use: ClassVar = "see hrm generate, hrm chat and hrm eval"
    folder: ClassVar = "text"
    lists: ClassVar = {"settings": "model", "text.options": "data"}

    model: str = "text-char"
    """A shape (text-char, text-80m, text-roberta-78m, hrm-text-1b, gpt2-1.5b), or a run or folder to continue from."""
    settings: tuple[str, ...] = ()
    """Changes of the model's settings, each as NAME=VALUE: max_segments=4 dropout=0.1."""
    lora: Annotated[int, Range(0, 4096)] = 0
    """Rank of the adapters that learn in place of all weights; 0 for all weights."""
    text: CorpusConfig = field(default_factory=CorpusConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """Files or Hub data sets to train on, joined by commas."""
    validation: str | None = None
    """Files to measure on; default: a part of the data."""
    encoding: str | None = None
    """Of text files, as cp1251 or gb18030; default: what each is found to be, which is said if it is not UTF-8."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Everything random follows from it."""

    def problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work."""
        return _text_problems(self)


@dataclass(frozen=True)
class LearnConfig(Recipe):
    """How a learner reads its books, one after another."""

    family: ClassVar = "learner"
    use: ClassVar = "resume it with hrm learn, see hrm status and hrm chat"
    lists: ClassVar = {"settings": "model"}

    tokenizer: str = "char"
    """char, bpe:N for N byte pairs trained on the first book, or a folder or file; it stays for the run's life."""
    settings: tuple[str, ...] = ()
    """Changes of the model's settings, each as NAME=VALUE: hidden_size=128."""
    epochs: Annotated[int, Range(1, 10**6)] = 3
    """How often each book is read."""
    length: Annotated[int, Range(2, 1 << 16)] = 80
    """Characters of a row, or tokens."""
    stride: Annotated[int, Range(1, 1 << 16)] = 8
    """Characters, or tokens, from one row to the next: an epoch has a row for each."""
    batch_size: Annotated[int, Range(1, 1 << 16)] = 16
    """Rows of the new book in an update; those of the memory come on top."""
    lr: Annotated[float, Range(0, 1000)] = 1e-3
    """Learning rate."""
    embedding_lr: Annotated[float, Range(0, 1000)] = 5e-4
    """Learning rate of embeddings and output layer."""
    weight_decay: Annotated[float, Range(0, 1000)] = 0.01
    """Decoupled weight decay."""
    warmup: Annotated[float, Range(0, BELOW_ONE)] = 0.1
    """Share of a book's updates in which the learning rate rises."""
    holdout: Annotated[float, Range(0.01, 0.5)] = 0.1
    """Share of each book that is measured and never learned."""
    memory: Annotated[float, Range(0, 1)] = 0.05
    """Share of each book that is kept to be repeated."""
    replay: Annotated[float, Range(0, 100)] = 1.5
    """Rows of the memory for each row of the new book."""
    recall: Annotated[float, Range(0, 1000)] = 4.5
    """Most that all old books together count, in units of the new one; each counts 1.5 times as much as it."""
    grow_every: Annotated[int, Range(0, 10**12)] = 0
    """Characters, each book counted once, after which layers are added: 3_000_000; 0 for never."""
    grow_fast: Annotated[int, Range(0, 1000)] = 2
    """Blocks added to the fast module."""
    grow_slow: Annotated[int, Range(0, 1000)] = 1
    """Blocks added to the slow module."""
    grow_params: Annotated[int, Range(0, 10**11)] = 0
    """Instead: as many blocks as come nearest to this many parameters."""
    grow_plateau: Annotated[float, Range(0, 1)] = 0.0
    """Also after a book whose last epoch lowered its held-out bits by less than this share; 0 for never."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of states and activations; weights stay float32."""
    device: str = "auto"
    """cpu, cuda, mps, xpu, or auto: the fastest one there is."""
    threads: Annotated[int, Range(0, 1024)] = 0
    """On a CPU; 0: one for a small model, else as many as cores are free at the start, which then stays the run's
    number. OMP_NUM_THREADS overrides it."""
    log_every: Annotated[int, Range(1, 10**9)] = 50
    """Updates between lines of metrics."""
    checkpoint_every: Annotated[int, Range(1, 10**9)] = 200
    """Updates between checkpoints."""
    eval_characters: Annotated[int, Range(1, 10**9)] = 8000
    """Held-out characters of each book that are measured each time."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Everything random follows from it."""

    def problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work."""
        return _learn_problems(self)


@dataclass(frozen=True)
class Decoding:
    """How the next token of a text is drawn, and how many are at most."""

    max_new_tokens: Annotated[int, Range(1, 10**7)] = 200
    """Tokens to write at most."""
    temperature: Annotated[float, Range(ABOVE_ZERO, 1000)] = 1.0
    """Below 1 prefers likely tokens, above 1 unlikely ones."""
    top_k: Annotated[int, Range(0, 10**9)] = 0
    """Draw among this many of the likeliest tokens; 0: all."""
    top_p: Annotated[float, Range(ABOVE_ZERO, 1)] = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: Annotated[float, Range(0.01, 100)] = 1.0
    """Above 1 avoids tokens that the text already has."""
    greedy: bool = False
    """Always take the likeliest token."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Another seed draws another text."""


def _learn_problems(config: LearnConfig) -> Iterator[str]:
    if config.stride > config.length:
        yield f"--stride {config.stride} leaves out text between rows of --length {config.length}: use at most that"
    pairs = config.tokenizer.removeprefix("bpe:")
    if pairs != config.tokenizer and not (pairs.isdecimal() and int(pairs) >= 257):
        yield f"--tokenizer {config.tokenizer} must be bpe:N with N at least 257: 256 bytes and the end of text"
    yield from _unreadable(config.settings)


def _unreadable(changes: Iterable[str]) -> Iterator[str]:
    for change in changes:
        if not re.fullmatch(r"\w+=.*", change):
            yield f"--settings {change} must look like NAME=VALUE, such as max_segments=4"


def _text_problems(config: TextConfig) -> Iterator[str]:
    train, corpus = config.train, config.text
    yield from training.problems(config.optim, train)
    yield from _unreadable(config.settings)
    if train.target_accuracy > 0 and corpus.kind not in ("chat", "gym"):
        yield "--train.target-accuracy counts exact answers, and running text has none: leave it out"
    if corpus.frame and (corpus.kind not in ("chat", "gym") or corpus.tokenizer != "char"):
        yield "--text.frame is for questions (--text.kind chat or gym) with --text.tokenizer char: leave it out"
    if train.learn != "all":
        yield f"--train.learn {train.learn} is for task embeddings: use --lora to train few weights of a text model"
    for name in ("question", "answer") if corpus.template is not None else ():
        if f"{{{name}}}" not in str(corpus.template):
            yield f"--text.template lacks {{{name}}}: it must name both {{question}} and {{answer}}"
    if corpus.kind == "gym" and config.validation is not None:
        yield "--validation is a file, and --text.kind gym makes fresh questions to measure on: leave it out"
    if corpus.kind == "rows" and corpus.tokenizer == "char":
        yield "--text.kind rows holds tokens, not text: name their tokenizer with --text.tokenizer"
    for flag, path in (("--data", config.data), ("--validation", config.validation)):
        if path is not None and not path.strip():
            yield f"{flag} is empty: name a file, or leave the flag out"
