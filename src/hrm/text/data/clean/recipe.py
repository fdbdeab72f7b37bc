"""The recipe of a corpus: a YAML file that names sources, and how they are cleaned."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from glob import escape, glob
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml

from hrm.files import names
from hrm.files.ranges import BELOW_ONE, Range
from hrm.files.reading import SMALL, UserError, quoted, text_of, yaml_of
from hrm.settings import overlay
from hrm.text.config import PAIRS
from hrm.text.data.corpus import MANIFEST

Share = Annotated[float, Range(0, 1)]
Count = Annotated[int, Range(0, 10**9)]
OVER = -1
"""What a rule of C4 takes for "off"."""


@dataclass(frozen=True)
class Source:
    """One source of text: files of this machine, or a data set of the Hub."""

    name: str = ""
    """Of its folder in the corpus."""
    path: str | None = None
    """File, folder or pattern: .jsonl, .json, .parquet, .txt, .warc, .wet, and these with .gz, .xz or .zst."""
    hub: str | None = None
    """NAME, NAME:SPLIT or NAME:CONFIG:SPLIT, streamed."""
    field: str = "text"
    """Of a table, what holds the text."""
    separator: str | None = None
    """What stands between the documents of a text file, such as "\\n"; without it a file is one document."""
    extract: bool | None = None
    """Whether the text is HTML, of which the main part is taken; default: of WARC files."""
    weight: Annotated[float, Range(1e-6, 1e12)] | None = None
    """Share of the rows a training reads, relative to the others; default: its number of tokens."""
    licence: str = ""
    origin: str = ""
    """Where it is from; default: its path or name."""
    limit: Annotated[int, Range(1, 10**12)] | None = None
    """Read only this many documents, the first ones."""


@dataclass(frozen=True)
class Normalise:
    """How characters are repaired before anything looks at them."""

    form: Literal["NFC", "NFKC"] = "NFC"
    mojibake: bool = True
    """Text that was decoded wrongly is put right (ftfy)."""


@dataclass(frozen=True)
class GopherRepetition:
    """Documents that repeat themselves (Rae et al. 2021, table A1); shares of lines, paragraphs and characters."""

    dup_line_frac: Share = 0.3
    dup_para_frac: Share = 0.3
    dup_line_char_frac: Share = 0.2
    dup_para_char_frac: Share = 0.2
    top_n_grams: tuple[Share, ...] = (0.2, 0.18, 0.16)
    """Characters in the most frequent 2-, 3- and 4-gram."""
    dup_n_grams: tuple[Share, ...] = (0.15, 0.14, 0.13, 0.12, 0.11, 0.1)
    """Characters in repeated 5- to 10-grams."""


@dataclass(frozen=True)
class GopherQuality:
    """Documents that do not look like prose (Rae et al. 2021)."""

    min_doc_words: Count = 50
    max_doc_words: Count = 100_000
    min_avg_word_length: Annotated[float, Range(0, 1000)] = 3.0
    max_avg_word_length: Annotated[float, Range(0, 1000)] = 10.0
    max_symbol_word_ratio: Share = 0.1
    max_bullet_lines_ratio: Share = 0.9
    max_ellipsis_lines_ratio: Share = 0.3
    max_non_alpha_words_ratio: Share = 0.7
    """Least share of words with a letter (datatrove's name says the opposite). Gopher's 0.8 is of what stands between
    spaces; here a punctuation mark counts as a word, and articles with many dates would be lost."""
    min_stop_words: Count = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")


@dataclass(frozen=True)
class C4:
    """Lines and documents as C4 leaves them out (Raffel et al. 2020); -1 turns a number off."""

    cut_lines: bool = False
    """Cut the lines that its rules name out of documents that stay, as C4 and FineWeb do; otherwise they only do not
    count as sentences."""
    filter_no_terminal_punct: bool = False
    """Drop lines without a full stop at their end; FineWeb leaves this rule out."""
    remove_citations: bool = True
    min_num_sentences: Annotated[int, Range(OVER, 10**6)] = 3
    min_words_per_line: Annotated[int, Range(OVER, 10**6)] = 3
    max_word_length: Annotated[int, Range(OVER, 10**9)] = 1000
    filter_lorem_ipsum: bool = True
    filter_javascript: bool = True
    filter_curly_bracket: bool = False
    """Drop documents with a curly bracket, as all code and most mathematics has."""
    filter_policy: bool = True


@dataclass(frozen=True)
class FinewebQuality:
    """Lists and lines that come again (Penedo et al. 2024)."""

    line_punct_thr: Share = 0.12
    line_punct_exclude_zero: bool = True
    """Let that rule be where no line ends so: text without line ends is no list."""
    short_line_thr: Share = 0.67
    short_line_length: Count = 30
    char_duplicates_ratio: Share = 0.1
    new_line_ratio: Annotated[float, Range(0, 1000)] = 0.3


@dataclass(frozen=True)
class Filters:
    """In the order in which they run; `false` leaves one out."""

    gopher_repetition: GopherRepetition | None = field(default_factory=GopherRepetition)
    gopher_quality: GopherQuality | None = field(default_factory=GopherQuality)
    c4: C4 | None = field(default_factory=C4)
    fineweb_quality: FinewebQuality | None = field(default_factory=FinewebQuality)


@dataclass(frozen=True)
class Language:
    """Which languages are kept, as a fastText model of this machine tells them."""

    model: str = ""
    """A .bin file, such as lid.176.bin."""
    keep: tuple[str, ...] = ("en",)
    threshold: Share = 0.65


@dataclass(frozen=True)
class Minhash:
    """Near-duplicates: documents of which all hashes of a bucket agree."""

    n_grams: Annotated[int, Range(1, 100)] = 5
    buckets: Annotated[int, Range(1, 1000)] = 14
    hashes: Annotated[int, Range(1, 100)] = 8


@dataclass(frozen=True)
class Deduplicate:
    """Within and across sources; of duplicates the one of the earlier source stays."""

    exact: bool = True
    minhash: Minhash | None = field(default_factory=Minhash)


@dataclass(frozen=True)
class Decontaminate:
    """Documents that hold text of an evaluation are left out."""

    files: tuple[str, ...] = ()
    """.jsonl, .json, .parquet, .csv or .txt."""
    n_grams: Annotated[int, Range(1, 100)] = 13
    """Words in a row that give a document away."""
    shortest: Annotated[int, Range(1, 100)] = 8
    """Words of the shortest text that is looked for: "yes" is the answer to many questions."""


@dataclass(frozen=True)
class Recipe:
    """All of a recipe. `tokenizer`: bpe:N, char, a folder or file, or a name of the Hub."""

    sources: tuple[Source, ...] = ()
    normalise: Normalise | None = field(default_factory=Normalise)
    filters: Filters = field(default_factory=Filters)
    pii: bool = True
    """Addresses of mail and of machines are replaced by made-up ones."""
    language: Language | None = None
    deduplicate: Deduplicate = field(default_factory=Deduplicate)
    decontaminate: Decontaminate | None = None
    tokenizer: str = "bpe:32000"
    holdout: Annotated[float, Range(0, BELOW_ONE)] = 0.005
    """Share of the documents set aside for validation."""
    shard_tokens: Annotated[int, Range(1000, 2**40)] = 100_000_000

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """A recipe from a YAML file; UserError names the key and what to do. Paths in it are relative to its folder."""
        tree = yaml_of(text_of(path, SMALL), path)
        if not isinstance(tree, Mapping):
            raise UserError(f"{path} must consist of `key: value` lines")
        recipe = overlay(cls(), tree, str(path)).below(path.parent)
        _check_ranges(recipe, str(path))
        _check(recipe, path)
        return recipe

    def below(self, folder: Path) -> Recipe:
        """The same with the paths of its files made relative to a folder, where they are found there."""

        def found(name: str, patterns: bool = False) -> str:
            path = Path(name).expanduser()
            if os.path.exists(folder / path):
                return str(folder / path)
            pattern = str(Path(escape(str(folder))) / path)
            return pattern if patterns and glob(pattern, recursive=True) else name

        sources = [replace(each, path=each.path and found(each.path, patterns=True)) for each in self.sources]
        language = self.language and replace(self.language, model=found(self.language.model))
        against = self.decontaminate
        against = against and replace(against, files=tuple(map(found, against.files)))
        tokenizer = self.tokenizer if self.tokenizer == "char" else found(self.tokenizer)
        changes: Any = {"language": language, "decontaminate": against, "tokenizer": tokenizer}
        return replace(self, sources=tuple(sources), **changes)

    def tree(self) -> dict[str, Any]:
        """Every setting, as YAML and JSON have it."""
        return _plain(self)

    def yaml(self) -> str:
        """The file that `read` reads back."""
        return yaml.safe_dump(self.tree(), sort_keys=False, allow_unicode=True, width=1000)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        tree = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return {name: item for name, item in tree.items() if item is not None} if isinstance(value, Source) else tree
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _check_ranges(group: Any, where: str, prefix: str = "") -> None:
    """UserError for the first number that is out of its range."""
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        found = getattr(group, name)
        values: tuple[Any, ...] = found if isinstance(found, tuple) else (found,)
        for at, value in enumerate(values, 1):
            if is_dataclass(value):
                _check_ranges(value, where, f"{prefix}{name}.{f'{at}.' if value is not found else ''}")
                continue
            for each in _ranges(hint):
                if value is not None and not each.least <= value <= each.most:
                    raise UserError(f"{where}: '{prefix}{name}' must be {each}, not {quoted(value)}")


def _ranges(hint: Any) -> list[Range]:
    """All ranges beside a type and within it."""
    own = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Range)]
    return [*own, *(each for inner in get_args(hint) for each in _ranges(inner))]


def _check(recipe: Recipe, where: Path) -> None:
    """UserError for what cannot work: names, weights, files that are not there."""
    if not recipe.sources:
        raise UserError(f"{where} names no sources: add `sources:` with a list of entries, each with a name and a path")
    seen: set[str] = set()
    for number, source in enumerate(recipe.sources, 1):
        named = f"{where}: source {number}"
        if (why := names.fault(source.name)) is not None or source.name.startswith("."):
            raise UserError(f"{named} needs a name that a folder can have ({why or 'it begins with a dot'})")
        if source.name.lower() in seen:
            raise UserError(f"{named}: the name {quoted(source.name)} comes twice: give each source its own")
        if source.name.lower() == MANIFEST:
            raise UserError(f"{named}: {quoted(source.name)} is a file of every corpus: give it another name")
        seen.add(source.name.lower())
        if (source.path is None) == (source.hub is None):
            raise UserError(f"{named} ({source.name}) needs either a path or a hub")
        if source.separator == "":
            raise UserError(f"{named} ({source.name}): the separator is empty: leave it out")
    weights = [source.weight is not None for source in recipe.sources]
    if any(weights) and not all(weights):
        missing = recipe.sources[weights.index(False)].name
        raise UserError(f"{where}: give every source a weight or none; {missing} has none")
    if recipe.language is not None:
        if not recipe.language.keep:
            raise UserError(f"{where}: language.keep names no language: add one, such as [en]")
        if not Path(recipe.language.model).is_file():
            raise UserError(
                f"{where}: language.model {quoted(recipe.language.model)} is no file here, and nothing is downloaded: "
                "name a fastText model such as lid.176.bin, or leave language out"
            )
    for file in recipe.decontaminate.files if recipe.decontaminate else ():
        if not Path(file).is_file():
            raise UserError(f"{where}: decontaminate.files: there is no file {file}")
    kind, _, pairs = recipe.tokenizer.partition("bpe:")
    if not kind and not (pairs.isdecimal() and PAIRS.least <= float(pairs) <= PAIRS.most):
        raise UserError(
            f"{where}: tokenizer {quoted(recipe.tokenizer)} must be bpe:N with N {PAIRS}, such as bpe:32000"
        )
