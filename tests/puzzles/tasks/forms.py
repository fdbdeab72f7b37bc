"""The forms in which people write a Sudoku, as functions of its rows of cells."""

from __future__ import annotations

from collections.abc import Callable

Rows = list[list[str]]
Form = Callable[[Rows, int, int], str]
"""Rows of cells, rows and columns of a box -> text."""


def _parts(row: list[str], width: int) -> list[list[str]]:
    return [row[i : i + width] for i in range(0, len(row), width)]


def _banded(lines: list[str], height: int, between: list[str]) -> str:
    bands = _parts(lines, height)
    return "\n".join(line for i, band in enumerate(bands) for line in [*(between if i else []), *band]) + "\n"


def one_line(rows: Rows, height: int, width: int) -> str:
    return "".join(map("".join, rows)) + "\n"


def plain(rows: Rows, height: int, width: int) -> str:
    return "\n".join(map("".join, rows)) + "\n"


def spaced(rows: Rows, height: int, width: int) -> str:
    return "\n".join(map(" ".join, rows)) + "\n"


def apart(rows: Rows, height: int, width: int) -> str:
    """Empty lines between bands, spaces between boxes."""
    lines = [" ".join("".join(part) for part in _parts(row, width)) for row in rows]
    return _banded(lines, height, [""])


def double(rows: Rows, height: int, width: int) -> str:
    """An empty line behind each row."""
    return "\n\n".join(map("".join, rows)) + "\n"


def simple_sudoku(rows: Rows, height: int, width: int) -> str:
    """.ss"""
    lines = ["|" + "|".join("".join(part) for part in _parts(row, width)) + "|" for row in rows]
    inside = "|" + "+".join("-" * width for _ in _parts(rows[0], width)) + "|"
    edge = "*" + "-" * (len(inside) - 2) + "*\n"
    return " " + edge + _banded(lines, height, [inside]) + " " + edge + " Simple Sudoku\n  Version 4.2n\n"


def hodoku(rows: Rows, height: int, width: int) -> str:
    lines = ["| " + " | ".join(" ".join(part) for part in _parts(row, width)) + " |" for row in rows]
    bars = [i for i, c in enumerate(lines[0]) if c == "|"]

    def ruled(ends: str, crossing: str) -> str:
        line = ["-"] * len(lines[0])
        for i in bars:
            line[i] = crossing
        line[0] = line[-1] = ends
        return "".join(line)

    return ruled(".", ".") + "\n" + _banded(lines, height, [ruled(":", "+")]) + ruled("'", "'") + "\n"


def piped(rows: Rows, height: int, width: int) -> str:
    """Bars and rules between boxes alone, as qqwing and many solvers print it."""
    lines = [" " + " | ".join(" ".join(part) for part in _parts(row, width)) for row in rows]
    rule = "+".join("-" * (2 * width + 1) for _ in _parts(rows[0], width))
    return _banded(lines, height, [rule])


def drawn(rows: Rows, height: int, width: int) -> str:
    """Box-drawing characters around boxes."""
    lines = ["\u2551" + "\u2551".join(" ".join(part) for part in _parts(row, width)) + "\u2551" for row in rows]
    rule = "\u2560" + "\u256c".join("\u2550" * (2 * width - 1) for _ in _parts(rows[0], width)) + "\u2563"
    return rule + "\n" + _banded(lines, height, [rule]) + rule + "\n"


def celled(rows: Rows, height: int, width: int) -> str:
    """A border around every cell, nothing in a blank one."""
    rule = "+---" * len(rows) + "+"
    lines = ["| " + " | ".join(" " if cell in ".0" else cell for cell in row) + " |" for row in rows]
    return rule + "\n" + f"\n{rule}\n".join(lines) + "\n" + rule + "\n"


def hollow(rows: Rows, height: int, width: int) -> str:
    """Spaces for blanks between bars."""
    lines = [
        "|" + "|".join("".join(" " if cell in ".0" else cell for cell in part) for part in _parts(row, width)) + "|"
        for row in rows
    ]
    return _banded(lines, height, ["-" * len(lines[0])])


def commas(rows: Rows, height: int, width: int) -> str:
    return "\n".join(map(",".join, rows)) + "\n"


def empty_fields(rows: Rows, height: int, width: int) -> str:
    """What a spreadsheet saves: nothing between two commas is blank."""
    return "\n".join(",".join("" if cell in ".0" else cell for cell in row) for row in rows) + "\n"


def tabs(rows: Rows, height: int, width: int) -> str:
    return "\n".join(map("\t".join, rows)) + "\n"


def lists(rows: Rows, height: int, width: int) -> str:
    """Python's or JSON's lists, one row on a line."""
    inner = [", ".join(cell if cell.isdecimal() else f'"{cell}"' for cell in row) for row in rows]
    return "[" + ",\n ".join(f"[{row}]" for row in inner) + "]\n"


def one_list(rows: Rows, height: int, width: int) -> str:
    return lists(rows, height, width).replace("\n", "") + "\n"


def sadman(rows: Rows, height: int, width: int) -> str:
    """.sdk"""
    done = "\n".join("1" * len(rows) for _ in rows)
    return "#ASomeone\n#DA puzzle\n#B03-08-2006\n[Puzzle]\n" + plain(rows, height, width) + f"[State]\n{done}\n"


def sudocue(rows: Rows, height: int, width: int) -> str:
    return "#ARuud\n#CJust start\n#LEasy\n#Uhttp://www.sudocue.net/\n" + plain(rows, height, width)


def rated(rows: Rows, height: int, width: int) -> str:
    return one_line(rows, height, width).strip("\n") + "  # 9.1 ED=7.2/7.2/2.6 by somebody\n"


def numbered(rows: Rows, height: int, width: int) -> str:
    return "17: " + one_line(rows, height, width).strip("\n") + ":11.30;1.20;0\n"


def titled(rows: Rows, height: int, width: int) -> str:
    """Project Euler's list."""
    return "Grid 01\n" + plain(rows, height, width)


def commented(rows: Rows, height: int, width: int) -> str:
    lines = plain(rows, height, width).splitlines()
    return "; a puzzle\n// another remark\n" + "\n".join([lines[0] + "  # row 1", "# between", *lines[1:]]) + "\n"


FORMS: list[Form] = [
    one_line, plain, spaced, apart, double, simple_sudoku, hodoku, piped, drawn, celled, hollow, commas, empty_fields,
    tabs, lists, one_list, sadman, sudocue, rated, numbered, titled, commented,
]  # fmt: skip
