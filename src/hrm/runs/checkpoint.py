"""Checkpoints: safetensors and JSON only, complete or absent, every byte accounted for.

A checkpoint is a folder `step_00001000/` with one `<group>.safetensors` per group of tensors, `state.json`, and
`manifest.json` with the size and SHA-256 of the others. It is written under a temporary name, flushed to the disk, and
renamed, so that a folder with its final name is always whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from hrm.files import names
from hrm.files.output import refused, to_json
from hrm.files.reading import UserError, quoted, reading, reason
from hrm.files.records import Json
from hrm.runs import durable
from hrm.runs.manifest import Facts, facts_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
_MANIFEST = "manifest.json"
_STATE = "state.json"
_SUFFIX = ".safetensors"
_TEMPORARY = ".tmp-"
_OLD = ".old"  # a checkpoint that was moved aside while a new one takes its name
_LONGEST = 1 << 20  # most bytes of a manifest
_NAME = re.compile(r"step_(\d{8,})")


class DamagedCheckpoint(UserError):
    """A checkpoint whose files are not the ones its manifest lists."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"checkpoint {path} is damaged: {reason}; use another checkpoint or restore this one")
        self.path = path
        self.reason = reason


def save(directory: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, object]) -> Path:
    """Write `directory/step_<step>` from groups of named tensors and a JSON-able state; return its path. An existing
    checkpoint of the same step is replaced only once the new one is on the disk."""
    with writing(directory, step, tensors, state):
        pass
    return directory / f"step_{step:08d}"


def intact(directory: Path) -> str:
    """A sentence naming the newest intact checkpoint, for errors about a full disk."""
    if not directory.parent.is_dir():
        return f"{directory.parent} is gone"
    found = complete(directory)
    return f"the checkpoint of step {step_of(found[-1])} is intact" if found else ""


@contextmanager
def writing(
    directory: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, object]
) -> Iterator[Path]:
    """A folder into which a block may write more groups of tensors; it is the checkpoint when the block is done."""
    # On first use: listing runs need not wait for torch.
    import torch
    from safetensors.torch import save_file

    said = f"the checkpoint of step {step} could not be saved in {directory}"
    with refused(said, lambda: intact(directory)):
        if not names.place_in(directory.parent, directory.name).is_dir():
            directory.mkdir()  # parents are not created: a run deleted during training must not come back in part
            durable.flush(directory.parent)
        _sweep(directory)
        final = directory / f"step_{step:08d}"
        old, temporary = final.with_name(final.name + _OLD), directory / f"{_TEMPORARY}{final.name}-{os.getpid()}"
        temporary.mkdir()
        try:
            for group, named in tensors.items():
                # Copies, because safetensors refuses views and tensors that share storage.
                whole = {name: tensor.detach().cpu() for name, tensor in named.items()}
                copies = {name: t.clone(memory_format=torch.contiguous_format) for name, t in whole.items()}
                save_file(copies, temporary / (group + _SUFFIX))
            yield temporary
            (temporary / _STATE).write_text(to_json(state), encoding="utf-8")
            files = {file.name: facts_of(file) for file in sorted(temporary.iterdir())}
            (temporary / _MANIFEST).write_bytes(_manifest(step, files))
            for path in (*(temporary / name for name in files), temporary / _MANIFEST, temporary):
                durable.flush(path)
            if os.path.lexists(final):
                os.rename(final, old)
            os.rename(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            _sweep(directory)
            raise
        durable.flush(directory)
        if os.path.lexists(old):
            _remove(old)


def load(path: Path, groups: Collection[str] | None = None) -> tuple[dict[str, dict[str, Tensor]], Json]:
    """The tensors (on the CPU, by group and name) and the state of a checkpoint. Only the wanted groups are read; one
    that the checkpoint lacks is absent from the result. Raises DamagedCheckpoint unless the files read are exactly
    those that were written."""
    tensors: dict[str, dict[str, Tensor]] = {}
    for name in verify(path, groups):
        if name.endswith(_SUFFIX):
            with safe_open(path / name, framework="pt") as file:
                # Clones: the tensors of safe_open live in the mapped file, which pruning may delete.
                tensors[name.removesuffix(_SUFFIX)] = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    state = json.loads((path / _STATE).read_text(encoding="utf-8"))
    if not isinstance(state, dict):
        raise DamagedCheckpoint(path, f"{_STATE} holds no facts by name")
    return tensors, state


def restoring(path: Path) -> AbstractContextManager[None]:
    """A context for restoring a checkpoint: errors inside become a UserError that names the checkpoint."""
    return reading(path, "use another checkpoint or restore this one")


def counted(state: Json, name: str) -> Any:
    """A count of steps or seconds from a state; ValueError for anything else."""
    kinds = (int, float) if name == "seconds" else (int,)
    if type(state[name]) not in kinds or not 0 <= state[name] < 2**60:
        raise ValueError(f"its {name} is {quoted(state[name])}")
    return state[name]


def shapes(path: Path, group: str) -> dict[str, list[int]]:
    """The shape of each tensor of a group, from the file's header alone; empty where the checkpoint lacks the group."""
    file = path / (group + _SUFFIX)
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(path, f"{file.name} is not readable ({reason(error)})") from error


def verify(path: Path, groups: Collection[str] | None = None, contents: bool = True) -> list[str]:
    """Check the state and the wanted groups (default: all) against the manifest; return their file names. Raises
    DamagedCheckpoint for a missing file, a size or SHA-256 that differs, or a file that cannot be read; without
    `contents` for a missing file or another size alone."""
    files = _read_manifest(path)
    if groups is not None:
        files = {name: facts for name, facts in files.items() if name == _STATE or name.removesuffix(_SUFFIX) in groups}
    for name, facts in files.items():
        try:
            file = names.regular(path / name)
            size = file.stat().st_size
            if size != facts["bytes"]:
                raise DamagedCheckpoint(path, f"{name} has {size} bytes instead of {facts['bytes']}")
            if not contents:
                continue
            found = facts_of(file)
        except names.BadName as error:
            raise DamagedCheckpoint(path, f"{name}: {error.reason}") from error
        except OSError as error:
            raise DamagedCheckpoint(path, f"{name} cannot be read ({error.strerror})") from error
        if found != facts:
            raise DamagedCheckpoint(path, f"the content of {name} has changed (SHA-256 differs)")
        try:
            if name.endswith(_SUFFIX):
                with safe_open(path / name, framework="pt"):
                    pass
            else:
                json.loads((path / name).read_text(encoding="utf-8"))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise DamagedCheckpoint(path, f"{name} is not readable ({reason(error)})") from error
    return list(files)


def step_of(path: Path) -> int:
    """The training step in a checkpoint's name."""
    match = _NAME.fullmatch(path.name.removesuffix(_OLD))
    if match is None:
        raise UserError(f"{path} is not a checkpoint: its name should look like step_00001000")
    return int(match[1])


def named(directory: Path) -> list[Path]:
    """Everything with a checkpoint's name, sorted by step, oldest first; contents are not checked."""
    if not directory.is_dir():
        return []
    found = {p.name: p for p in directory.iterdir() if _NAME.fullmatch(p.name.removesuffix(_OLD))}
    # A kill between the two renames of an overwrite leaves the old checkpoint under its temporary name.
    paths = [p for name, p in found.items() if not (name.endswith(_OLD) and name.removesuffix(_OLD) in found)]
    return sorted(paths, key=step_of)


def complete(directory: Path, report: Callable[[str], None] = lambda sentence: None) -> list[Path]:
    """The checkpoints with a readable manifest, oldest first; contents are not verified. `report` gets a sentence for
    each other one."""
    found = []
    for path in named(directory):
        try:
            _read_manifest(path)
            found.append(path)
        except DamagedCheckpoint as error:
            if os.path.lexists(path):  # if it is gone, a training has just pruned it
                report(str(error))
    return found


def newest(directory: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies; `report` gets a sentence for each one that cannot be used. Of those older
    than the chosen one, only the manifest is checked."""
    damaged: list[DamagedCheckpoint] = []
    chosen = None
    for path in reversed(named(directory)):
        try:
            if chosen is None:
                verify(path)
                chosen = path
            else:
                _read_manifest(path)
        except DamagedCheckpoint as error:
            if os.path.lexists(path):  # if it is gone, a training has just pruned it
                damaged.append(error)
    instead = f"using {chosen.name} instead" if chosen else "no older one is intact"
    for error in damaged:
        report(f"checkpoint {error.path} is damaged: {error.reason}; {instead}")
    return chosen


def prune(directory: Path, keep: int, protect: Collection[Path] = ()) -> None:
    """Delete all but the `keep` newest checkpoints (at least one) and those in `protect`."""
    protected = {path.name for path in protect}
    for path in complete(directory)[: -max(keep, 1)]:
        if path.name not in protected:
            _remove(path)


def _remove(path: Path) -> None:
    # Renamed first, so that a kill halfway leaves a temporary folder for `_sweep`, not a checkpoint with missing files.
    rubbish = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    os.rename(path, rubbish)
    durable.discard(rubbish)


def _sweep(directory: Path) -> None:
    """Complete or remove what killed processes left behind."""
    for path in list(directory.iterdir()):
        if path.name.startswith(_TEMPORARY + "step_"):
            durable.discard(path)
        elif path.name.endswith(_OLD) and _NAME.fullmatch(path.name.removesuffix(_OLD)):
            final = path.with_name(path.name.removesuffix(_OLD))
            if os.path.lexists(final):
                _remove(path)
            else:
                os.rename(path, final)


def _manifest(step: int, files: Mapping[str, Facts]) -> bytes:
    content = {"format": FORMAT, "step": step, "files": files}
    own = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": own}, indent=1).encode()


def _read_manifest(path: Path) -> dict[str, Facts]:
    try:
        # The checkpoint must not be a link that leads out either, since pruning deletes checkpoints.
        names.place_in(path.parent, path.name)
        raw = names.read_bytes(path / _MANIFEST, _LONGEST)
        manifest = json.loads(raw)
        written, files = manifest["format"], manifest["files"]
    except names.BadName as error:
        raise DamagedCheckpoint(path, f"{_MANIFEST}: {error.reason}") from error
    except UserError as error:
        raise DamagedCheckpoint(path, "it is a link to a place outside") from error
    except OSError as error:
        raise DamagedCheckpoint(path, f"{_MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(path, f"{_MANIFEST} is not readable ({reason(error)})") from error
    # The text is generated again and compared, which shows any change, even one that JSON would read the same.
    if raw == _manifest(step_of(path), files):
        _check_names(path, files)
        return files
    if written != FORMAT:
        raise DamagedCheckpoint(path, f"{_MANIFEST} has format {quoted(written)}, this version of hrm reads {FORMAT}")
    raise DamagedCheckpoint(path, f"{_MANIFEST} has changed since it was written")


def _check_names(path: Path, files: object) -> None:
    """DamagedCheckpoint unless the manifest lists bare file names of a checkpoint, each with size and SHA-256."""
    if not isinstance(files, dict) or _STATE not in files:
        raise DamagedCheckpoint(path, f"{_MANIFEST} lists no {_STATE}")
    for name, facts in files.items():
        why = names.fault(name)
        if why is None and name != _STATE and not name.endswith(_SUFFIX):
            why = f"{name!a} is no file of a checkpoint"
        if why is not None:
            raise DamagedCheckpoint(path, f"{_MANIFEST} lists what it cannot: {why}")
        known = isinstance(facts, dict) and facts.keys() == {"bytes", "sha256"} and type(facts["bytes"]) is int
        if not known or not isinstance(facts["sha256"], str):
            raise DamagedCheckpoint(path, f"{_MANIFEST} says of {name} not how many bytes it has and which")
