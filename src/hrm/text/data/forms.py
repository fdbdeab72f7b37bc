"""Questions, answers and conversations in the forms in which sets are published: what each row of a file says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from hrm.files.reading import UserError, quoted, shown
from hrm.text.data.sources import Again, ReadOptions, Row, rows

Messages = list[dict[str, str]]
"""A conversation as chat templates take it: dictionaries of role (system, user, assistant) and content, which ends with
an empty line and the `context` where a question has one."""
Preference = tuple[Messages, Messages]
"""The same conversation with a chosen and with a rejected answer."""

QUESTIONS = ("instruction", "question", "prompt", "query")
CONTEXTS = ("input", "context")
ANSWERS = ("output", "answer", "response", "completion", "chosen")
_SYSTEMS = ("system", "system_prompt")
_DIALOGUES = ("messages", "conversations", "conversation")
_ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
}
_FORMS = {
    "Alpaca": ("instruction", "input", "output"),
    "Dolly": ("instruction", "context", "response"),
    "question and answer": ("question", "answer"),
    "prompt and completion": ("prompt", "completion"),
    "messages": ("messages",),
    "ShareGPT": ("conversations",),
    "an OpenAssistant tree": ("message_id", "parent_id", "role", "text"),
}
_Fields = Mapping[str, Any]
"""A row's values by their names in small letters."""


class RowLeftOut(Exception):
    """Why a row is no conversation, though nothing is wrong with the file."""


def conversations(source: str | Path, way: ReadOptions | None = None) -> Again[Messages]:
    """The conversations in the rows of a .jsonl, .json or .parquet file or of a data set of the Hub. A row has messages
    (`messages`, ShareGPT's `conversations`), or is a message of OpenAssistant's tree or a whole one, or has a question,
    perhaps with a context, and an answer (Alpaca, Dolly). UserError names file and line."""
    how = way or ReadOptions()
    return Again(lambda: _conversations(source, how))


def _conversations(source: str | Path, way: ReadOptions) -> Iterator[Messages]:
    """What form they have and what is left out is said at the end."""
    forms: Counter[str] = Counter()
    out: Counter[str] = Counter()
    names: dict[str, None] = {}
    used: set[str] = set()
    tree: list[_Fields] = []
    for row in rows(source, way):
        names |= dict.fromkeys(map(str, row.fields))
        form, columns, read = _form(row)
        forms[form] += 1
        used |= set(columns)
        if read is None:
            tree.append(_fields(row))
            continue
        try:
            yield read()
        except RowLeftOut as reason:
            out[str(reason)] += 1
    if tree:
        yield from _best_threads(tree, out)
    if not forms:
        raise UserError(f"{source}: there are no rows")
    if sum(out.values()) == sum(forms.values()):
        raise UserError(f"{source}: every row is left out ({_counts(out)}): is it the right file?")
    unread = [name for name in names if name.strip().lower() not in used]
    said = f"{source}: " + ", ".join(f"{count:,} rows read as {form}" for form, count in forms.items())
    left = f"; left out: {_counts(out)}" if out else ""
    way.say(said + left + (f"; columns that are not read: {shown(unread)}" if unread else ""))


def preferences(source: str | Path, way: ReadOptions | None = None) -> Iterator[Preference]:
    """The pairs in the rows of a file: a question, perhaps with a context, and a `chosen` and a `rejected` answer, as
    texts or as messages. UserError names file and line."""
    how, count, out = way or ReadOptions(), 0, Counter[str]()
    for row in rows(source, how):
        count += 1
        try:
            yield _preference(row)
        except RowLeftOut as reason:
            out[str(reason)] += 1
    if not count or sum(out.values()) == count:
        raise UserError(f"{source}: " + (f"every row is left out ({_counts(out)})" if count else "there are no rows"))
    how.say(f"{source}: {count:,} rows of chosen and rejected answers" + (f"; left out: {_counts(out)}" if out else ""))


def _preference(row: Row) -> Preference:
    fields = _fields(row)
    if missing := [name for name in ("chosen", "rejected") if name not in fields]:
        said = "a prompt or instruction, chosen and rejected"
        raise UserError(f"{row.place} has no {missing[0]} in its columns {shown(row.fields)}: preferences have {said}")
    question, context, system = (_named(fields, known) for known in (QUESTIONS, CONTEXTS, _SYSTEMS))
    if question is None:
        if not isinstance(fields["chosen"], list):
            _refuse(row, "question")
        chosen, rejected = (_turns(fields[name], row.place, name) for name in ("chosen", "rejected"))
    else:
        asked = (fields, row.place, system, question, context)
        chosen, rejected = _pair(*asked, "chosen"), _pair(*asked, "rejected")
    if chosen == rejected:
        raise RowLeftOut("the same answer twice")
    asked_of = [[turn for turn in side if turn["role"] != "assistant"] for side in (chosen, rejected)]
    if asked_of[0] != asked_of[1]:
        raise RowLeftOut("no question in common")
    return chosen, rejected


def are_conversations(source: str | Path, encoding: str | None = None) -> bool:
    """Whether the first row of a source has the fields of a conversation; False for what has no rows."""
    if Path(source).is_dir():
        return False
    try:
        first = next(rows(source, ReadOptions(encoding=encoding)), None)
    except UserError:
        return False
    fields = {} if first is None else _fields(first)
    return _is_message(fields) or _root(fields) is not None or _named(fields, (*_DIALOGUES, *QUESTIONS)) is not None


def _form(row: Row) -> tuple[str, Sequence[str], Callable[[], Messages] | None]:
    """The name of a row's form, the columns that it reads, and what reads it; None for a message of a tree."""
    fields = _fields(row)
    if (dialogue := _named(fields, _DIALOGUES)) is not None:
        system = _named(fields, _SYSTEMS)
        first = fields[dialogue][0] if isinstance(fields[dialogue], list) and fields[dialogue] else {}
        form = "ShareGPT" if isinstance(first, dict) and "from" in first else "messages"
        columns = [name for name in (system, dialogue) if name]
        return form, columns, lambda: _with_system(fields, system, _turns(fields[dialogue], row.place, dialogue))
    if _is_message(fields):
        return "messages of OpenAssistant's tree", _MESSAGE, None
    if (root := _root(fields)) is not None:
        columns = ["prompt", "message_tree_id", *fields] if root is fields else ["prompt", "message_tree_id"]
        return "trees of OpenAssistant", columns, lambda: _best_thread(root)
    question, answer = _named(fields, QUESTIONS), _named(fields, ANSWERS)
    if question is None or answer is None:
        _refuse(row, "question" if question is None else "answer")
    context, system = _named(fields, CONTEXTS), _named(fields, _SYSTEMS)
    columns = [name for name in (system, question, context, answer) if name]
    known = {"instruction output": "Alpaca", "instruction response": "Dolly"}
    form = known.get(f"{question} {answer}")
    written = ", ".join(columns)
    form = f"{form} ({written})" if form else f"question and answer ({written})"
    return form, columns, lambda: _pair(fields, row.place, system, question, context, answer)


def _pair(fields: _Fields, place: str, system: str | None, question: str, context: str | None, answer: str) -> Messages:
    if isinstance(fields[question], list):  # conversational prompts: messages up to the answer, and the answer's
        said = fields[answer]
        answers = said if isinstance(said, list) else [{"role": "assistant", "content": said}]
        return _turns(fields[question] + answers, place, question)
    texts = {name: _text(fields[name], place, name) for name in (question, context, answer) if name}
    if not texts[question].strip():
        raise RowLeftOut("an empty question")
    if not texts[answer].strip():
        raise RowLeftOut("an empty answer")
    messages = [{"role": "user", "content": texts[question]}, {"role": "assistant", "content": texts[answer]}]
    if context and texts[context].strip():
        messages[0] |= {"content": f"{texts[question]}\n\n{texts[context]}", "context": texts[context]}
    return _with_system(fields, system, messages)


def _with_system(fields: _Fields, name: str | None, messages: Messages) -> Messages:
    said = fields[name] if name else None
    return [{"role": "system", "content": said}, *messages] if isinstance(said, str) and said.strip() else messages


def _turns(turns: object, place: str, field: str) -> Messages:
    """A list of messages, of role and content or of from and value."""
    if not isinstance(turns, list):
        raise UserError(f"{place}: '{field}' is not a list of messages; correct or remove the row")
    messages: Messages = []
    for number, turn in enumerate(turns, 1):
        fields = turn if isinstance(turn, dict) else {}
        role, content = fields.get("role", fields.get("from")), fields.get("content", fields.get("value"))
        if isinstance(content, list):  # parts, of which the text is read
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        if not isinstance(role, str) or role.lower() not in _ROLES or not isinstance(content, str):
            known = "a role (system, user or assistant) and a content"
            raise UserError(f"{place}: message {number} has not {known}; correct or remove the row")
        messages.append({"role": _ROLES[role.lower()], "content": content})
    if not messages:
        raise RowLeftOut("no messages")
    if all(message["role"] != "assistant" or not message["content"].strip() for message in messages):
        raise RowLeftOut("no answer")
    return messages


_MESSAGE = ("message_id", "parent_id", "text", "role", "rank", "message_tree_id", "deleted", "review_result", "lang")


def _is_message(fields: _Fields) -> bool:
    return {"parent_id", "message_id", "text", "role"} <= set(fields) and "replies" not in fields


def _root(fields: _Fields) -> _Fields | None:
    """The first message of a nested tree."""
    for found in (fields.get("prompt"), fields):
        if isinstance(found, Mapping) and isinstance(found.get("replies"), list) and "text" in found:
            return found
    return None


def _best_threads(messages: list[_Fields], out: Counter[str]) -> Iterator[Messages]:
    """The best-ranked thread of each tree whose messages are rows; `out` counts the messages that are in none."""
    nodes = {str(message["message_id"]): dict(message, replies=[]) for message in messages}
    roots = []
    for node in nodes.values():
        parent = nodes.get(str(node["parent_id"])) if node["parent_id"] else None
        (roots if parent is None else parent["replies"]).append(node)
    for root in roots:
        if root["parent_id"]:
            out["messages whose parent is missing"] += _size(root)
            continue
        try:
            thread = _best_thread(root)
        except RowLeftOut as reason:
            out[f"messages of trees with {reason}"] += _size(root)
            continue
        out["messages that another reply is ranked above, or that go unanswered"] += _size(root) - len(thread)
        yield thread
    out += Counter()  # without what is 0


def _size(node: _Fields) -> int:
    count, nodes = 0, [node]
    while nodes:
        count += 1
        nodes += [reply for reply in nodes.pop().get("replies", []) if isinstance(reply, Mapping)]
    return count


def _best_thread(node: _Fields) -> Messages:
    """From the first message of a tree on always the best-ranked reply, as far as there is an answer."""
    messages: Messages = []
    while True:
        role, text = _ROLES.get(str(node.get("role")).lower()), node.get("text")
        if role is None or not isinstance(text, str):
            raise RowLeftOut("a message without role or text")
        messages.append({"role": role, "content": text})
        replies = [reply for reply in node.get("replies", []) if isinstance(reply, Mapping)]
        replies = [r for r in replies if r.get("deleted") is not True and r.get("review_result") is not False]
        if not replies:
            break
        node = min(replies, key=_rank)
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise RowLeftOut("no answer")
    return messages


def _rank(message: _Fields) -> float:
    rank = message.get("rank")
    return rank if isinstance(rank, int | float) else math.inf


def _text(value: object, place: str, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{place}: '{name}' is not a text, but {quoted(value)}; correct or remove the row")
    return value


def _fields(row: Row) -> _Fields:
    return {str(name).strip().lower(): value for name, value in row.fields.items()}


def _named(fields: _Fields, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields), None)


def _refuse(row: Row, missing: str) -> NoReturn:
    """A UserError with the columns that a row has, and the form that comes nearest."""
    columns = [str(name).strip().lower() for name in row.fields]

    def nearness(form: str) -> float:
        hits = [name for name in _FORMS[form] if get_close_matches(name, columns, 1, 0.6)]
        return len(hits) / len(_FORMS[form])

    near = max(_FORMS, key=nearness)
    raise UserError(
        f"{row.place} has no {missing} in its columns {shown(row.fields)}; the nearest form that is known is {near} "
        f"({', '.join(_FORMS[near])}): rename the columns, or read one of them as text with --field"
    )


def _counts(out: Counter[str]) -> str:
    return ", ".join(f"{count:,} {'with ' * what.startswith(('an ', 'no '))}{what}" for what, count in out.items())
