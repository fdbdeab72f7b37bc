"""A name found in a file leads to a regular file beside it, or nowhere."""

import json
import ntpath
import os
import posixpath
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrm.files import names
from hrm.files.names import BadName
from hrm.files.reading import UserError

POSIX = pytest.mark.skipif(os.name == "nt", reason="links need rights, and there are no pipes in folders")
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HOSTILE = [
    "", ".", "..", "/etc/passwd", "../x", "a/b", "a\\b", "..\\x", "C:x", "C:\\x", "x:stream", "\\\\host\\share",
    "a\0b", "a\nb", "a\x1b[31m", "\u202egpj.exe", "\u2028", "\ud800", "nul", "NUL.txt", "con.json", "COM1", "lpt9.x",
    "com\u00b9", "x.", "x ", "a*", "a?", "<a>", 'a"', "a|b", "x" * 300, None, 5, 1.5, True, [], {}, b"x", ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_no_bare_name_is_refused(tmp_path: Path, name: object) -> None:
    assert names.fault(name)
    with pytest.raises(BadName, match=r".+: .+; it is not opened: restore it"):
        names.file_in(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["state.json", "weights.safetensors", ".hidden", "all__inputs.npy", "\u5168.txt", "a b"]
)
def test_ordinary_names_are_taken(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    assert names.file_in(tmp_path, name).read_text() == "x"
    assert names.fault(name, {name, "other"}) is None
    assert "none of the files that belong there" in str(names.fault(name, {"other"}))


text = st.text(st.characters(), max_size=12) | st.lists(
    st.sampled_from(["..", ".", "/", "\\", "C:", "a", "nul", "\0", " ", "~", "con"]), max_size=6
).map("".join)


@QUICK
@given(text)
def test_no_name_leads_out_of_the_folder_on_any_system(tmp_path: Path, name: str) -> None:
    if names.fault(name) is not None:
        return
    for system, folder in ((posixpath, "/home/me/run"), (ntpath, "C:\\home\\me\\run")):
        joined = system.normpath(system.join(folder, name))
        assert system.dirname(joined) == folder and system.basename(joined) == name
    path = names.file_in(tmp_path, name)
    assert path.parent == tmp_path
    path.write_text("x")  # the system can write it
    assert [p.name for p in tmp_path.iterdir()] == [name]
    path.unlink()


@QUICK
@given(st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.lists(st.text()))
def test_what_is_no_text_is_no_name(value: object) -> None:
    assert names.fault(value)


@POSIX
def test_links_lead_nowhere_but_inside(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("secret")
    (folder / "real").write_text("x")
    (folder / "inside").symlink_to("real")
    (folder / "out").symlink_to(secret)
    (folder / "up").symlink_to("../secret")
    (folder / "chain").symlink_to("out")
    (folder / "nothing").symlink_to("gone")
    (folder / "loop").symlink_to("loop")
    assert names.read_text(folder / "inside") == "x"
    for name in ("out", "up", "chain", "nothing", "loop"):
        with pytest.raises(BadName, match=name):
            names.file_in(folder, name)
    # The folder itself may be a link: whoever gave its path meant it.
    (tmp_path / "link").symlink_to(folder)
    assert names.read_text(tmp_path / "link" / "inside") == "x"


@POSIX
@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("x")
    with pytest.raises(BadName, match=f"it is a {kind} and not a file"):
        names.read_bytes(path)


def test_a_file_of_facts_has_a_largest_size(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert names.read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(BadName, match="5 bytes"):
        names.read_bytes(tmp_path / "x", 4)
    with pytest.raises(FileNotFoundError):
        names.read_bytes(tmp_path / "missing")


@POSIX
def test_a_folder_for_a_library_holds_nothing_but_files(tmp_path: Path) -> None:
    (tmp_path / "chat_templates").mkdir()
    (tmp_path / "chat_templates" / "a.jinja").write_text("x")
    assert names.folder_of_files(tmp_path) == tmp_path
    for place in (tmp_path / "b.json", tmp_path / "chat_templates" / "b.jinja"):
        place.symlink_to("/etc/hostname")
        with pytest.raises(BadName, match=r"b\.j"):
            names.folder_of_files(tmp_path)
        place.unlink()


@pytest.mark.parametrize("listed", ["../x", "/dev/zero", 5, None, "a/b"])
def test_an_index_lists_bare_names(tmp_path: Path, listed: object) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": listed}}))
    with pytest.raises(BadName):
        names.folder_of_files(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert names.folder_of_files(tmp_path) == tmp_path
    for damaged in ("", "[]", '{"weight_map": 5}'):
        index.write_text(damaged)
        with pytest.raises(BadName, match="no index"):
            names.folder_of_files(tmp_path)


@POSIX
def test_the_hubs_cache_may_link_to_its_blobs(tmp_path: Path) -> None:
    blobs, folder = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    (blobs / "1f").write_text("{}")
    (folder / "config.json").symlink_to("../../blobs/1f")
    (folder / "bad.json").symlink_to("/etc/hostname")
    assert names.read_text(folder / "config.json") == "{}"
    with pytest.raises(BadName, match=r"bad\.json"):
        names.read_text(folder / "bad.json")


@POSIX
def test_nothing_is_written_through_a_link_out(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.mkdir()
    assert names.place_in(run, "free") == run / "free"
    (run / "checkpoints").symlink_to(other)
    os.mkfifo(run / "pipe")
    for path in (("checkpoints",), ("checkpoints", "new"), ("..", "x")):
        with pytest.raises(UserError, match="outside"):
            names.place_in(run, *path)
    with pytest.raises(UserError, match="a pipe"):
        names.place_in(run, "pipe")


def test_what_is_written_lies_apart_from_what_is_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a.csv").write_text("x")
    names.apart(tmp_path / "run", [data, data / "a.csv", None, tmp_path / "missing", "a/name-of-the-hub"])
    names.apart(data / "run", [data / "a.csv"])
    for out, source, why in (
        (data / "run", data, "lies inside .*data, which is read"),
        (data, data, "is what is read"),
        (data, data / "a.csv", r"a\.csv, which is read, lies inside --out"),
        (data / "sub" / ".." / "run", data, "lies inside"),
    ):
        with pytest.raises(UserError, match=why):
            names.apart(out, [source])
