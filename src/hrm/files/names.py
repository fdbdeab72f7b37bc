"""Names found in files, before one becomes a path, and where a new folder may stand.

A run, a data set or a model may come from anybody. What its files call other files is believed only if it is a bare
name of a regular file in the same folder.
"""

from __future__ import annotations

import json
import os
import stat
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from hrm.files.reading import UserError, quoted

_SEPARATORS = "/\\:"  # a colon begins a drive or a stream on Windows
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$", *(f"{p}{n}" for p in ("com", "lpt") for n in range(10))}
RUN_CONTENTS = (
    "run.json", "config.yaml", "metrics.jsonl", "best.json", "result.json", "checkpoints", "data", "tokenizer",
    "model", "books", "modes.json", "calibration.json", "tensorboard", "README.md", "analysis",
)  # fmt: skip
"""What belongs to a run and is deleted when it is overwritten; other files in the folder stay."""
KEPT_BY_RUNS = (*RUN_CONTENTS, "bad_batch.safetensors")
"""What a run writes into its folder, apart from hidden files."""
_LONGEST = 200
_LARGEST = 1 << 28


class BadName(UserError):
    """A name in a file, or what it leads to, that is not opened; `reason` says why without the place."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}; it is not opened: restore it, or put a file of its own there")
        self.reason = reason


def fault(name: object, known: Collection[str] | None = None) -> str | None:
    """Why a value cannot be the bare name of a file (a `known` one, where given) on any system; None if it can."""
    if not isinstance(name, str):
        return f"a name is {type(name).__name__} and not text"
    shown = ascii(name if len(name) <= 60 else name[:60] + "...")
    if not name or name in (".", ".."):
        return f"{shown} is no name of a file"
    if any(character in _SEPARATORS for character in name):
        return f"{shown} is a path and not a bare name"
    if any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in '<>"|?*' for c in name):
        return f"{shown} holds characters that no name of a file has"
    if name.rstrip(" .") != name or unicodedata.normalize("NFKC", name).split(".")[0].strip().lower() in _RESERVED:
        return f"{shown} means something else on some systems"
    if len(name.encode()) > _LONGEST:
        return f"{shown} is too long for a name"
    if known is not None and name not in known:
        return f"{shown} is none of the files that belong there"
    return None


def file_in(folder: Path, name: object) -> Path:
    """The path of a name found in a file of `folder`; BadName unless it is bare and leads to nothing but a regular
    file inside. A file that is missing is for its reader to report."""
    if (why := fault(name)) is not None:
        raise BadName(folder, why)
    return regular(folder / str(name))


def regular(path: Path) -> Path:
    """A path whose file is regular, lies in its own folder even where links are followed, or is missing; else BadName.
    A folder of the Hub's cache may link to the blobs beside it."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise BadName(path, "it is a link to nothing") from None
        return path
    except (OSError, ValueError) as error:
        raise BadName(path, f"it cannot be reached ({getattr(error, 'strerror', None) or error})") from None
    home = path.parent.resolve()
    if home.parent.name == "snapshots" and (home.parent.parent / "blobs").is_dir():
        home = home.parent.parent
    if not path.resolve().is_relative_to(home):
        raise BadName(path, "it is a link to a place outside its folder")
    if not stat.S_ISREG(mode):
        raise BadName(path, f"it is {_kind(mode)} and not a file")
    return path


def read_bytes(path: Path, most: int = _LARGEST) -> bytes:
    """The content of a file that is `regular` and no larger than a file of facts is; OSError where it cannot be."""
    if regular(path).is_file() and (size := path.stat().st_size) > most:
        raise BadName(path, f"it has {size:,} bytes, and no such file is larger than {most:,}")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """The same as text."""
    return read_bytes(path).decode("utf-8")


_TEMPLATES = ("chat_templates", "additional_chat_templates")


def folder_of_files(folder: Path) -> Path:
    """A folder of which a library opens what it likes: BadName unless every file is `regular`, and the parts that an
    index lists are bare names."""
    places = [place for place in (folder, *(folder / name for name in _TEMPLATES)) if place.is_dir()]
    for entry in [entry for place in places for entry in sorted(place.iterdir())]:
        if not entry.is_dir() or entry.name in _TEMPLATES:
            place_in(folder, entry.name) if entry.is_dir() else regular(entry)
        if entry.name.endswith(".index.json"):
            try:
                listed = json.loads(read_text(entry))["weight_map"].values()
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise BadName(entry, "it is no index of the parts of a model") from None
            for name in listed:
                file_in(folder, name)
    return folder


def place_in(folder: Path, *names: str) -> Path:
    """Where something may be written below a folder: a path that no link leads out of it, free or a file or folder."""
    path = folder.joinpath(*names)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{path} is a link to a place outside {folder}, where nothing is written: put a file or folder of its own "
            "there, or move the whole folder and link that"
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path} is {_kind(path.stat().st_mode)}: remove it")
    return path


def apart(out: Path | str, sources: Iterable[Path | str | None], flag: str = "--out") -> None:
    """UserError where a new file or folder would lie inside what is read, or what is read inside it."""
    target = Path(out).expanduser().resolve()
    for source in sources:
        path = None if source is None else Path(source).expanduser()
        if path is None or not os.path.exists(path):
            continue
        read = path.resolve()
        if target == read:
            raise UserError(f"{flag} {out} is what is read: choose another place for what is written")
        if target.is_relative_to(read):
            raise UserError(f"{flag} {out} lies inside {source}, which is read: choose a place outside it")
        if read.is_relative_to(target):
            inside = f"{source}, which is read, lies inside {flag} {out}"
            raise UserError(f"{inside}: choose another place for what is written")


def sources(joined: str) -> list[str]:
    """The names of files or folders that are joined by commas; UserError where one is empty."""
    listed = [name.strip() for name in joined.split(",")]
    if not all(listed):
        raise UserError(f"an empty name stands in {quoted(joined)}: put one comma between the names of files")
    return listed


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"
