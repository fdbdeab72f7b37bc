"""Questions with answers, and conversations, of which only the answers count: read from rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hrm.config import UserError
from hrm.data.text.packed import Example
from hrm.data.text.sources import Row, Way, rows
from hrm.reading import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = list[dict[str, str]]
"""A conversation as chat templates take it: dictionaries of role (system, user, assistant) and content."""

TEMPLATE = "{question}\n\n{answer}"
"""How a question and its answer are written where the tokenizer has no chat template; the end token follows."""
QUESTIONS = ("instruction", "question", "prompt")
ANSWERS = ("output", "answer", "response", "completion")
_DIALOGUES = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}


class Conversations(Iterable[Messages]):
    """Conversations that can be read any number of times, each time from the start."""

    def __init__(self, read: Callable[[], Iterator[Row]]):
        self._read = read

    def __iter__(self) -> Iterator[Messages]:
        empty = True
        for row in self._read():
            empty = False
            yield _messages(row)
        if empty:
            raise UserError("there are no rows")


def conversations(source: str | Path, way: Way | None = None) -> Conversations:
    """The conversations in the rows of a .jsonl, .json or .parquet file or of a data set of the Hub.

    A row has `messages` of role and content, or a question (`instruction`, `question` or `prompt`, perhaps `input`) and
    an answer (`output`, `answer`, `response` or `completion`). UserError names file and line.
    """
    return Conversations(lambda: rows(source, way))


def are_conversations(source: str | Path, encoding: str | None = None) -> bool:
    """Whether the first row of a source has the fields of a conversation; False for what has no rows."""
    if Path(source).is_dir():
        return False
    try:
        first = next(rows(source, Way(encoding=encoding)), None)
    except UserError:
        return False
    return first is not None and (_named(first, _DIALOGUES) or _named(first, QUESTIONS)) is not None


def examples(
    tokenizer: PreTrainedTokenizerFast, dialogues: Iterable[Messages], template: str | None = None
) -> Iterator[Example]:
    """Each conversation as a document in which only the assistant's words, and the end after them, count.

    `template` holds {question} and {answer}; default: the tokenizer's chat template, or else TEMPLATE.
    """
    for messages in dialogues:
        last = max(n for n, message in enumerate(messages) if message["role"] == "assistant")
        ids, mask, said = _encoded(tokenizer, messages[: last + 1], template)
        if ids[-1] == tokenizer.eos_token_id:  # packing adds it
            ids, mask = ids[:-1], mask[:-1]
        yield Example(np.array(ids), np.array(mask), len(said), len(said.encode()))


def prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages, template: str | None = None) -> list[int]:
    """The tokens after which the model answers the last message, exactly as `examples` writes them."""
    return _encoded(tokenizer, messages, template)[0]


def written(messages: Messages, template: str | None = None) -> list[tuple[str, bool]]:
    """A conversation as pieces of text, and whether each counts, by a plain template; the end follows what counts.

    What the system says stands before the first question. Where a question comes last, the text ends where the answer
    begins.
    """
    before, after = _halves(template or TEMPLATE)
    pieces: list[tuple[str, bool]] = []
    asked: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            pieces += [(before.replace("{question}", "\n\n".join(asked)), False), (message["content"] + after, True)]
            asked = []
        else:
            asked.append(message["content"])
    if asked:
        pieces.append((before.replace("{question}", "\n\n".join(asked)), False))
    return pieces


def _pair(question: str, answer: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _named(row: Row, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row.fields), None)


def _messages(row: Row) -> Messages:
    dialogue = _named(row, _DIALOGUES)
    if dialogue is not None:
        return _turns(row, dialogue)
    question, answer = _named(row, QUESTIONS), _named(row, ANSWERS)
    if question is None or answer is None:
        missing = QUESTIONS if question is None else ANSWERS
        kind = "question" if question is None else "answer"
        raise UserError(
            f"{row.place} has no {kind}: it needs a field {', '.join(missing[:-1])} or {missing[-1]}, or messages; "
            f"it has {shown(row.fields)}"
        )
    texts = [row.fields[question], row.fields[answer], row.fields.get("input") or ""]
    for name, text in zip((question, answer, "input"), texts, strict=True):
        if not isinstance(text, str) or not (text.strip() or name == "input"):
            raise UserError(f"{row.place}: '{name}' is not a text or is empty; correct or remove the row")
    return _pair("\n\n".join(filter(None, (texts[0], texts[2]))), texts[1])


def _turns(row: Row, field: str) -> Messages:
    turns = row.fields[field]
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{row.place}: '{field}' is not a list of messages; correct or remove the row")
    messages: Messages = []
    for number, turn in enumerate(turns, 1):
        fields = turn if isinstance(turn, dict) else {}
        role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
        if role not in _ROLES or not isinstance(content, str):
            known = "a role (system, user or assistant) and a content"
            raise UserError(f"{row.place}: message {number} has not {known}; correct or remove the row")
        messages.append({"role": _ROLES[role], "content": content})
    if all(message["role"] != "assistant" for message in messages):
        raise UserError(f"{row.place}: the assistant says nothing; correct or remove the row")
    return messages


def _halves(template: str) -> tuple[str, str]:
    """What a template says up to the answer, and after it."""
    before, found, after = template.partition("{answer}")
    if not found or "{question}" not in before or "{answer}" in after or "{question}" in after:
        raise UserError(f"--template {template!r} should hold {{question}} and then {{answer}}, once each")
    return before, after


def _encoded(
    tokenizer: PreTrainedTokenizerFast, messages: Messages, template: str | None
) -> tuple[list[int], list[bool], str]:
    """The tokens of a conversation, which of them count, and the text that counts."""
    plain = template is not None or not tokenizer.chat_template
    ids: list[int] = []
    mask: list[bool] = []
    pieces = written(messages, template) if plain else _rendered_pieces(tokenizer, messages)
    for text, counts in pieces:
        # Only a chat template means the special tokens that it writes.
        piece = tokenizer(text, add_special_tokens=False, split_special_tokens=plain, verbose=False)["input_ids"]
        ids += [*piece, tokenizer.eos_token_id] if plain and counts else piece
        mask += [counts] * (len(ids) - len(mask))
    return ids, mask, "".join(text for text, counts in pieces if counts)


def _rendered_pieces(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[tuple[str, bool]]:
    """A conversation as pieces of text, and whether each counts, by the tokenizer's chat template."""
    pieces: list[tuple[str, bool]] = []
    done = ""
    for n, message in enumerate([*messages, {"role": "assistant"}]):
        if message["role"] != "assistant" or (n == len(messages) and messages[-1]["role"] == "assistant"):
            continue
        asked = _rendered(tokenizer, messages[:n], True)
        said = asked if n == len(messages) else _rendered(tokenizer, messages[: n + 1], False)
        if not asked.startswith(done) or not said.startswith(asked):
            raise UserError(
                "the tokenizer's chat template writes earlier messages anew with every answer, so that the answers "
                "cannot be told from the rest: use --template"
            )
        pieces += [(asked[len(done) :], False), (said[len(asked) :], True)]
        done = said
    return [piece for piece in pieces if piece[0]]


def _rendered(tokenizer: PreTrainedTokenizerFast, messages: Messages, answer_next: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer_next))
    except Exception as error:  # templates are programs, which complain in their own ways
        raise UserError(f"the tokenizer's chat template refuses a conversation ({error}): use --template") from error
