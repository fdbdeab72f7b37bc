"""A conversation, the part of it that the model still reads, and its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from hrm.files import output
from hrm.files.reading import UserError, json_of
from hrm.files.records import Json
from hrm.text.data.chat import chat_prompt
from hrm.text.writing.generation import encode

FORMAT = 1
ROLES = ("user", "assistant", "system")


@dataclass
class Message:
    """What one side said; `tokens` are made from it when first needed."""

    role: str
    content: str
    tokens: list[int] | None = None


class ModelInput(NamedTuple):
    """What the model reads before it answers, and how much of the conversation it does not."""

    tokens: list[int]
    forgotten: int = 0


@dataclass
class Conversation:
    """Messages in order, all of them; what the model no longer reads is counted in `forgotten`. Running text (`talks`
    false) forgets its oldest tokens; questions and answers forget the oldest messages."""

    tokenizer: PreTrainedTokenizerFast
    most: int
    """Tokens the model reads, its answer included."""
    talks: bool = False
    template: str | None = None
    """How a question and its answer are written, where that is not the tokenizer's chat template."""
    messages: list[Message] = field(default_factory=list)
    forgotten: int = 0
    """Tokens of a running text, else messages."""
    answers: int = 0
    """Answers begun: with the seed, what the next one is drawn from."""

    @property
    def text(self) -> str:
        """All that was said, as one text."""
        return "".join(message.content for message in self.messages)

    def ask(self, text: str) -> None:
        """Add what a person says; if empty, the model continues. A running text continues on a new line."""
        if not text:
            if self.talks or not self.messages:
                raise UserError("say something first" if self.talks else "write a beginning, which the model continues")
            return
        before = self.messages[-1].content[-1:] if self.messages else ""
        if not self.talks and before and not before.isspace() and not text[0].isspace():
            text = "\n" + text
        self.messages.append(Message("user", text))

    def add(self, content: str, tokens: list[int]) -> None:
        """Add what the model says, piece by piece."""
        if not self.messages or self.messages[-1].role != "assistant":
            self.messages.append(Message("assistant", "", []))
        last = self.messages[-1]
        last.content += content
        if last.tokens is not None:
            last.tokens += tokens

    def reading(self) -> ModelInput:
        """The tokens the model reads next, fewer than `most`, without the oldest where not all fit; changes nothing.
        UserError for a single question that is too long."""
        if not self.messages:
            return ModelInput([])
        return self._exchanges() if self.talks else self._running()

    def clear(self) -> None:
        """Forget everything that was said."""
        self.messages, self.forgotten, self.answers = [], 0, 0

    def save(self, file: Path) -> None:
        """Write everything that was said as JSON."""
        said = [{"role": message.role, "content": message.content} for message in self.messages]
        facts = {"format": FORMAT, "talks": self.talks, "forgotten": self.forgotten, "answers": self.answers}
        try:
            output.write(file, output.to_json({**facts, "messages": said}, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{file} cannot be written ({error.strerror}): choose another file") from error

    def load(self, file: Path) -> None:
        """Replace this conversation by a saved one; UserError, with nothing changed, for another file."""
        found = json_of(file, hint="name a file that /save wrote")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UserError(f"{file} is no conversation that this version of /save wrote: name another file")
        numbers = [found.get("forgotten"), found.get("answers")]
        said = found.get("messages")
        if not isinstance(said, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise UserError(f"{file} is damaged: messages, forgotten and answers are not what /save writes")
        for number, message in enumerate(said, 1):
            good = isinstance(message, dict) and str(message.get("role")) in ROLES
            if not good or not isinstance(message.get("content"), str):
                raise UserError(f"{file} is damaged: message {number} has no role and content")
        if found.get("talks") != self.talks:
            kinds = {True: "questions and answers", False: "a running text"}
            raise UserError(f"{file} holds {kinds[not self.talks]}, and this model wants {kinds[self.talks]}")
        self.messages = [Message(message["role"], message["content"]) for message in said]
        self.forgotten, self.answers = found["forgotten"], found["answers"]

    def _running(self) -> ModelInput:
        pieces = [self._tokens(message, first=i == 0) for i, message in enumerate(self.messages)]
        total = sum(map(len, pieces))
        forgotten = min(self.forgotten, max(0, total - 1))
        if total - forgotten >= self.most:
            # Half is kept, so that the text is not read again for every token that is written.
            forgotten = total - max(1, self.most // 2)
        ids, start = [], forgotten
        for piece in pieces:
            ids += piece[max(0, start) :]
            start -= len(piece)
        return ModelInput(ids, forgotten)

    def _exchanges(self) -> ModelInput:
        room = self.most - max(1, self.most // 4)  # at least a quarter is left for the answer
        forgotten = min(self.forgotten, len(self.messages) - 1)
        while len(ids := self._rendered(forgotten)) > room:
            later = [i for i in range(forgotten + 1, len(self.messages)) if self.messages[i].role == "user"]
            if later:
                forgotten = later[0]
            elif len(ids) < self.most:
                break
            else:
                raise UserError(f"this has {len(ids):,} tokens and the model reads {self.most:,}: shorten it")
        return ModelInput(ids, forgotten)

    def _rendered(self, forgotten: int) -> list[int]:
        """The conversation by its template, up to where the answer begins."""
        first = [message for message in self.messages[:forgotten] if message.role == "system"]
        kept = [*first, *self.messages[forgotten:]]
        said = [{"role": message.role, "content": message.content} for message in kept]
        return chat_prompt(self.tokenizer, said, self.template)

    def _tokens(self, message: Message, first: bool) -> list[int]:
        if message.tokens is None:
            if first:
                message.tokens = encode(self.tokenizer, message.content, most=1 << 62)
            else:  # no special tokens in the middle of a text
                plain: Json = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
                message.tokens = list(self.tokenizer(message.content, **plain)["input_ids"])
        return message.tokens
