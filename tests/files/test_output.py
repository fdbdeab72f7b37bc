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


def a_run(folder: Path) -> Path:
    (folder / "checkpoints/step_00000001").mkdir(parents=True)
    for name in ("run.json", "config.yaml", ".lock", "checkpoints/step_00000001/weights.safetensors"):
        (folder / name).write_text("kept")
    return folder


@pytest.mark.parametrize(
    "name", ["run.json", "config.yaml", ".lock", ".new", "README.md", "checkpoints/step_00000001/weights.safetensors"]
)
def test_what_a_run_keeps_is_not_written_over(tmp_path: Path, name: str) -> None:
    run = a_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"--html .* belongs to the run .*: choose another place"):
        output.check("--html", run / name)


def test_a_report_may_lie_beside_what_a_run_keeps(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    for _ in range(2):
        output.check("--html", run / "report.html", [run])
        (run / "report.html").write_text("page")


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    read, inside = tmp_path / "puzzles.txt", tmp_path / "data/one.txt"
    for file in (read, inside):
        file.write_text("puzzle")
    sources = (None, "1.34" * 2000, str(read), tmp_path / "data")
    with pytest.raises(UserError, match=r"--html .* is what is read: choose another place"):
        output.check("--html", tmp_path / "data/../puzzles.txt", sources)
    with pytest.raises(UserError, match=r"--html .* lies inside .*data, which is read"):
        output.check("--html", inside, sources)
    output.check("--html", tmp_path / "data/new.html", sources)


@posix
def test_a_link_to_what_is_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "puzzles.txt").write_text("puzzle")
    (tmp_path / "page.html").symlink_to("puzzles.txt")
    with pytest.raises(UserError, match="is what is read"):
        output.check("--html", tmp_path / "page.html", [tmp_path / "puzzles.txt"])


@posix
def test_no_file_is_made_among_devices(tmp_path: Path) -> None:
    output.check("--json-file", "/dev/null", ["/dev/null"])
    with pytest.raises(UserError, match=r"--sweep /dev/null\.png is among devices"):
        output.check("--sweep", "/dev/null.png")


@pytest.mark.parametrize(
    "args",
    [
        ("solve", "sudoku", "in.txt", "--html", "in.txt"),
        ("solve", "sudoku", "in.txt", "--gif", "in.txt"),
        ("eval", "sudoku", "--data", "in.json", "--json-file", "in.json"),
        ("eval", "sudoku", "--data", "in.json", "--sweep", "in"),
        ("analyze", "text", "in.txt", "--reference", "other", "--json-file", "in.txt"),
        ("analyze", "text", "other", "--reference", "in.png", "--plot", "in.png"),
        ("arc", "show", "other,in.json", "--svg", "in.json"),
        ("analyze", "forgetting", "run", "--json-file", "run/metrics.jsonl"),
        ("eval", "text-run", "--json-file", "run/result.json"),
        ("eval", "text-run", "--plot", "run/model/x.png"),
    ],
)
def test_every_verb_refuses_to_write_over_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in.txt", "in.json", "in.png"):
        Path(name).write_text("old")
    a_run(Path("run"))
    (Path("run/model")).mkdir()
    Path("text-run").mkdir()
    Path("text-run/config.json").write_text("{}")
    assert main(list(args)) == 2
    assert "choose another place for what is written" in capsys.readouterr().err
    assert all(Path(name).read_text() == "old" for name in ("in.txt", "in.json", "in.png"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_device_is_named() -> None:
    with pytest.raises(OSError) as error:
        output.write("/dev/full", "page")
    assert output.refusal(error.value) == "/dev/full: no space is left on the device"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_standard_output_is_named_where_it_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["--version"]) == 1
    assert capsys.readouterr().err == "hrm: standard output: no space is left on the device\n"


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
