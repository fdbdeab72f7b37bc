"""`hrm config show|diff|check`: what a run would be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hrm.cli.options import Positional, Settings, TextSettings, choose, parse
from hrm.config import Config, TextConfig, UserError, check, kind_of, load_preset, settings, to_yaml

_MAIN = ("task.kind", "arch.dim", "arch.h_cycles", "arch.l_cycles", "halting.max_segments", "optim.lr", "train.steps")


@dataclass(frozen=True)
class ShowOptions:
    """Print every setting of a preset, file or run, with the flags applied, as YAML."""

    preset: Positional[str]
    """Preset, YAML file or run folder."""
    config: Settings = field(default_factory=Config)


@dataclass(frozen=True)
class TextOptions:
    """The same of a text preset."""

    preset: Positional[str]
    """Text preset, YAML file or run folder."""
    config: TextSettings = field(default_factory=TextConfig)


@dataclass(frozen=True)
class DiffOptions:
    """Print the settings in which two presets, files or runs differ."""

    first: Positional[str]
    """Preset, YAML file or run folder."""
    second: Positional[str]
    """What to compare it with."""


@dataclass(frozen=True)
class CheckOptions:
    """Say whether a preset, file or run can be trained with these flags."""

    preset: Positional[str]
    """Preset, YAML file or run folder."""
    config: Settings = field(default_factory=Config)


def main(args: list[str]) -> int:
    return choose("config", {"show": show, "diff": diff, "check": check_}, args)


def show(args: list[str]) -> int:
    """Print every setting as YAML."""
    example = "hrm config show sudoku-extreme --arch.l-cycles 4"
    options = _read("config show", ShowOptions, args, example)
    print(to_yaml(options.config), end="")
    return 0


def diff(args: list[str]) -> int:
    """Print the settings in which two differ."""
    options = parse("config diff", DiffOptions, args, example="hrm config diff sudoku-extreme sudoku-extreme-trm")
    kinds: list[Any] = [kind_of(name) for name in (options.first, options.second)]
    if kinds[0] is not kinds[1]:
        raise UserError(f"{options.first} and {options.second} are of puzzles and of text: they have nothing in common")
    first, second = (settings(load_preset(name, kinds[0])) for name in (options.first, options.second))
    for name in (name for name in first if first[name] != second[name]):
        print(f"{name}: {_text(first[name])} -> {_text(second[name])}")
    return 0


def check_(args: list[str]) -> int:
    """Say whether all settings work together."""
    example = "hrm config check my-recipe.yaml"
    options = _read("config check", CheckOptions, args, example)
    check(options.config)
    print(f"{options.preset}: fine")
    return 0


def _read(verb: str, options: type, args: list[str], example: str) -> Any:
    """The options, with the flags that the named preset has."""
    named = next((arg for arg in args if not arg.startswith("-")), "")
    kind: Any = kind_of(named)
    if kind is TextConfig:
        options, example = TextOptions, f"hrm {verb} text-char --text.length 512"
    return parse(verb, options, args, example=example, main=_MAIN, base=lambda o: load_preset(o.preset, kind))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
