"""The encoding of a text: told right in many languages, whatever one byte says; what is no text is named."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from benchmarks.encodings import UNICODE, is_right, texts
from hrm.files.binary import kind_of
from hrm.files.encoding import known_encoding, read_text
from hrm.files.reading import UserError

RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n"


@pytest.mark.parametrize("characters", [120, 1000])
def test_every_language_is_told_in_every_encoding(characters: int):
    wrong = [(language, name) for language, name, data in texts(characters) if not is_right(name, data)]
    assert not wrong


@pytest.mark.parametrize("byte", [0x81, 0x98, 0xE9, 0xFF])
def test_one_bad_byte_changes_no_encoding(byte: int):
    many = [(language, name, data) for language, name, data in texts(1000, 8) if name not in UNICODE[2:]]
    assert not [(language, name) for language, name, data in many if not is_right(name, data, byte)]


@pytest.mark.parametrize("text", [RUSSIAN * 30, "plain words of a book\n" * 100])
def test_one_bad_byte_in_utf_8_is_counted_and_said(text: str):
    data = text.encode()
    found, how = read_text(text[:500].encode() + b"\xff" + text[500:].encode())
    assert (how.name, how.replaced, found.count("\ufffd")) == ("utf-8", 1, 1)
    assert "1 bad byte became U+FFFD" in str(how.sentence("a.txt"))
    assert read_text(data)[1].sentence("a.txt") is None


def test_what_was_read_is_said_with_a_few_words_and_without_control_characters():
    found, how = read_text(("\x1b[31m" + RUSSIAN * 9).encode("cp1251"))
    assert str(how.sentence("a.txt")).startswith('a.txt is not UTF-8: read as cp1251 ("')
    assert "Все счастливые" in how.words and how.words.isprintable() and found.startswith("\x1b[31m")


def test_words_above_ascii_far_behind_the_beginning_are_found():
    text = "Plain words, and a line end.\n" * 20_000 + RUSSIAN * 3
    assert read_text(text.encode("koi8-r"))[0] == text
    assert read_text(text.encode("cp1251"))[0] == text
    one_line = "plain words " * 20_000 + RUSSIAN.strip() * 3
    assert read_text(one_line.encode("cp1251"))[0] == one_line


def test_typographic_signs_alone_are_those_of_cp1252():
    text = "“Well,” he said – it’s £5, no more…\n" * 9
    assert read_text(text.encode("cp1252"))[0] == text


def test_an_encoding_that_is_given_is_believed_unless_it_cannot_be():
    data = (RUSSIAN * 9).encode("cp1251")
    text, how = read_text(data, asked="koi8-r")
    assert how.name == "koi8-r" and text != RUSSIAN * 9 and how.sentence("a.txt") is None
    with pytest.raises(UserError, match=r"a\.txt cannot be read as --encoding utf-8 .* leave it out"):
        read_text(data, "a.txt", "utf-8")
    assert read_text("\ufeffжук".encode(), asked="utf-8")[0] == "жук"


@pytest.mark.parametrize(
    ("name", "near"), [("koi8", "koi8_r"), ("cp12511", "cp1251"), ("klingon", "try utf-8"), ("rot13", ""), ("idna", "")]
)
def test_an_unknown_encoding_is_refused_with_what_comes_near(name: str, near: str):
    with pytest.raises(UserError, match=f"--encoding '{name}' is no encoding of text.*{near}") as error:
        known_encoding(name)
    assert f"mean '{name}'" not in str(error.value)


def test_python_names_of_encodings_are_known():
    given = ("KOI8-R", "windows-1251", "latin1", "Shift-JIS", "gb2312", "utf8")
    assert [known_encoding(name) for name in given] == ["koi8-r", "cp1251", "iso8859-1", "shift_jis", "gb2312", "utf-8"]


def test_binary_files_are_refused_with_what_they_are(tmp_path: Path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("word/document.xml", "words")
    known = {
        b"%PDF-1.7\n": "a PDF",
        b"\x89PNG\r\n\x1a\n": "a PNG image",
        packed.getvalue(): "a Word document",
        packed.getvalue().replace(b"word/document", b"a_plain__file"): "a zip archive",
        b"\x1f\x8b\x08\0\0\0": "packed with gzip",
        b"\x7fELF\x02\x01": "a program",
        bytes(range(256)) * 9: "binary data",
    }
    for data, what in known.items():
        (tmp_path / "x.txt").write_bytes(data)
        with pytest.raises(UserError, match=rf"x\.txt is .*{what}"):
            read_text(tmp_path / "x.txt")


@pytest.mark.parametrize(
    "text", [b"", b"PK is a name", b"MZ, said the man", b"GIF", b"{rtf}", b"\xef\xbb\xbfBM", b"ID3"]
)
def test_a_text_is_not_taken_for_binary(text: bytes):
    assert kind_of(text) is None
    read_text(text)
