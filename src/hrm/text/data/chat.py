"""Questions with answers, and conversations, of which only the answers count: how they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hrm.files.reading import UserError
from hrm.text.config import TEMPLATES
from hrm.text.data.forms import Messages
from hrm.text.data.forms import are_conversations as are_conversations
from hrm.text.data.forms import conversations as conversations
from hrm.text.data.packed import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEMPLATE = "{question}\n\n{answer}"
"""How a question and its answer are written where the tokenizer has no chat template; the end token follows."""
_TASK = "Below is an instruction that describes a task"
_WITH, _ALONE = f"{_TASK}, paired with an input that provides further context. ", f"{_TASK}. "
_ALPACA = "Write a response that appropriately completes the request.\n\n### Instruction:\n"
_INPUT, _RESPONSE = "\n\n### Input:\n", "\n\n### Response:\n"


def examples(
    tokenizer: PreTrainedTokenizerFast, dialogues: Iterable[Messages], template: str | None = None
) -> Iterator[Example]:
    """Each conversation as a document in which only the assistant's words, and the end after them, count. `template`
    is one of TEMPLATES or holds {question} and {answer}; default: the tokenizer's chat template, or else TEMPLATE."""
    for messages in dialogues:
        last = max(n for n, message in enumerate(messages) if message["role"] == "assistant")
        ids, mask, said = _encoded(tokenizer, messages[: last + 1], template)
        if ids[-1] == tokenizer.eos_token_id:  # packing adds it
            ids, mask = ids[:-1], mask[:-1]
        yield Example(np.array(ids), np.array(mask), len(said), len(said.encode()))


def chat_prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages, template: str | None = None) -> list[int]:
    """The tokens after which the model answers the last message, exactly as `examples` writes them."""
    return _encoded(tokenizer, messages, template)[0]


def written(messages: Messages, template: str | None = None) -> list[tuple[str, bool]]:
    """A conversation as pieces of text, and whether each counts, by a plain template; the end follows what counts. What
    the system says stands before the first question. After a last question, the text ends where the answer begins."""
    pieces: list[tuple[str, bool]] = []
    asked: list[dict[str, str]] = []
    after = "" if template in TEMPLATES else _halves(template or TEMPLATE)[1]
    for message in messages:
        if message["role"] == "assistant":
            pieces += [(_question(asked, template, not pieces), False), (message["content"] + after, True)]
            asked = []
        else:
            asked.append(message)
    if asked:
        pieces.append((_question(asked, template, not pieces), False))
    return pieces


def _question(asked: Sequence[dict[str, str]], template: str | None, first: bool) -> str:
    """What was said since the last answer, up to where the next begins."""
    if template == "roles":
        lines = "".join(f"{message['role'].title()}: {message['content']}\n" for message in asked)
        return f"{'' if first else chr(10)}{lines}Assistant: "
    if template == "alpaca":
        given = "\n\n".join(message["context"] for message in asked if "context" in message)
        said = (m["content"].removesuffix("\n\n" + m["context"] if "context" in m else "") for m in asked)
        text = "\n\n".join(said)
        return f"{_WITH if given else _ALONE}{_ALPACA}{text}{_INPUT + given if given else ''}{_RESPONSE}"
    return _halves(template or TEMPLATE)[0].replace("{question}", "\n\n".join(m["content"] for m in asked))


def chat_template(template: str | None = None) -> str:
    """A plain template as a chat template, which a tokenizer keeps and other programs read."""
    after = ""
    if template == "roles":
        each = "m['role'] | title ~ ': ' ~ m['content'] ~ '\\n'"
        asked = "('' if ns.first else '\\n') ~ ns.asked | join ~ 'Assistant: '"
    elif template == "alpaca":
        parts = {name: json.dumps(text) for name, text in (("w", _WITH), ("a", _ALONE), ("i", _INPUT))}
        each = "m['content'][:-2 - m['context'] | length] if m['context'] else m['content']"
        given = f"({parts['i']} ~ ns.given | join('\\n\\n') if ns.given else '')"
        head = f"({parts['w']} if ns.given else {parts['a']}) ~ {json.dumps(_ALPACA)}"
        asked = f"{head} ~ ns.asked | join('\\n\\n') ~ {given} ~ {json.dumps(_RESPONSE)}"
    else:
        before, after = _halves(template or TEMPLATE)
        each = "m['content']"
        asked = f"{json.dumps(before, ensure_ascii=False)} | replace('{{question}}', ns.asked | join('\\n\\n'))"
    end = f" ~ {json.dumps(after, ensure_ascii=False)}" if after else ""
    return (
        "{%- set ns = namespace(asked=[], given=[], first=true) -%}{%- for m in messages -%}"
        f"{{%- if m['role'] == 'assistant' -%}}{{{{- {asked} ~ m['content']{end} ~ eos_token -}}}}"
        "{%- set ns.asked = [] -%}{%- set ns.given = [] -%}{%- set ns.first = false -%}"
        f"{{%- else -%}}{{%- set ns.asked = ns.asked + [{each}] -%}}"
        "{%- set ns.given = ns.given + ([m['context']] if m['context'] else []) -%}{%- endif -%}{%- endfor -%}"
        f"{{%- if add_generation_prompt and ns.asked -%}}{{{{- {asked} -}}}}{{%- endif -%}}"
    )


def _halves(template: str) -> tuple[str, str]:
    """What a template says up to the answer, and after it."""
    before, found, after = template.partition("{answer}")
    if not found or "{question}" not in before or "{answer}" in after or "{question}" in after:
        known = f"{' or '.join(TEMPLATES)}, or hold {{question}} and then {{answer}}, once each"
        raise UserError(f"--template (of hrm train: --text.template) {template!r} should be {known}")
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
                "the tokenizer's chat template rewrites earlier messages with every answer, so that the answers "
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
