"""Documents from files: encodings, packings, tables, folders, and sentences for what is broken."""

from __future__ import annotations

import gzip
import itertools
import json
import lzma
import re
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.text.data import DocumentPart, documents, sources
from tests.data import hrm_data
from tests.text.data.texts import VERSE, lines


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch):
    """Nothing here may reach the network, not even look up a name."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "gb18030"])
def test_the_encoding_is_found_and_said_once_where_it_is_not_utf_8(tmp_path: Path, encoding: str):
    text = "学而时习之，不亦说乎？\n" * 20 if encoding == "gb18030" else VERSE + "naïve café £5"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    reports: list[str] = []
    found = documents(tmp_path / "a.txt", report=reports.append)
    assert list(found) == list(found) == [text]
    assert ["not UTF-8" in report and encoding in report for report in reports] == [True] * (encoding[:5] != "utf-8")


def test_an_encoding_that_is_given_is_believed_for_texts_and_rows(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("жук".encode("koi8-r"))
    (tmp_path / "b.jsonl").write_bytes('{"text": "жук"}\n'.encode("koi8-r"))
    reports: list[str] = []
    assert list(documents(tmp_path, "text", reports.append, "koi8-r")) == ["жук", "жук"]
    assert not reports


def test_rows_are_read_in_any_encoding_and_one_bad_byte_costs_one_character(tmp_path: Path):
    row = json.dumps({"text": "Все счастливые семьи похожи друг на друга."}, ensure_ascii=False) + "\n"
    (tmp_path / "a.jsonl").write_bytes((row * 9).encode("cp1251"))
    assert set(documents(tmp_path / "a.jsonl")) == {json.loads(row)["text"]}
    broken = (row * 9).encode().replace("друга".encode(), b"\xff" + "руга".encode(), 1)
    (tmp_path / "a.jsonl").write_bytes(broken)
    reports: list[str] = []
    assert [text.count("\ufffd") for text in documents(tmp_path / "a.jsonl", report=reports.append)] == [1] + 8 * [0]
    assert len(reports) == 1 and "1 bad byte became U+FFFD" in reports[0]


@pytest.mark.parametrize(("ending", "opener"), [(".gz", gzip.open), (".xz", lzma.open)])
def test_packed_files_are_unpacked_and_damaged_ones_refused(tmp_path: Path, ending: str, opener):
    text, table = tmp_path / f"a.txt{ending}", tmp_path / f"a.jsonl{ending}"
    for file, content in ((text, VERSE), (table, json.dumps({"text": VERSE}))):
        with opener(file, "wb") as raw:
            raw.write(content.encode())
        assert list(documents(file)) == [VERSE]
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(UserError, match=file.name):
            list(documents(file))


def test_line_ends_become_newlines(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"one\r\ntwo\rthree\n")
    assert list(documents(tmp_path / "a")) == ["one\ntwo\nthree\n"]


@given(st.text(alphabet="ab \n.ж", min_size=1, max_size=300), st.integers(1, 50))
def test_a_big_text_comes_in_parts_that_join_and_end_with_words(text: str, piece: int):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PIECE", piece)
        file = Path(folder, "a.txt")
        file.write_bytes(text.encode())
        found = list(documents(file))
    assert "".join(found) == text
    assert [isinstance(part, DocumentPart) for part in found] == [True] * (len(found) - 1) + [False]
    for part, following in itertools.pairwise(found):
        assert re.fullmatch(r"\w\s", part[-1] + following[0]) or not re.search(r"\w\s", part)


def test_rows_are_documents(tmp_path: Path):
    rows = [{"text": "one", "story": "eins"}, {"text": "", "story": "zwei"}, {"text": "three", "story": "drei"}]
    file = lines(tmp_path / "a.jsonl", rows)
    assert list(documents(file)) == ["one", "three"]
    assert list(documents(file, "story")) == ["eins", "zwei", "drei"]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert list(documents(tmp_path / "a.json")) == ["one", "three"]
    found = documents(file)
    assert list(found) == list(found)


def test_parquet_rows_are_documents(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra [data]")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [data]")
    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", "two"], "n": [1, 2]}), file)
    assert list(documents(file)) == ["one", "two"]
    with pytest.raises(UserError, match=r"a\.parquet row 1 has no text in a field 'story': say which of text, n"):
        list(documents(file, "story"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet cannot be read after row 0"):
        list(documents(file))


def test_a_folder_gives_its_files_in_order_without_hidden_and_empty_ones(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("two")
    (tmp_path / "c.txt").write_text("three")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "d.txt").write_text("")
    assert list(documents(tmp_path)) == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": \n', "line 3 is not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2 is not an object"),
        ("a.jsonl", b'{"text": "a"}\n{"story": "b"}\n', "line 2 has no text in a field 'text': say which of story"),
        ("a.jsonl", b'{"text": 5}\n', "line 1 holds a number and no text in the field 'text': correct or remove it"),
        (
            "a.jsonl",
            b'{"text": [], "q": 1}\n',
            "line 1 holds a list and no text .*: correct it, or say which of q with",
        ),
        ("a.jsonl", b"", "holds no text"),
        ("a.json", b"{}", "is not a list of objects, nor lines"),
        ("a.json", b'["a"]', "entry 1 is not an object"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\x00\x01\x02", "is not a text, but binary data"),
        ("a.txt", b"\xff\xfea\x00b", "cannot be read as utf-16"),
        ("a.txt", b"%PDF-1.7\nwords", "is a PDF"),
        ("a.jsonl", b"PK\x03\x04" + bytes(26) + b"word/document.xml", "is a Word document"),
        ("a.txt.gz", b"plain", "cannot be read"),
    ],
)
def test_what_is_broken_is_named_with_file_and_line(tmp_path: Path, name: str, content: bytes, what: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} {what}"):
        list(documents(tmp_path / name))


def test_what_is_no_file_is_said_at_once_and_a_hub_name_only_when_read(tmp_path: Path):
    for source in (str(tmp_path / "no"), "no.txt", "./no", "no.jsonl.gz", "a b c"):
        with pytest.raises(UserError, match="there is no file or folder"):
            documents(source)
    found = documents("somebody/stories:train")
    with pytest.raises(UserError, match="somebody/stories:train is no file here"):
        list(found)


def test_real_texts_are_read_whole():
    folder = hrm_data() / "text"
    assert len("".join(documents(folder / "alice.txt")).encode()) == 151077
    speeches = list(documents(folder / "state_of_the_union_1945_1998.txt.gz"))
    assert len(speeches) > 1 and len("".join(speeches).encode()) == 1780987
