"""Records: values with names and types that are written as JSON in the order of their fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

Json = dict[str, Any]
"""An object of a JSON file, or a line of metrics."""
Refuse = Callable[[str, object], Exception]
"""What to raise for a place in a file and the value there."""


class Record(Mapping[str, Any]):
    """Base of dataclasses for files and `--json`, which can be read as dicts too. A field that is None by default and
    is None is left out of JSON and of the dict."""

    def plain(self) -> Json:
        """The dict itself."""
        named = ((field, getattr(self, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return {field.name: value for field, value in named if value is not None or field.default is not None}

    def __getitem__(self, name: str) -> Any:
        return self.plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain())

    def __len__(self) -> int:
        return len(self.plain())


def taken(kind: Any, value: Any, refuse: Refuse, place: str = "") -> Any:
    """A value from a file as a field's type wants it; raises what `refuse` makes of another."""
    form, parts = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Record) and isinstance(value, dict):
        return _record(kind, value, refuse, place)
    if form in (UnionType, Union):
        known = {each.kind: each for each in parts if is_dataclass(each)}  # type: ignore[attr-defined]
        found = known.get(str(value.get("kind"))) if known and isinstance(value, dict) else parts[0]
        return taken(found, value, refuse, place)
    if form is Annotated and parts[1](value):
        return value if get_origin(parts[0]) is not list else taken(parts[0], value, refuse, place)
    if form is list and isinstance(value, list):
        return [taken(parts[0], each, refuse, f"{place}[{number}]") for number, each in enumerate(value)]
    if form is dict and isinstance(value, dict):
        return {name: taken(parts[1], each, refuse, f"{place}.{name}") for name, each in value.items()}
    if kind is object or type(value) is kind or (form is Literal and value in parts and isinstance(value, str)):
        return value
    raise refuse(place, value)


def _record(kind: type[Record], value: dict[str, object], refuse: Refuse, place: str) -> Record:
    """A record from its fields by name; one that is not there has its default, and what is not known is left out."""
    hints, given = get_type_hints(kind, include_extras=True), {}
    for each in fields(kind):  # type: ignore[arg-type]
        at = f"{place}.{each.name}".strip(".")
        if each.name in value:
            given[each.name] = taken(hints[each.name], value[each.name], refuse, at)
        elif each.default is MISSING:
            raise refuse(at, None)
    return kind(**given)
