"""rich's console, as every verb has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.segment import Segment

from hrm.terminal import clean


class Console(rich.console.Console):
    """rich's console, whose own colours and movements pass the door; its text is cleaned, and taken as it is."""

    def __init__(self, **settings: Any) -> None:
        # A name such as "[red]" or ":smile:" is not markup, and "[link=...]" could smuggle in an escape code.
        super().__init__(**{"markup": False, "emoji": False, **settings})

    def print(self, *objects: Any, **settings: Any) -> None:
        """As rich's; a whole line is broken at its spaces in a terminal, where `soft_wrap` would break words."""
        if self.is_terminal and settings.get("end", "\n") == "\n":
            settings["soft_wrap"] = False
        super().print(*objects, **settings)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=clean(segment.text))

    @property
    def file(self) -> IO[str]:
        file = super().file
        return getattr(file, "behind", file)

    @file.setter
    def file(self, new: IO[str]) -> None:
        self._file = new
