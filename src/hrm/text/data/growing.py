"""Tokenizers that learn new characters or tokens; what they knew keeps its id."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from hrm.files import names
from hrm.files.reading import UserError, quoted
from hrm.text.data.tokenizers import make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def new_characters(tokenizer: PreTrainedTokenizerFast, documents: Iterable[str]) -> list[str]:
    """The characters that the tokenizer cannot write, in the order in which they appear."""
    seen = dict.fromkeys(chain.from_iterable(documents))
    coded = ((c, tokenizer(c, add_special_tokens=False)["input_ids"]) for c in seen)
    # Some tokenizers drop spaces on purpose.
    return [c for c, ids in coded if tokenizer.unk_token_id in ids or not (ids or c.isspace())]


def grow_tokenizer(tokenizer: PreTrainedTokenizerFast, tokens: Iterable[str]) -> list[str]:
    """Append what is not there yet, in place: characters to a tokenizer of characters, added tokens to any other.
    Returns what was added, in the order of the ids. UserError for several characters at once in a tokenizer of them."""
    from tokenizers import AddedToken, models

    backend, known = tokenizer.backend_tokenizer, tokenizer.get_vocab()
    added = [token for token in dict.fromkeys(tokens) if token not in known]
    special = set(tokenizer.all_special_tokens)
    if isinstance(backend.model, models.WordLevel) and all(len(token) == 1 for token in known if token not in special):
        long = [token for token in added if len(token) != 1]
        if long:
            raise UserError(f"a tokenizer of characters cannot learn {long[0]!r}: give single characters")
        vocabulary = backend.get_vocab(with_added_tokens=False)
        start = max(known.values()) + 1
        vocabulary |= {token: start + i for i, token in enumerate(added)}
        backend.model = models.WordLevel(vocabulary, unk_token=str(tokenizer.unk_token))
    else:
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])  # type: ignore[arg-type]
    return added


_FILES = frozenset((
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
))  # fmt: skip
"""What a tokenizer's folder consists of; a checkpoint that names anything else is not believed."""


def tokenizer_files(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The files of a tokenizer's folder, by name."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return {file.name: file.read_text("utf-8") for file in sorted(Path(folder).iterdir()) if file.name in _FILES}


def tokenizer_from(files: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer_files` took down; UserError for names that no tokenizer's folder has."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            if (why := names.fault(name, _FILES)) is not None or not isinstance(content, str):
                raise UserError(f"a tokenizer was kept with a file that it cannot have: {why or quoted(content)}")
            (Path(folder) / name).write_text(content, "utf-8")
        return make_tokenizer(folder)


def rebuild_tokenizer(tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of characters with these tokens, in the order of their ids; UserError if there can be none."""
    tokenizer = make_tokenizer("char")
    special = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if list(tokens[: len(special)]) != special or len(set(tokens)) < len(tokens):
        raise UserError(f"these are not the tokens of a tokenizer of characters: {' '.join(special)}, then each once")
    grow_tokenizer(tokenizer, tokens[len(special) :])
    return tokenizer
