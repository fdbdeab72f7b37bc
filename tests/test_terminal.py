"""What reaches a terminal, and how the three streams behave whatever they are."""

from __future__ import annotations

import ast
import io
import os
import sys
from pathlib import Path

import pytest
from rich.table import Table

from hrm import terminal
from hrm.cli.main import LONGEST, VERBS, main
from hrm.console import Console
from hrm.terminal import CleanStream, clean, replaced

ROOT = Path(__file__).parent.parent
EVIL = "\x1b]0;title\x07a\rb\x9bc\u202ed\x7f[red]:smile:[/red]"
SHOWN = r"\x1b]0;title\x07a\x0db\x9bc\u202ed\x7f[red]:smile:[/red]"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("a\tb\nc é 中 🙂", "a\tb\nc é 中 🙂"),
        ("a\r\nb", "a\nb"),
        ("B\udcfcch \ud800", r"B\xfcch \ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_escaped(text: str, shown: str) -> None:
    assert clean(text) == shown
    stream = io.StringIO()
    print(text, file=CleanStream(stream))  # type: ignore[arg-type]
    assert stream.getvalue() == shown + "\n"


def test_a_bar_of_another_library_may_return_to_the_start_of_its_line() -> None:
    stream = io.StringIO()
    print("\r50 %", end="", file=CleanStream(stream))  # type: ignore[arg-type]
    assert stream.getvalue() == "\r50 %"


def test_the_console_keeps_its_own_colours_and_takes_text_as_it_is() -> None:
    stream = Terminal()
    console = Console(file=CleanStream(stream), force_terminal=True, color_system="standard", width=120)  # type: ignore[arg-type]
    table = Table("name", title=EVIL, style="red")
    table.add_row(EVIL)
    console.print(table)
    console.print(EVIL, style="bold", highlight=False)
    shown = stream.getvalue()
    assert "\x1b[31m" in shown and "\x1b[1m" in shown
    for sent in ("\x1b]", "\x07", "\x9b", "\u202e", "\x7f", "😄"):
        assert sent not in shown
    # rich leaves out what returns or rings; the rest is seen.
    assert shown.count(r"\x1b]0;title") == 3 and "[red]:smile:[/red]" in shown


def test_text_of_the_command_line_becomes_what_a_model_can_read() -> None:
    assert replaced("caf\udce9 🙂") == "caf\ufffd 🙂"


def test_output_is_exact_in_a_pipe_and_clean_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for out, expected in ((io.StringIO(), EVIL), (Terminal(), SHOWN)):
        monkeypatch.setattr(sys, "stdout", out)
        with terminal.standard_streams():
            print(EVIL)
        assert sys.stdout is out and out.getvalue() == expected + "\n"


def test_quiet_leaves_results_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with terminal.standard_streams(quiet=True) as say:
        print("a note", file=sys.stderr)
        Console(stderr=True).print("progress")
        print("result")
        say("an error")
    assert (out.getvalue(), err.getvalue()) == ("result\n", "an error\n")


def test_a_name_that_is_not_utf8_leaves_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with terminal.standard_streams():
        print("B\udcfcch é")
        sys.stdout.flush()
    assert raw.getvalue() == b"B\xfcch ?\n"


def test_input_is_read_as_a_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfone\ncaf\xe9\n"), "ascii"))
    with terminal.standard_streams():
        assert sys.stdin.read() == "one\ncaf\ufffd\n"


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_becomes_the_null_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, name, None)
    with terminal.standard_streams():
        opened = getattr(sys, name)
        assert not opened.isatty()
        assert opened.read() == "" if name == "stdin" else opened.write("x") == 1
    handle = getattr(sys, name).fileno()
    monkeypatch.undo()
    os.close(handle)


def test_a_message_is_clean_and_of_bounded_length(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([EVIL * 1000]) == 2
    message = capsys.readouterr().err
    assert len(message) < LONGEST + 100 and "\x1b" not in message and message.count("\n") == 1
    assert main(["solve", "run" + EVIL, "1"]) == 2
    assert "\\x1b" in capsys.readouterr().err


def test_every_verb_goes_through_the_door() -> None:
    """`print` is cleaned wherever it stands; consoles and columns of rich would not be."""
    for file in (ROOT / "src/hrm").rglob("*.py"):
        if file == ROOT / "src/hrm/console.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
                assert "Console" not in [name.name for name in node.names], f"{file}: use hrm.console.Console"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "TextColumn":
                shown = ast.unparse(node.args[0])
                own = ("[" in shown and "line" not in shown) or "percentage" in shown
                assert own or "markup" in [word.arg for word in node.keywords], f"{file}:{node.lineno}: markup=False"
    assert len(VERBS) > 10
