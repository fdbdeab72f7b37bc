"""How dataclasses of settings become flags, YAML files and one-sentence errors; no field of any recipe."""

from __future__ import annotations

import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from hrm.files.ranges import Range
from hrm.files.reading import FLOAT, SMALL, UserError, bytes_of, nearest, quoted, shown, text_of, yaml_of

_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Recipe:
    """All settings of a run of one family; a frozen dataclass."""

    family: ClassVar[str]
    """Of runs, as `run.json` has it."""
    told: ClassVar[str]
    """The same for people, as it follows "a run"."""
    use: ClassVar[str]
    """What one does with such a run."""
    folder: ClassVar[str | None] = None
    """Of its presets, within `hrm.presets`."""
    lists: ClassVar[Mapping[str, str]] = {}
    """Its lists of NAME=VALUE, and the setting that says what each is about."""
    fixed: ClassVar[tuple[str, ...]] = ()
    """How the names of those begin that a resumed run cannot change."""
    former: ClassVar[tuple[str, ...]] = ()
    """Keys of older files, which `today` translates."""

    @classmethod
    def today(cls, tree: Mapping[str, Any], where: str, parent: bool) -> Mapping[str, Any]:
        """What the file `where` says, in today's keys; `parent`: whether it stands on another."""
        return tree

    @classmethod
    def here(cls, name: str) -> str | None:
        """What a setting is called here that other code calls so: "arch.dim" for "hidden_size"."""
        return None

    def under(self, layer: Mapping[str, Any]) -> Recipe:
        """What a layer of settings is laid over, where that depends on what it says itself."""
        return self

    def problems(self) -> Iterator[str]:
        """One sentence per combination that cannot work: the flag, why, and what to use."""
        raise NotImplementedError


C = TypeVar("C", bound=Recipe)
T = TypeVar("T")
_FAMILIES = {
    "puzzle": "hrm.puzzles.config.Config",
    "text": "hrm.text.config.TextConfig",
    "learner": "hrm.text.config.LearnConfig",
}
"""The one list of the families there are."""


def families() -> dict[str, type[Recipe]]:
    """Every family's settings, by the family's name."""
    places = {family: place.rpartition(".") for family, place in _FAMILIES.items()}
    return {family: getattr(import_module(module), name) for family, (module, _, name) in places.items()}


def presets(kind: type[Recipe] | None = None) -> list[str]:
    """Names of the presets shipped with the package, of one family or of all."""
    if kind is None:
        return [name for each in families().values() for name in presets(each)]
    if kind.folder is None:
        return []
    return sorted(entry.name[:-5] for entry in _folder(kind).iterdir() if entry.name.endswith(".yaml"))


def about(preset: str) -> str:
    """What a preset is, in a sentence: its first line."""
    folder = _folder(kind_of(preset))
    return folder.joinpath(f"{preset}.yaml").read_text("utf-8").splitlines()[0].removeprefix("# ")


def kind_of(name_or_path: str | Path, children: tuple[str, ...] = ()) -> type[Recipe]:
    """Which family a preset, YAML file or run folder is of; puzzles where that cannot be told."""
    name, path = str(name_or_path), Path(name_or_path)
    known = list(families().values())
    for kind in known:
        if name in presets(kind):
            return kind
    file = path / "config.yaml" if os.path.isdir(path) else path
    if not os.path.isfile(file):
        return known[0]
    text = bytes_of(file, SMALL).decode("utf-8-sig", "replace")
    try:
        tree = yaml_of(text, file)
    except UserError:  # said where it is loaded, as what its keys tell it to be
        tree = dict.fromkeys(re.findall(r"^(\w+):", text, re.MULTILINE))
    if not isinstance(tree, Mapping):
        return known[0]
    own = {kind: {each.name for each in fields(kind)} | {*kind.former} for kind in known}  # type: ignore[arg-type]
    for kind in reversed(known):
        # What only this one has; a learner's model has the settings of any text model.
        others = [own[other] for other in known if other is not kind and (other is not known[-1] or kind is known[0])]
        if tree.keys() & own[kind].difference(*others):
            return kind
    parent = tree.get("parent")
    return kind_of(parent, (*children, name)) if isinstance(parent, str) and parent not in children else known[0]


def load_preset(name_or_path: str | Path, kind: type[C] | None = None) -> C:
    """The configuration of a preset, YAML file or run folder (its config.yaml); UserError if there is none. `kind` is
    the family's settings; default: those of the family that it is of."""
    return _load(str(name_or_path), (), kind or kind_of(name_or_path))  # type: ignore[arg-type, return-value]


def from_yaml(text: str, where: str, kind: type[C], children: tuple[str, ...] = ()) -> C:
    """The configuration a YAML text describes on top of its `parent`; a UserError names `where` and the key. `children`
    are the files and presets whose parent it is."""
    tree = yaml_of(text, where)
    tree = {} if tree is None else tree
    if not isinstance(tree, Mapping):
        raise UserError(f"{where} must consist of `key: value` lines")
    named = tree.get("parent")
    if not isinstance(named, str | None):
        raise UserError(f"{where}: 'parent' must be the name of a preset or file, not {quoted(named)}")
    own = kind.today({key: value for key, value in tree.items() if key != "parent"}, where, named is not None)
    parent: Any = (kind() if named is None else _load(named, children, kind)).under(own)
    return lay_over(parent, overlay(without_lists(parent), own, where))


def to_yaml(config: Recipe) -> str:
    """Every setting as YAML; `from_yaml` reads it back to an equal configuration."""
    tree = {name: vars(value) if is_dataclass(value) else value for name, value in vars(config).items()}
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def settings(config: Recipe) -> dict[str, Any]:
    """All settings by their dotted names: {"task.kind": "sudoku", ..., "seed": 0}."""
    flat: dict[str, Any] = {}
    for name, value in vars(config).items():
        flat |= {f"{name}.{key}": item for key, item in vars(value).items()} if is_dataclass(value) else {name: value}
    return flat


def without_lists(config: C) -> C:
    """The configuration on which a layer of settings says its own NAME=VALUE lists, before `lay_over`."""
    return changed(config, dict.fromkeys(config.lists, ()))


def lay_over(below: C, layer: C) -> C:
    """`layer` with the NAME=VALUE lists of what it stands on below its own, name by name: preset < file < flag. Options
    stay behind where the data set changes."""
    old, new = settings(below), settings(layer)
    merged = {}
    for name, about in layer.lists.items():
        if old[name] and old.get(about) == new.get(about):
            merged[name] = tuple({part.partition("=")[0]: part for part in (*old[name], *new[name])}.values())
    return changed(layer, merged)


def changed(config: C, values: Mapping[str, Any]) -> C:
    """The configuration with some settings, by their dotted names, replaced: {"arch.dim": 128}."""
    for name, value in values.items():
        group, _, last = name.rpartition(".")
        change = {group: replace(getattr(config, group), **{last: value})} if group else {last: value}
        config = replace(config, **change)
    return config


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


def check(config: Recipe) -> None:
    """UserError for the first value out of range or combination that cannot work, naming the flag and the fix."""
    check_ranges(config)
    for problem in config.problems():
        raise UserError(problem)


def ranges(kind: type) -> dict[str, Range]:
    """The ranges of the settings of a dataclass by their dotted names."""
    found: dict[str, Range] = {}
    for name, hint in _hints(kind, True).items():
        plain, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if is_dataclass(plain):
            found |= {f"{name}.{inner}": each for inner, each in ranges(plain).items()}  # type: ignore[arg-type]
        for mark in marks:
            if isinstance(mark, Range):
                found[name] = mark
    return found


@cache
def _hints(kind: type, include_extras: bool = False) -> dict[str, Any]:
    """`get_type_hints`, which takes long, once for each class."""
    return get_type_hints(kind, include_extras=include_extras)


def check_ranges(config: Any) -> None:
    """UserError for the first number of a dataclass of settings that is out of its range."""
    values = settings(config)
    for name, each in ranges(type(config)).items():
        each.check(name, values[name])


class _Dumper(yaml.SafeDumper):
    """Tuples as [1, 2]."""


_Dumper.add_representer(
    tuple, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def _folder(kind: type[Recipe]) -> Any:
    return resources.files("hrm.presets").joinpath(kind.folder or "")


def _load(name_or_path: str, children: tuple[str, ...], kind: type[C]) -> C:
    path = Path(name_or_path)
    known = presets(kind)
    if name_or_path in known:
        text, where = _folder(kind).joinpath(f"{name_or_path}.yaml").read_text("utf-8"), f"preset {name_or_path}"
    elif os.path.isfile(path) or os.path.isfile(path / "config.yaml"):
        path = path / "config.yaml" if path.is_dir() else path
        text, where = text_of(path, SMALL), str(path)
    else:
        if name_or_path in presets():
            theirs = kind_of(name_or_path).told
            raise UserError(f"the preset '{name_or_path}' is for a run {theirs}, not {kind.told}: use another")
        listed = f"; `hrm config list` shows the presets, such as {', '.join(known[:4])}"
        hint = nearest(name_or_path, presets()) or listed
        raise UserError(f"no preset, file or run folder is named {quoted(name_or_path)}{hint}")
    if where in children:
        raise UserError(f"{where} has itself as parent: change one of the parent: lines of {shown(children)}")
    if len(children) > 20:
        raise UserError(f"{children[0]} has more than 20 parents, one above the other: write some of them together")
    return from_yaml(text, where, kind, (*children, where))


def overlay(base: T, tree: Mapping[str, Any], where: str) -> T:
    """A dataclass of settings with what a tree says; a UserError names `where` and the key."""
    return _overlay(base, tree, where, "", type(base)())


def _overlay(base: Any, tree: Mapping[str, Any], where: str, prefix: str, root: Any) -> Any:
    changes: dict[str, Any] = {}
    hints = _hints(type(base))
    kinds = {each.name: hints[each.name] for each in fields(base)}
    for key, value in tree.items():
        name = f"{prefix}{key if isinstance(key, str) else quoted(key)}"
        if key not in kinds:
            raise UserError(f"{where}: unknown key {quoted(name)}{_advice(root, str(key), name, prefix, kinds)}")
        changes[key] = _given(kinds[key], getattr(base, key), value, where, name, root)
    return replace(base, **changes)


def _advice(root: Any, key: str, name: str, prefix: str, kinds: Mapping[str, Any]) -> str:
    if not isinstance(root, Recipe):
        return nearest(name, [prefix + each for each in kinds]) or "; it can be " + ", ".join(kinds)
    ours = root.here(key)
    hint = f": use {quoted(ours)}" if ours else nearest(name, [*settings(root), *vars(root)])
    return hint or "; `hrm config show` lists all keys"


def _given(kind: Any, before: Any, value: Any, where: str, name: str, root: Any) -> Any:
    """What a tree says of one setting: a value, a group of settings, or a list of groups. A group that can be absent is
    left out by `false`."""
    group = next((each for each in (kind, *get_args(kind)) if is_dataclass(each)), None)
    if group is None:
        try:
            return fit(kind, value)
        except ValueError as error:
            raise UserError(f"{where}: '{name}' {error}") from None
    make: Any = group
    if get_origin(kind) is tuple:
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            first, second, *_ = fields(group)
            raise UserError(f"{where}: '{name}' must be a list of entries with a {first.name} and a {second.name}")
        return tuple(_overlay(make(), each, where, f"{name}.{at}.", root) for at, each in enumerate(value, 1))
    if kind is not group and (value is None or value is False):
        return None
    if value is True and not isinstance(root, Recipe):
        value = {}
    if not isinstance(value, Mapping):
        inner = fields(group)[0].name
        raise UserError(f"{where}: '{name}' must hold settings such as '{name}.{inner}', not {quoted(value)}")
    return _overlay(make() if before is None else before, value, where, f"{name}.", root)
