"""Settings of trainings on text, of learners, and of how text is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from hrm.core.arch import TokenLoss, common_problems
from hrm.files.ranges import ABOVE_ZERO, BELOW_ONE, MANY, Range
from hrm.files.reading import SMALL, json_of, quoted, reading
from hrm.files.records import Json
from hrm.settings import Recipe, kind_of, load_preset, overlay, presets
from hrm.text import names
from hrm.text.arch import GROUPS, HaltingConfig, TextArch
from hrm.training import config as training
from hrm.training.config import OptimConfig, TrainConfig

PAIRS = Range(257, 1_000_000)
"""Tokens of a vocabulary of byte pairs, with the 256 bytes and the end of text."""
QUESTIONS = ("chat", "gym")
"""Kinds of data in which answers are learned."""
TALKS = (*QUESTIONS, "preference")
"""Kinds of data in which answers count."""
TEMPLATES = ("alpaca", "roles")
"""Ways to write questions and answers that have a name."""
CALIBRATION = "calibration.json"
"""Where a run keeps what `hrm calibrate` found, and what halted its tokens before."""


def calibration(path: Path) -> Json | None:
    """What a run's calibrated readout promises and costs; None where its tokens do not halt by one."""
    model = path / "model" / "config.json"
    if not (path / CALIBRATION).is_file() or not model.is_file() or json_of(model, SMALL).get("halting") != "readout":
        return None
    found = json_of(path / CALIBRATION, SMALL)
    with reading(path / CALIBRATION):
        return {
            "promised": float(found["promised"]), "accuracy_at_full_depth": float(found["accuracy"]),
            "accuracy": float(found["chosen"]["accuracy"]), "lost_at_most": float(found["chosen"]["lost_at_most"]),
            "mean_segments": float(found["chosen"]["mean_segments"]), "max_segments": int(found["max_segments"]),
        }  # fmt: skip


def is_text(path: str | Path) -> bool:
    """Whether a folder is a run of text, or a model of text that transformers saved."""
    path = Path(path)
    if (path / "run.json").is_file():
        return kind_of(path).family != "puzzle"
    return (path / "config.json").is_file()


@dataclass(frozen=True)
class CorpusConfig:
    """What a text model reads."""

    kind: Literal["text", "chat", "gym", "preference", "rows", "hops"] = "text"
    """text: running text; chat: questions and answers or conversations, with the loss on the answers; gym: the same,
    made by the data set of Reasoning Gym that --data names; preference: a chosen and a rejected answer to each question
    (DPO); rows: HRM's .npy folder of next-token rows; hops: generated questions, of which --data names the rule:
    sum, permutations, chain or reach."""
    beta: Annotated[float, Range(ABOVE_ZERO, 1000)] = 0.1
    """Of preferences: how much it costs to move away from the model before."""
    tokenizer: str = "char"
    """char: a character model of the data; else a folder, file or Hub name. An existing model brings its own."""
    field: str = "text"
    """Field of JSONL and parquet files that holds the text."""
    template: str | None = None
    """Of questions: alpaca (### Instruction), roles (User:, Assistant:), or a text with {question} and {answer};
    default: the tokenizer's chat template, or an empty line."""
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
    hops: Annotated[int, Range(1, 1000)] = 8
    """Of --text.kind hops: the most that a question has."""
    rising: Annotated[float, Range(0, 1)] = 0.3
    """Of --text.kind hops: share of the training in which hops rise from 1 to all."""


@dataclass(frozen=True)
class TextConfig(Recipe):
    """A training of a text model. Order of precedence: class default < preset < file < flag."""

    family: ClassVar = "text"
    told: ClassVar = "on text"
    use: ClassVar = "see hrm generate, hrm chat and hrm eval"
    folder: ClassVar = "text"
    lists: ClassVar = {"text.options": "data"}
    fixed: ClassVar = ("model", "arch.", "halting.", "loss.", "lora", "text.", "seed", "optim.name")
    former: ClassVar = ("settings",)

    model: str | None = None
    """A preset whose architecture is taken, or a run or folder to continue from; flags change what they name."""
    arch: TextArch = field(default_factory=TextArch)
    halting: HaltingConfig = field(default_factory=HaltingConfig)
    loss: TokenLoss = field(default_factory=TokenLoss)
    lora: Annotated[int, Range(0, 4096)] = 0
    """Rank of the adapters that learn in place of all weights; 0 for all weights."""
    text: CorpusConfig = field(default_factory=CorpusConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """Files or Hub data sets to train on, joined by commas; of --text.kind gym and hops the name of the questions."""
    validation: str | None = None
    """Files to measure on; default: a part of the data."""
    encoding: str | None = None
    """Of text files, as cp1251 or gb18030; default: what each is found to be, which is said if it is not UTF-8."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Everything random follows from it."""

    @classmethod
    def today(cls, tree: Mapping[str, Any], where: str, parent: bool) -> Mapping[str, Any]:
        if not parent and not GROUPS.keys() & tree.keys():  # it is from when every model began with a preset
            tree = {"model": "text-char", **tree}
        return _today(tree, where, _TEXT_CHAR if not parent and tree.get("model") == "text-char" else ())

    @classmethod
    def here(cls, name: str) -> str | None:
        return names.here(name)

    def under(self, layer: Mapping[str, Any]) -> TextConfig:
        """With the architecture of the model that a layer names, unless that layer says all of one itself."""
        model, parts = layer.get("model"), {name: layer.get(name) for name in GROUPS}
        whole = all(isinstance(part, Mapping) and {*part} >= {*vars(getattr(self, n))} for n, part in parts.items())
        return self.like(model) if isinstance(model, str) and not whole else self

    def like(self, model: str) -> TextConfig:
        """With the architecture of a preset or of a saved model, as far as there is one of that name."""
        if (file := saved(model)) is not None:
            tree = json_of(file, SMALL)
            if not isinstance(tree, dict) or tree.get("model_type") != "hrm_lm":
                return self  # what is wrong with it is said where it is loaded
            places = names.from_model(names.translated(tree))
            return replace(self, **groups_of(overlay(TextConfig(), names.nested(places), str(file))))
        return replace(self, **groups_of(load_preset(model, TextConfig))) if model in presets(TextConfig) else self

    @property
    def changes(self) -> Json:
        """Settings of the model that is continued which are other ones here, as `HRMConfig` calls them."""
        old, new = (names.to_model(groups_of(config)) for config in (self.like(str(self.model)), self))
        return {name: new.get(name) for name in {**old, **new} if old.get(name) != new.get(name)}

    def problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work."""
        train, corpus = self.train, self.text
        yield from training.problems(self.optim, train)
        yield from _model_problems(self)
        if self.lora and train.parallel == "fsdp":
            yield "--lora trains few weights, and --train.parallel fsdp splits all: use ddp"
        if train.target_accuracy > 0 and corpus.kind not in QUESTIONS:
            yield "--train.target-accuracy counts exact answers, and running text has none: leave it out"
        if corpus.frame and (corpus.kind not in QUESTIONS or corpus.tokenizer != "char"):
            yield "--text.frame is for questions (--text.kind chat or gym) with --text.tokenizer char: leave it out"
        if train.learn == "embedding":
            yield "--train.learn embedding is for task embeddings: use --lora to train few weights of a text model"
        if train.learn == "q":
            yield from _q_problems(self)
        for name in ("question", "answer") if corpus.template not in (None, *TEMPLATES) else ():
            if f"{{{name}}}" not in str(corpus.template):
                known = " or ".join(TEMPLATES)
                yield f"--text.template lacks {{{name}}}: it must name both {{question}} and {{answer}}, or be {known}"
        if corpus.tokenizer.startswith("bpe:"):
            make = "hrm data tokenizer FILES --vocabulary N --out FOLDER"
            yield f"--text.tokenizer {quoted(corpus.tokenizer)}: train byte pairs first ({make}), and name that folder"
        deep = {"gradient whole": self.halting.gradient == "whole", "supervise last": self.halting.supervise == "last"}
        for flag, given in (deep | {"late": self.halting.late > 0}).items():
            if given and corpus.kind == "preference":
                why = "--text.kind preference, which learns after each segment"
                yield f"--halting.{flag} is not for {why}: leave it out"
        if corpus.kind == "preference" and (self.model is None or saved(self.model) is None):
            yield "--text.kind preference starts from a model that answers: name its run with --model beside a preset"
        if corpus.kind == "gym" and self.validation is not None:
            yield "--validation is a file, and --text.kind gym makes fresh questions to measure on: leave it out"
        if corpus.kind == "hops":
            yield from _hops_problems(self)
        if corpus.kind == "hops" and self.validation is not None:
            yield "--validation is a file, and --text.kind hops makes fresh questions to measure on: leave it out"
        if corpus.kind == "rows" and corpus.tokenizer == "char":
            yield "--text.kind rows holds tokens, not text: name their tokenizer with --text.tokenizer"
        for flag, path in (("--data", self.data), ("--validation", self.validation)):
            if path is not None and not path.strip():
                yield f"{flag} is empty: name a file, or leave the flag out"


def _hops_problems(config: TextConfig) -> Iterator[str]:
    text, base = config.text, CorpusConfig()
    for name in ("template", "tokenizer", "field", "options", "beta"):
        if getattr(text, name) != getattr(base, name):
            yield f"--text.{name} is not for --text.kind hops, whose questions are made: leave it out"
    if config.encoding is not None:
        yield "--encoding is of files, and --text.kind hops makes its questions: leave it out"


def _q_problems(config: TextConfig) -> Iterator[str]:
    said = "--train.learn q fits the Q head to a model as it is"
    if config.model is None or saved(config.model) is None:
        yield f"{said}: name its run with --model beside a preset"
    if config.lora or config.text.kind == "preference":
        yield f"{said}, and nothing else learns: leave out {'--lora' if config.lora else '--text.kind preference'}"
    if config.halting.max_segments < 2 or not config.halting.weight:
        yield f"{said}: it needs --halting.max-segments 2 or more, and a --halting.weight above 0"


@dataclass(frozen=True)
class LearnConfig(Recipe):
    """How a learner reads its books, one after another."""

    family: ClassVar = "learner"
    told: ClassVar = "of hrm learn"
    use: ClassVar = "resume it with hrm learn, see hrm status and hrm chat"
    former: ClassVar = ("settings",)

    tokenizer: str = "char"
    """char, bpe:N for N byte pairs trained on the first book, or a folder or file; it stays for the run's life."""
    arch: TextArch = field(
        default_factory=lambda: TextArch(
            dim=256, heads=8, fast_layers=3, slow_layers=3, intermediate_size=640, norm="pre", gate=True,
            head_bias=True, max_position_embeddings=1024, share_cycles=True, share_segments=True,
        )
    )  # fmt: skip
    halting: HaltingConfig = field(default_factory=lambda: HaltingConfig(max_segments=3))
    loss: TokenLoss = field(default_factory=TokenLoss)
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
    eval_every: Annotated[int, Range(0, 10**9)] = 0
    """Updates between measurements of all books, with a sample; 0: after every epoch."""
    eval_characters: Annotated[int, Range(1, 10**9)] = 8000
    """Held-out characters of each book that are measured each time."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Everything random follows from it."""

    @classmethod
    def today(cls, tree: Mapping[str, Any], where: str, parent: bool) -> Mapping[str, Any]:
        return _today(tree, where)

    def problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work."""
        if self.stride > self.length:
            yield f"--stride {self.stride} leaves out text between rows of --length {self.length}: use at most that"
        kind, colon, pairs = self.tokenizer.partition(":")
        if kind == "bpe" and colon and not (pairs.isdecimal() and PAIRS.least <= float(pairs) <= PAIRS.most):
            yield f"--tokenizer {quoted(self.tokenizer)} must be bpe:N with N {PAIRS}: 256 bytes and the end of text"
        yield from _model_problems(self)


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
    min_p: Annotated[float, Range(0, 1)] = 0.0
    """Draw among tokens at least this share as likely as the likeliest; 0: all."""
    repetition_penalty: Annotated[float, Range(0.01, 100)] = 1.0
    """Above 1 avoids tokens that the text already has."""
    greedy: bool = False
    """Always take the likeliest token."""
    seed: Annotated[int, Range(0, MANY)] = 0
    """Another seed draws another text."""


def groups_of(config: TextConfig | LearnConfig) -> Json:
    """What makes the model of a recipe: its groups `arch`, `halting` and `loss`."""
    return {name: getattr(config, name) for name in GROUPS}


def saved(model: str | Path) -> Path | None:
    """The config.json of a run or of a folder that transformers saved, if this is one."""
    path = Path(model)
    file = (path / "model" if (path / "run.json").is_file() else path) / "config.json"
    return file if file.is_file() else None


_TEXT_CHAR = ("max_segments=8", "halting=q", "horizon=last_step")
"""What the shape text-char was before it became the preset."""


def _today(tree: Mapping[str, Any], where: str, before: Iterable[str] = ()) -> Json:
    """An older file, whose model is `before` and a list of NAME=VALUE, with the groups of today."""
    tree, changes = dict(tree), tree.get("settings", [])
    if "settings" not in tree and GROUPS.keys() & tree.keys():
        return tree
    if not isinstance(changes, list) or not all(isinstance(change, str) for change in changes):
        return tree
    tree.pop("settings", None)
    said = names.nested(names.typed((*before, *changes), f"{where}: settings", lenient=True))
    both = {name: {**said.get(name, {}), **part} for name, part in tree.items() if isinstance(part, Mapping)}
    return said | tree | both


def _model_problems(config: TextConfig | LearnConfig) -> Iterator[str]:
    arch, halting = config.arch, config.halting
    yield from common_problems(arch, halting.max_segments)
    whole, last = halting.gradient == "whole", halting.supervise == "last"
    for flag, given in (("gradient whole", whole), ("supervise last", last)):
        if given and halting.kind == "q":
            yield f"--halting.{flag} needs tokens that do not halt in training: use --halting.kind fixed"
    if halting.depth_mean and halting.depth_sampling:
        yield "--halting.depth-mean and --halting.depth-sampling both draw the depth: use one of them"
    if halting.depth_mean and halting.max_segments == 1:
        yield "--halting.depth-mean draws a number of segments, and --halting.max-segments is 1: raise that"
    if halting.min_segments > halting.max_segments:
        least, most = halting.min_segments, halting.max_segments
        yield f"--halting.min-segments {least} is more than --halting.max-segments {most}: use at most that"
    for part in arch.rope:
        if "=" not in part:
            yield f"--arch.rope {part} must look like NAME=VALUE, such as factor=4"
