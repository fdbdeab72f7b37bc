"""Every setting of a run: frozen dataclasses, the one source of flags, presets and `config.yaml`."""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hrm.reading import FLOAT, SMALL, bytes_of, shown, text_of, yaml_of
from hrm.reading import UserError as UserError
from hrm.reading import quoted as quoted


def needs(what: str, package: str, extra: str, error: Exception | None = None) -> str:
    """What cannot work without a package of an extra, and how to install that one; `error` is what the import said."""
    said = "which is not installed" if error is None else f"which cannot be imported ({error})"
    return f"{what} needs {package}, {said}: in your clone of this project, pip install '.[{extra}]'"


@dataclass(frozen=True)
class TaskConfig:
    """Which puzzles, and how many are made when no data is given."""

    kind: Literal["sudoku", "maze", "grid", "arc", "gym"] = "sudoku"
    """sudoku, maze, arc, gym (Reasoning Gym), or grid: any grid-to-grid data set, without augmentation or verifier."""
    box: tuple[int, int] = (3, 3)
    """Rows and columns of a Sudoku box: 2 2 is 4x4, 2 3 is 6x6, 3 3 is 9x9, 4 4 is 16x16."""
    size: tuple[int, int] = (30, 30)
    """Rows and columns of a maze or grid, or of the board that ARC's grids stand on."""
    extra_clues: float = 0.0
    """Up to this share of a generated Sudoku's blanks, drawn per puzzle, is given as well; 0 keeps it minimal."""
    min_path: int = 110
    """Least number of steps on the shortest path of a generated maze."""
    vocabulary: int = 12
    """Number of tokens of a grid task, padding included."""
    gym: str = "n_queens"
    """Dataset of Reasoning Gym."""
    gym_options: tuple[str, ...] = ()
    """Its options, each as NAME=VALUE: n=6 max_remove=5."""
    puzzles: int = 1000
    """Training puzzles to generate when no data is given."""
    holdout: int = 500
    """Puzzles set aside (whole symmetry classes) to measure and to choose the best checkpoint."""
    augment: bool = True
    """Draw a random symmetry of the puzzle each time it is shown."""
    reveal: float = 0.0
    """Share of the shown puzzles that get a random share of their blanks filled in."""
    copies: int = 1000
    """Augmented copies of each ARC task, the first as it is; each has a task embedding of its own."""
    dihedral: bool = True
    """Turn and mirror the copies of ARC tasks."""
    colours: bool = True
    """Exchange colours 1 to 9 in the copies of ARC tasks."""
    translate: float = 0.7
    """Share of the shown ARC pairs that stand at a random place of the board instead of in its corner."""
    leaks: Literal["refuse", "drop", "allow"] = "refuse"
    """What happens to ARC training tasks that hold a test pair of the tasks to answer (--validation)."""


@dataclass(frozen=True)
class ArchConfig:
    """The two stacks and the loop between them (HRM, arXiv 2506.21734; TRM, arXiv 2510.04871)."""

    dim: int = 512
    """Width of the states."""
    heads: int = 8
    """Attention heads."""
    kv_heads: int | None = None
    """Key and value heads; default: as many as heads."""
    fast_layers: int = 4
    """Blocks of the fast module L."""
    slow_layers: int = 4
    """Blocks of the slow module H."""
    shared: bool = False
    """One stack of fast-layers blocks plays both roles (TRM)."""
    hierarchy: bool = True
    """Off: a plain Transformer of fast-layers + slow-layers blocks, visited once."""
    h_cycles: int = 2
    """Cycles per segment, N."""
    l_cycles: int = 2
    """Steps of L per cycle, T."""
    horizon: str = "last_step"
    """What is back-propagated: last_step, last_cycle, trailing(k) or per_cycle([1, 2])."""
    join: Literal["every_step", "first_state"] = "every_step"
    """Where the input enters: at every step of L, or once as the first slow state."""
    norm: Literal["post", "pre"] = "post"
    """RMSNorm after each residual sum, or before each branch and once at the stack's exit."""
    norm_eps: float = 1e-5
    """Added to the mean square under RMSNorm's root."""
    mixer: Literal["attention", "mlp", "groups"] = "attention"
    """How positions exchange information: attention, an MLP over positions, or pooling over the task's groups."""
    tokens: Literal["cells", "candidates"] = "cells"
    """One state per cell, or one per cell and symbol (exact symmetry between symbols)."""
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    """What a position may look at."""
    gate: bool = False
    """Element-wise sigmoid gate on the attention output."""
    expansion: float = 4.0
    """SwiGLU width: round(expansion * dim * 2/3), up to a multiple of expansion-multiple."""
    expansion_multiple: int = 256
    """The inner width is rounded up to a multiple of this."""
    unit: Literal["swiglu", "bounded"] = "swiglu"
    """Of the feed-forward layers: silu(g) * v, or sigmoid(g) * rms(g * v), which no input makes large."""
    positions: Literal["rope", "learned", "groups", "none"] = "rope"
    """Rotary, learned per position, learned per row, column and box, or none."""
    rope_base: float = 10000.0
    """Base of the rotary frequencies."""
    task_positions: int = 1
    """Positions taken by the task embedding in front of the grid; 0 for none."""
    tied: bool = False
    """The token embedding is also the output layer."""
    q_from: Literal["first", "mean"] = "first"
    """What the Q head reads: the first position's slow state, or the mean over positions."""


@dataclass(frozen=True)
class HaltingConfig:
    """When a puzzle leaves its slot in training (HRM section 2, adaptive computation time)."""

    max_segments: int = 16
    """A puzzle halts after this many segments at the latest, M_max."""
    exploration: float = 0.1
    """Probability of a random minimum number of segments, drawn anew at every segment."""
    q_continue: bool = True
    """Learn the value of going on by a second forward (HRM); off: halt when q_halt > 0 (TRM)."""
    weight: float = 0.5
    """Weight of the halting losses."""


@dataclass(frozen=True)
class LossConfig:
    """The token loss."""

    kind: Literal["stablemax", "softmax"] = "stablemax"
    """Stablemax for small data, softmax for large."""
    label_smoothing: float = 0.0
    """Share of the target spread over the whole vocabulary."""
    z_loss: float = 0.0
    """Weight of the squared log-normaliser."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rates and averaging."""

    name: Literal["adam_atan2", "adamw", "muon"] = "adam_atan2"
    """muon takes the matrices and leaves everything else to AdamW."""
    lr: float = 1e-4
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the two moments."""
    weight_decay: float = 1.0
    """Decoupled weight decay."""
    muon_lr: float = 0.02
    """Learning rate of Muon's matrices."""
    muon_weight_decay: float = 0.005
    """Decoupled weight decay of Muon's matrices."""
    task_lr: float = 1e-4
    """Learning rate of the task embeddings (sign-SGD)."""
    task_weight_decay: float = 1.0
    """Weight decay of the task embeddings."""
    warmup_steps: int = 2000
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up."""
    min_ratio: float = 0.0
    """Where the cosine ends, as a share of the learning rate."""
    clip: float = 0.0
    """Largest gradient norm; 0 for no clipping."""
    ema: float = 0.0
    """Decay of the averaged weights; 0 for none."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    steps: int = 26041
    """Optimizer steps: of puzzles one segment each, of text one batch."""
    minutes: float = 0.0
    """Stop after this many minutes; 0 for no limit. The learning-rate schedule follows whichever is nearer."""
    learn: Literal["all", "embedding"] = "all"
    """What moves: everything, or the task embeddings alone."""
    batch_size: int = 768
    """Puzzles in flight, or rows of text, over all processes."""
    accumulate: int = 1
    """Parts a batch is split into to save memory; the gradient is the same."""
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of states and activations; weights stay float32."""
    compile: bool = False
    """torch.compile the two stacks."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass to save memory."""
    log_every: int = 10
    """Steps between lines of metrics."""
    eval_every: int = 1000
    """Steps between measurements on held-out data."""
    eval_puzzles: int = 500
    """Held-out puzzles, or rows of text, measured each time."""
    target_accuracy: float = 0.0
    """Stop once this exact accuracy is reached on the held-out puzzles or answers; 0 for never."""
    patience: int = 0
    """Stop after this many measurements in a row that are no better than the best one; 0 for never."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Newest checkpoints kept, besides the best."""
    max_bad_steps: int = 10
    """Non-finite updates in a row that stop the training."""
    device: str = "auto"
    """cpu, cuda, mps, xpu, or auto: the fastest one there is."""
    threads: int = 0
    """On a CPU; 0: one for a small model, else as many as cores are free at the start, which then stays the run's
    number. OMP_NUM_THREADS overrides it."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers beside metrics.jsonl."""


@dataclass(frozen=True)
class Config:
    """A whole run. Order of precedence: class default < preset < file < flag."""

    task: TaskConfig = field(default_factory=TaskConfig)
    arch: ArchConfig = field(default_factory=ArchConfig)
    halting: HaltingConfig = field(default_factory=HaltingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: str | None = None
    """File of puzzles or dataset folder to train on; ARC: task files, joined by commas; default: puzzles are made."""
    validation: str | None = None
    """File of puzzles or dataset folder to measure on; default: puzzles set aside from the training data. For ARC the
    tasks to answer: their demonstrations are trained on, their test pairs never."""
    allow_overlap: bool = False
    """Measure also on puzzles of which symmetric variants are trained on."""
    seed: int = 0
    """Everything random follows from it."""


@dataclass(frozen=True)
class CorpusConfig:
    """What a text model reads."""

    kind: Literal["text", "chat", "gym", "rows"] = "text"
    """text: running text; chat: questions and answers or conversations, with the loss on the answers; gym: the same,
    made by the data set of Reasoning Gym that --data names; rows: HRM's .npy folder of next-token rows."""
    tokenizer: str = "char"
    """char: a character model of the data; else a folder, file or Hub name. A model to go on with brings its own."""
    field: str = "text"
    """Field of JSONL and parquet files that holds the text."""
    template: str | None = None
    """Of questions: a text with {question} and {answer}; default: the tokenizer's chat template, or an empty line."""
    options: tuple[str, ...] = ()
    """Of a Reasoning Gym data set, each as NAME=VALUE: max_terms=3."""
    examples: int = 5000
    """Questions to make with it."""
    frame: bool = False
    """What all questions begin and end with is one token each, which keeps rows short; with the tokenizer char."""
    length: int = 256
    """Tokens of a training row."""
    holdout: float = 0.1
    """Share of the text set aside to measure on, in contiguous blocks, where no validation file is given."""


@dataclass(frozen=True)
class TextConfig:
    """A training of a text model. Order of precedence: class default < preset < file < flag."""

    model: str = "text-char"
    """A shape (text-char, text-80m, text-roberta-78m, hrm-text-1b, gpt2-1.5b), or a run or folder to go on with."""
    settings: tuple[str, ...] = ()
    """Changes of the model's settings, each as NAME=VALUE: max_segments=4 dropout=0.1."""
    lora: int = 0
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
    seed: int = 0
    """Everything random follows from it."""


@dataclass(frozen=True)
class LearnConfig:
    """How a learner reads its books, one after another."""

    tokenizer: str = "char"
    """char, bpe:N for N byte pairs trained on the first book, or a folder or file; it stays for the run's life."""
    settings: tuple[str, ...] = ()
    """Changes of the model's settings, each as NAME=VALUE: hidden_size=128."""
    epochs: int = 3
    """How often each book is read."""
    length: int = 80
    """Characters of a row, or tokens."""
    stride: int = 8
    """Characters, or tokens, from one row to the next: an epoch has a row for each."""
    batch_size: int = 16
    """Rows of the new book in an update; those of the memory come on top."""
    lr: float = 1e-3
    """Learning rate."""
    embedding_lr: float = 5e-4
    """Learning rate of embeddings and output layer."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    warmup: float = 0.1
    """Share of a book's updates in which the learning rate rises."""
    holdout: float = 0.1
    """Share of each book that is measured and never learned."""
    memory: float = 0.05
    """Share of each book that is kept to be repeated."""
    replay: float = 1.5
    """Rows of the memory for each row of the new book."""
    recall: float = 4.5
    """Each old book counts 1.5 times as much as the new one, all of them together so many times as much at most."""
    grow_every: int = 0
    """Characters, each book counted once, after which layers are added: 3_000_000; 0 for never."""
    grow_fast: int = 2
    """Blocks added to the fast module."""
    grow_slow: int = 1
    """Blocks added to the slow module."""
    grow_params: int = 0
    """Instead: as many blocks as come nearest to this many parameters."""
    grow_plateau: float = 0.0
    """Also after a book whose last epoch lowered its held-out bits by less than this share; 0 for never."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of states and activations; weights stay float32."""
    device: str = "auto"
    """cpu, cuda, mps, xpu, or auto: the fastest one there is."""
    threads: int = 0
    """On a CPU; 0: one for a small model, else as many as cores are free at the start, which then stays the run's
    number. OMP_NUM_THREADS overrides it."""
    log_every: int = 50
    """Updates between lines of metrics."""
    checkpoint_every: int = 200
    """Updates between checkpoints."""
    eval_characters: int = 8000
    """Held-out characters of each book that are measured each time."""
    seed: int = 0
    """Everything random follows from it."""


@dataclass(frozen=True)
class Strategy:
    """What is tried for a puzzle at test time, and when it is enough."""

    max_segments: int | None = None
    """Segments after which an attempt is given up; default: as in training, or the shipped solver's own."""
    restarts: int | None = None
    """New attempts from other initial states for puzzles that were given up; default: 0, or the shipped solver's."""
    views: int | None = None
    """Ways to look at a puzzle, taken in turn: 1 (the default) is as asked, more are random symmetries, mapped back."""
    guesses: int | None = None
    """After these, attempts with a blank or two filled in as the model guesses; default: 0, or the shipped solver's."""
    budget: int | None = None
    """Segments that all attempts at a puzzle may take together."""
    stop: tuple[Literal["verifier", "q", "residual"], ...] = ("verifier",)
    """What ends an attempt early: the verifier, the Q head (always without verifier), a state that no longer moves."""
    margin: float = 0.0
    """How far halting must be worth more than going on for the Q head to stop."""
    residual: float = 0.01
    """Relative change of the slow state below which it no longer moves."""
    vote: Literal["majority", "q", "first"] = "majority"
    """Which readout counts when none is verified: the most frequent, the most believed, or the first to halt."""


@dataclass(frozen=True)
class Decoding:
    """How the next token of a text is drawn, and how many are at most."""

    max_new_tokens: int = 200
    """Tokens to write at most."""
    temperature: float = 1.0
    """Below 1 prefers likely tokens, above 1 unlikely ones."""
    top_k: int = 0
    """Draw among the so many likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Above 1 avoids tokens that the text already has."""
    greedy: bool = False
    """Always take the likeliest token."""
    seed: int = 0
    """Another seed draws another text."""


C = TypeVar("C", Config, TextConfig, LearnConfig)


def parse_horizon(text: str) -> tuple[str, Any]:
    """A gradient horizon and its argument: ("last_step", None), ("trailing", 3), ("per_cycle", [1, 2])."""
    match = re.fullmatch(
        r"(last_step|last_cycle)|(trailing)\((\d{1,6})\)|(per_cycle)\(\[(\d{1,6}(?:\s*,\s*\d{1,6})*)\]\)",
        text.strip()[:10_000],
    )
    if match is None:
        known = "use last_step, last_cycle, trailing(k) or per_cycle([1, 2])"
        raise UserError(f"unknown gradient horizon {quoted(text)} (--arch.horizon): {known}")
    plain, trailing, passes, per_cycle, steps = match.groups()
    if trailing:
        return trailing, int(passes)
    return (per_cycle, [int(step) for step in steps.split(",")]) if per_cycle else (plain, None)


def presets(kind: type = Config) -> list[str]:
    """Names of the presets shipped with the package, of puzzles or (TextConfig) of text."""
    return sorted(entry.name[:-5] for entry in _folder(kind).iterdir() if entry.name.endswith(".yaml"))


def about(preset: str) -> str:
    """What a preset is, in a sentence: its first line."""
    folder = _folder(TextConfig if preset in presets(TextConfig) else Config)
    return folder.joinpath(f"{preset}.yaml").read_text("utf-8").splitlines()[0].removeprefix("# ")


def kind_of(
    name_or_path: str | Path, children: tuple[str, ...] = ()
) -> type[Config] | type[TextConfig] | type[LearnConfig]:
    """Which kind of configuration a preset, YAML file or run folder holds; Config where that cannot be told."""
    name, path = str(name_or_path), Path(name_or_path)
    if name in presets(TextConfig):
        return TextConfig
    file = path / "config.yaml" if os.path.isdir(path) else path
    if name in presets() or not os.path.isfile(file):
        return Config
    text = bytes_of(file, SMALL).decode("utf-8", "replace")
    keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    for kind in (LearnConfig, TextConfig):
        if keys & (set(vars(kind())) - set(vars(Config())) - ({"settings"} if kind is LearnConfig else set())):
            return kind
    parent = re.search(r"^parent:\s*(\S+)", text, re.MULTILINE)
    return kind_of(parent[1], (*children, name)) if parent and parent[1] not in (*children, name) else Config


def load_preset(name_or_path: str | Path, kind: type[C] = Config) -> C:  # type: ignore[assignment]
    """The configuration of a preset, YAML file or run folder (its config.yaml); UserError if there is none."""
    return _load(str(name_or_path), (), kind)


def from_yaml(text: str, where: str, kind: type[C] = Config) -> C:  # type: ignore[assignment]
    """The configuration a YAML text describes on top of its `parent`; a UserError names `where` and the key."""
    return _parse(text, where, (), kind)


def to_yaml(config: Config | TextConfig | LearnConfig) -> str:
    """Every setting as YAML; `from_yaml` reads it back to an equal configuration."""
    tree = {name: vars(value) if is_dataclass(value) else value for name, value in vars(config).items()}
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def settings(config: Config | TextConfig | LearnConfig) -> dict[str, Any]:
    """All settings by their dotted names: {"task.kind": "sudoku", ..., "seed": 0}."""
    flat: dict[str, Any] = {}
    for name, value in vars(config).items():
        flat |= {f"{name}.{key}": item for key, item in vars(value).items()} if is_dataclass(value) else {name: value}
    return flat


LISTS = {"settings": "model", "text.options": "data", "task.gym_options": "task.gym"}
"""The lists of NAME=VALUE, and the setting that says what each is about."""


def without_lists(config: C) -> C:
    """The configuration on which a layer of settings says its own NAME=VALUE lists, before `lay_over`."""
    return _with(config, dict.fromkeys(LISTS.keys() & settings(config), ()))


def lay_over(below: C, layer: C) -> C:
    """`layer` with the NAME=VALUE lists of what it stands on below its own, name by name: preset < file < flag.

    Options stay behind where the data set changes, and settings where the model is now one that exists: it has its own.
    """
    old, new = settings(below), settings(layer)
    merged = {}
    for name, about in LISTS.items():
        if name not in new:
            continue
        moved = old.get(about) != new.get(about) and (name != "settings" or Path(new["model"]).exists())
        if old[name] and not moved:
            merged[name] = tuple({part.partition("=")[0]: part for part in (*old[name], *new[name])}.values())
    return _with(layer, merged)


def _with(config: C, values: Mapping[str, Any]) -> C:
    """The configuration with some settings, by their dotted names, replaced."""
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        change = {group: replace(getattr(config, group), **{last: value})} if group else {last: value}
        config = replace(config, **change)
    return config


def nearest(name: str, names: Iterable[str]) -> str:
    """The suffix "; did you mean 'x'?" for the closest of dotted names or flags, or "" when none is close."""
    # Comparing takes long for many names and long ones, and nobody mistypes those.
    names = [other for other in islice(names, 2000) if len(other) <= 100] if len(name) <= 100 else []
    same_ending = [other for other in names if re.split(r"\.|--", other)[-1] == re.split(r"\.|--", name)[-1]]
    close = difflib.get_close_matches(name, same_ending or names, n=1, cutoff=0.0 if same_ending else 0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def describe(kind: Any) -> str:
    """A setting's type in words, for messages: "an integer", "one of rope, none"."""
    words = {int: "an integer", float: "a number", str: "text", bool: "on or off", Path: "a path"}
    if kind in words:
        return words[kind]
    arguments = [argument for argument in get_args(kind) if argument is not types.NoneType]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if get_origin(kind) is tuple:
        count = "a list of values" if arguments[-1] is ... else f"{len(arguments)} values"
        return f"{count}, each {describe(arguments[0])}"
    return f"{describe(arguments[0])} or null"


def fit(kind: Any, value: Any) -> Any:
    """The value as exactly this type, ValueError otherwise; only int becomes float, and list tuple."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else fit(next(a for a in arguments if a is not types.NoneType), value)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else list(arguments)
        if len(kinds) == len(value):
            return tuple(fit(*pair) for pair in zip(kinds, value, strict=True))
    elif origin is Literal and any(value == known and type(value) is type(known) for known in arguments):
        return value
    elif kind is float and isinstance(value, int | float) and type(value) is not bool and abs(value) <= _LARGEST:
        return float(value)
    elif kind in (int, bool, str) and type(value) is kind:
        return value
    raise ValueError(f"must be {describe(kind)}, not {quoted(value)}")


def check(config: Config | TextConfig | LearnConfig) -> None:
    """UserError for the first value out of range or combination that cannot work, naming the flag and the fix."""
    check_ranges(config)
    problems = {Config: _problems, TextConfig: _text_problems, LearnConfig: _learn_problems}[type(config)]
    for problem in problems(config):  # type: ignore[operator]
        raise UserError(problem)


def check_ranges(config: Config | TextConfig | LearnConfig) -> None:
    """UserError for the first value out of range."""
    for name, value in settings(config).items():
        check_range(name, value, "learn" if isinstance(config, LearnConfig) else "")


def check_range(name: str, value: Any, verb: str = "") -> None:
    """UserError unless every number of a setting or flag is in the range in which the program works."""
    least, most = range_of(name, verb) or (-math.inf, math.inf)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and type(number) is not bool and not least <= number <= most:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} must be {_between(least, most)}, not {quoted(number)}")


def range_of(name: str, verb: str = "") -> tuple[float, float] | None:
    """Least and largest value of a setting or of a verb's flag; None for one without a range."""
    return _RANGES.get(f"{verb}.{name}", _RANGES.get(name))


def _between(least: float, most: float) -> str:
    low = "above 0" if least == _ABOVE_ZERO else f"at least {least:,}"
    if most == _MANY:
        return low
    return f"{low} and below 1" if most == _BELOW_ONE else f"{low} and at most {most:,}"


_MANY = 2**63 - 1
_LARGEST = sys.float_info.max
_BELOW_ONE = math.nextafter(1.0, 0.0)
_ABOVE_ZERO = 5e-324
_RANGES: dict[str, tuple[float, float]] = {
    # Settings of a run; those of a learner begin with learn.
    "task.box": (2, 8),
    "task.size": (1, 1024),
    "task.min_path": (1, 1 << 20),
    "task.vocabulary": (2, 1_000_000),
    "task.puzzles": (1, 10**9),
    "task.holdout": (0, 10**9),
    "task.extra_clues": (0, 1),
    "task.reveal": (0, 1),
    "task.copies": (1, 100_000),
    "task.translate": (0, 1),
    "arch.dim": (1, 65_536),
    "arch.heads": (1, 4096),
    "arch.kv_heads": (1, 4096),
    "arch.fast_layers": (1, 1000),
    "arch.slow_layers": (0, 1000),
    "arch.h_cycles": (1, 1000),
    "arch.l_cycles": (1, 1000),
    "arch.norm_eps": (0, 1),
    "arch.expansion": (0, 256),
    "arch.expansion_multiple": (1, 65_536),
    "arch.rope_base": (1, 10**12),
    "arch.task_positions": (0, 1024),
    "halting.max_segments": (1, 100_000),
    "halting.exploration": (0, 1),
    "halting.weight": (0, 10**6),
    "loss.label_smoothing": (0, _BELOW_ONE),
    "loss.z_loss": (0, 10**6),
    "optim.lr": (0, 1000),
    "optim.betas": (0, _BELOW_ONE),
    "optim.weight_decay": (0, 1000),
    "optim.muon_lr": (0, 1000),
    "optim.muon_weight_decay": (0, 1000),
    "optim.task_lr": (0, 1000),
    "optim.task_weight_decay": (0, 1000),
    "optim.warmup_steps": (0, 10**12),
    "optim.min_ratio": (0, 1),
    "optim.clip": (0, 10**9),
    "optim.ema": (0, _BELOW_ONE),
    "train.steps": (1, 10**12),
    "train.minutes": (0, 10**7),
    "train.batch_size": (1, 1 << 20),
    "train.accumulate": (1, 1 << 20),
    "train.log_every": (1, 10**12),
    "train.eval_every": (1, 10**12),
    "train.eval_puzzles": (0, 10**9),
    "train.target_accuracy": (0, 1),
    "train.patience": (0, 10**9),
    "train.checkpoint_every": (1, 10**12),
    "train.keep": (1, 10**6),
    "train.max_bad_steps": (1, 10**9),
    "train.threads": (0, 1024),
    "seed": (0, _MANY),
    "lora": (0, 4096),
    "text.length": (2, 1 << 20),
    "text.examples": (1, 10**8),
    "text.holdout": (0, 0.9),
    "learn.epochs": (1, 10**6),
    "learn.length": (2, 1 << 16),
    "learn.stride": (1, 1 << 16),
    "learn.batch_size": (1, 1 << 16),
    "learn.lr": (0, 1000),
    "learn.embedding_lr": (0, 1000),
    "learn.weight_decay": (0, 1000),
    "learn.warmup": (0, _BELOW_ONE),
    "learn.holdout": (0.01, 0.5),
    "learn.memory": (0, 1),
    "learn.replay": (0, 100),
    "learn.recall": (0, 1000),
    "learn.grow_every": (0, 10**12),
    "learn.grow_fast": (0, 1000),
    "learn.grow_slow": (0, 1000),
    "learn.grow_params": (0, 10**11),
    "learn.grow_plateau": (0, 1),
    "learn.threads": (0, 1024),
    "learn.log_every": (1, 10**9),
    "learn.checkpoint_every": (1, 10**9),
    "learn.eval_characters": (1, 10**9),
    # What is tried for a puzzle (Strategy), and how text is drawn (Decoding).
    "max_segments": (1, 100_000),
    "restarts": (0, 100_000),
    "views": (1, 100_000),
    "guesses": (0, 100_000),
    "budget": (1, 10**12),
    "margin": (-(10**6), 10**6),
    "residual": (0, 10**6),
    "max_new_tokens": (1, 10**7),
    "temperature": (_ABOVE_ZERO, 1000),
    "top_k": (0, 10**9),
    "top_p": (_ABOVE_ZERO, 1),
    "repetition_penalty": (0.01, 100),
    # Flags of the verbs; where one name means two things, the verb stands before it.
    "batch_size": (1, 1 << 16),
    "best_of": (1, 10_000),
    "block": (200, 10**6),
    "box": (2, 8),
    "characters": (1, 10**8),
    "copies": (1, 100_000),
    "count": (1, _MANY),
    "delay": (0, 60),
    "exit_threshold": (-(10**6), 10**6),
    "fresh": (1, 10**7),
    "largest": (1, 30),
    "length": (2, 1 << 20),
    "limit": (1, _MANY),
    "memory": (2, _MANY),
    "min_characters": (0, 10**9),
    "min_path": (1, 1 << 20),
    "puzzles": (1, 10**9),
    "row": (1, _MANY),
    "rows": (1, 1 << 20),
    "schedule": (1, 1000),
    "segments": (1, 1000),
    "shape": (1, 1024),
    "size": (1, 1024),
    "skip": (0, _MANY),
    "steps": (1, 10**9),
    "stride": (1, 1 << 20),
    "test": (0, 10**9),
    "threads": (0, 1024),
    "top_k_table": (1, 10**6),
    "vocabulary": (2, 1_000_000),
    "data pack.holdout": (0, _BELOW_ONE),
    "data tokenizer.vocabulary": (257, 1_000_000),
    "generate.max_segments": (1, 1000),
    "analyze text.max_segments": (1, 1000),
}


def _problems(config: Config) -> Iterator[str]:
    """One sentence per combination that cannot work: the flag, why, and what to use."""
    task, arch, halting, optim, train = config.task, config.arch, config.halting, config.optim, config.train
    horizon, argument = parse_horizon(arch.horizon)
    dim, heads, mixer = arch.dim, arch.heads, arch.mixer
    box, size = (" ".join(map(str, sides)) for sides in (task.box, task.size))

    if task.kind == "sudoku" and math.prod(task.box) > 16:
        yield f"--task.box {box} makes boxes of {math.prod(task.box)} cells: use at most 16, such as 3 3"
    if task.kind == "maze" and task.min_path >= math.prod(task.size):
        yield f"--task.min-path {task.min_path} does not fit into --task.size {size}: lower it or enlarge the maze"
    if task.kind == "arc":
        yield from _arc_problems(config)
    for flag, share in (("--task.reveal", task.reveal), ("--task.extra-clues", task.extra_clues)):
        if task.kind != "sudoku" and share > 0:
            yield f"{flag} {share} fills in blanks of a Sudoku, and a {task.kind} has none: set it to 0"

    if mixer == "attention":
        if dim % heads:
            fitting = max(dim // heads, 1) * heads
            yield f"--arch.dim {dim} is not divisible by --arch.heads {heads}: use --arch.dim {fitting} or other heads"
        if arch.kv_heads is not None and heads % arch.kv_heads:
            yield f"--arch.kv-heads {arch.kv_heads} does not divide --arch.heads {heads}: use a divisor of {heads}"
        if arch.positions == "rope" and dim // heads % 2:
            yield f"--arch.positions rope needs an even --arch.dim / --arch.heads, not {dim // heads}: change one"
    else:
        if arch.positions == "rope":
            yield f"--arch.positions rope turns queries, and --arch.mixer {mixer} has none: use --arch.positions none"
        if arch.attention != "bidirectional":
            yield f"--arch.attention {arch.attention} needs --arch.mixer attention: {mixer} looks at every position"
        if arch.gate:
            yield f"--arch.gate multiplies the output of attention, and --arch.mixer is {mixer}: use --arch.no-gate"
    if mixer == "groups" and arch.task_positions > 0:
        yield "--arch.mixer groups pools cells, and a task embedding is none: use --arch.task-positions 0"
    if arch.tokens == "candidates":
        if task.kind != "sudoku" and (task.kind, task.gym) not in (("gym", "sudoku"), ("gym", "mini_sudoku")):
            yield f"--arch.tokens candidates needs interchangeable symbols, and a {task.kind} has none: use cells"
        if arch.positions == "groups":
            yield "--arch.tokens candidates has no embedding per row and column: use --arch.positions none"
        if arch.tied:
            yield "--arch.tokens candidates reads one number per state, not a vocabulary: use --arch.no-tied"
        if config.loss.label_smoothing:
            yield "--loss.label-smoothing spreads over tokens that --arch.tokens candidates rules out: use 0 or cells"
    if arch.expansion <= 0:
        yield f"--arch.expansion {arch.expansion} leaves no inner width: use 4"

    if arch.hierarchy and not arch.shared and arch.slow_layers == 0:
        yield "--arch.slow-layers 0 leaves no slow module: use at least 1, or --arch.shared"
    if not arch.hierarchy and arch.shared:
        yield "--arch.no-hierarchy has one stack anyway: drop --arch.shared"
    if not arch.hierarchy and halting.max_segments > 1:
        yield f"--arch.no-hierarchy is visited once: use --halting.max-segments 1, not {halting.max_segments}"
    if (visits := blocks_of(arch)) > MOST_BLOCKS:
        cycles = f"--arch.h-cycles {arch.h_cycles} and --arch.l-cycles {arch.l_cycles}"
        yield f"{cycles} visit {visits:,} blocks in a segment: lower one, to {MOST_BLOCKS:,} blocks at most"
    if horizon == "trailing" and argument < 2:
        yield f"--arch.horizon {arch.horizon} leaves the last update of H without gradient: use trailing(2) or more"
    if horizon == "per_cycle" and len(argument) > arch.h_cycles:
        yield f"--arch.horizon {arch.horizon} lists more cycles than --arch.h-cycles {arch.h_cycles}: shorten the list"
    if horizon == "per_cycle" and max(argument) > arch.l_cycles:
        yield f"--arch.horizon {arch.horizon} wants more steps than --arch.l-cycles {arch.l_cycles}: use fewer"
    if halting.q_continue and halting.max_segments == 1:
        yield "--halting.max-segments 1 leaves no next segment to value: use --halting.no-q-continue"

    yield from _course_problems(optim, train)
    if train.target_accuracy > 0 and train.eval_puzzles == 0:
        yield "--train.target-accuracy is measured on held-out puzzles: use --train.eval-puzzles 500, not 0"
    if train.patience > 0 and train.eval_puzzles == 0:
        yield "--train.patience counts measurements of held-out puzzles: use --train.eval-puzzles 500, not 0"
    for flag, path in (("--data", config.data), ("--validation", config.validation)):
        if path is not None and not path.strip():
            yield f"{flag} is empty: name a file of puzzles or a dataset folder, or leave the flag out"


def blocks_of(arch: Any) -> int:
    """How many blocks a segment goes through."""
    slow = arch.fast_layers if arch.shared else arch.slow_layers
    return arch.h_cycles * (arch.l_cycles * arch.fast_layers + slow) if arch.hierarchy else 1


MOST_BLOCKS = 4000


def _course_problems(optim: OptimConfig, train: TrainConfig) -> Iterator[str]:
    warmup, steps, batch = optim.warmup_steps, train.steps, train.batch_size
    if warmup > steps:
        yield f"--optim.warmup-steps {warmup} exceeds --train.steps {steps}: use --optim.warmup-steps {steps // 10}"
    if batch % train.accumulate:
        yield f"--train.accumulate {train.accumulate} does not divide --train.batch-size {batch}: use a divisor of it"
    if len(set(train.track)) < len(train.track):
        yield f"--train.track {' '.join(train.track)} names a tracker twice: name each once"


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
    yield from _course_problems(config.optim, train)
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


def _arc_problems(config: Config) -> Iterator[str]:
    task = config.task
    rows, columns = task.size
    if rows != columns:
        yield f"--task.size {rows} {columns} has no room for turned copies of ARC tasks: use {max(rows, columns)} twice"
    most = 8 if task.dihedral else 1
    if task.augment and task.copies > most and not task.colours:
        yield f"--task.copies {task.copies} differ by nothing but {most} symmetries: use {most}, or --task.colours"
    if config.arch.task_positions < 1:
        yield "--arch.task-positions 0 leaves no task embedding, without which ARC cannot be answered: use 1"


class _Dumper(yaml.SafeDumper):
    """Tuples as [1, 2]."""


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def _folder(kind: type) -> Any:
    root = resources.files("hrm.presets")
    return root if kind is Config else root.joinpath("text")


def _load(name_or_path: str, children: tuple[str, ...], kind: type[C]) -> C:
    path = Path(name_or_path)
    known = presets(kind)
    if name_or_path in known:
        text, where = _folder(kind).joinpath(f"{name_or_path}.yaml").read_text("utf-8"), f"preset {name_or_path}"
    elif os.path.isfile(path) or os.path.isfile(path / "config.yaml"):
        path = path / "config.yaml" if path.is_dir() else path
        text, where = text_of(path, SMALL), str(path)
    else:
        either = [*presets(), *presets(TextConfig)]
        hint = nearest(name_or_path, either) or f"; `hrm config list` shows the presets, such as {', '.join(known[:4])}"
        raise UserError(f"no preset, file or run folder is named {quoted(name_or_path)}{hint}")
    if where in children:
        raise UserError(f"{where} has itself as parent: change one of the parent: lines of {shown(children)}")
    if len(children) > 20:
        raise UserError(f"{children[0]} has more than 20 parents, one above the other: write some of them together")
    return _parse(text, where, (*children, where), kind)


def _parse(text: str, where: str, children: tuple[str, ...], kind: type[C]) -> C:
    tree = yaml_of(text, where)
    tree = {} if tree is None else tree
    if not isinstance(tree, Mapping):
        raise UserError(f"{where} must consist of `key: value` lines")
    named = tree.get("parent")
    if not isinstance(named, str | None):
        raise UserError(f"{where}: 'parent' must be the name of a preset or file, not {quoted(named)}")
    parent = kind() if named is None else _load(named, children, kind)
    own = {key: value for key, value in tree.items() if key != "parent"}
    return lay_over(parent, _overlay(without_lists(parent), own, where, "", kind()))


def _overlay(
    base: Any, tree: Mapping[str, Any], where: str, prefix: str, root: Config | TextConfig | LearnConfig
) -> Any:
    changes: dict[str, Any] = {}
    kinds = get_type_hints(type(base))
    for key, value in tree.items():
        name = f"{prefix}{key if isinstance(key, str) else quoted(key)}"
        if key not in kinds:
            hint = nearest(name, [*settings(root), *vars(root)]) or "; `hrm config show` lists all keys"
            raise UserError(f"{where}: unknown key {quoted(name)}{hint}")
        if is_dataclass(kinds[key]):
            if not isinstance(value, Mapping):
                inner = next(iter(vars(getattr(base, key))))
                raise UserError(f"{where}: '{name}' must hold settings such as '{name}.{inner}', not {quoted(value)}")
            changes[key] = _overlay(getattr(base, key), value, where, f"{name}.", root)
        else:
            try:
                changes[key] = fit(kinds[key], value)
            except ValueError as error:
                raise UserError(f"{where}: '{name}' {error}") from None
    return replace(base, **changes)
