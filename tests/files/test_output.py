"""Files that a flag names: links are followed, pipes and devices written into, regular files replaced in one step."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from hrm.cli.main import main
from hrm.files import output
from hrm.files.reading import UserError
from hrm.runs import checkpoint

posix = pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")


def test_a_regular_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    output.write(file, "one")
    file.chmod(0o640)
    before = file.stat().st_ino
    output.write(file, b"two")
    assert file.read_text() == "two" and file.stat().st_ino != before
    assert os.name == "nt" or stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_what_fails_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("old")
    with pytest.raises(RuntimeError), output.opened(file) as opened:
        opened.write(b"new")
        raise RuntimeError
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]


@posix
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    (tmp_path / "other/target").write_text("keep")
    link.symlink_to("other/target")
    dangling.symlink_to("other/new")
    for node in (link, dangling):
        output.write(node, "page")
        assert node.is_symlink() and node.read_text() == "page"


@posix
def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        got: list[str] = []
        reader = threading.Thread(target=lambda got=got: got.append((tmp_path / "pipe").read_text()))
        reader.start()
        output.write(tmp_path / name, "page")
        reader.join()
        assert got == ["page"] and not output.is_regular(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@posix
def test_devices_and_open_streams_stay_what_they_are(tmp_path: Path) -> None:
    output.write("/dev/null", "page")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with (tmp_path / "out").open("w") as stream:
        stream.write("table\n")
        stream.flush()
        output.write(f"/dev/fd/{stream.fileno()}", "page\n")
    assert (tmp_path / "out").read_text() == "table\npage\n"


def test_the_place_is_checked_before_the_work(tmp_path: Path) -> None:
    output.check("--html", tmp_path / "page.html")
    output.check("--html", None)
    for path, words in ((tmp_path, "is a folder"), (tmp_path / "no/page.html", "is in a folder that does not exist")):
        with pytest.raises(UserError, match=f"--html .* {words}"):
            output.check("--html", path)


def test_a_picture_must_have_a_known_form(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    output.check_picture("--plot", tmp_path / "depth.svg")
    with pytest.raises(UserError, match="must end in"):
        output.check_picture("--plot", tmp_path / "depth.txt")


@pytest.mark.parametrize(
    ("error", "said", "mistake"),
    [
        (OSError(errno.ENOSPC, "", "runs/a"), "runs/a: no space is left on the device", False),
        (OSError(errno.EFBIG, ""), "the file would be larger than is allowed here", False),
        (NotADirectoryError(errno.ENOTDIR, "", "f/run"), "f/run: a part of the path is a file and not a folder", True),
        (PermissionError(errno.EACCES, "", b"x"), "x: permission is denied", True),
        (RuntimeError("Error while serializing: I/O error: No space (os error 28)"), "no space is left", False),
        (OSError("1024 requested and 8 written"), "no space is left", False),
    ],
)
def test_what_the_system_refuses_is_said_in_words(error: Exception, said: str, mistake: bool) -> None:
    assert (output.refusal(error) or "").startswith(said)
    assert output.is_mistake(error) is mistake


def test_other_errors_are_not_the_systems() -> None:
    assert output.refusal(ValueError("x")) is None and output.refusal(OSError("no such model")) is None
    with pytest.raises(ValueError, match="x"), output.refused("the page could not be written"):
        raise ValueError("x")


@posix
def test_a_checkpoint_without_room_tells_what_stands(tmp_path: Path) -> None:
    import resource

    import torch

    folder = tmp_path / "run/checkpoints"
    folder.parent.mkdir()
    checkpoint.save(folder, 1, {}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(output.Refused) as error:
            checkpoint.save(folder, 2, {"weights": {"w": torch.zeros(4096)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == (
        f"the checkpoint of step 2 could not be saved in {folder}: the file would be larger than is allowed here; "
        "the checkpoint of step 1 is intact"
    )
    assert [path.name for path in folder.iterdir()] == ["step_00000001"]


def test_a_run_deleted_while_it_trains_does_not_come_back_in_part(tmp_path: Path) -> None:
    folder = tmp_path / "run/checkpoints"
    with pytest.raises(output.Refused, match=r"could not be saved .* is gone"):
        checkpoint.save(folder, 2, {}, {})
    assert not folder.parent.exists()


def test_a_place_below_a_file_is_a_mistake_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["demo", "--out", str(tmp_path / "file/run")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "file" in message and "Error" not in message and "--debug" not in message
