"""The terminal: a line to type in, answers that appear as they are written, Ctrl-C that stops them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from rich.style import Style
from rich.text import Text

from hrm.console import Console
from hrm.files.reading import UserError
from hrm.terminal import clean, replaced
from hrm.text.chat import commands
from hrm.text.chat.session import Answer, AnswerToken, Session

PROMPT = ANSI("\x1b[1m> \x1b[0m")


@dataclass(frozen=True)
class TokenStyle:
    """How tokens look; the command line hands over what `hrm generate` draws with."""

    style: Callable[[int, float, int], Style]
    """Of a token of this depth and confidence, where the deepest is given."""
    legend: Callable[[int], Text]


class Terminal:
    """Talks until /quit or Ctrl-D."""

    def __init__(self, session: Session, drawing: TokenStyle, console: Console | None = None) -> None:
        self.session, self.drawing = session, drawing
        self.console = console or Console(highlight=False)
        self.talk = commands.CommandContext(session, self._progress)

    def run(self) -> None:
        """Read lines and obey or answer them."""
        session = self.session
        self._say(self._welcome())
        if session.settings.trace:
            self.console.print(self.drawing.legend(session.deepest))
        if notice := commands.mode_notice(self.talk):
            self._say(notice)
        keys = KeyBindings()
        keys.add("escape", "enter")(lambda event: event.current_buffer.insert_text("\n"))
        lines: PromptSession[str] = PromptSession(
            history=_history(), completer=_Completer(), auto_suggest=AutoSuggestFromHistory(), key_bindings=keys,
            bottom_toolbar=self._toolbar,
        )  # fmt: skip
        while True:
            try:
                line = replaced(lines.prompt(PROMPT))
            except KeyboardInterrupt:
                self._say("Ctrl-D or /quit ends")
                continue
            except EOFError:
                return
            try:
                if commands.is_command(line):
                    self._command(line)
                else:
                    self.answer(line.removeprefix("/") if line.startswith("//") else line)
            except commands.Quit:
                return
            except UserError as error:
                self.console.print(Text(str(error), "red"))
            except KeyboardInterrupt:
                self._say("interrupted")

    def answer(self, text: str) -> Answer:
        """Print an answer while it is written; Ctrl-C ends it after the next token."""
        with _interrupts(self.session.interrupt):
            answer = self.session.answer(text, self._token)
        if not self.session.settings.debug:
            self.console.print()
        if answer.end == "interrupted":
            answer.notices.append("stopped")
        elif not answer.text:
            answer.notices.append("the model ended the text at once")
        for notice in answer.notices:
            self._say(notice)
        if self.session.settings.trace or self.session.settings.debug:
            self._say(answer.summary)
        return answer

    def _command(self, line: str) -> None:
        session = self.session
        before = session.settings.trace, session.deepest
        self.console.print(commands.run(self.talk, line), soft_wrap=True)
        if session.settings.trace and before != (True, session.deepest):
            self.console.print(self.drawing.legend(session.deepest))

    def _token(self, said: AnswerToken) -> None:
        token, settings = said.token, self.session.settings
        style = self.drawing.style(token.depth, token.confidence, self.session.deepest) if settings.trace else Style()
        if not settings.debug:
            self.console.print(Text(clean(token.text), style), end="", soft_wrap=True)
            return
        line = Text(f"{token.text!r:<10}", style)
        line.append(f" depth {token.depth}, confidence {token.confidence:>4.0%}, {token.entropy:.2f} nats  ", "dim")
        line.append("  ".join(f"{text!r} {p:.0%}" for text, p in said.candidates))
        self.console.print(line, soft_wrap=True)

    def _welcome(self) -> str:
        session, conversation = self.session, self.session.conversation
        parameters = sum(p.numel() for p in session.model.parameters())
        form = "It answers questions." if conversation.talks else "It continues what you write."
        return (
            f"{session.loaded.name}: {parameters:,} parameters on {session.model.device}, remembers "
            f"{conversation.most:,} tokens. {form}\n/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends."
        )

    def _toolbar(self) -> str:
        session = self.session
        return f" {session.settings.mode}   {session.remembered:,} of {session.conversation.most:,} tokens remembered"

    def _say(self, text: str) -> None:
        self.console.print(Text(text, "dim"), soft_wrap=True)

    def _progress(self, share: float) -> None:
        print(f"\rreading held-out text in every mode: {share:.0%} (Ctrl-C skips)", end="", file=sys.stderr, flush=True)
        if share >= 1:
            print(f"\r{' ' * 70}", end="", file=sys.stderr)
            print("\r", end="", file=sys.stderr, flush=True)


@contextmanager
def _interrupts(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`; the next one, should that not be enough, raises KeyboardInterrupt."""

    def first(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    old = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)


def _history() -> History:
    """Lines of earlier talks, which only their owner can read; none where there is no place for them."""
    base = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_STATE_HOME")
    file = Path(base or Path.home() / ".local" / "state") / "hrm" / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(file))


class _Completer(Completer):
    """Commands, their words, and names of files."""

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not commands.is_command(line):
            return
        name, space, argument = line.partition(" ")
        command = commands.COMMANDS.get(name[1:])
        if space and command is not None and command.files:
            yield from PathCompleter(expanduser=True).get_completions(Document(argument), complete_event)
        for whole in commands.complete(line):
            yield Completion(whole, start_position=-len(line), display=whole.rpartition(" ")[2])
