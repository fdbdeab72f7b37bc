"""Writing files: what the program keeps is replaced in one step, and what a person named is written whatever it is.

`replacing` is for a run's own files and never follows a link. `opened`, `write`, `write_json` and `write_figure` are
for files that a flag names: a link is followed, a pipe or device is written into, only a regular file is replaced.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hrm.files import names
from hrm.files.reading import UserError, needs
from hrm.files.records import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Refused(Exception):
    """What the system did not let happen: one sentence with what, where and why; exit code 1."""


_REASONS = {
    "ENOSPC": "no space is left on the device", "EDQUOT": "the quota is used up",
    "EFBIG": "the file would be larger than is allowed here", "EROFS": "nothing can be written to this file system",
    "EIO": "the device failed", "ENOTDIR": "a part of the path is a file and not a folder", "EISDIR": "it is a folder",
    "ENOENT": "there is no such file or folder", "EACCES": "permission is denied", "EPERM": "it is not permitted",
    "ENAMETOOLONG": "the name is too long", "ELOOP": "its links go round in a circle",
    "EMFILE": "too many files are open",
}  # fmt: skip
_WRONG = ("ENOTDIR", "EISDIR", "ENOENT", "EACCES", "EPERM", "EEXIST", "ENAMETOOLONG", "ELOOP")
"""Where another name would have worked: a mistake of the person."""


def refusal(error: BaseException) -> str | None:
    """Why the system refused, in words, with the path where it is known; None for an error of another kind."""
    if isinstance(error, Refused):
        return str(error)
    number, text = getattr(error, "errno", None), str(error)
    if not isinstance(error, OSError) or number is None:
        # safetensors passes the system's number on in words; numpy and torch say how much they could not write.
        if found := re.search(r"\(os error (\d+)\)", text):
            number = int(found[1])
        elif re.search(r"\d+ requested and \d+ written|PytorchStreamWriter failed writing", text):
            number = errno.ENOSPC
        else:
            return None
    said = _REASONS.get(errno.errorcode.get(number, ""), os.strerror(number).lower())
    file = getattr(error, "filename", None)
    return said if file in (None, "") or isinstance(file, int) else f"{os.fsdecode(file)}: {said}"


def is_mistake(error: BaseException) -> bool:
    """Whether a refusal is due to what the person named."""
    return isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _WRONG


@contextmanager
def refused(doing: str, intact: Callable[[], str] = lambda: "") -> Iterator[None]:
    """A refusal of the system on the way becomes `Refused`: what was being done, why it ended, and what stands."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        if isinstance(error, Refused) or (said := refusal(error)) is None:
            raise
        raise Refused("; ".join(filter(None, (f"{doing}: {said}", intact())))) from error


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk; folders are skipped where the system cannot flush them."""
    if path.is_dir():
        if os.name == "nt":
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems refuse to flush a folder; anything else is a disk that lost data.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to fill, which then takes the place of `path`: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".tmp-{path.name[:200]}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:  # never through a link that somebody put there
            yield file
        flush(temporary)
        if path.is_file() and not path.is_symlink():
            os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # nobody knows the temporary name
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


Source = str | Path | None


def check(flag: str, path: str | Path | None, read: Iterable[Source] = ()) -> None:
    """UserError for a flag's file that could not be written for its place, or would take the place of something that is
    read or that a run keeps; asked before anything is computed. What is no path in `read` is passed over."""
    if path is None:
        return
    named, target, elsewhere = (
        f"{flag} {path}",
        Path(os.path.realpath(path)),
        "choose another place for what is written",
    )
    if target.is_dir():
        raise UserError(f"{named} is a folder: name a file in it")
    if not target.parent.is_dir():
        raise UserError(f"{named} is in a folder that does not exist: make it first")
    if not is_regular(path):
        if not os.path.exists(path):
            raise UserError(f"{named} is among devices and open streams: {elsewhere}")
        return
    for folder in target.parents:
        first = target.relative_to(folder).parts[0]
        kept = first in names.KEPT_BY_RUNS or first.startswith(".")
        if kept and (folder / "run.json").is_file() and (folder / "config.yaml").is_file():
            raise UserError(f"{named} belongs to the run {folder}: {elsewhere}")
    for source in read:
        if source is None or not os.path.exists(found := os.path.expanduser(source)):
            continue
        if target == Path(os.path.realpath(found)):
            raise UserError(f"{named} is what is read: {elsewhere}")
        # A run is read too, but what it keeps is known, and reports may lie beside that.
        inside = target.exists() and target.is_relative_to(os.path.realpath(found))
        if inside and not os.path.isfile(os.path.join(found, "run.json")):
            raise UserError(f"{named} lies inside {source}, which is read: {elsewhere}")


def check_picture(flag: str, path: str | Path | None, read: Iterable[Source] = ()) -> None:
    """`check`, and UserError where matplotlib is missing or knows no such form."""
    if path is None:
        return
    check(flag, path, read)
    if find_spec("matplotlib") is None:
        raise UserError(needs(flag, "matplotlib", "report"))
    if _form(path) not in _PICTURES:
        raise UserError(f"{flag} {path} must end in .png, .svg, .pdf, .jpg or .webp")


def check_utf8(path: str | Path) -> None:
    """UserError for a folder to hold a tokenizer, whose library opens no name that is not UTF-8."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path} has a name that is not UTF-8, and a tokenizer is kept there: choose another") from None


def is_regular(path: str | Path) -> bool:
    """Whether a path, links followed, is a regular file or free to become one; no pipe, device or open stream."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        regular = True
    # /dev/stdout may lead to a regular file, but replacing that would tear it from the stream. /dev/shm is a disk.
    place = os.path.abspath(path)
    return regular and (place.startswith("/dev/shm/") or not place.startswith(("/dev/", "/proc/")))


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """A file that a person named, to be filled."""
    if is_regular(path):
        target = Path(os.path.realpath(path))
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        with replacing(target) as file:
            yield file
        return
    try:
        with open(os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)), "wb") as file:
            yield file
    except BrokenPipeError as error:
        raise UserError(f"{path} was closed by its reader before everything was written") from error
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write(path: str | Path, content: str | bytes) -> None:
    """Write a file that a person named."""
    with opened(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: str | Path, value: object) -> None:
    """`write` a value as indented JSON."""
    write(path, to_json(value, indent=2) + "\n")


def to_json(value: object, **options: Any) -> str:
    """A value as JSON that every reader takes: NaN and infinities, which JSON lacks, are null; records are objects."""
    try:
        return json.dumps(value, allow_nan=False, default=Record.plain, **options)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_figure(path: str | Path, figure: Figure, dpi: int) -> None:
    """`write` a figure of matplotlib in the form that the name says."""
    content = io.BytesIO()
    figure.savefig(content, format=_form(path), dpi=dpi)
    write(path, content.getvalue())


_PICTURES = ("png", "svg", "pdf", "jpg", "jpeg", "webp")


def _form(path: str | Path) -> str:
    return Path(path).suffix[1:].lower() or "png"
