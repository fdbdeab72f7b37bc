"""A checkpoint comes back exactly, shows every damage, and survives a kill at any moment."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrm.files.reading import UserError
from hrm.runs import checkpoint, durable
from hrm.runs.checkpoint import DamagedCheckpoint
from tests import forks

DTYPES = [
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
]
FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def small(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    """Groups like a training's, a few bytes each."""
    return {"weights": {"w": torch.full((2, 3), value)}, "optimizer": {"w.exp_avg": torch.zeros(2)}}


def states(directory: Path) -> dict[int, Any]:
    """The state of every complete checkpoint, each of which must load."""
    return {checkpoint.step_of(p): checkpoint.load(p)[1] for p in checkpoint.complete(directory)}


@st.composite
def tensor(draw: st.DrawFn) -> torch.Tensor:
    """Any dtype and shape, scalars and empty ones too, with arbitrary bits; sometimes a transposed view."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    cells = int(torch.Size(shape).numel())
    if dtype == torch.bool:
        flat = torch.tensor(draw(st.lists(st.booleans(), min_size=cells, max_size=cells)), dtype=torch.bool)
    else:
        size = cells * dtype.itemsize
        raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
        flat = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    value = flat.reshape(shape)
    return value.transpose(0, -1) if value.dim() > 1 and draw(st.booleans()) else value


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and bits (NaN included)."""
    bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b) if t.numel()]
    return a.dtype == b.dtype and a.shape == b.shape and (not bits or torch.equal(*bits))


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)


@FAST
@given(st.dictionaries(names, tensor(), max_size=4))
def test_tensors_of_any_kind_come_back_bit_for_bit(tmp_path: Path, named: dict[str, torch.Tensor]) -> None:
    path = checkpoint.save(tmp_path, 3, {"weights": named, "empty": {}}, {})
    loaded, _ = checkpoint.load(path)
    assert loaded["empty"] == {}
    assert loaded["weights"].keys() == named.keys()
    assert all(same_bits(loaded["weights"][name], value) for name, value in named.items())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@FAST
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4))
def test_state_comes_back_exactly(tmp_path: Path, state: dict[str, Any]) -> None:
    assert checkpoint.load(checkpoint.save(tmp_path, 1, {}, state))[1] == state


def test_shared_storage_and_parameters_are_saved_as_independent_copies(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    named = {"a": base, "b": base, "view": base.view(3, 4).T, "parameter": torch.nn.Parameter(base[2:5])}
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, {"weights": named}, {}))[0]["weights"]
    assert all(same_bits(loaded[name], value.detach()) for name, value in named.items())
    loaded["a"].zero_()
    assert torch.equal(loaded["b"], base)


def test_loaded_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, small(4.0), {})
    loaded, _ = checkpoint.load(path)
    for file in path.iterdir():
        file.write_bytes(b"\xff" * file.stat().st_size)
    assert torch.equal(loaded["weights"]["w"], torch.full((2, 3), 4.0))


def test_only_the_wanted_groups_are_read(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, small(), {"step": 1})
    (path / "optimizer.safetensors").unlink()
    tensors, state = checkpoint.load(path, {"weights", "ema"})
    assert tensors.keys() == {"weights"} and state == {"step": 1}
    with pytest.raises(DamagedCheckpoint, match=r"optimizer\.safetensors cannot be read"):
        checkpoint.load(path)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint.save(tmp_path_factory.mktemp("intact"), 7, small(), {"rng": [1, 2], "name": "x"})


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_detected(intact: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(intact.iterdir())))
    original = file.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    change = data.draw(st.integers(1, 255))
    damaged = bytearray(original)
    damaged[at] ^= change
    file.write_bytes(damaged)
    try:
        with pytest.raises(DamagedCheckpoint, match=file.name):
            checkpoint.load(intact)
    finally:
        file.write_bytes(original)


def test_every_truncation_of_every_file_is_detected(intact: Path) -> None:
    for file in sorted(intact.iterdir()):
        original = file.read_bytes()
        for length in range(len(original)):
            file.write_bytes(original[:length])
            with pytest.raises(DamagedCheckpoint, match=file.name):
                checkpoint.load(intact)
        file.write_bytes(original)
    checkpoint.load(intact)


def test_a_missing_file_is_named(intact: Path, tmp_path: Path) -> None:
    for name in sorted(p.name for p in intact.iterdir()):
        copy = shutil.copytree(intact, tmp_path / name / intact.name)
        (copy / name).unlink()
        with pytest.raises(DamagedCheckpoint, match=name):
            checkpoint.load(copy)


def test_a_checkpoint_under_another_steps_name_is_refused(intact: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json"):
        checkpoint.load(shutil.copytree(intact, tmp_path / "step_00000008"))


def test_a_file_that_is_no_safetensors_is_refused_even_when_its_hash_fits(intact: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(intact, tmp_path / intact.name)
    (copy / "weights.safetensors").write_bytes(b"\xff" * 40)
    files = {file.name: checkpoint.facts_of(file) for file in copy.iterdir() if file.name != "manifest.json"}
    (copy / "manifest.json").write_bytes(checkpoint._manifest(7, files))
    with pytest.raises(DamagedCheckpoint, match=r"weights\.safetensors is not readable"):
        checkpoint.load(copy)


def test_newest_passes_over_damaged_checkpoints_and_names_them(tmp_path: Path) -> None:
    paths = [checkpoint.save(tmp_path, step, small(), {"step": step}) for step in (5, 10, 15)]
    lines: list[str] = []
    assert checkpoint.newest(tmp_path, lines.append) == paths[2] and not lines
    (paths[2] / "weights.safetensors").write_bytes(b"")
    (paths[1] / "state.json").unlink()
    assert checkpoint.newest(tmp_path, lines.append) == paths[0]
    assert len(lines) == 2
    assert str(paths[2]) in lines[0] and "weights.safetensors" in lines[0] and "using step_00000005" in lines[0]
    assert str(paths[1]) in lines[1] and "state.json" in lines[1]
    (paths[0] / "manifest.json").write_text("{")
    lines.clear()
    assert checkpoint.newest(tmp_path, lines.append) is None
    assert len(lines) == 3


def test_complete_lists_by_step_and_ignores_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    assert checkpoint.complete(tmp_path / "missing") == []
    for step in (100_000_000, 20, 3):
        checkpoint.save(tmp_path, step, {}, {})
    (tmp_path / "step_00000099").mkdir()
    (tmp_path / "notes").mkdir()
    assert [checkpoint.step_of(p) for p in checkpoint.complete(tmp_path)] == [3, 20, 100_000_000]


def signed(path: Path, files: Any) -> None:
    """Write a manifest of these files that fits the format, as somebody with bad intentions can."""
    (path / "manifest.json").write_bytes(checkpoint._manifest(checkpoint.step_of(path), files))


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../secret", "a\\b", "C:x", "", "..", "a\0b", "nul.safetensors", "x.py"]
)
def test_a_manifest_that_names_what_it_cannot_is_damaged_and_nothing_is_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"x" * 12345)
    older, path = (checkpoint.save(tmp_path / "checkpoints", step, small(), {}) for step in (1, 2))
    files = json.loads((path / "manifest.json").read_text())["files"]
    signed(path, files | {name: {"bytes": 1, "sha256": "0"}})
    said: list[str] = []
    assert checkpoint.newest(path.parent, said.append) == older
    assert len(said) == 1 and str(path) in said[0] and "12345" not in said[0] and "using step_00000001" in said[0]


@pytest.mark.parametrize(
    "files",
    [
        None, 5, [], ["state.json"], {}, {"state.json": None}, {"state.json": {"bytes": "9", "sha256": ""}},
        {"state.json": {"bytes": 2, "sha256": 5}}, {"weights.safetensors": {"bytes": 2, "sha256": "0"}},
    ],
)  # fmt: skip
def test_a_manifest_of_other_types_is_damaged(tmp_path: Path, files: Any) -> None:
    path = checkpoint.save(tmp_path, 1, small(), {})
    signed(path, files)
    with pytest.raises(DamagedCheckpoint, match=r"manifest\.json"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", ["[]", "5", "null", "[" * 100_000])
def test_a_state_that_holds_no_facts_is_damaged(tmp_path: Path, content: str) -> None:
    path = checkpoint.save(tmp_path, 1, {}, {})
    (path / "state.json").write_text(content)
    signed(path, {"state.json": checkpoint.facts_of(path / "state.json")})
    with pytest.raises(DamagedCheckpoint, match=r"state\.json"):
        checkpoint.load(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights, and there are no pipes in folders")
@pytest.mark.parametrize("name", ["manifest.json", "state.json", "weights.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "folder"])
def test_only_regular_files_of_a_checkpoint_are_opened(tmp_path: Path, name: str, kind: str) -> None:
    path = checkpoint.save(tmp_path / "checkpoints", 1, small(), {})
    (path / name).rename(tmp_path / "outside")
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "folder":
        (path / name).mkdir()
    else:
        (path / name).symlink_to("/dev/zero" if kind == "device" else tmp_path / "outside")
    with pytest.raises(DamagedCheckpoint, match=name):
        checkpoint.load(path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_inside_a_checkpoint_is_followed_and_one_under_its_name_is_not(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "a", 1, small(), {"v": 1})
    (path / "state.json").rename(path / "other.json")
    (path / "state.json").symlink_to("other.json")
    assert checkpoint.load(path)[1] == {"v": 1}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / path.name).symlink_to(path)
    said: list[str] = []
    assert checkpoint.newest(tmp_path / "b", said.append) is None and "link" in said[0]
    checkpoint.save(tmp_path / "b", 1, small(), {"v": 2})
    assert states(tmp_path / "b") == {1: {"v": 2}} and checkpoint.load(path)[1] == {"v": 1}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "checkpoints").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="outside"):
        checkpoint.save(tmp_path / "c" / "checkpoints", 2, small(), {})


def test_whatever_has_a_checkpoints_name_and_cannot_be_used_is_named(tmp_path: Path) -> None:
    paths = [checkpoint.save(tmp_path, step, small(), {}) for step in (1, 2, 3)]
    (paths[2] / "manifest.json").unlink()
    (paths[0] / "manifest.json").write_text("{")
    (tmp_path / "step_00000004").write_text("a file")
    (tmp_path / "step_00000005").mkdir()
    said: list[str] = []
    assert checkpoint.newest(tmp_path, said.append) == paths[1]
    assert len(said) == 4
    for step, sentence in zip((5, 4, 3, 1), said, strict=True):
        assert f"step_0000000{step} is damaged" in sentence and "using step_00000002 instead" in sentence
    said.clear()
    assert checkpoint.complete(tmp_path, said.append) == [paths[1]] and len(said) == 4
    checkpoint.prune(tmp_path, 1)
    assert (tmp_path / "step_00000005").is_dir(), "what cannot be used is not deleted either"


def test_prune_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    for step in range(6):
        checkpoint.save(tmp_path, step, {}, {})
    checkpoint.prune(tmp_path, 2, [tmp_path / "step_00000001"])
    assert list(states(tmp_path)) == [1, 4, 5]
    checkpoint.prune(tmp_path, 0)
    assert list(states(tmp_path)) == [5]


def test_a_failed_save_leaves_the_old_checkpoints_and_no_rubbish(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, small(), {"value": 1})
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, 1, small(), {"value": object()})
    assert states(tmp_path) == {1: {"value": 1}}
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def moments(directory: Path, into: Path, action: Callable[[], object]) -> list[Path]:
    """Copies of the directory at every line that `action` executes in the code that writes: what a kill would leave."""
    traced = {checkpoint.__file__, durable.__file__, shutil.__file__}
    copies: list[Path] = []

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in traced:
            return None
        sys.settrace(None)
        target = into / f"{len(copies):05d}"
        if copies and tree(copies[-1]) == tree(directory):
            pass
        else:
            copies.append(Path(shutil.copytree(directory, target)))
        sys.settrace(look)
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        action()
    finally:
        sys.settrace(before)
    return copies


def tree(directory: Path) -> dict[str, bytes]:
    """Every file's content, by name."""
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else b"" for p in directory.rglob("*")}


def test_a_kill_at_any_moment_of_a_save_loses_no_checkpoint(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    checkpoint.save(directory, 10, small(), {"v": "first"})
    copies = moments(directory, tmp_path / "a", lambda: checkpoint.save(directory, 20, small(), {"v": "second"}))
    assert len(copies) > 5
    for copy in copies:
        assert states(copy) in ({10: {"v": "first"}}, {10: {"v": "first"}, 20: {"v": "second"}})
        checkpoint.save(copy, 30, small(), {"v": "third"})
        assert all(p.name.startswith("step_") for p in copy.iterdir()), "the next save must clean up"
    assert states(directory) == {10: {"v": "first"}, 20: {"v": "second"}}


def test_a_kill_at_any_moment_of_an_overwrite_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    checkpoint.save(directory, 10, small(), {"v": "old"})
    copies = moments(directory, tmp_path / "a", lambda: checkpoint.save(directory, 10, small(2.0), {"v": "new"}))
    seen = []
    for copy in copies:
        found = states(copy)
        seen.append(found[10]["v"])
        checkpoint.save(copy, 30, small(), {})
        assert states(copy) == {**found, 30: {}}, "cleaning up must keep what was found"
        assert all(p.name.startswith("step_") and not p.suffix for p in copy.iterdir())
    assert seen == sorted(seen, reverse=True) and set(seen) == {"old", "new"}


def test_a_kill_at_any_moment_of_pruning_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    for step in range(4):
        checkpoint.save(directory, step, small(), {})
    for copy in moments(directory, tmp_path / "a", lambda: checkpoint.prune(directory, 2)):
        assert {2, 3} <= states(copy).keys()


KILLED = """
import os, torch
from pathlib import Path
from hrm.runs import checkpoint
real, left = os.fsync, [FLUSHES]
def fsync(handle):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)
    real(handle)
os.fsync = fsync
checkpoint.save(Path("checkpoints"), 20, {"weights": {"w": torch.ones(3)}}, {})
"""


@pytest.mark.slow
@pytest.mark.parametrize("flushes", [0, 3, 5])
def test_a_process_that_dies_between_flushes_loses_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushes: int
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 10, small(), {})
    process = forks.start_in(tmp_path, code=KILLED.replace("FLUSHES", str(flushes)))
    process.join()
    steps = list(states(folder))
    assert process.exitcode in (0, 9)
    assert steps == ([10, 20] if process.exitcode == 0 or 20 in steps else [10])
    checkpoint.save(folder, 30, small(), {})
    assert [p.name for p in folder.iterdir() if not p.name.startswith("step_")] == []


def test_step_of_refuses_other_names() -> None:
    with pytest.raises(UserError, match="step_00001000"):
        checkpoint.step_of(Path("runs/best"))
