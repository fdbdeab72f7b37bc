"""Tokenizers: one token per character, byte pairs trained on a text, or any that transformers can read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hrm.files import names
from hrm.files.reading import UserError, needs, reason
from hrm.text.config import PAIRS

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

END, UNKNOWN = "<|end|>", "<|unknown|>"
_END_OF_TEXT = "<|endoftext|>"
_ENDS = (END, _END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
"""What the end of a document is called in files that do not say so."""
_SAVED = ("tokenizer*", "vocab*", "*.model", "*.tiktoken")
"""Files of which a saved tokenizer has at least one."""


def make_tokenizer(kind: str | Path, documents: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """`char`: every character of the documents. Otherwise a local folder or file (tokenizer.json, a SentencePiece
    .model, a .tiktoken), or else a name of the Hub."""
    return train_characters(documents) if kind == "char" else load_tokenizer(kind)


def train_characters(documents: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token per character, in the order in which they appear, after <|end|> (0) and <|unknown|> (1). What
    decode(encode(text)) gives is the text, if it holds only characters that were seen."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    seen = dict.fromkeys(chain.from_iterable(documents))
    vocabulary = {token: i for i, token in enumerate([END, UNKNOWN, *seen])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return _wrap(backend, eos_token=END, pad_token=END, unk_token=UNKNOWN, split_special_tokens=True)


def train_words(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token for each of these words, which stand between spaces, after <|end|> (0)."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {token: i for i, token in enumerate([END, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _wrap(backend, eos_token=END, pad_token=END, split_special_tokens=True)


def add_frame(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[str]:
    """Make what all texts begin and end with one token each, which keeps rows short; returns the new tokens. Text that
    has it elsewhere gets the token there too; decode(encode(text)) is the text as before."""
    from transformers import AddedToken

    texts = list(texts)
    begin = _common(texts)
    end = _common([text[len(begin) :][::-1] for text in texts])[::-1]
    new = [piece for piece in (begin, end) if len(piece) > 1]
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in new])
    return new


def _common(texts: list[str]) -> str:
    """What all texts begin with."""
    first, last = min(texts, default=""), max(texts, default="")  # those between begin with it too
    return first[: next((i for i, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))]


def train_bpe(documents: Iterable[str], vocabulary: int, progress: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with at most this many tokens, including the 256 bytes and <|endoftext|> (0)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    PAIRS.check("vocabulary", vocabulary)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(documents, trainer)
    return _wrap(backend, eos_token=_END_OF_TEXT, bos_token=_END_OF_TEXT, pad_token=_END_OF_TEXT)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a local folder or file, or else of a name of the Hub."""
    if source == "":
        raise UserError("the name of the tokenizer is empty: give a folder, a file or a name of the Hub")
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path)
    except UserError:
        raise
    except Exception as error:  # damaged files end in exceptions of every kind
        raise UserError(f"{path} cannot be read as a tokenizer ({reason(error)})") from error
    if isinstance(source, Path) or source.startswith(("/", ".", "~")) or path.suffix in (*_FILES, ".txt"):
        raise UserError(f"there is no tokenizer {source}")
    from transformers import AutoTokenizer

    try:
        with code_refused(source):
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        what = f"{source} is no folder here and could not be loaded from the Hub"
        raise UserError(f"{what}: {reason(error)}") from error


def saved_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder that transformers wrote; it has read and written a text, so that faults show here.
    UserError for a folder without one."""
    from transformers import AutoTokenizer

    names.folder_of_files(folder)
    nothing = UserError(f"{folder} has no tokenizer: save the model's own there")
    if not any(file for pattern in _SAVED for file in folder.glob(pattern)):
        raise nothing
    with code_refused(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        # Where the vocabulary is missing, transformers makes one of the special tokens alone; a learner begins with it.
        written = (folder / "tokenizer.json").is_file()
        if not written and not {*tokenizer.get_vocab()} - {*tokenizer.all_special_tokens, "▁"}:
            raise nothing
        tokenizer.decode(tokenizer("a b")["input_ids"], skip_special_tokens=True)
        if not isinstance(tokenizer.chat_template, str | dict | None):
            raise ValueError("its chat template is no text")
        return tokenizer


@contextmanager
def code_refused(source: str | Path) -> Iterator[None]:
    """UserError for what transformers could only read by running Python code that lies beside it. Every call of
    `from_pretrained` says `trust_remote_code=False`: transformers would ask on standard input otherwise."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise UserError(
            f"{source} brings Python code of its own, which is never run: save it again with a class of transformers"
        ) from None


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 over vocabulary and merges; where the files lie does not matter."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    facts = sorted(tokenizer.get_vocab().items()), model.get("type"), model.get("merges")
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def characters_of(tokenizer: PreTrainedTokenizerFast) -> np.ndarray | None:
    """The token of every code point, if the tokenizer has one per character; otherwise None."""
    single = {token: i for token, i in tokenizer.get_vocab().items() if len(token) == 1}
    others = len(tokenizer) - len(single) - len(set(tokenizer.all_special_tokens))
    if not single or others or tokenizer.unk_token_id is None:
        return None
    # Twice each, so that whatever joins, drops or adds spaces shows.
    ids = tokenizer("".join(2 * token for token in single), add_special_tokens=False)["input_ids"]
    if ids != [i for i in single.values() for _ in range(2)]:
        return None
    table = np.full(0x110000, tokenizer.unk_token_id, np.int32)
    table[[ord(token) for token in single]] = list(single.values())
    return table


def _folder(path: Path) -> PreTrainedTokenizerFast:
    from transformers import AddedToken, GPT2Tokenizer, RobertaTokenizer

    if (path / "tokenizer.json").is_file() or (path / "tokenizer_config.json").is_file():
        return saved_tokenizer(path)
    names.folder_of_files(path)
    vocabulary, merges = path / "vocab.json", path / "merges.txt"
    if vocabulary.is_file() and merges.is_file():
        if "<mask>" not in json.loads(vocabulary.read_text("utf-8")):
            return GPT2Tokenizer.from_pretrained(path, local_files_only=True)
        mask = AddedToken("<mask>", lstrip=True, special=True)  # as RoBERTa was trained
        return RobertaTokenizer.from_pretrained(path, local_files_only=True, mask_token=mask)
    files = [file for file in sorted(path.iterdir()) if file.suffix in _FILES]
    if len(files) != 1:
        known = "tokenizer.json, vocab.json with merges.txt, a .model or a .tiktoken file"
        raise UserError(f"{path} holds no tokenizer: it should have {known}")
    return _file(files[0])


def _file(path: Path) -> PreTrainedTokenizerFast:
    if path.suffix not in _FILES:
        raise UserError(f"{path} is no tokenizer: give a folder, a tokenizer.json, a .model or a .tiktoken file")
    if path.name == "tokenizer.json" and path.with_name("tokenizer_config.json").is_file():
        return _folder(path.parent)
    return _FILES[path.suffix](path)


def _json(path: Path) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer

    return _wrap(Tokenizer.from_file(str(path)))


def _sentencepiece(path: Path) -> PreTrainedTokenizerFast:
    """A SentencePiece model, by transformers' own converter, which leaves out what the model says about spaces."""
    try:
        import google.protobuf  # noqa: F401  # pyright: ignore[reportMissingModuleSource]
        import sentencepiece  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(needs(f"reading {path}", "SentencePiece", "data", error)) from error
    from tokenizers import Regex, decoders, normalizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import import_protobuf

    model: Any = import_protobuf().ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(path.read_bytes())
    # Given no folder to search, transformers reads this file only.
    settings = PreTrainedTokenizerFast.convert_to_native_format(vocab_file=str(path))
    tokenizer = PreTrainedTokenizerFast(clean_up_tokenization_spaces=False, **settings)
    rules = model.normalizer_spec
    spaces: list[Any] = [normalizers.Replace(" ", "▁")]
    if rules.add_dummy_prefix:
        spaces.insert(0, normalizers.Prepend("▁"))
    if rules.remove_extra_whitespaces:
        spaces = [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " "), *spaces]
    if rules.precompiled_charsmap:
        spaces.insert(0, normalizers.Precompiled(rules.precompiled_charsmap))
    text: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if rules.add_dummy_prefix:
        text.append(decoders.Strip(" ", 1, 0))
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(spaces)
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(text)
    return tokenizer


def _tiktoken(path: Path) -> PreTrainedTokenizerFast:
    """Lines of a token in base64 and its rank, by transformers' own converter."""
    from transformers.convert_slow_tokenizer import TikTokenConverter

    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(f"{path} line {number} is not a token in base64 and its rank") from error

    class Converter(TikTokenConverter):
        """Without the package tiktoken, which would only read the file."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return ranks

    return _wrap(Converter(str(path), extra_special_tokens=[_END_OF_TEXT]).converted(), eos_token=_END_OF_TEXT)


def _wrap(backend: Tokenizer, **special: object) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    if not special:
        known = backend.get_vocab(with_added_tokens=True)
        special = dict([("eos_token", end) for end in _ENDS if end in known][:1])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


_FILES = {".json": _json, ".model": _sentencepiece, ".tiktoken": _tiktoken}
