"""Records: values with names and types that are written as JSON in the order of their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

Json = dict[str, Any]
"""An object of a JSON file, or a line of metrics."""


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
