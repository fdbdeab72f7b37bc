"""Files from outside, read so that whatever is wrong with them ends in one sentence, within bounds of time and memory.

    with reading(path):                  # all that damaged content can raise becomes a UserError that names the file
        facts = json_of(path)            # or lines_of, bytes_of, yaml_of: unpacked by the name, with a bound

What a message quotes goes through `quoted`, what a library says through `reason`.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import lzma
import re
import reprlib
import zlib
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import ConstructorError

LINE = 64 << 20
"""Bytes of the longest line that is held in memory."""
WHOLE = 512 << 20
"""Bytes of the largest file, unpacked, that is held in memory whole."""
SMALL = 1 << 20
"""Bytes of the largest file of settings."""


class UserError(Exception):
    """A mistake of the person at the keyboard: one sentence saying what, where and what to do; exit code 2."""


class TooLarge(UserError):
    """A file that holds more than there is room for."""


# What messages say


class _Short(reprlib.Repr):
    """Looks only at what it shows: a few members, three levels deep."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 4
        self.maxstring = self.maxlong = self.maxother = limit

    def repr_int(self, x: int, level: int) -> str:
        return f"a number of about {int(x.bit_length() * 0.30103) + 1:,} digits" if abs(x) >= 10**40 else repr(x)

    def repr_bytes(self, x: bytes, level: int) -> str:
        return self.repr_str(x, level)  # type: ignore[arg-type]


def quoted(value: object, limit: int = 80) -> str:
    """A value as Python writes it, cut in the middle to at most `limit` characters; only what is shown is looked at."""
    text = _Short(limit).repr(value)
    return text if len(text) <= limit else f"{text[: limit - 10]}...{text[-7:]}"


def shown(names: Iterable[object], most: int = 12) -> str:
    """Names from a file or folder in a row, of many and long ones the first."""
    listed = [text if len(text := str(name)) <= 200 else f"{text[:197]}..." for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")


_UNSAFE = re.compile(r"weights_only|allow_pickle|trust_remote_code|unpickl|pickle|arbitrary code", re.IGNORECASE)

_NAMED = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Warning)\b(?:\(s\))?:? ?")


def reason(error: BaseException) -> str:
    """What an error says, in one line; no advice of a library to load a stranger's file unsafely is passed on."""
    text = _NAMED.sub("", " ".join(str(error).split()))
    if _UNSAFE.search(text):
        return "it holds objects, which could run code and are never loaded"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not text in {error.encoding.upper()}: byte {error.start + 1:,} does not fit"
    if isinstance(error, gzip.BadGzipFile | zlib.error | lzma.LZMAError):
        return "it is not packed as its name says, or damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it is too large for the memory"
    if isinstance(error, KeyError):
        return f"{quoted(error.args[0] if error.args else '')} is missing"
    if isinstance(error, OverflowError) or "integer string conversion" in text:
        return "a number in it is too large"
    if isinstance(error, EOFError):
        return "it ends too early"
    if isinstance(error, TypeError | AttributeError | IndexError | AssertionError):
        return "a value in it is of the wrong kind"
    return (text if len(text) <= 200 else f"{text[:197]}...") or "it is damaged"


@contextmanager
def reading(where: object, hint: str = "restore it") -> Iterator[None]:
    """Whatever goes wrong while a file is read becomes a UserError with its place and what to do. For blocks that read
    and judge content from outside and do nothing else: damaged files raise errors of every kind."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} cannot be read ({reason(error)}): {hint}") from error


# What files hold


def check_copied(path: Path) -> None:
    """UserError for a pipe, a device or a socket, where what is read must be a file or folder that stays."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is neither a file nor a folder: copy what it holds into a file")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked where its name ends in .gz, .xz or .zst; read them with `lines_in` or under
    `reading`."""
    unpack = {".gz": gzip.open, ".xz": lzma.open, ".zst": _zstandard}.get(path.suffix.lower(), open)
    with reading(path):
        stream = unpack(path, "rb")
    with stream:
        yield stream


def _zstandard(path: Path, mode: str) -> IO[bytes]:
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(needs(f"reading {path}", "zstandard", "pipeline", error)) from error
    plain = zstandard.ZstdDecompressor().stream_reader(path.open(mode), read_across_frames=True)
    return io.BufferedReader(plain, 1 << 18)


class Watched:
    """The bytes of a stream, for whoever looks at all of them in pieces: TooLarge for what will not be read in lines of
    at most `line` bytes, or whole with at most `whole`."""

    def __init__(self, stream: IO[bytes], where: object, line: int = LINE, whole: int | None = None) -> None:
        self._stream, self._where, self._most, self._whole, self._length = stream, where, line, whole, 0

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        piece = self._stream.read(size)
        end = -1 if self._whole else piece.rfind(b"\n")
        self._length = self._length + len(piece) if end < 0 else len(piece) - end - 1
        if self._length > (self._whole or self._most):
            what = f"holds more than {_size(self._whole)}" if self._whole else f"has a line of over {_size(self._most)}"
            raise TooLarge(f"{self._where} {what}, the most that is read: split it")
        return piece


def lines_in(stream: IO[bytes], where: object, most: int = LINE) -> Iterator[bytes]:
    """The lines of a stream, ends included; UserError where it is damaged, or a line is longer than `most`."""
    number = 0
    while True:
        with reading(where, f"restore it; line {number:,} was the last" if number else "restore it"):
            line = stream.readline(most + 1)
        if not line:
            return
        number += 1
        if len(line) > most:
            raise TooLarge(f"{where}, line {number:,} is longer than {_size(most)}, the most that is read: cut it")
        yield line


def lines_of(path: Path, most: int = LINE) -> Iterator[bytes]:
    """The lines of a file, unpacked, ends included; UserError where it is damaged or a line is too long."""
    with opened(path) as stream:
        yield from lines_in(stream, path, most)


def bytes_of(path: Path, most: int = WHOLE, hint: str = "restore it") -> bytes:
    """All of a file, unpacked; UserError where it is damaged or holds more than `most`."""
    content = bytearray()
    with reading(path, hint), opened(path) as stream:
        while part := stream.read(1 << 20):
            content += part
            if len(content) > most:
                raise TooLarge(f"{path} holds more than {_size(most)}, the most that is read whole: split it")
    return bytes(content)


def text_of(path: Path, most: int = WHOLE, hint: str = "restore it") -> str:
    """A whole file as UTF-8."""
    content = bytes_of(path, most, hint)
    with reading(path, hint):
        return content.decode("utf-8-sig")


def json_of(path: Path, most: int = WHOLE, hint: str = "restore it") -> Any:
    """What a JSON file holds."""
    return parsed(bytes_of(path, most, hint), path, hint)


def parsed(content: str | bytes, where: object, hint: str = "restore it") -> Any:
    """What JSON says; UserError with the place where it is none."""
    try:
        tree = json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
        return _whole(tree) if (_HALF_BYTES if isinstance(content, bytes) else _HALF).search(content) else tree  # type: ignore[arg-type]
    except (ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where} is not valid JSON ({reason(error)}): {hint}") from error


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_HALF_BYTES = re.compile(_HALF.pattern.encode())


def _whole(tree: Any) -> Any:
    """The same with U+FFFD for halves of characters, which JSON can write and nothing else can hold."""
    if isinstance(tree, str):
        return tree.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(tree, dict):
        return {_whole(key): _whole(value) for key, value in tree.items()}
    return [_whole(value) for value in tree] if isinstance(tree, list) else tree


# libyaml, where PyYAML has it, reads ten times as fast.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(Composer, _Parser):
    """YAML in which 1e-4 is a number (PyYAML asks for 1.0e-4), no key comes twice, and nothing multiplies."""

    DEEPEST, MOST = 50, 200_000

    def __init__(self, stream: str) -> None:
        _Parser.__init__(self, stream)
        Composer.__init__(self)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """A node, counted as often as aliases repeat it."""
        alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        before, self._depth = self._nodes, self._depth + 1
        if self._depth > self.DEEPEST:
            raise ComposerError(None, None, "nested too deeply", mark)
        node: Any = super().compose_node(parent, index)
        if alias and id(node) not in self._sizes:
            raise ComposerError(None, None, "an alias of what it stands in", mark)
        self._nodes += self._sizes[id(node)] if alias else 1
        self._sizes.setdefault(id(node), self._nodes - before)
        self._depth -= 1
        if self._nodes > self.MOST:
            raise ComposerError(None, None, f"more than {self.MOST:,} values, aliases included", mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; an error for a key that comes twice."""
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    said = f"the key {quoted(key.value)} appears twice"
                    raise ConstructorError(None, None, said, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def yaml_of(text: str, where: object) -> Any:
    """What a YAML text holds; UserError with the place where it is none, or far too much."""
    if len(text) > SMALL:
        raise TooLarge(f"{where} holds more than {_size(SMALL)}, too much for settings: is it the right file?")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = reason(ValueError(error.problem or error.context))
        raise UserError(f"{where} is not valid YAML{place}: {said}") from error
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError, MemoryError, TypeError, KeyError) as error:
        raise UserError(f"{where} is not valid YAML: {reason(error)}") from error


def _size(count: int) -> str:
    return f"{count >> 20:,} MB"


def needs(what: str, package: str, extra: str, error: Exception | None = None) -> str:
    """What cannot work without a package of an extra, and how to install that one; `error` is what the import said."""
    said = "which is not installed" if error is None else f"which cannot be imported ({error})"
    return f"{what} needs {package}, {said}: in your clone of this project, pip install '.[{extra}]'"


def nearest(name: str, names: Iterable[str]) -> str:
    """The suffix "; did you mean 'x'?" for the closest of dotted names or flags, or "" when none is close."""
    # Comparing takes long for many names and long ones, and nobody mistypes those.
    names = [other for other in islice(names, 2000) if len(other) <= 100] if len(name) <= 100 else []
    same_ending = [other for other in names if re.split(r"\.|--", other)[-1] == re.split(r"\.|--", name)[-1]]
    close = difflib.get_close_matches(name, same_ending or names, n=1, cutoff=0.0 if same_ending else 0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
