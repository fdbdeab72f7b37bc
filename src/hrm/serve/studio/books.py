"""The books that a person gives: taken in whole, never over another, and looked at before they are learned."""

from __future__ import annotations

import filecmp
import hashlib
import os
import re
import secrets
import stat
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from hrm.files import names
from hrm.files.encoding import known_encoding
from hrm.files.output import refused
from hrm.files.reading import UserError
from hrm.files.records import Record
from hrm.text.data.sources import ReadOptions, documents

_SAMPLE, _SHOWN = 900, 400
"""Characters of a sample, and different characters that are shown."""
_HOUR = 3600.0


@dataclass(frozen=True)
class Looked(Record):
    """A book that was read through once, as the learner would read it."""

    name: str
    path: str
    bytes: int
    characters: int
    encoding: str
    note: str | None
    """What is strange about how it is read."""
    alphabet: str
    """Its characters, sorted, of very many the first."""
    kinds: int
    """How many different ones."""
    sample: str
    sha256: str
    """Of the text, by which a learner knows what it has read."""


def safe(name: str) -> str:
    """A bare name of a text file made of what a browser calls it; UserError where nothing is left."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/").rsplit("/", 1)[-1])
    name = re.sub(r'[<>:"|?*\x00-\x1f\x7f]', " ", name)
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp")).strip(" .")
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, dot + suffix) if dot and stem else (name, "")
    while len((stem + suffix).encode()) > 150:
        stem = stem[:-1]
    name = (stem.strip(" .") or "book") + suffix
    if (why := names.fault(name)) is not None:
        raise UserError(f"{why}: rename the file and choose it again")
    return name


async def take(folder: Path, name: str, chunks: AsyncIterator[bytes], size: int | None) -> Path:
    """Write what a browser sends into the folder, under its name or one with a number; the same content is kept once.
    Nothing is left of one that was cut off."""
    name = safe(name)
    with refused(f"{name} could not be kept", lambda: "nothing of it was written"):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".tmp-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                came = 0
                async for chunk in chunks:
                    came += len(chunk)
                    await run_in_threadpool(file.write, chunk)
                file.flush()
                await run_in_threadpool(os.fsync, file.fileno())
            if size is not None and came != size:
                raise UserError(f"{name} was cut off after {came:,} of {size:,} bytes: choose it again")
            if not came:
                raise UserError(f"{name} is empty: choose another")
            return await run_in_threadpool(_settle, temporary, folder, name)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _settle(temporary: Path, folder: Path, name: str) -> Path:
    """Give a file the first free name, or none where its content has one already."""
    stem, suffix = os.path.splitext(name)
    for number in count(1):
        path = folder / (name if number == 1 else f"{stem} {number}{suffix}")
        try:
            os.link(temporary, path)  # fails where the name is taken, unlike a rename
            return path
        except FileExistsError:
            if path.is_file() and not path.is_symlink() and filecmp.cmp(temporary, path, shallow=False):
                return path
        except OSError:  # a file system without links
            with path.open("xb"):
                temporary.replace(path)
            return path
    raise AssertionError


def given(path: str) -> Path:
    """A file that a person named; UserError with a sentence where it is none."""
    named = Path(path.strip().strip("\"'")).expanduser()
    if not path.strip():
        raise UserError("no file is named: write its path, such as /home/me/alice.txt")
    if not named.is_absolute():
        raise UserError(f"{named} does not begin at the root: write the whole path, such as /home/me/alice.txt")
    try:
        mode = named.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"there is no file {named}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{named} cannot be reached ({getattr(error, 'strerror', None) or error})") from None
    if stat.S_ISDIR(mode):
        raise UserError(f"{named} is a folder: name a text file in it")
    if not stat.S_ISREG(mode):
        raise UserError(f"{named} is no file that stays: copy what it holds into a file")
    return named


def look(path: Path, encoding: str | None, progress: Callable[[float], None] = lambda share: None) -> Looked:
    """Read a book through, as the learner would; `progress` hears the share of it that was counted."""
    asked, state = known_encoding(encoding) if encoding else None, path.stat()
    mark = (str(path), asked, state.st_size, state.st_mtime_ns)
    if (known := _looked.get(mark)) is not None:
        return known
    way = ReadOptions(None, asked)
    try:
        found, size = way.find(path), state.st_size
    except UserError as error:  # the page has a field where the command has a flag
        said = str(error).replace("--encoding ", "").replace("leave it out, or name another", "choose another encoding")
        raise UserError(said.replace("name its encoding with --encoding", "choose its encoding")) from None
    digest, characters, kinds, sample = hashlib.sha256(), 0, set[str](), ""
    for part in documents(str(path), way=way):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(data)
        characters += len(part)
        kinds.update(part)
        sample += part[: max(0, _SAMPLE - len(sample))]
        progress(min(1.0, characters / max(1, size)))  # about: a character has one byte or more
    seen, said = sorted(kinds), found.sentence(path.name)
    note = said and said.removesuffix("; --encoding NAME reads it otherwise")  # the page has a field for it
    while len(_looked) >= _REMEMBERED:
        _looked.pop(next(iter(_looked)), None)
    _looked[mark] = Looked(
        path.name, str(path), size, characters, found.name, note,
        "".join(seen[:_SHOWN]), len(seen), sample, digest.hexdigest(),
    )  # fmt: skip
    return _looked[mark]


_looked: dict[tuple[str, str | None, int, int], Looked] = {}
_REMEMBERED = 200
"""Books that are not read again while their files stay as they are."""


def head(path: Path, encoding: str | None, most: int) -> str:
    """The beginning of a book."""
    text = ""
    for part in documents(str(path), encoding=encoding):
        text += part[: most - len(text)]
        if len(text) >= most:
            break
    return text


def sweep(folder: Path) -> None:
    """Delete what was left of books whose studio was killed while they came."""
    for left in folder.glob(".tmp-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _HOUR:
                left.unlink()


def kept(folder: Path) -> Iterator[Path]:
    """The books in the studio's folder, those that came last first."""
    with suppress(OSError):
        files = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
        yield from sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
