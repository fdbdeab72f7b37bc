"""`hrm config list|show|diff|check`: what a run would be."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass, field
from typing import Any

import yaml

from hrm.cli.options import Positional, Settings, TextSettings, choose, entry, first_named, parse
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.puzzles.config import Config
from hrm.settings import about, check, kind_of, load_preset, presets, settings, to_yaml
from hrm.text.config import TextConfig

_MAIN = ("task.kind", "arch.dim", "arch.h_cycles", "arch.l_cycles", "halting.max_segments", "optim.lr", "train.steps")


@dataclass(frozen=True)
class ListOptions:
    """Print the presets that come with the package, of puzzles and of text, each with what it is."""

    json: bool = False
    """Print them as JSON."""


@dataclass(frozen=True)
class PresetOptions:
    """What is looked at."""

    preset: Positional[str]
    """Preset, YAML file or run folder."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class ShowOptions(PresetOptions):
    """Print every setting of a preset, file or run, with the flags applied, as YAML."""

    config: Settings = field(default_factory=Config)


@dataclass(frozen=True)
class TextOptions(PresetOptions):
    """Print every setting of a text preset, file or run, with the flags applied, as YAML."""

    config: TextSettings = field(default_factory=TextConfig)


@dataclass(frozen=True)
class DiffOptions:
    """Print the settings in which two presets, files or runs differ."""

    first: Positional[str]
    """Preset, YAML file or run folder."""
    second: Positional[str]
    """What to compare it with."""
    json: bool = False
    """Print them as JSON."""


@dataclass(frozen=True)
class CheckOptions(ShowOptions):
    """Say whether a preset, file or run can be trained with these flags."""


def main(args: list[str]) -> int:
    return choose("config", {"list": list_, "show": show, "diff": diff, "check": check_}, args)


def list_(args: list[str]) -> int:
    """Print every preset with a line on what it is."""
    options = parse("config list", ListOptions, args, example="hrm config list")
    found = [
        {"preset": name, "kind": kind, "about": about(name)}
        for kind, names in (("puzzles", presets(Config)), ("text", presets(TextConfig)))
        for name in names
    ]
    if options.json:
        print(to_json(found))
        return 0
    width, indent = shutil.get_terminal_size().columns, max(len(row["preset"]) for row in found) + 2
    for kind in ("puzzles", "text"):
        print(f"{kind}:")
        for row in found:
            if row["kind"] == kind:
                print(*entry(row["preset"], row["about"], indent + 2, width), sep="\n")
    print("\n" + textwrap.fill("hrm config show PRESET prints its settings, hrm train PRESET trains it.", width))
    return 0


def show(args: list[str]) -> int:
    """Print every setting as YAML."""
    example = "hrm config show sudoku-extreme --arch.l-cycles 4"
    options = _read("config show", ShowOptions, args, example)
    print(to_json(yaml.safe_load(to_yaml(options.config))) if options.json else to_yaml(options.config).rstrip("\n"))
    return 0


def diff(args: list[str]) -> int:
    """Print the settings in which two differ."""
    options = parse("config diff", DiffOptions, args, example="hrm config diff sudoku-extreme sudoku-extreme-trm")
    kinds: list[Any] = [kind_of(name) for name in (options.first, options.second)]
    if kinds[0] is not kinds[1]:
        raise UserError(f"{options.first} and {options.second} are of puzzles and of text: compare two of one family")
    first, second = (settings(load_preset(name, kinds[0])) for name in (options.first, options.second))
    differ = [name for name in first if first[name] != second[name]]
    if options.json:
        print(to_json({name: [first[name], second[name]] for name in differ}))
        return 0
    for name in differ:
        print(f"{name}: {_text(first[name])} -> {_text(second[name])}")
    return 0


def check_(args: list[str]) -> int:
    """Say whether all settings work together."""
    example = "hrm config check my-recipe.yaml"
    options = _read("config check", CheckOptions, args, example)
    check(options.config)
    print(to_json({"preset": options.preset, "fine": True}) if options.json else f"{options.preset}: fine")
    return 0


def _read(verb: str, options: type, args: list[str], example: str) -> Any:
    """Parse the options, with the flags of the family that the preset belongs to."""
    kind: Any = kind_of(first_named((options, TextOptions), args))
    if kind is TextConfig:
        options, example = TextOptions, f"hrm {verb} text-char --text.length 512"
    return parse(verb, options, args, example=example, main=_MAIN, base=lambda o: load_preset(o.preset, kind))


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
