"""Ranges of numbers: what stands beside a setting says in which the program works."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hrm.files.reading import UserError, quoted

MANY = 2**63 - 1
BELOW_ONE = math.nextafter(1.0, 0.0)
ABOVE_ZERO = 5e-324


class Range(NamedTuple):
    """Least and largest value of a setting: `dim: Annotated[int, Range(1, 65_536)] = 512`."""

    least: float
    most: float

    def check(self, name: str, value: Any) -> None:
        """UserError unless every number of a setting or flag lies in it."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and type(number) is not bool and not self.least <= number <= self.most:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} must be {self}, not {quoted(number)}")

    def __str__(self) -> str:
        low = "above 0" if self.least == ABOVE_ZERO else f"at least {self.least:,}"
        return f"{low} and below 1" if self.most == BELOW_ONE else f"{low} and at most {self.most:,}"
