"""Damaged and strange files of ARC end in a sentence that names the file; one bad task spoils nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hrm.cli.main import main
from hrm.files.reading import UserError
from hrm.puzzles.arc import files as arc
from hrm.puzzles.arc.measuring import read_submission

TASK: dict[str, Any] = {
    "train": [{"input": [[1, 0]], "output": [[0, 1]]}],
    "test": [{"input": [[2, 0]], "output": [[0, 2]]}],
}
PACKED = gzip.compress(json.dumps(TASK).encode() * 40)
DAMAGED: dict[str, bytes] = {
    "flipped.json.gz": PACKED[:40] + bytes([PACKED[40] ^ 255]) + PACKED[41:],
    "flipped.jsonl.gz": PACKED[:40] + bytes([PACKED[40] ^ 255]) + PACKED[41:],
    "cut.json.gz": PACKED[:-20],
    "plain.json.gz": json.dumps(TASK).encode(),
    "nested.json": b"[" * 100_000,
    "objects.json": b'{"a":' * 100_000,
    "list.json": b"[[[1]]]",
    "number.json": b"5",
    "empty.json": b"",
    "nothing.json": b"{}",
    "latin.json": b"\xff\xfe\xfa",
    "train.json": b'{"train": [], "test": []}',
    "pairs.json": b'{"train": {"input": 1}, "test": 5}',
    "strings.json": b'{"train": ["x"], "test": [null]}',
    "null.json": json.dumps({**TASK, "train": [{"input": [[1]], "output": None}]}).encode(),
    "huge.json": json.dumps(TASK).replace("[[1, 0]]", "[[1" + "0" * 5000 + "]]").encode(),
    "large.json": json.dumps(TASK).replace("[[1, 0]]", "[[1" + "0" * 500 + "]]").encode(),
    "ragged.json": json.dumps({**TASK, "train": [{"input": [[1, 2], [3]], "output": [[1]]}]}).encode(),
    "cells.json": json.dumps({**TASK, "train": [{"input": [[[1]]], "output": [[1]]}]}).encode(),
    "float.json": json.dumps({**TASK, "train": [{"input": [[1.5]], "output": [[1]]}]}).encode(),
    "id.jsonl": b'{"id": 5}\n',
    "line.jsonl": b"{\n",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_sentence_with_its_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, good = tmp_path / name, tmp_path / "good.json"
    file.write_bytes(DAMAGED[name])
    good.write_text(json.dumps(TASK))
    for words in (
        ["check", file],
        ["show", file],
        ["build", "--data", file, "--out", tmp_path / "new.jsonl"],
        ["score", good, "--data", file],
        ["score", file, "--data", good],
    ):
        assert main(["arc", *map(str, words)]) == 2, words
        said = capsys.readouterr()
        assert name in said.err and said.err.count("\n") == 1 and len(said.err) < 600 and not said.out
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize("solutions", [[[[1]]], {"a": 5}, {"a": [1, 2]}, "x", {"a": [{"b": 1}]}])
def test_solutions_that_are_none_name_their_file(solutions: Any, tmp_path: Path) -> None:
    (tmp_path / "x_challenges.json").write_text(json.dumps({"a": TASK}))
    (tmp_path / "x_solutions.json").write_text(json.dumps(solutions))
    with pytest.raises(UserError, match=r"x_(solutions|challenges)\.json"):
        arc.read(tmp_path / "x_challenges.json")


def test_one_bad_task_is_named_and_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, content in DAMAGED.items():
        (folder / name).write_bytes(content)
    (folder / "good.json").write_text(json.dumps(TASK))
    (folder / "._good.json").write_bytes(b"\0\5\26\7")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "Thumbs.db").write_bytes(b"\0")
    assert main(["arc", "check", str(folder)]) == 2
    assert "cells.json" in capsys.readouterr().err
    assert main(["arc", "check", str(folder), "--skip-bad", "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    inside = [name for name in DAMAGED if ".jsonl" not in name and name != "nothing.json"]
    assert facts["tasks"] == 1 and len(facts["bad"]) == len(inside) == said.err.count("left out: ")
    assert all(any(name in problem for problem in facts["bad"]) for name in inside)
    for words in (["show", folder], ["build", "--data", folder, "--out", tmp_path / "new.jsonl"]):
        assert main(["arc", *map(str, words), "--skip-bad"]) == 0
    assert [task.id for task in arc.read(tmp_path / "new.jsonl")] == ["good"]


def test_a_damaged_line_is_left_out_and_the_lines_below_are_read(tmp_path: Path) -> None:
    lines = [{"id": "a", **TASK}, {"id": "b"}, {"id": "c", **TASK}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{\n")
    found = arc.find(tmp_path / "t.jsonl", skip_bad=True)
    assert [task.id for task in found.tasks] == ["a", "c"] and len(found.bad) == 2
    assert "t.jsonl, line 2" in found.bad[0] and "t.jsonl, line 4" in found.bad[1]


def test_tasks_that_are_too_large_are_left_out_before_they_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tall = {**TASK, "train": [{"input": [[1] * 5] * 31, "output": [[1]]}]}
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "a", **TASK}) + "\n" + json.dumps({"id": "b", **tall}) + "\n")
    words = ["arc", "build", "--data", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "new.jsonl")]
    assert main([*words, "--largest", "30"]) == 0
    assert "1 tasks" in (said := capsys.readouterr().out) and "1 with larger grids left out" in said
    assert main([*words, "--largest", "1", "--overwrite"]) == 2
    assert "only grids of 1 rows" in capsys.readouterr().err
    with pytest.raises(UserError, match="task b, demonstration 1, input: 31x5"):
        arc.read(tmp_path / "t.jsonl")


def test_a_folder_of_challenges_with_solutions_is_read_and_one_of_folders_says_which(tmp_path: Path) -> None:
    inner = tmp_path / "training"
    inner.mkdir()
    (inner / "x_challenges.json").write_text(json.dumps({"a": {**TASK, "test": [{"input": [[2, 0]]}]}}))
    (inner / "x_solutions.json").write_text(json.dumps({"a": [[[0, 2]]]}))
    assert arc.read(inner)[0].test[0].output is not None
    with pytest.raises(UserError, match=r"such as .*training"):
        arc.read(tmp_path)


keys = st.sampled_from(["train", "test", "input", "output", "id", "a", "attempt_1", "attempt_2", "answer"])
leaves = st.none() | st.booleans() | st.integers(-2, 12) | st.floats() | st.sampled_from(["", "x", "\x1b[31m"])
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=25
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees, trees)
def test_whatever_json_a_file_holds_is_read_or_refused(tmp_path: Path, tree: Any, other: Any) -> None:
    (tmp_path / "a_challenges.json").write_text(json.dumps(tree))
    (tmp_path / "a_solutions.json").write_text(json.dumps(other))
    (tmp_path / "b.jsonl").write_text(json.dumps(tree) + "\n" + json.dumps({"id": "a", "train": tree, "test": other}))
    (tmp_path / "good.json").write_text(json.dumps(TASK))
    for name in ("a_challenges.json", "b.jsonl"):
        for skips in (False, True):
            try:
                assert all(task.largest <= 30 for task in arc.find(tmp_path / name, skip_bad=skips).tasks)
            except UserError as error:
                assert "a_" in str(error) or "b.jsonl" in str(error)
    tasks = arc.read(tmp_path / "good.json")
    (tmp_path / "s.json").write_text(json.dumps({"good": other}))
    for path in (tmp_path / "s.json", tmp_path / "a_challenges.json"):
        try:
            read_submission(path, tasks)
        except UserError as error:
            assert path.name in str(error)
