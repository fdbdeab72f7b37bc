"""Files from outside: bounds before belief, and one sentence for whatever is wrong."""

import gzip
import lzma
import os
import pickle
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.files.reading import (
    TooLarge,
    UserError,
    bytes_of,
    json_of,
    lines_of,
    nearest,
    parsed,
    quoted,
    reading,
    reason,
    shown,
    text_of,
    yaml_of,
)
from hrm.puzzles.config import Config
from hrm.settings import from_yaml, kind_of, load_preset
from hrm.text.config import TextConfig


def multiplied(depth: int) -> str:
    """The billion laughs: every list holds the one before ten times."""
    rest = "".join(f",&{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]" for i in range(depth))
    return "data: [&a [x,x,x,x,x,x,x,x,x,x]" + rest + "]\n"


def test_what_is_quoted_is_cut_before_it_is_written_out():
    laughs: list = ["x"] * 10
    for _ in range(30):  # written out this would be longer than any memory
        laughs = [laughs] * 10
    for value in (laughs, {"a": laughs}, "x" * 10**7, b"x" * 10**7, 10**5000, -(10**5000), {1: laughs}, [10**5000]):
        assert len(quoted(value)) <= 80
    assert quoted("a'b") == '"a\'b"' and quoted([1, "a"]) == "[1, 'a']" and quoted(None) == "None"
    assert quoted(10**5000) == "a number of about 5,001 digits"
    assert quoted("x" * 100, 20).startswith("'xxx") and len(quoted("x" * 100, 20)) <= 20


def test_many_names_are_shown_as_a_few():
    assert shown(["a", "b"]) == "a, b"
    assert shown(range(1000), most=2) == "0, 1 and 998 more" and len(shown(["x" * 9999])) == 200


def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path: Path):
    plain = gzip.compress(b"line\n" * 1000)
    files = {
        "cut.gz": plain[: len(plain) // 2],
        "flipped.gz": plain[:20] + bytes([plain[20] ^ 255]) + plain[21:],
        "never.gz": b"never packed",
        "never.xz": b"never packed",
        "cut.xz": lzma.compress(b"line\n" * 1000)[:-20],
        "latin.txt": b"caf\xe9",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as caught:
            text_of(tmp_path / name)
        assert "Exception" not in str(caught.value) and "\n" not in str(caught.value)
        if name != "latin.txt":
            with pytest.raises(UserError, match=name):
                list(lines_of(tmp_path / name))
    with pytest.raises(UserError, match="No such file"):
        bytes_of(tmp_path / "missing")
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UserError):
            bytes_of(tmp_path / name)


def test_what_unpacks_to_far_too_much_is_refused_with_the_limit(tmp_path: Path):
    bomb = tmp_path / "bomb.json.gz"
    bomb.write_bytes(b"".join([gzip.compress(b"0" * (16 << 20), 9)] * 8))
    for read in (bytes_of, json_of, text_of, lambda path, most: list(lines_of(path, most))):
        with pytest.raises(TooLarge, match=r"bomb\.json\.gz.*8 MB"):
            read(bomb, 8 << 20)  # type: ignore[operator]


def test_looking_for_an_encoding_ends_where_reading_would(tmp_path: Path):
    from hrm.text.data.sources import rows

    for name, limit in (("a.jsonl.gz", "a line of over 64 MB"), ("a.json.gz", "more than 512 MB")):
        member = gzip.compress(b"0" * (64 << 20), 9)
        (tmp_path / name).write_bytes(member * (9 if "json." in name else 2))
        with pytest.raises(TooLarge, match=limit):
            next(rows(tmp_path / name))


def test_lines_end_where_they_end(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo")
    assert list(lines_of(tmp_path / "a.txt")) == [b"one\n", b"\n", b"two"]


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5000, "{", "nul", b"\xff\xfe", "[1,]", ""])
def test_what_is_no_json_is_one_sentence(content: str | bytes):
    with pytest.raises(UserError, match=r"^here is not valid JSON \(.*\): restore it$"):
        parsed(content, "here")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("seed: " + "9" * 5000, "a number in it is too large"),
        ("seed: 2024-99-99", "month must be in 1..12"),
        ("a: &a [*a]", "stands in"),
        (multiplied(8), "more than 200,000 values"),
        ("a: 1\nb: {c: 1, d: 2, c: 3}", "the key 'c' appears twice"),
        ("? [a]\n: 1", "unhashable"),
        ("a: *b", "undefined alias"),
        ("x" * (2 << 20), "1 MB"),
        ("a: !!python/object:os.system {}", "could not determine a constructor"),
    ],
)
def test_what_is_no_settings_yaml_is_one_sentence(text: str, what: str):
    with pytest.raises(UserError, match=what) as caught:
        yaml_of(text, "here")
    assert len(str(caught.value)) < 300


def test_aliases_that_stay_small_are_read():
    assert yaml_of("a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}", "") == {"a": {"b": 1}, "c": {"b": 1, "d": [{"b": 1}] * 2}}


@pytest.mark.parametrize(
    "text",
    [
        multiplied(4),
        "seed: " + "1:" * 3000 + "1",
        "parent: " + "a" * 5000,
        "parent: [a, b]",
        "arch: {horizon: 'trailing(" + "9" * 5000 + ")'}",
        "arch: {norm_eps: 1" + "0" * 400 + "}",
        "arch: {dim: .inf}",
        "optim: {lr: .nan}",
        "arch: {" + "1:" * 3000 + "1: 2}",
        'parent: "a\\0b"',
    ],
)
def test_settings_of_odd_values_are_refused_briefly(text: str):
    from hrm.settings import check

    with pytest.raises(UserError) as caught:
        check(from_yaml(text, "here", Config))
    assert len(str(caught.value)) < 1000


def test_many_unknown_keys_end_at_the_first():
    with pytest.raises(UserError, match=r"unknown key 'arch\.k0'"):
        from_yaml("arch: {" + ", ".join(f"k{i}: 1" for i in range(3000)) + "}", "here", Config)
    assert nearest("a" * 10**6, ["a" * 10**6, "b"]) == ""


def test_a_circle_or_a_long_row_of_parents_ends(tmp_path: Path):
    for i in range(30):
        (tmp_path / f"{i}.yaml").write_text(f"parent: {tmp_path / f'{(i + 1) % 30}.yaml'}\n")
    kind_of(tmp_path / "0.yaml")
    with pytest.raises(UserError, match="more than 20 parents"):
        load_preset(tmp_path / "0.yaml", TextConfig)


def test_no_advice_to_unpickle_is_passed_on():
    error = pickle.UnpicklingError("Re-running torch.load with weights_only set to False will likely succeed")
    assert reason(error) == "it holds objects, which could run code and are never loaded"
    with (
        pytest.raises(UserError, match=r"^x cannot be read \(it holds objects.*\): get it as safetensors$"),
        reading("x", "get it as safetensors"),
    ):
        raise error


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize(
    "args",
    [
        ("learn", "run", "pipe"),
        ("arc", "check", "pipe"),
        ("arc", "show", "pipe"),
        ("chat", "run", "--batch", "pipe"),
        ("data", "pack", "pipe", "--out", "packed"),
    ],
)
def test_a_pipe_is_to_be_copied_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    assert main(list(args)) == 2
    said = capsys.readouterr().err
    assert said.endswith(": pipe is neither a file nor a folder: copy what it holds into a file\n")
    assert os.listdir() == ["pipe"]
