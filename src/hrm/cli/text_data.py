"""`hrm data tokenizer|pack`, and `hrm data show|check` of packed text."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hrm.cli.options import Positional, parse
from hrm.console import Console
from hrm.files import names, output
from hrm.files.output import to_json
from hrm.files.reading import UserError
from hrm.files.records import Json
from hrm.progress import bar
from hrm.runs import lock
from hrm.terminal import report
from hrm.text import data as corpus
from hrm.text.data import chat

if TYPE_CHECKING:
    pass

_SAMPLE = 1_000_000  # characters on which a tokenizer is tried
_PARTS = "train", "validation"


@dataclass(frozen=True)
class TokenizerOptions:
    """Train a tokenizer on texts: byte pairs, or one token per character."""

    files: Positional[tuple[str, ...]]
    """Texts, .jsonl or .parquet files, folders of them (.gz and .xz too), or data sets of the Hub."""
    out: Path
    """Folder to write, which transformers loads."""
    kind: Literal["bpe", "char"] = "bpe"
    """bpe: byte-level pairs; char: every character seen."""
    vocabulary: int = 8192
    """Size of the vocabulary of byte pairs, with the 256 bytes and the end of text."""
    field: str = "text"
    """Field of .jsonl and .parquet files that holds the text."""
    encoding: str | None = None
    """Encoding of the files, such as cp1251 or gb18030; default: detected, and said where it is not UTF-8."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True)
class PackOptions:
    """Turn texts or conversations into token files to train on, and hold a part out."""

    files: Positional[tuple[str, ...]]
    """Texts, .jsonl or .parquet files, folders of them (.gz and .xz too), or data sets of the Hub."""
    out: Path
    """Folder to write: tokenizer, train and validation."""
    tokenizer: str = "char"
    """char: every character of the texts; else a folder, a tokenizer.json, .model or .tiktoken file, or a Hub name."""
    kind: Literal["auto", "text", "chat"] = "auto"
    """chat: questions and answers, or conversations; the loss is on the answers. auto: as the first row looks."""
    template: str | None = None
    """Of questions: alpaca (### Instruction), roles (User:, Assistant:), or a text with {question} and {answer};
    default: the tokenizer's chat template, or an empty line."""
    field: str = "text"
    """Field of .jsonl and .parquet files that holds the text."""
    encoding: str | None = None
    """Encoding of the files, such as cp1251 or gb18030; default: detected, and said where it is not UTF-8."""
    holdout: float = 0.1
    """Share held out, in ten blocks spread over the texts; 0 for none."""
    rows: int | None = None
    """Write HRM's dataset folder (train and test) instead: each text, or question with its answer, in a row of this
    many tokens, between the tokenizer's begin and end tokens and padded."""
    json: bool = False
    """Print the result as JSON."""


def tokenizer(args: list[str]) -> int:
    """Train a tokenizer on texts."""
    example = "hrm data tokenizer stories.txt --vocabulary 4096 --out tokenizer"
    options = parse("data tokenizer", TokenizerOptions, args, example=example)
    with lock.place(options.out, "data tokenizer") as place:
        _free(options.out)
        names.apart(options.out, options.files)
        console = Console(stderr=True)
        texts = corpus.texts(options.files, options.field, corpus.ReadOptions(_saying(console), options.encoding))
        if options.kind == "char":
            made = corpus.make_tokenizer("char", texts)
        else:
            made = corpus.train_bpe(texts, options.vocabulary, progress=console.is_terminal)
        characters = tokens = 0
        for example in corpus.encode(made, islice(texts, 1000)):
            characters, tokens = characters + example.characters, tokens + len(example.tokens)
            if characters >= _SAMPLE:
                break
        each = characters / max(1, tokens)
        made.save_pretrained(place / options.out.name)
        (place / options.out.name).replace(options.out)  # complete
    facts = {"written": str(options.out), "vocabulary": len(made), "characters_per_token": each}
    said = f"{options.out}: {len(made):,} tokens; {each:.2f} characters per token"
    print(to_json(facts) if options.json else said)
    return 0


def pack(args: list[str]) -> int:
    """Turn texts or conversations into token files to train on."""
    example = "hrm data pack stories.txt --tokenizer tokenizer --out stories"
    options = parse("data pack", PackOptions, args, example=example)
    with lock.place(options.out, "data pack") as folder:
        return _pack(options, folder)


def _pack(options: PackOptions, place: Path) -> int:
    _free(options.out)
    names.apart(options.out, [*options.files, options.tokenizer])
    console = Console(stderr=True)
    way = corpus.ReadOptions(_saying(console), options.encoding)
    talk = options.kind == "chat" or (options.kind == "auto" and _talks(options.files, way.encoding))
    if talk:
        items: Any = corpus.Again(lambda: chain.from_iterable(chat.conversations(file, way) for file in options.files))
    else:
        items = corpus.texts(options.files, options.field, way)
    made = corpus.make_tokenizer(options.tokenizer, _said(items, options.template) if talk else items)
    if talk and options.template is not None:
        made.chat_template = chat.chat_template(options.template)
    parts = corpus.hold_out(items, options.holdout) if options.holdout else (items,)
    facts: dict[str, Json] = {}
    for doubt in corpus.doubts(*parts) if len(parts) == 2 else ():
        way.say(doubt)

    def fill(folder: Path) -> None:  # the files that it maps are let go before their folder is moved
        packed: list[corpus.Packed] = []
        for name, part in zip(_PARTS, parts, strict=False):
            total = sum(1 if talk else len(item) for item in part) if console.is_terminal else 0
            with bar(f"packing {name}", total, console) as advance:
                examples = chat.examples(made, part, options.template) if talk else corpus.encode(made, part)
                if options.rows is not None and made.bos_token_id != made.eos_token_id:
                    examples = corpus.begun(examples, made.bos_token_id)  # type: ignore[arg-type]

                def count(example: corpus.Example, advance: Callable[[int], object] = advance) -> None:
                    advance(1 if talk else example.characters)

                packed.append(corpus.Packed.write(folder / name, made, examples, count))
        made.save_pretrained(folder / "tokenizer")
        if options.rows is not None:
            splits: dict[str, corpus.Packed] = dict(zip(("train", "test"), packed, strict=False))
            pad: Any = made.eos_token_id if made.pad_token_id is None else made.pad_token_id
            corpus.write_rows(folder / "rows", splits, options.rows, len(made), pad)
            for name in _PARTS[: len(packed)]:
                shutil.rmtree(folder / name)
            for path in (folder / "rows").iterdir():
                path.replace(folder / path.name)
            (folder / "rows").rmdir()

        facts.update((name, part.facts) for name, part in zip(_PARTS, packed, strict=False))

    fill(place / options.out.name)
    (place / options.out.name).replace(options.out)
    if options.json:
        kept = ("count", "documents", "characters", "bytes", "unknown", "vocabulary")
        print(to_json({"written": str(options.out)} | {n: {k: f[k] for k in kept} for n, f in facts.items()}))
        return 0
    what = "conversations" if talk else "documents"
    counts = " and ".join(f"{f['count']:,} tokens ({f['documents']:,} {what}) in {n}" for n, f in facts.items())
    print(f"{options.out}: {counts}; vocabulary of {len(made):,}")
    if unknown := sum(f["unknown"] for f in facts.values()):
        print(f"{unknown:,} tokens are unknown to the tokenizer", file=sys.stderr)
    return 0


def is_text(path: str) -> bool:
    """Whether a path is a folder of packed text (not HRM's dataset folder, which holds puzzles as well)."""
    return bool(_parts(path))


def check(path: str, as_json: bool) -> int:
    """Find files of packed text that are incomplete or have changed."""
    found: list[str] = []
    if _parts(path) == [Path(path) / "validation"]:
        found.append(f"{Path(path) / 'train'} has neither {corpus.MANIFEST} nor index.json: restore it")
    for part in _parts(path):
        try:
            made = corpus.tokenizer_of(part)
            known = corpus.Corpus if (part / corpus.MANIFEST).is_file() else corpus.Packed
            found += known.open(part, made).check()
        except UserError as error:
            found.append(str(error))
    if as_json:
        print(to_json({"path": path, "count": len(found), "problems": found}))
    elif found:
        report("\n".join(found))
    else:
        print(f"{path}: no problems")
    return 2 if found else 0


def show(path: str, split: str, row: int, count: int, as_json: bool) -> int:
    """Print documents of packed text; what does not count in the loss is dim."""
    parts = [part for part in _parts(path) if part.name == {"test": "validation"}.get(split, split)] or _parts(path)
    folder = parts[0] if (parts[0] / "index.json").is_file() else corpus.Corpus.open(parts[0]).first
    packed, made = corpus.Packed.open(folder), corpus.tokenizer_of(parts[0])
    documents = packed.facts["documents"]
    if not 1 <= row <= documents or count < 1:
        raise UserError(f"--row must be from 1 to {documents} and --count at least 1")
    if made is None:
        raise UserError(f"{path} has no tokenizer beside it, so that its text cannot be shown")
    console = Console(highlight=False, markup=False)
    for number in range(row - 1, min(row - 1 + count, documents)):
        here = slice(packed.documents[number], packed.documents[number + 1])
        tokens = packed.tokens[here].tolist()
        counts = [True] * len(tokens) if packed.mask is None else (packed.mask[here] == 1).tolist()
        if as_json:
            print(to_json({"row": number + 1, "tokens": len(tokens), "text": made.decode(tokens)}))
            continue
        console.print(f"document {number + 1}, {len(tokens):,} tokens, of which {sum(counts):,} count", style="bold")
        start = 0
        for end in range(1, len(tokens) + 1):
            if end == len(tokens) or counts[end] != counts[start]:
                style = None if counts[start] else "dim"
                console.print(made.decode(tokens[start:end]), style=style, end="", soft_wrap=True)
                start = end
        console.print()
    return 0


def _saying(console: Console) -> Callable[[str], None]:
    return lambda sentence: console.print(sentence, highlight=False, markup=False, soft_wrap=True)


def _talks(sources: tuple[str, ...], encoding: str | None) -> bool:
    talks = {chat.are_conversations(source, encoding) for source in sources}
    if len(talks) > 1:
        raise UserError("some files hold conversations and others text: pack them apart, or say which with --kind")
    return talks == {True}


def _said(dialogues: Iterable[chat.Messages], template: str | None) -> Iterator[str]:
    return (text for messages in dialogues for text, _ in chat.written(messages, template))


def _parts(path: str) -> list[Path]:
    folder = Path(path)
    files = ("index.json", corpus.MANIFEST)
    return [folder / part for part in ("", *_PARTS) if any((folder / part / file).is_file() for file in files)]


def _free(out: Path) -> None:
    output.check_utf8(out)
    if os.path.lexists(out):
        raise UserError(f"{out} exists: choose another --out or remove it")
