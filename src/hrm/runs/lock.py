"""One owner of a folder: who writes into a run holds a lock of the operating system, which vanishes with its process.

The lock lies inside the folder (`.lock`), so it is the same file under any path to the folder, and moves with it. It is
never deleted from a run. `.owner.json` beside it says who holds it, and means nothing while nobody does. Readers take
no lock and never wait.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from hrm.files.reading import UserError
from hrm.runs import durable

_LOCK, _OWNER = ".lock", ".owner.json"
FILES = (_LOCK, _OWNER)
"""Files that an owner keeps in the folder."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HOUR = 3600.0  # by which clocks may have been set since
_TRIES = 20
"""Retries when the folder vanishes or is renamed while it is being locked."""


class InUse(UserError):
    """Another process writes into a folder."""


class OwnedFolder:
    """A folder that is this process's until `release`, or until the end of a `with`; see `own`."""

    def __init__(self, folder: Path, lock: _Lock | None, made: list[Path]) -> None:
        self.folder, self._lock, self._made = folder, lock, made

    def __enter__(self) -> OwnedFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def rename(self, path: Path) -> None:
        """Give the folder another name, in one step; it stays this process's under that name."""
        if self._lock is not None and os.name == "nt":
            # Windows renames no folder with an open file, so the lock is released first. Nobody can come in between:
            # the rename fails while another process has the lock or any file in there open.
            self._lock.file.release()
        try:
            self.folder.rename(path)
        except OSError as error:
            raise UserError(f"{self.folder} cannot be renamed to {path} ({error.strerror})") from error
        self.folder = path

    def release(self) -> None:
        """Release the lock; a second call does nothing. A folder that did not become a run is removed if this made
        it."""
        lock, self._lock = self._lock, None
        if lock is None:
            return
        lock.holds -= 1
        if lock.holds or lock.process != os.getpid():
            return
        _held.pop(lock.key, None)
        file, is_run = self.folder / _LOCK, (self.folder / "run.json").is_file()
        with suppress(OSError):
            (self.folder / _OWNER).unlink()
        if not is_run and os.name != "nt":
            with suppress(OSError):
                file.unlink()  # removed before the release, so that nobody else can lock a file that is about to vanish
        lock.file.release()
        if not is_run:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            for made in reversed(self._made):
                with suppress(OSError):
                    made.rmdir()


class _Lock:
    """A lock file that this process holds, with a count."""

    def __init__(self, file: BaseFileLock, key: tuple[int, int]) -> None:
        self.file, self.key, self.process, self.holds = file, key, os.getpid(), 0


_held: dict[tuple[int, int], _Lock] = {}


def own(folder: Path | str, verb: str, new: bool = False, named: Path | None = None) -> OwnedFolder:
    """Lock a run folder for this process, or raise InUse with a sentence that says who holds it; re-entrant. `new`
    creates the folder; without it, a folder that holds no run is not locked. `verb` and `named` tell others who holds
    it, and what."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{named or folder} is a file: choose another folder for the run")
    if not new and not (folder / "run.json").is_file():
        return OwnedFolder(folder, None, [])
    made: list[Path] = []
    for _ in range(_TRIES):
        try:
            if new:
                made += [path for path in (folder, *folder.parents) if not path.exists()][::-1]  # the outermost first
                folder.mkdir(parents=True, exist_ok=True)
            key = _identity(folder / _LOCK, make=True)
            lock = _held.get(key)
            if lock is None or lock.process != os.getpid():
                lock = _Lock(_locked(folder, named or folder), key)
                if _identity(folder / _LOCK) != key:  # the folder was renamed in between
                    lock.file.release()
                    continue
                try:
                    _sign(folder, verb)
                except OSError as error:
                    if error.errno not in _FULL:  # a run may be deleted to make room; others are told less meanwhile
                        lock.file.release()
                        raise
                _held[key] = lock
        except FileNotFoundError as error:
            if not new:
                raise UserError(f"{folder} has vanished: another process has renamed or removed it") from error
            continue  # its owner removed the folder without creating a run
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{named or folder} cannot be written into ({reason}): choose another folder") from error
        lock.holds += 1
        return OwnedFolder(folder, lock, made)
    if not folder.exists():
        raise UserError(f"{named or folder} cannot be made in {folder.parent}: choose another folder")
    raise UserError(f"{named or folder} changes its name again and again: stop the other process that writes there")


class Owner(NamedTuple):
    """The process that writes into a folder."""

    process: int
    host: str
    verb: str
    since: datetime

    def __str__(self) -> str:
        who = f"hrm {self.verb} (process {self.process} on {self.host})"
        return f"{who} has been writing into it since {self.since:%Y-%m-%d %H:%M:%S}"

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == _plain(platform.node())


def owner(folder: Path) -> Owner | None:
    """The recorded owner of a folder; None if there is none, or if its process no longer lives. Takes no lock."""
    file = folder / _OWNER
    try:
        facts = file.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > 4096:
            return None
        found = json.loads(file.read_bytes())
        process, since = int(found["process"]), datetime.fromisoformat(found["since"]).astimezone()
        recorded = Owner(process, _plain(found["host"]), _plain(found["verb"]), since)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return recorded if not recorded.is_here or _lives(process, since) else None


def writer(folder: Path) -> str | None:
    """A sentence on the process that writes into a folder, if one does; takes no lock."""
    found = owner(folder)
    return None if found is None else str(found)


def reader(folder: Path) -> str | None:
    """A sentence on another process of this machine that has a file of the folder mapped; None also where the system
    does not tell."""
    import psutil

    home = folder.resolve()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError, AttributeError):  # another's, ended, or macOS, which tells nobody
            if process.pid != os.getpid() and any(Path(m.path).is_relative_to(home) for m in process.memory_maps()):
                return f"process {process.pid} ({_plain(' '.join(process.cmdline()))}) is reading it"
    return None


@contextmanager
def place(out: Path, verb: str) -> Iterator[Path]:
    """An empty, locked folder in which to build `out`; removed at the end. Leftovers of a killed process are deleted.
    UserError if another process is building `out`."""
    temporary = out.with_name(f".tmp-{out.name}-building")  # every process that builds `out` uses this name
    if temporary.is_symlink():
        temporary.unlink()
    owned = own(temporary, verb, new=True, named=out)
    try:
        _sweep(temporary)
        yield temporary
    finally:
        _sweep(temporary)
        owned.release()
        with suppress(OSError):
            temporary.rmdir()


def _identity(file: Path, make: bool = False) -> tuple[int, int]:
    """Identifies a file independent of its name: device and inode."""
    if make:
        with suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
    found = file.lstat()
    return found.st_dev, found.st_ino


@contextmanager
def complete(out: Path, verb: str, flag: str = "OUT") -> Iterator[Path]:
    """A folder to make and fill; it is moved to `out` once it is complete. UserError if that exists."""
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: choose a new folder for the model ({flag})")
    with place(out, verb) as made:
        yield made / out.name
        (made / out.name).replace(out)


def _locked(folder: Path, named: Path) -> BaseFileLock:
    lock, free = FileLock(folder / _LOCK, thread_local=False), True
    with warnings.catch_warnings(), suppress(NotImplementedError):
        warnings.simplefilter("ignore")  # filelock's fallback to a soft lock, which is refused here
        try:
            lock.acquire(blocking=False)
        except Timeout:
            free = False
    if isinstance(lock, SoftFileLock) or (free and not lock.is_locked):
        # A lock that is a mere file would outlive a killed process and lock the folder forever.
        lock.release()
        with suppress(OSError):
            (folder / _LOCK).unlink()
        spoil = "so that two processes could spoil each other's work there"
        raise UserError(f"{named} lies on a file system without locks, {spoil}: use a folder on another one")
    if not free:
        raise InUse(f"{named} is in use: {_who(folder)}; wait until it has ended, or stop it")
    return lock


def _sign(folder: Path, verb: str) -> None:
    """Write down who holds the folder, and remove what one left who was killed while it did."""
    for left in folder.glob(f".tmp-{_OWNER}-*"):
        durable.discard(left)
    since = datetime.now(UTC).isoformat(timespec="seconds")
    durable.write_json(folder / _OWNER, {"process": os.getpid(), "host": platform.node(), "verb": verb, "since": since})


def _who(folder: Path) -> str:
    """Who holds a folder, if that is written down; waits a moment for an owner that is about to write it."""
    for _ in range(10):
        found = writer(folder)
        if found is not None:
            return found
        time.sleep(0.05)
    return "another process writes into it"


def _lives(process: int, since: datetime) -> bool:
    """Whether a process that was there at a time still is; not a later one with its number, nor one killed that its
    parent has not noticed."""
    import psutil

    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and found.create_time() < since.timestamp() + _HOUR
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False


def _plain(word: object) -> str:
    return "".join(c for c in str(word) if c.isprintable())[:80]


def _sweep(folder: Path) -> None:
    """Delete everything in a folder but its lock."""
    for path in list(folder.iterdir()):
        if path.name not in FILES:
            durable.discard(path)
