"""The encoding of a text: found or given; bytes that cannot be read in it become U+FFFD and are counted.

Unicode is told by its form. Other scripts than Latin are told by charset-normalizer, piece by piece, so that one bad
byte decides nothing; among the Latin code pages, where it takes French for Czech, the letters of languages decide.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from encodings.aliases import aliases
from pathlib import Path
from typing import IO, NamedTuple

from hrm.files.binary import HEAD, kind_of
from hrm.files.reading import UserError, bytes_of, nearest

LEAST = 1000
"""Bytes of a text from which on a single bad byte says nothing about its encoding."""
_CHUNK = 1 << 16
_PIECES, _PIECE = 32, 2048  # parts of a file with bytes above ASCII, on which its encoding is guessed
_VOTE = 400  # bytes on which charset-normalizer is sure
_MARKS = {  # longest first: the mark of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ASCII = bytes(range(128))
_TEXT = bytes(set(range(256)) - set(range(32)) | set(b"\t\n\v\f\r\x1a\x1b"))  # what a text may have
_SCRIPTS = ["cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5", "cp1253", "iso8859_7", "cp1255", "cp1256", "iso8859_6"]
_SCRIPTS += ["gb18030", "big5", "cp932", "euc_jp", "euc_kr"]
_WIDER = {  # the same with fewer and with more characters
    "cp932": ("shift_jis", "cp932"),
    "big5": ("big5", "cp950"),
    "euc_kr": ("euc_kr", "cp949"),
}
_CENTRAL = "áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž ąćęłńóśźż áéíóöőúüű ăâîşţ čćđšž"
_LATIN = {  # letters of languages; in doubt the first
    "cp1252": "àâæçèéêëîïôœùûüÿ äöüß áéíñóúüªº àáâãçéêíóôõúü àèéìíîòóùú æøåéèêóòôäö áðéíóúýþæö àçèéíïòóúü",
    "cp1250": _CENTRAL,
    "iso8859_2": _CENTRAL,
    "cp1254": "âçğıiîöşüû",
    "cp1257": "ąčęėįšųūž āčēģīķļņšūž õäöüšž",
}
_SIGNS = "«»“”„‘’‚–—…·°§£€¿¡©®\xa0"  # of any language


class Encoding(NamedTuple):
    """How a text is to be read."""

    name: str
    """A name that Python knows."""
    replaced: int = 0
    """How many bytes (in other encodings than UTF-8: characters) cannot be read so and become U+FFFD."""
    words: str = ""
    """A few words that show it."""
    asked: bool = False
    """Whether it was given, not found."""

    def sentence(self, source: object) -> str | None:
        """What a person should know about how `source` is read; None for proper UTF-8, or what was asked for."""
        plain = self.name in ("utf-8", "utf-8-sig")
        parts = []
        if not plain and not self.asked:
            parts.append(f'{source} is not UTF-8: read as {self.name} ("{self.words}")')
        if self.replaced:
            bad = f"{self.replaced:,} bad byte{'s'[: self.replaced > 1]}"
            parts.append(f"{bad} became U+FFFD" if parts else f"{source} is read as {self.name}: {bad} became U+FFFD")
        return "; ".join(parts) + ("" if self.asked else "; --encoding NAME reads it otherwise") if parts else None


def known_encoding(name: str) -> str:
    """Python's own name of an encoding of text; UserError, with what comes near, for any other."""
    if _is_text(name):
        return codecs.lookup(name).name
    names = {*aliases, *aliases.values(), "utf-8", "latin-1", "koi8-r", "shift-jis"}
    near = nearest(name.lower(), {name for name in names if _is_text(name)})
    raise UserError(f"--encoding {name[:40]!r} is no encoding of text{near or ': try utf-8, cp1251 or gb18030'}")


def _is_text(name: str) -> bool:
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return found._is_text_encoding and found.name not in ("undefined", "idna", "punycode")  # type: ignore[attr-defined]


def read_text(source: bytes | Path, name: str | None = None, asked: str | None = None) -> tuple[str, Encoding]:
    """A whole text and how it was read; `name` is for messages. UserError for what is no text."""
    data = source if isinstance(source, bytes) else bytes_of(source)
    found = find(lambda: io.BytesIO(data), name or ("it" if isinstance(source, bytes) else str(source)), asked)
    return data.decode(found.name, "replace").removeprefix("\ufeff"), found


def mark_of(head: bytes) -> str | None:
    """The encoding that the mark at the beginning of a text says."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def reader(raw: IO[bytes], found: Encoding, newline: str | None = None) -> io.TextIOWrapper:
    """The text of a stream of bytes, with U+FFFD for what cannot be read."""
    return io.TextIOWrapper(raw, found.name, "replace", newline)


def find(unpacked: Callable[[], AbstractContextManager[IO[bytes]]], source: str, asked: str | None = None) -> Encoding:
    """The encoding of the bytes that `unpacked` opens, which are read to their end at most four times, in pieces.
    `asked` is not put in question. UserError for what is no text, which says what it is."""
    with unpacked() as raw:
        head = raw.read(_CHUNK)
    if kind := kind_of(head[:HEAD]):
        raise UserError(f"{source} is {kind}, not a plain text: convert it first")
    marked = mark_of(head)
    if asked or marked:
        name = known_encoding(asked) if asked else str(marked)
        names, sample = ["utf-8-sig" if name == "utf-8" else name], head[: len(head) // 4 * 4]
    else:
        with unpacked() as raw:
            survey = _Survey(raw)
        names = survey.names(head)
        if not names:
            raise UserError(f"{source} is not a text, but binary data: convert it to plain text first")
        sample = b"".join(survey.pieces) or head
        if names == ["utf-8"]:
            return Encoding("utf-8", survey.bad, _words(sample, "utf-8"))
    lost, size = {}, 0
    for name in names:
        with unpacked() as raw:
            lost[name], size = _lost(raw, name)
        if not lost[name]:
            break
    name = min(lost, key=lambda name: lost[name])
    if lost[name] * 20 > size:
        what = f"--encoding {asked}" if asked else name
        advice = "leave it out, or name another" if asked else "name its encoding with --encoding"
        raise UserError(f"{source} cannot be read as {what} ({lost[name]:,} of {size:,} characters): {advice}")
    return Encoding(name, lost[name], _words(sample, name), asked is not None)


class _Survey:
    """One walk through bytes: how much of them is UTF-8, and pieces with bytes above ASCII from all over."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.size = self.bad = self.several = self.controls = 0
        self.escapes = False
        self.pieces: list[bytes] = []
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        every, number = 1, 0
        while chunk := raw.read(_CHUNK):
            text = decoder.decode(chunk)
            self._count(text)
            self.controls += len(chunk.translate(None, _TEXT))
            self.escapes |= b"\x1b$" in chunk
            if not chunk.isascii():
                piece = _piece(chunk, first=not self.size) if number % every == 0 else b""
                self.pieces += [piece] if piece else []
                number += 1
                if len(self.pieces) == _PIECES:
                    self.pieces, every = self.pieces[::2], 2 * every
            self.size += len(chunk)
        self._count(decoder.decode(b"", final=True))

    def _count(self, text: str) -> None:
        if not text.isascii():
            bad = sum(map(len, re.findall("[\udc80-\udcff]+", text)))
            self.bad += bad
            self.several += sum(map(len, re.findall("[^\0-\x7f]+", text))) - bad

    def names(self, head: bytes) -> list[str]:
        """The encodings that these bytes may have, the likeliest first; none for what is no text."""
        if (self.bad or self.controls) and (wide := _wide(head)):
            return [wide]
        if self.controls * LEAST > self.size:
            return []
        if self.escapes and self.bad <= 1 and not self.several:
            return ["iso2022_kr" if b"\x1b$)C" in head else "iso2022_jp_2"]
        if self.bad * 4 <= self.several or (self.bad == 1 and self.size >= LEAST):
            return ["utf-8"]
        found = _latin(self.pieces) if _is_latin(b"".join(self.pieces)) else _script(self.pieces)
        return list(_WIDER.get(found, (found,)))


def _piece(chunk: bytes, first: bool) -> bytes:
    """Lines with bytes above ASCII, each from where a character begins."""
    if not first:  # what began in the last chunk; no character crosses a space or a line end
        chunk = chunk[min((at for at in (chunk.find(b"\n"), chunk.find(b" ")) if at >= 0), default=len(chunk)) :]
    piece = b""
    for line in chunk.split(b"\n"):
        if not line.isascii():
            high = len(line) - len(line.lstrip(_ASCII))
            piece += line[max(0, high - 40) : high + _PIECE] + b"\n"
            if len(piece) >= _PIECE:
                break
    return piece


def _wide(head: bytes) -> str | None:
    """UTF-32 or UTF-16 without a mark: all is readable, with the commonest signs of some script in it."""
    best, name = 0.02, None
    for width, kind in ((4, "utf-32-le"), (4, "utf-32-be"), (2, "utf-16-le"), (2, "utf-16-be")):
        try:
            text = head[: len(head) // width * width].decode(kind)
        except UnicodeDecodeError as error:
            if error.end < len(head) - 4:
                continue
            text = head[: error.start].decode(kind)
        strange = sum(not c.isspace() and unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") for c in text)
        common = sum(" " <= c <= "~" or c in "\n\r\t。，、！？：；「」" for c in text) / max(1, len(text))
        if strange * 100 <= len(text) and common > best:
            best, name = common, kind
    return name


def _is_latin(sample: bytes) -> bool:
    """Whether bytes above ASCII are few and stand alone between letters, as accented ones do."""
    runs = re.findall(rb"[\x80-\xff]+", sample)
    high = sum(map(len, runs))
    letters = high + len(re.findall(rb"[A-Za-z]", sample))
    return high <= 0.35 * letters and high < 1.6 * len(runs)


def _latin(pieces: Iterable[bytes]) -> str:
    """The Latin code page in which the accented letters are most nearly those of a single language."""
    counts = Counter(b"".join(pieces).translate(None, _ASCII))
    best, found = -1.0, "cp1252"
    for name, languages in _LATIN.items():
        letters = {byte: bytes([byte]).decode(name, "replace") for byte in counts}
        for language in languages.split():
            right = sum(n for byte, n in counts.items() if letters[byte].lower() in language + _SIGNS)
            if right > best:
                best, found = right, name
    return found


def _script(pieces: list[bytes]) -> str:
    """The encoding of a text in other than Latin letters: what most of its pieces are to charset-normalizer."""
    from charset_normalizer import from_bytes

    parts = [b""]
    for word in re.findall(rb"[^\n ]*[\n ]+|[^\n ]+$", b"".join(pieces)):
        parts[-1] += word
        if len(parts[-1]) >= _VOTE:
            parts.append(b"")
    if len(parts) > 1 and len(parts[-1]) < _VOTE:
        parts[-2:] = [parts[-2] + parts[-1]]
    votes: Counter[str] = Counter()
    for part in parts[:8] if len(parts) <= 8 else parts[:: len(parts) // 8]:
        matches = []
        for name in _SCRIPTS:
            clean = part.decode(name, "ignore").encode(name, "ignore")
            if len(part) - len(clean) <= max(2, len(part) // 100):
                matches += from_bytes(clean, cp_isolation=[name], enable_fallback=False)
        if matches:
            votes[min(matches).encoding] += 1
    return votes.most_common(1)[0][0] if votes else _latin(pieces)


def _lost(raw: IO[bytes], name: str) -> tuple[int, int]:
    """How many characters of a stream cannot be read in an encoding, and how many there are."""
    decoder = codecs.getincrementaldecoder(name)("replace")
    lost = size = 0
    while chunk := raw.read(_CHUNK):
        text = decoder.decode(chunk)
        lost, size = lost + text.count("\ufffd"), size + len(text)
    text = decoder.decode(b"", final=True)
    return lost + text.count("\ufffd"), size + len(text)


def _words(sample: bytes, name: str) -> str:
    """A few words, from the first that is not ASCII on."""
    text = sample.decode(name, "replace").removeprefix("\ufeff").strip()
    strange = re.search(r"[^\0-\x7f]", text)
    at = text.rfind(" ", 0, strange.start()) + 1 if strange else 0
    at = max(at, strange.start() - 20) if strange else 0
    return "".join(c if c.isprintable() else " " for c in text[at : at + 40].split("\n")[0]).strip()
