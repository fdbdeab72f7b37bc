"""A run folder has one owner: the second is refused and told who it is, and a killed one leaves the folder free."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest

from hrm.files.reading import UserError
from hrm.runs import lock
from hrm.runs.folder import refuse_in_use

HOLD = """
import sys
sys.path.insert(0, {source!r})
from hrm.runs import lock
owned = lock.own({folder!r}, "train", new=True)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that owns a folder until it is ended."""
    source = str(Path(lock.__file__).parents[2])
    program = HOLD.format(source=source, folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[None]:
    """As if another process had the folder: a second lock file handle knows nothing of this process's."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        yield


def test_the_second_is_told_who_holds_the_folder_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with another_process(run) as process:
        with pytest.raises(
            lock.InUse, match=rf"run is in use: hrm train \(process {process.pid} on .*\) has been .* since 2"
        ):
            lock.own(run, "learn", new=True)
        process.kill()
        process.wait()
        lock.own(run, "learn", new=True).release()


def test_what_a_start_that_was_killed_as_it_signed_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".tmp-.owner.json-12345").write_text('{"proc')
    with lock.own(folder, "train", new=True):
        refuse_in_use(folder)
        assert sorted(os.listdir(folder)) == [".lock", ".owner.json"]


def test_a_process_owns_a_folder_as_often_as_it_wants_by_any_name(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    with lock.own(run, "learn", new=True) as first:
        if os.name == "nt":  # links need rights there
            other = run
        else:
            other.symlink_to(run, target_is_directory=True)
        with lock.own(other, "train", new=True), pytest.raises(filelock.Timeout):
            filelock.FileLock(run / ".lock").acquire(blocking=False)
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(run / ".lock").acquire(blocking=False)
        first.release()
        first.release()
    filelock.FileLock(tmp_path / "free").acquire(blocking=False)


def test_a_folder_that_became_no_run_is_left_without_a_trace(
    tmp_path: Path,
) -> None:
    with lock.own(tmp_path / "new/run", "train", new=True):
        assert (tmp_path / "new/run/.owner.json").is_file()
    assert not list(tmp_path.iterdir())
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "letter.txt").write_text("dear")
    with lock.own(strange, "train", new=True):
        pass
    assert [p.name for p in strange.iterdir()] == ["letter.txt"]
    with lock.own(tmp_path / "run", "train", new=True):
        (tmp_path / "run/run.json").write_text("{}")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [".lock", "run.json"]


def test_what_is_no_run_has_nothing_to_own(tmp_path: Path) -> None:
    with lock.own(tmp_path / "none", "train --resume"):
        assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file: choose another folder"):
        lock.own(tmp_path / "file", "train", new=True)


def test_a_renamed_folder_stays_its_owners_and_its_old_name_is_free(tmp_path: Path) -> None:
    run, kept = tmp_path / "run", tmp_path / "run-1"
    with lock.own(run, "learn --fresh", new=True) as owned:
        (run / "run.json").write_text("{}")
        owned.rename(kept)
        assert not run.exists()
        if os.name != "nt":
            with pytest.raises(filelock.Timeout):
                filelock.FileLock(kept / ".lock").acquire(blocking=False)
        with lock.own(run, "learn --fresh", new=True):
            assert (run / ".lock").is_file()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "FileLock", filelock.SoftFileLock)
    with pytest.raises(UserError, match="without locks"):
        lock.own(tmp_path / "run", "train", new=True)

    def missing(*args: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.undo()
    if os.name != "nt":
        monkeypatch.setattr("fcntl.flock", missing)
        with pytest.raises(UserError, match="without locks"):
            lock.own(tmp_path / "run", "train", new=True)


def test_a_planted_owner_file_is_neither_waited_for_nor_shown_raw(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held_elsewhere(run):
        (run / "run.json").write_text("{}")
        word = {"process": os.getpid(), "host": "\x1b[31mhost", "verb": "train", "since": "2026-01-01T00:00:00+00:00"}
        (run / ".owner.json").write_text(json.dumps(word))
        with pytest.raises(lock.InUse) as refused:
            lock.own(run, "learn")
        assert "\x1b" not in str(refused.value) and "[31mhost" in str(refused.value)
        (run / ".owner.json").write_text("[" * 4000)
        with pytest.raises(lock.InUse, match="another process"):
            lock.own(run, "learn")
        if hasattr(os, "mkfifo"):
            (run / ".owner.json").unlink()
            os.mkfifo(run / ".owner.json")
            with pytest.raises(lock.InUse, match="another process"):
                lock.own(run, "learn")


def test_a_place_is_built_by_one_process_and_swept_of_what_a_killed_one_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".tmp-out-building/half").mkdir(parents=True)
    with lock.place(out, "data pack") as folder:
        assert not (folder / "half").exists()
        (folder / "x").write_text("x")
        with pytest.raises(filelock.Timeout):
            filelock.FileLock(folder / ".lock").acquire(blocking=False)
    assert not list(tmp_path.iterdir())
    refused = pytest.raises(lock.InUse, match="/out is in use")
    with held_elsewhere(tmp_path / ".tmp-out-building"), refused, lock.place(out, "data pack"):
        pass


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which the system makes none")
def test_a_place_where_no_folder_can_be_made_is_called_that() -> None:
    with pytest.raises(UserError, match=r"^/proc/x cannot be made in /proc: choose another folder$"):
        lock.own(Path("/proc/x"), "train", new=True)


@pytest.mark.parametrize(("number", "owned"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_full_disk_hinders_nobody_and_nothing_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, owned: bool
) -> None:
    (tmp_path / "run.json").write_text("{}")

    def refuses(path: Path, value: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(lock.durable, "write_json", refuses)
        if owned:
            with lock.own(tmp_path, "studio"):
                pass
        else:
            with pytest.raises(UserError, match="cannot be written into"):
                lock.own(tmp_path, "studio")
    assert not lock._held
